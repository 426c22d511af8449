"""Question files: every format gives the same examples, and every broken file gives one line that says where."""

import csv
import json
import re
from pathlib import Path

import hypothesis
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLE, squad_file
from hypothesis import strategies as st

from qa.questions.checks import check_for_scoring, check_for_training
from qa.questions.examples import load_examples, read_examples
from qa.start.arguments import DataTrainingArguments, ModelArguments
from qa.start.errors import UsageError

SOURCE = "--train_file F"

EXAMPLES = [
    {
        "id": "q1",
        "context": "Ann met Bob in Rome, 'the \"eternal\" city'.\nThen, in 1999, they left — für immer 🚂.",
        "question": "Where did they meet?",
        "answers": {"text": ["Rome", "in Rome"], "answer_start": [15, 12]},
    },
    {
        "id": "q2",
        "context": "Ann met Bob in Rome, 'the \"eternal\" city'.\nThen, in 1999, they left — für immer 🚂.",
        "question": 'When, "exactly", did they leave?',
        "answers": {"text": ["1999"], "answer_start": [52]},
    },
    {
        "id": "q3",
        "context": "東京は日本の首都。",
        "question": "首都？",
        "answers": {"text": ["東京"], "answer_start": [0]},
    },
]


def pairs(answers):
    return [
        {"text": text, "answer_start": start}
        for text, start in zip(answers["text"], answers["answer_start"], strict=True)
    ]


def write_nested(path, version="1.1"):
    paragraphs = {}
    for example in EXAMPLES:
        answers = list(zip(example["answers"]["text"], example["answers"]["answer_start"], strict=True))
        paragraphs.setdefault(example["context"], []).append((example["id"], example["question"], answers))
    squad_file(path, list(paragraphs.items()), version)


def write_json(path, content, **kwargs):
    path.write_text(json.dumps(content, **kwargs), encoding="utf-8")


def write_lines(path, rows, end="\n"):
    path.write_bytes(end.join(json.dumps(row, ensure_ascii=False) for row in rows).encode())


def write_csv(path, rows, encode=json.dumps, **kwargs):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), **kwargs)
        writer.writeheader()
        writer.writerows({**row, "answers": encode(row["answers"])} for row in rows)


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


FORMATS = {
    "nested v1.1": ("f.json", lambda path: write_nested(path, "1.1")),
    "nested v2.0": ("f.json", lambda path: write_nested(path, "v2.0")),
    "flat data": ("f.json", lambda path: write_json(path, {"data": EXAMPLES})),
    "flat data, answers as pairs": (
        "f.json",
        lambda path: write_json(path, {"data": [{**row, "answers": pairs(row["answers"])} for row in EXAMPLES]}),
    ),
    "flat data, indented and escaped": ("f.json", lambda path: write_json(path, {"data": EXAMPLES}, indent=2)),
    "list of rows": ("f.json", lambda path: write_json(path, EXAMPLES)),
    "JSON Lines": ("f.jsonl", lambda path: write_lines(path, EXAMPLES)),
    "JSON Lines named .json": ("f.json", lambda path: write_lines(path, EXAMPLES)),
    "JSON Lines with CRLF": ("f.jsonl", lambda path: write_lines(path, EXAMPLES, "\r\n")),
    "JSON Lines with empty lines": ("f.jsonl", lambda path: write_lines(path, EXAMPLES, "\n\n  \n")),
    "CSV with JSON answers": ("f.csv", lambda path: write_csv(path, EXAMPLES)),
    "CSV with Python answers": ("f.csv", lambda path: write_csv(path, EXAMPLES, encode=repr)),
    "CSV with LF": ("f.csv", lambda path: write_csv(path, EXAMPLES, lineterminator="\n")),
    "Parquet": ("f.parquet", lambda path: write_parquet(path, EXAMPLES)),
    "Parquet, answers as JSON text": (
        "f.parquet",
        lambda path: write_parquet(path, [{**row, "answers": json.dumps(row["answers"])} for row in EXAMPLES]),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_to_the_same_examples(name, tmp_path):
    file_name, write = FORMATS[name]
    write(tmp_path / file_name)
    assert read_examples(str(tmp_path / file_name), SOURCE) == EXAMPLES


@pytest.mark.parametrize("name", [name for name, (file_name, _) in FORMATS.items() if "parquet" not in file_name])
def test_a_byte_order_mark_is_skipped(name, tmp_path):
    file_name, write = FORMATS[name]
    write(tmp_path / file_name)
    (tmp_path / file_name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / file_name).read_bytes())
    assert read_examples(str(tmp_path / file_name), SOURCE) == EXAMPLES


@pytest.mark.parametrize("name", FORMATS)
def test_max_samples_keeps_the_first_examples(name, tmp_path):
    file_name, write = FORMATS[name]
    write(tmp_path / file_name)
    assert read_examples(str(tmp_path / file_name), SOURCE, 2) == EXAMPLES[:2]
    assert read_examples(str(tmp_path / file_name), SOURCE, 99) == EXAMPLES


def test_unanswerable_questions_have_empty_lists(tmp_path):
    path = squad_file(tmp_path / "f.json", [("context", [("a", "q", [])])])
    assert read_examples(str(path), SOURCE)[0]["answers"] == {"text": [], "answer_start": []}


def test_answers_that_are_not_there_are_none(tmp_path):
    for name, text in {
        "f.json": '{"data": [{"id": "a", "context": "c", "question": "q"}]}',
        "g.json": '{"data": [{"id": "a", "context": "c", "question": "q", "answers": null}]}',
        "h.json": '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "a", "question": "q"}]}]}]}',
        "f.csv": "id,context,question,answers\na,c,q,\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (example,) = read_examples(str(tmp_path / name), SOURCE)
        assert (example["id"], example["context"], example["question"], example["answers"]) == ("a", "c", "q", None)


def test_columns_are_found_by_name_in_any_order(tmp_path):
    (tmp_path / "f.csv").write_text(
        "answers,question,id,context\n\"{'text': ['c'], 'answer_start': [0]}\",q,7,c\n", encoding="utf-8"
    )
    (example,) = read_examples(str(tmp_path / "f.csv"), SOURCE)
    assert example == {
        "id": "7",
        "context": "c",
        "question": "q",
        "answers": {"text": ["c"], "answer_start": [0]},
    }


def test_columns_with_other_names_are_found_by_position(tmp_path):
    row = {"frage": "q", "text": "c", "antworten": {"text": ["c"], "answer_start": [0]}}
    write_json(tmp_path / "f.json", [row])
    (example,) = read_examples(str(tmp_path / "f.json"), SOURCE)
    assert (example["question"], example["context"]) == ("q", "c")
    assert example["answers"] == {"text": ["c"], "answer_start": [0]}


def test_one_column_with_another_name_is_found_by_position(tmp_path):
    write_json(tmp_path / "f.json", [{"question": "q", "passage": "c", "id": "a"}])
    (example,) = read_examples(str(tmp_path / "f.json"), SOURCE)
    assert (example["question"], example["context"], example["answers"]) == ("q", "c", None)


def test_examples_without_ids_are_numbered_and_number_ids_become_text(tmp_path):
    write_json(tmp_path / "f.json", [{"question": "q", "context": "c"}, {"question": "q", "context": "c"}])
    assert [example["id"] for example in read_examples(str(tmp_path / "f.json"), SOURCE)] == ["0", "1"]
    write_json(tmp_path / "f.json", [{"question": "q", "context": "c", "id": 41}])
    assert read_examples(str(tmp_path / "f.json"), SOURCE)[0]["id"] == "41"


def test_the_sample_files_are_good():
    for name, version_2 in (("train", False), ("dev", False), ("train_v2", True), ("dev_v2", True)):
        examples = read_examples(str(SAMPLE / f"{name}.json"), SOURCE)
        check_for_scoring(examples, SOURCE, version_2)
        check_for_training(examples, SOURCE, version_2)
        assert len(examples) > 50


# --- broken files ---


def nested(**question):
    good = {"id": "a", "question": "q", "answers": [{"text": "c", "answer_start": 0}]}
    return {
        "data": [
            {"title": "t", "paragraphs": [{"context": "c", "qas": [good]}]},
            {"title": "t", "paragraphs": [{"context": "c", "qas": [good]}, {"context": "c", "qas": [good, question]}]},
        ]
    }


DEEPEST = "article 2, paragraph 2, question 2"

# name -> (file name, content, what the message must hold)
BROKEN = {
    "empty json": ("f.json", b"", "not valid JSON"),
    "empty jsonl": ("f.jsonl", b"", "no question"),
    "empty csv": ("f.csv", b"", "no question"),
    "empty parquet": ("f.parquet", b"", "not a readable Parquet file"),
    "white space only": ("f.json", b" \n ", "not valid JSON"),
    "empty list": ("f.json", b"[]", "no question"),
    "empty data": ("f.json", b'{"data": []}', "no question"),
    "header only": ("f.csv", b"id,question,context,answers\n", "no question"),
    "truncated json": ("f.json", json.dumps(nested()).encode()[:-30], "not valid JSON"),
    "truncated line": (
        "f.jsonl",
        b'{"id": "a", "question": "q", "context": "c"}\n\n{"id": "b", "qu',
        "line 3: not valid",
    ),
    "truncated line under .json": (
        "f.json",
        b'{"id": "a", "question": "q", "context": "c"}\n{"id": "b", "qu',
        "line 2: not valid",
    ),
    "two documents on one line": ("f.json", b"{}{}", "not valid JSON"),
    "deep nesting": ("f.json", b"[" * 200_000, "not valid JSON"),
    "deep nesting, closed": ("f.json", b"[" * 100_000 + b"]" * 100_000, "not valid JSON"),
    "deep nesting in a line": ("f.jsonl", b'{"a":' * 100_000, "line 1"),
    "deep nesting in csv answers": (
        "f.csv",
        b"question,context,answers\nq,c," + b"[" * 50_000,
        "line 2: 'answers' is neither JSON nor a Python literal",
    ),
    "number with too many digits": ("f.json", b"1" * 10_000, "not valid JSON"),
    "a number": ("f.json", b"5", "found a number (5)"),
    "a text": ("f.json", b'"x"', "found text"),
    "nothing": ("f.json", b"null", "found missing"),
    "data is a mapping": ("f.json", b'{"data": {"a": 1}}', "found a mapping"),
    "data is a text": ("f.json", b'{"data": "x"}', "found text"),
    "row is a number": ("f.json", b"[1]", "row 1: expected a mapping"),
    "second row is a list": ("f.json", b'[{"question": "q", "context": "c"}, []]', "row 2: expected a mapping"),
    "article is a text": ("f.json", b'{"data": [{"paragraphs": []}, "x"]}', "article 2: expected a list 'paragraphs'"),
    "paragraphs is a mapping": ("f.json", b'{"data": [{"paragraphs": {}}]}', "article 1"),
    "paragraph is a number": ("f.json", b'{"data": [{"paragraphs": [1]}]}', "article 1, paragraph 1"),
    "paragraph without questions": (
        "f.json",
        b'{"data": [{"paragraphs": [{"context": "c"}]}]}',
        "article 1, paragraph 1: expected a list 'qas'",
    ),
    "question is a list": (
        "f.json",
        json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": [[]]}]}]}).encode(),
        "article 1, paragraph 1, question 1: expected a mapping, found a list",
    ),
    "paragraph without context": (
        "f.json",
        json.dumps({"data": [{"paragraphs": [{"qas": [{"id": "a", "question": "q"}]}]}]}).encode(),
        "article 1, paragraph 1, question 1: 'context' is missing",
    ),
    "question without text": ("f.json", json.dumps(nested(id="b")).encode(), f"{DEEPEST}: 'question' is missing"),
    "question without id": ("f.json", json.dumps(nested(question="q")).encode(), f"{DEEPEST}: 'id' is missing"),
    "question with a broken number": (
        "f.json",
        json.dumps(nested(id=1.5, question="q")).encode(),
        f"{DEEPEST}: 'id' is a number (1.5)",
    ),
    "answer of another kind": (
        "f.json",
        json.dumps(nested(id="b", question="q", answers=[3])).encode(),
        f"{DEEPEST}: 'answers' is a number (3), expected text",
    ),
    "answer in a list too many": (
        "f.json",
        json.dumps(nested(id="b", question="q", answers=[["c"]])).encode(),
        f"{DEEPEST}: 'answers' must hold texts, or pairs",
    ),
    "broken mapping for a text": (
        "f.csv",
        b"question,context,answers\nq,c,{'text': c\n",
        "line 2: 'answers' is neither JSON nor a Python literal",
    ),
    "answer start is a text": (
        "f.json",
        json.dumps(nested(id="b", question="q", answers=[{"text": "c", "answer_start": "0x1"}])).encode(),
        f"{DEEPEST}: 'answer_start' is text",
    ),
    "answer start is a fraction": (
        "f.json",
        json.dumps(nested(id="b", question="q", answers=[{"text": "c", "answer_start": 0.5}])).encode(),
        f"{DEEPEST}: 'answer_start' is a number (0.5)",
    ),
    "answer start is true": (
        "f.json",
        json.dumps(nested(id="b", question="q", answers=[{"text": "c", "answer_start": True}])).encode(),
        f"{DEEPEST}: 'answer_start' is true or false",
    ),
    "answer text is a number": (
        "f.json",
        json.dumps(nested(id="b", question="q", answers=[{"text": 3, "answer_start": 0}])).encode(),
        f"{DEEPEST}: 'answers' is a number (3)",
    ),
    "answers is a number": (
        "f.json",
        json.dumps(nested(id="b", question="q", answers=4)).encode(),
        f"{DEEPEST}: 'answers' is a number (4)",
    ),
    "answers of unequal length": (
        "f.json",
        json.dumps(nested(id="b", question="q", answers={"text": ["c"], "answer_start": []})).encode(),
        f"{DEEPEST}: 'answers' needs as many",
    ),
    "lone surrogate in a context": (
        "f.json",
        json.dumps([{"id": "a", "question": "q", "context": "c\ud800"}]).encode(),
        "row 1: 'context' holds half a character (a lone surrogate) at position 1",
    ),
    "lone surrogate in an answer": (
        "f.json",
        json.dumps(nested(id="b", question="q", answers=[{"text": "\udc00", "answer_start": 0}])).encode(),
        f"{DEEPEST}: 'answers' holds half a character",
    ),
    "lone surrogate in an id": (
        "f.jsonl",
        b'{"id": "\\udfff", "question": "q", "context": "c"}',
        "line 1: 'id' holds half a character",
    ),
    "lone surrogate in csv answers": (
        "f.csv",
        b"question,context,answers\nq,c,\"{'text': ['\\ud800'], 'answer_start': [0]}\"\n",
        "line 2: 'answers' holds half a character",
    ),
    "Latin-1 json": ("f.json", '[{"question": "für"}]'.encode("latin-1"), "not UTF-8 text (byte 16)"),
    "Latin-1 lines": ("f.jsonl", '{"question": "für"}'.encode("latin-1"), "not UTF-8 text"),
    "Latin-1 csv": ("f.csv", "question,context\nfür,c\n".encode("latin-1"), "not UTF-8 text"),
    "UTF-16 json": ("f.json", "[]".encode("utf-16"), "not UTF-8 text (byte 0)"),
    "binary csv": ("f.csv", bytes(range(256)), "not UTF-8 text"),
    "csv with too many fields": ("f.csv", b"question,context\nq,c,x\n", "line 2: more fields"),
    "csv with too few fields": ("f.csv", b"question,context\nq\n", "line 2: 'context' is missing"),
    "csv with an open quote": ("f.csv", b'question,context\nq,"c\n', "not valid CSV"),
    "csv with text behind a quote": ("f.csv", b'question,context\n"q"x,c\n', "line 2: not valid CSV"),
    "csv with one column": ("f.csv", b"question\nq\n", "line 2: no 'context' column; found 'question'"),
    "csv with unreadable answers": (
        "f.csv",
        b"question,context,answers\nq,c,[Rome]\n",
        "line 2: 'answers' is neither JSON nor a Python literal: '[Rome]'",
    ),
    "csv with code for answers": (
        "f.csv",
        b"question,context,answers\nq,c,\"[__import__('os').system('false')]\"\n",
        "line 2: 'answers' is neither JSON nor a Python literal",
    ),
    "csv with a huge number for answers": (
        "f.csv",
        b"question,context,answers\nq,c,[0x" + b"f" * 4000 + b"]\n",
        "line 2: 'answers'",
    ),
    "csv with a set of answers": ("f.csv", b"question,context,answers\nq,c,{1}\n", "line 2: 'answers' is set"),
    "text named .parquet": ("f.parquet", b"PAR1 no, text PAR1", "not a readable Parquet file"),
    "answer start that fits no integer": (
        "f.json",
        json.dumps(nested(id="b", question="q", answers=[{"text": "c", "answer_start": 10**30}])).encode(),
        f"{DEEPEST}: 'answer_start' is a number ({10**30})",
    ),
    "answer start beyond 32 bits": (
        "f.json",
        json.dumps(nested(id="b", question="q", answers=[{"text": "c", "answer_start": 2**31}])).encode(),
        f"{DEEPEST}: 'answer_start' is a number ({2**31})",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_says_where_it_broke(name, tmp_path):
    file_name, content, expected = BROKEN[name]
    (tmp_path / file_name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_examples(str(tmp_path / file_name), SOURCE)
    message = str(caught.value)
    assert message.startswith(SOURCE)
    assert expected in message
    assert "\n" not in message
    assert len(message) < 600


def test_parquet_with_the_wrong_columns_or_types(tmp_path):
    path = tmp_path / "f.parquet"
    write_parquet(path, [{"id": "a", "question": "q"}])
    with pytest.raises(UsageError, match="row 1: no 'context' column; found 'id', 'question'"):
        read_examples(str(path), SOURCE)
    pq.write_table(pa.table({"question": ["q", "q"], "context": pa.array([b"c", b"c"])}), path)
    with pytest.raises(UsageError, match="row 1: 'context' is bytes"):
        read_examples(str(path), SOURCE)
    pq.write_table(pa.table({"question": ["q"], "context": pa.array([b"\xff"]).view(pa.string())}), path)
    with pytest.raises(UsageError, match="UTF-8"):
        read_examples(str(path), SOURCE)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**61], pa.timestamp("us")),
        pa.array([2**30], pa.date32()),
        pa.array([2**62], pa.duration("s")),
        pa.array([1], pa.timestamp("us", tz="No/Where")),
    ],
    ids=["timestamp", "date", "duration", "time zone"],
)
def test_a_parquet_column_that_python_cannot_hold_does_no_harm(column, tmp_path):
    pq.write_table(pa.table({"question": ["q"], "context": ["c"], "asked": column}), tmp_path / "f.parquet")
    try:
        (example,) = read_examples(str(tmp_path / "f.parquet"), SOURCE)
    except UsageError as error:
        assert str(error).startswith(SOURCE)
    else:
        assert example["context"] == "c"


def test_a_truncated_parquet_file_is_refused_at_every_length(tmp_path):
    write_parquet(tmp_path / "f.parquet", EXAMPLES)
    content = (tmp_path / "f.parquet").read_bytes()
    for length in range(0, len(content), 101):
        (tmp_path / "g.parquet").write_bytes(content[:length])
        with pytest.raises(UsageError, match=SOURCE):
            read_examples(str(tmp_path / "g.parquet"), SOURCE)


def test_files_that_are_not_there_or_are_folders(tmp_path):
    for suffix in ("json", "jsonl", "csv", "parquet"):
        with pytest.raises(UsageError, match=SOURCE):
            read_examples(str(tmp_path / f"missing.{suffix}"), SOURCE)
        (tmp_path / f"folder.{suffix}").mkdir()
        with pytest.raises(UsageError, match=SOURCE):
            read_examples(str(tmp_path / f"folder.{suffix}"), SOURCE)


def test_a_file_named_by_its_suffix_alone_is_read(tmp_path):
    write_json(tmp_path / ".json", EXAMPLES)
    assert read_examples(str(tmp_path / ".json"), SOURCE) == EXAMPLES


# --- what people write ---

MILL = "The old mill at Varnholt was built by Odile Marchbank in 1874."


def answers_in(path, content):
    """Return the answers of all examples in a file of this content."""
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        write_json(path, content)
    return [example["answers"] for example in read_examples(str(path), SOURCE)]


NOTHING = {"text": [], "answer_start": []}
ANSWERS = ({"text": ["Odile"], "answer_start": [38]}, {"text": [], "answer_start": []})
ODILE = {"text": ["Odile"], "answer_start": [38]}


@pytest.mark.parametrize(
    "answers",
    [
        *([], {"text": [], "answer_start": []}, [{"text": "", "answer_start": 0}], [{"text": "", "answer_start": -1}]),
        *([{"text": " \t\u3000", "answer_start": 5}], [{"text": None, "answer_start": None}]),
        *({"text": "", "answer_start": 0}, {"text": None, "answer_start": -1}, {"text": [""], "answer_start": [0]}),
        *({"text": ["", None], "answer_start": [0, -1]}, {"text": [], "answer_start": [-1]}),
        *({"text": [""], "answer_start": []}, '{"text": [NaN], "answer_start": [NaN]}', "[]"),
        *([""], [" "], [None], {}, [{}], [{"answer_start": -1}], "[None]", [{"text": "\u200b"}]),
        *([{"text": "\ufeff", "answer_start": 0}], {"text": ["\u200b "], "answer_start": [3]}),
    ],
    ids=repr,
)
def test_every_spelling_of_no_answer_is_no_answer(answers, tmp_path):
    row = {"question": "Who?", "context": MILL, "answers": answers}
    assert answers_in(tmp_path / "f.json", [row]) == [NOTHING]
    nested = [{"title": "t", "paragraphs": [{"context": MILL, "qas": [{"question": "Who?", "answers": answers}]}]}]
    assert answers_in(tmp_path / "f.json", {"data": nested}) == [NOTHING]


@pytest.mark.parametrize("impossible", [True, 1, "True", "true", "1"])
def test_an_impossible_question_has_no_answer_whatever_stands_there(impossible, tmp_path):
    row = {"question": "Who?", "context": MILL, "is_impossible": impossible, "answers": None}
    assert answers_in(tmp_path / "f.json", [row, {**row, "answers": ODILE}]) == [NOTHING, NOTHING]
    assert answers_in(tmp_path / "f.json", [{**row, "is_impossible": False, "answers": ODILE}]) == [ODILE]


@pytest.mark.parametrize("name", ["answerable", "is_answerable", "has_answer", "hasAnswer"])
@pytest.mark.parametrize(("no", "yes"), [(False, True), (0, 1), ("False", "True"), ("no", "yes"), (0.0, 1.0)])
def test_a_question_that_is_said_not_to_be_answerable_has_no_answer(name, no, yes, tmp_path):
    row = {"question": "Who?", "context": MILL, "answers": ODILE}
    assert answers_in(tmp_path / "f.json", [{**row, name: no}, {**row, name: yes}]) == [NOTHING, ODILE]


@pytest.mark.parametrize("nothing", [None, "", "nan", float("nan")], ids=repr)
def test_no_answers_beside_questions_that_have_some_are_no_answer(nothing, tmp_path):
    row = {"question": "Who?", "context": MILL}
    rows = [{**row, "answers": nothing}, {**row, "answers": ODILE}, row]
    assert answers_in(tmp_path / "f.json", rows) == [NOTHING, ODILE, NOTHING]
    assert answers_in(tmp_path / "f.json", [rows[0], row]) == [None, None]


@pytest.mark.parametrize("word", ["None", "NA", "null", "Nan"])
def test_a_word_is_no_answer_where_all_is_text_alone(word, tmp_path):
    row = {"question": "Who?", "context": MILL}
    text = {"text": [word], "answer_start": [-1]}
    assert answers_in(tmp_path / "f.json", [{**row, "answers": word}, {**row, "answers": ODILE}]) == [text, ODILE]
    content = cells(("answers", word)) + cells(("answers", "Odile")).partition("\n")[2]
    if word != "Nan":
        assert answers_in(tmp_path / "f.csv", content)[0] == NOTHING


def test_answers_beside_the_one_with_a_position_count_as_well(tmp_path):
    row = {"question": "Who?", "context": MILL, "answer": "Odile", "answer_start": 4}
    rows = [{**row, "answers": answers} for answers in (["Odile", "the miller"], [0.5], "['Odile', 'the miller']")]
    rows.append({**row, "answers": ["the miller"], "answer": None, "answer_start": None})
    both, one = {"text": ["Odile", "the miller"], "answer_start": [4, -1]}, {"text": ["Odile"], "answer_start": [4]}
    other = {"text": ["the miller"], "answer_start": [-1]}
    assert answers_in(tmp_path / "f.json", rows) == [both, one, both, other]


def test_an_answer_that_begins_like_a_list_and_stands_in_the_context_is_text(tmp_path):
    text = "question,context,answers\nWhat?,he said [sic] yes,[sic] yes\n"
    (tmp_path / "f.csv").write_text(text)
    (example,) = read_examples(str(tmp_path / "f.csv"), SOURCE)
    assert example["answers"] == {"text": ["[sic] yes"], "answer_start": [-1]}
    (tmp_path / "f.csv").write_text(text.replace("[sic] yes,", "yes,"))
    with pytest.raises(UsageError, match="neither JSON nor a Python literal"):
        read_examples(str(tmp_path / "f.csv"), SOURCE)


def test_titles_of_any_kind_do_not_matter(tmp_path):
    row = {"id": "a", "question": "Who?", "context": MILL, "answers": ODILE}
    write_json(tmp_path / "f.json", [row, {**row, "title": 1984}])
    assert read_examples(str(tmp_path / "f.json"), SOURCE) == [row, row]


def test_rows_need_not_have_the_same_columns(tmp_path):
    """What a later row has more is seen: else a question without an answer would count as one with it."""
    row = {"id": "a", "question": "Who?", "context": MILL, "answers": ODILE}
    rows = [row, {**row, "id": "b", "is_impossible": True}, {"is_impossible": True, "id": "c", **{"query": "?"}}]
    rows[2] |= {"question": "?", "context": MILL}
    assert answers_in(tmp_path / "f.json", rows) == [ODILE, NOTHING, NOTHING]
    assert answers_in(tmp_path / "f.json", rows[::-1]) == [NOTHING, NOTHING, ODILE]
    nested = [{"paragraphs": [{"context": MILL, "qas": [{**row, "context": None}, {**rows[1], "context": None}]}]}]
    assert answers_in(tmp_path / "f.json", {"data": nested}) == [ODILE, NOTHING]


def test_ids_that_only_some_questions_have_are_no_reason_to_change_them(tmp_path):
    rows = [{"question": "q", "context": "c"}, {"id": "mine", "question": "q", "context": "c"}]
    write_json(tmp_path / "f.json", rows)
    with pytest.raises(UsageError, match="row 1: 'id' is missing, and other questions have one"):
        read_examples(str(tmp_path / "f.json"), SOURCE)


@pytest.mark.parametrize("value", ["wiki", ["a", "b"], 0.5, []], ids=repr)
def test_an_unknown_third_column_holds_answers_only_if_they_look_like_some(value, tmp_path, capsys):
    row = {"question": "Who?", "context": MILL}
    assert answers_in(tmp_path / "f.json", [{**row, "source": value}]) == [None]
    assert capsys.readouterr().out == ""
    assert answers_in(tmp_path / "f.json", [{**row, "source": ODILE}]) == [ODILE]
    assert "answers from 'source'" in capsys.readouterr().out


def test_the_nested_layout_knows_the_same_names(tmp_path):
    qas = [{"qid": "a", "query": "Who?", "answer": {"text": "Odile", "answer_start": 38}}]
    for name in ("context", "passage", "text"):
        path = tmp_path / "f.json"
        write_json(path, {"data": [{"paragraphs": [{name: MILL, "qas": qas}]}]})
        (found,) = read_examples(str(path), SOURCE)
        assert found == {"id": "a", "context": MILL, "question": "Who?", "answers": ODILE}


@pytest.mark.parametrize(
    "answers",
    [
        *([{"text": "Odile", "answer_start": "38"}], {"text": ["Odile"], "answer_start": ["38.0"]}),
        *({"text": ["Odile"], "answer_start": 38}, {"text": "Odile", "answer_start": [38]}),
        [{"text": "Odile", "start_idx": 38}],
    ],
    ids=repr,
)
def test_answers_are_known_by_what_is_plainly_meant(answers, tmp_path):
    assert answers_in(tmp_path / "f.json", [{"question": "q", "context": MILL, "answers": answers}]) == [ODILE]


@pytest.mark.parametrize(
    "answers",
    [
        *("Odile", ["Odile"], {"text": "Odile"}, {"text": ["Odile"]}, [{"text": "Odile"}], ["Odile", ""]),
        *({"text": ["Odile"], "answer_start": None}, [{"text": "Odile", "answer_start": None}], ["Odile", None]),
    ],
    ids=repr,
)
def test_answers_need_no_place_to_be_scored_and_are_looked_for_to_be_learned(answers, tmp_path, capsys):
    (tmp_path / "f.json").write_text(json.dumps([{"question": "q", "context": MILL, "answers": answers}]))
    examples = read_examples(str(tmp_path / "f.json"), SOURCE)
    assert [example["answers"] for example in examples] == [{"text": ["Odile"], "answer_start": [-1]}]
    check_for_scoring(examples, SOURCE, False)
    assert "scored by their text" in capsys.readouterr().out
    check_for_training(examples, SOURCE, False)
    assert [example["answers"] for example in examples] == [ODILE]


@pytest.mark.parametrize("name", ["answer", "answers", "answer_text", "Answers.Text"])
@pytest.mark.parametrize("text", ["Odile", "Odile's mill, 38", "(sic) Odile", "Odile [sic]", "38"])
def test_a_column_of_texts_alone_is_one_of_answers(name, text, tmp_path):
    content = cells((name, text)) + cells((name, "")).splitlines()[1]
    assert answers_in(tmp_path / "f.csv", content) == [{"text": [text], "answer_start": [-1]}, NOTHING]


def test_a_column_called_text_beside_a_context_is_no_answer(tmp_path):
    rows = [{"question": "q", "context": MILL, "text": "Odile"}]
    assert answers_in(tmp_path / "f.json", rows) == [None]


@pytest.mark.parametrize("layout", ["records", "columns", "index", "split", "table", "list"])
def test_tables_as_pandas_writes_them(layout, tmp_path):
    rows = [{"id": str(number), "question": "q", "context": MILL} for number in range(2)]
    rows = [{**row, "answers": answers} for row, answers in zip(rows, ANSWERS, strict=True)]
    frame, path = pandas.DataFrame(rows), tmp_path / "f.json"
    if layout == "list":
        write_json(path, frame.to_dict("list"))
    else:
        frame.to_json(path, orient=layout)
    assert read_examples(str(path), SOURCE) == rows


@pytest.mark.parametrize("mark", [";", "\t"])
@pytest.mark.parametrize("told", [True, False])
def test_spreadsheets_put_other_marks_between_cells(mark, told, tmp_path):
    cells = ["question", "context", "answer_text", "answer_start"], ["Who?", f'"{MILL}"', "Odile", "38"]
    text = f"sep={mark}\r\n" * told + "".join(mark.join(line) + "\r\n" for line in cells)
    assert answers_in(tmp_path / "f.csv", text) == [ODILE]


def test_a_document_over_many_lines_may_be_called_jsonl(tmp_path):
    rows = [{"question": "q", "context": MILL, "answers": ODILE}] * 2
    for content in ({"data": rows}, rows):
        assert answers_in(tmp_path / "f.jsonl", json.dumps(content, indent=1)) == [ODILE, ODILE]
        assert answers_in(tmp_path / "f.jsonl", json.dumps(content)) == [ODILE, ODILE]


def test_blank_answers_beside_others_are_left_out(tmp_path):
    answers = [{"text": "", "answer_start": 0}, {"text": "Odile", "answer_start": 38}]
    assert answers_in(tmp_path / "f.json", [{"question": "q", "context": MILL, "answers": answers}]) == [ODILE]


def cells(*columns):
    """A CSV file with these columns, each a name and a value."""
    names, values = zip(("question", "Who?"), ("context", MILL), *columns, strict=True)
    quoted = ['"{}"'.format(value.replace('"', '""')) for value in values]
    return f"{','.join(names)}\n{','.join(quoted)}\n"


@pytest.mark.parametrize(
    "columns",
    [
        [("answers", "{'text': ['Odile'], 'answer_start': [38]}")],
        [("answers", "{'answer_start': array([38]), 'text': array(['Odile'], dtype=object)}")],
        [("answers", "{'text': array(['Odile'], dtype='<U5'), 'answer_start': array([38], dtype=int32)}")],
        [("answers", "{'text': [np.str_('Odile')], 'answer_start': [np.int64(38)]}")],
        [("answers", "[{'answer_start': 38, 'text': 'Odile'}]")],
        [("answers", "{'text': 'Odile', 'answer_start': 38}")],
        [("answers.text", "['Odile']"), ("answers.answer_start", "[38]")],
        [("answers.text", "array(['Odile'], dtype=object)"), ("answers.answer_start", "[38.]")],
        [("answer_text", "Odile"), ("answer_start", "38")],
        [("answer_start", "38.0"), ("answerText", "Odile")],
        [("answer", "Odile"), ("Answer Start", "np.int64(38)")],
        [("text", "Odile"), ("answer_start", "38")],
        [("", "0"), ("answer", "{'text': ('Odile',), 'answer_start': (38,)}")],
    ],
    ids=repr,
)
def test_answers_in_a_csv_file(columns, tmp_path):
    assert answers_in(tmp_path / "f.csv", cells(*columns)) == [ODILE]


@pytest.mark.parametrize("text", ["", "nan", "NaN", "None", "<NA>"])
@pytest.mark.parametrize("start", ["", "nan", "-1", "-1.0"])
def test_empty_cells_are_no_answer(text, start, tmp_path):
    if text != "" and start.startswith("-1"):
        text = ""  # "nan" at a position may be an answer, which training looks for in the context
    content = cells(("answer_text", text), ("answer_start", start))
    assert answers_in(tmp_path / "f.csv", content) == [NOTHING]


def test_shortened_answers_say_why_they_are_refused(tmp_path):
    content = cells(("answers", "{'text': array(['a', ..., 'b']), 'answer_start': array([0, ..., 9])}"))
    with pytest.raises(UsageError, match="line 2: 'answers' is shortened by three dots"):
        answers_in(tmp_path / "f.csv", content)


@pytest.mark.parametrize("lists", [True, False])
def test_what_datasets_and_pandas_write_as_csv_is_read(lists, tmp_path):
    import datasets

    text, start = datasets.Value("string"), datasets.Value("int64" if lists else "int32")
    kinds = {"text": text, "answer_start": start}
    features = {"answers": {name: [kind] for name, kind in kinds.items()} if lists else datasets.Sequence(kinds)}
    for name in ("id", "context", "question"):
        features[name] = text
    several = {"text": ["a 'b'", 'c, "d"', "e\nf"], "answer_start": [0, 100, 20]}
    rows = [*EXAMPLES, {**EXAMPLES[0], "answers": NOTHING}, {**EXAMPLES[0], "answers": several}]
    rows = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    flat = rows.flatten()
    for written in (rows.to_csv, rows.to_pandas().to_csv, flat.to_csv, flat.to_pandas().to_csv):
        written(tmp_path / "f.csv")
        assert read_examples(str(tmp_path / "f.csv"), SOURCE) == rows.to_list()
    paired = [{**row, "answers": pairs(row["answers"])} for row in rows.to_list()]
    datasets.Dataset.from_list(paired).to_csv(tmp_path / "f.csv")
    assert read_examples(str(tmp_path / "f.csv"), SOURCE) == rows.to_list()


def test_columns_have_the_names_that_people_use(tmp_path):
    answers = {"Answers": pairs(ODILE)}
    for names in (("passage", "query"), ("Paragraph", "Question Text"), ("document", "queryText"), ("text", "q")):
        row = {names[0]: MILL, names[1]: "Who?", **answers, "source": "s"}
        write_json(tmp_path / "f.json", [row])
        (example,) = read_examples(str(tmp_path / "f.json"), SOURCE)
        assert (example["question"], example["context"], example["answers"]) == ("Who?", MILL, ODILE)


def test_columns_by_position_are_announced_and_a_swap_is_refused(tmp_path, capsys):
    row = {"id": 3, "frage": "Wer?", "absatz": MILL, "antworten": pairs(ODILE)}
    write_json(tmp_path / "f.json", [row])
    assert read_examples(str(tmp_path / "f.json"), SOURCE)[0]["answers"] == ODILE
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "question from 'frage', context from 'absatz', answers from 'antworten'" in printed
    for names in (("absatz", "frage"), ("query", "passage")):
        write_json(tmp_path / "f.json", [dict(zip(names, texts, strict=True)) for texts in [(MILL, "Wer?")] * 2])
        with pytest.raises(UsageError, match=f"2 of 2 rows the question \\(column '{names[0]}'\\) is longer"):
            read_examples(str(tmp_path / "f.json"), SOURCE)


QUESTION = {"question": "Who?", "answers": pairs(ODILE)}
NESTED = {
    "an article": {"title": "t", "paragraphs": [{"context": MILL, "qas": [QUESTION, QUESTION]}]},
    "articles": [{"paragraphs": [{"context": MILL, "qas": [QUESTION]}]}] * 2,
    "a paragraph": {"context": MILL, "qas": [QUESTION, QUESTION]},
    "paragraphs": [{"context": MILL, "qas": [QUESTION]}] * 2,
    "a file": {"data": [{"paragraphs": [{"context": MILL, "qas": [QUESTION, QUESTION]}]}]},
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_layouts_are_read_and_numbered(name, tmp_path):
    import datasets

    content = NESTED[name]
    rows = content if isinstance(content, list) else [content]
    write_json(tmp_path / "f.json", content)
    write_lines(tmp_path / "f.jsonl", rows)
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "f.parquet")
    for path in ("f.json", "f.jsonl", "f.parquet"):
        examples = read_examples(str(tmp_path / path), SOURCE)
        assert [(row["id"], row["context"], row["answers"]) for row in examples] == [
            ("0", MILL, ODILE),
            ("1", MILL, ODILE),
        ]


def test_ids_that_are_whole_numbers_and_ids_that_are_missing(tmp_path):
    rows = [{"qid": 90211.0, "question": "q", "context": "c"}, {"qid": 7, "question": "q", "context": "c"}]
    write_json(tmp_path / "f.json", rows)
    assert [row["id"] for row in read_examples(str(tmp_path / "f.json"), SOURCE)] == ["90211", "7"]
    write_json(tmp_path / "f.json", [*rows, {"question": "q", "context": "c"}])
    with pytest.raises(UsageError, match="row 3: 'id' is missing"):
        read_examples(str(tmp_path / "f.json"), SOURCE)


def test_git_lfs_pointers_are_called_so(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    for name in ("f.json", "f.csv", "f.parquet"):
        with pytest.raises(UsageError, match=r"Git LFS pointer.*git lfs pull"):
            answers_in(tmp_path / name, pointer)
    with pytest.raises(UsageError, match=r"f\.csv: it is a Git LFS pointer.*git lfs pull"):
        load_examples(*arguments(dataset_name=str(tmp_path)), ["train"])


def test_a_pointer_that_is_not_read_does_no_harm(tmp_path):
    (tmp_path / "test.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    write_json(tmp_path / "train.json", [{"question": "q", "context": "c", "answers": NOTHING}])
    assert len(load_examples(*arguments(dataset_name=str(tmp_path)), ["train"])["train"]) == 1


# --- checks of whole splits ---


def example(identifier="a", context="one two one", text="two", start=4, answers=...):
    if answers is ...:
        answers = {"text": [text], "answer_start": [start]}
    return {"id": identifier, "context": context, "question": "q", "answers": answers}


def test_a_misplaced_answer_that_stands_in_one_other_place_is_realigned(capsys):
    examples = [example(), example("b", start=7), example("c", start=-1)]
    check_for_training(examples, SOURCE, False)
    assert [row["answers"]["answer_start"] for row in examples] == [[4], [4], [4]]
    printed = capsys.readouterr().out
    assert SOURCE in printed
    assert " 2 answers" in printed


@pytest.mark.parametrize(("text", "start"), [("two ", 4), (" two", 3), ("\ttwo\n", 3), (" two ", 2), ("two  ", 7)])
def test_white_space_around_an_answer_is_no_part_of_it(text, start):
    examples = [example(context="one two.", text=text, start=start)]
    check_for_training(examples, SOURCE, False)
    at = examples[0]["answers"]["answer_start"][0]
    assert at + len(text) - len(text.lstrip()) == 4


@pytest.mark.parametrize(("text", "start"), [("one", 1), ("three", 4), ("two", 4), ("One", 0), ("one", 10**9)])
def test_training_is_refused_where_the_right_place_cannot_be_told(text, start):
    right = example()
    wrong = [example("bad-1", text=text, start=start), example("bad-2", text="four")]
    if text == "two":
        wrong[0] = example("bad-1", context="two two", start=1)
    with pytest.raises(UsageError) as caught:
        check_for_training([right, *wrong, example("mended", start=0)], SOURCE, False)
    message = str(caught.value)
    assert message.startswith(SOURCE)
    assert "3 answers do not stand at their answer_start" in message
    assert "for 2 of them" in message
    assert "bad-1" in message


def test_overlapping_places_of_an_answer_are_ambiguous():
    with pytest.raises(UsageError, match="bad"):
        check_for_training([example("bad", context="x ana ana", text="ana", start=0)], SOURCE, False)
    with pytest.raises(UsageError, match="bad"):
        check_for_training([example("bad", context="banana", text="ana", start=0)], SOURCE, False)


def test_misplaced_answers_are_reported_but_scored(capsys):
    examples = [example("x", start=0), example("y", answers={"text": ["two", "no"], "answer_start": [4, 0]})]
    before = json.dumps(examples)
    check_for_scoring(examples, SOURCE, False)
    assert json.dumps(examples) == before
    printed = capsys.readouterr().out
    assert "2 answers" in printed
    assert "question x" in printed
    assert printed.count("\n") == 1


def test_training_looks_at_first_answers_only(capsys):
    second = example("a", answers={"text": ["two", "nowhere", "two"], "answer_start": [4, 0, 0]})
    check_for_training([second, example("b")], SOURCE, False)
    assert second["answers"]["answer_start"] == [4, 0, 4]
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "2 answers do not stand at their answer_start, or have none; 1 were realigned" in printed


@pytest.mark.parametrize("check", [check_for_scoring, check_for_training])
def test_all_offending_ids_are_in_a_file_that_the_message_names(check):
    wrong = [example(f"bad-{number}", answers=None) for number in range(30)]
    with pytest.raises(UsageError) as caught:
        check([example(), *wrong], SOURCE, True)
    path = Path(re.search(r"all ids are in (\S+)$", str(caught.value))[1])
    assert path.read_text(encoding="utf-8").split() == [f"bad-{number}" for number in range(30)]


def test_duplicate_ids_are_refused_for_scoring():
    with pytest.raises(UsageError, match=f"{SOURCE}: two questions have the id 'a'"):
        check_for_scoring([example(), example("b"), example()], SOURCE, False)


@pytest.mark.parametrize(
    "answers",
    [None, {"text": [], "answer_start": []}, {"text": ["no"], "answer_start": [0]}],
    ids=["missing", "empty", "misplaced"],
)
def test_a_message_is_one_line_whatever_the_id(answers):
    with pytest.raises(UsageError) as caught:
        check_for_training([example("first\nsecond\r", answers=answers)], SOURCE, False)
    assert "first" in str(caught.value)
    assert not {"\n", "\r"} & set(str(caught.value))


@pytest.mark.parametrize("check", [check_for_scoring, check_for_training])
def test_missing_answers_are_refused_with_a_hint(check):
    with pytest.raises(UsageError, match=r"question b has no 'answers'.*--do_predict with --test_file"):
        check([example(), example("b", answers=None)], SOURCE, True)


@pytest.mark.parametrize("check", [check_for_scoring, check_for_training])
def test_unanswerable_questions_need_the_flag(check):
    nothing = {"text": [], "answer_start": []}
    examples = [example(), example("b", answers=nothing), example("c", answers=nothing)]
    with pytest.raises(UsageError, match=r"2 questions have no answer \(the first: b\).*--version_2_with_negative"):
        check(examples, SOURCE, False)
    check(examples, SOURCE, True)


def arguments(**values):
    return DataTrainingArguments(**values), ModelArguments(model_name_or_path="m")


def test_each_split_has_its_own_file_and_limit(tmp_path):
    write_json(tmp_path / "f.json", EXAMPLES)
    path = str(tmp_path / "f.json")
    loaded = load_examples(
        *arguments(
            train_file=path,
            validation_file=path,
            test_file=path,
            max_train_samples=1,
            max_eval_samples=2,
            max_predict_samples=3,
        ),
        ["train", "validation", "test"],
    )
    assert {split: len(examples) for split, examples in loaded.items()} == {"train": 1, "validation": 2, "test": 3}


def test_only_the_splits_asked_for_are_read(tmp_path):
    write_json(tmp_path / "f.json", EXAMPLES)
    data_args, model_args = arguments(train_file=str(tmp_path / "missing.json"), test_file=str(tmp_path / "f.json"))
    assert list(load_examples(data_args, model_args, ["test"])) == ["test"]


def test_a_test_file_needs_no_answers_but_its_own_ids(tmp_path):
    rows = [{"id": "a", "question": "q", "context": "c"}, {"id": "a", "question": "q", "context": "c"}]
    write_json(tmp_path / "f.json", rows[:1])
    data_args, model_args = arguments(test_file=str(tmp_path / "f.json"), validation_file=str(tmp_path / "f.json"))
    assert load_examples(data_args, model_args, ["test"])["test"][0]["answers"] is None
    with pytest.raises(UsageError, match=r"--validation_file .*question a has no 'answers'"):
        load_examples(data_args, model_args, ["validation"])
    write_json(tmp_path / "f.json", rows)
    with pytest.raises(UsageError, match=r"--test_file .*two questions have the id 'a'"):
        load_examples(data_args, model_args, ["test"])


def test_a_saved_data_set_is_read_like_a_file(tmp_path):
    import datasets

    folder = tmp_path / "saved"
    rows = datasets.Dataset.from_list(EXAMPLES)
    datasets.DatasetDict(train=rows, validation=rows.select([2, 0])).save_to_disk(folder)
    data_args, model_args = arguments(dataset_name=str(folder), max_train_samples=2)
    loaded = load_examples(data_args, model_args, ["train", "validation"])
    assert loaded == {"train": EXAMPLES[:2], "validation": [EXAMPLES[2], EXAMPLES[0]]}
    with pytest.raises(UsageError, match=r"split test: there is no such split; found train, validation"):
        load_examples(data_args, model_args, ["test"])


def test_a_saved_data_set_with_the_sequence_type_of_squad(tmp_path):
    import datasets

    text = datasets.Value("string")
    answers = datasets.Sequence({"text": text, "answer_start": datasets.Value("int32")})
    features = datasets.Features(id=text, title=text, context=text, question=text, answers=answers)
    rows = datasets.Dataset.from_list([{**row, "title": "Title"} for row in EXAMPLES], features=features)
    datasets.DatasetDict(validation=rows).save_to_disk(tmp_path / "saved")
    loaded = load_examples(*arguments(dataset_name=str(tmp_path / "saved")), ["validation"])
    assert loaded == {"validation": EXAMPLES}


def test_a_local_folder_of_files_is_a_data_set(tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    write_lines(folder / "train.jsonl", EXAMPLES)
    write_lines(folder / "validation.jsonl", EXAMPLES[1:])
    data_args, model_args = arguments(dataset_name=str(folder))
    loaded = load_examples(data_args, model_args, ["train", "validation"])
    assert loaded == {"train": EXAMPLES, "validation": EXAMPLES[1:]}


def test_a_folder_behind_a_link_is_a_data_set_and_a_file_is_none(tmp_path, monkeypatch):
    (tmp_path / "local").mkdir()
    write_lines(tmp_path / "local" / "validation.jsonl", EXAMPLES)
    (tmp_path / "link").symlink_to(tmp_path / "local")
    monkeypatch.chdir(tmp_path)
    for name in ("link", str(tmp_path / "link")):
        assert load_examples(*arguments(dataset_name=name), ["validation"]) == {"validation": EXAMPLES}
    write_lines(tmp_path / "local" / "validation.jsonl", [{}])
    with pytest.raises(UsageError, match=r"--dataset_name link, split validation, validation.jsonl, line 1: no 'ques"):
        load_examples(*arguments(dataset_name="link"), ["validation"])
    with pytest.raises(UsageError, match=r"validation.jsonl is a file; give it to --train_file"):
        load_examples(*arguments(dataset_name="local/validation.jsonl"), ["validation"])


def test_data_sets_that_cannot_be_loaded(tmp_path):
    import datasets

    datasets.Dataset.from_list(EXAMPLES).save_to_disk(tmp_path / "single")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dataset_dict.json").write_text("{", encoding="utf-8")
    for name, expected in {
        str(tmp_path / "single"): "single split",
        str(tmp_path / "empty"): "cannot be loaded",
        str(tmp_path / "broken"): "cannot be loaded",
        str(tmp_path / "missing"): "cannot be loaded",
        "nobody/such-a-data-set": "local folder or files",
    }.items():
        with pytest.raises(UsageError, match=expected) as caught:
            load_examples(*arguments(dataset_name=name), ["train"])
        assert str(caught.value).startswith(f"--dataset_name {name}")
        assert "\n" not in str(caught.value)


def test_a_bad_row_of_a_data_set_is_named(tmp_path):
    import datasets

    rows = datasets.Dataset.from_list([{"question": "q", "context": "c"}, {"question": None, "context": "c"}])
    datasets.DatasetDict(train=rows).save_to_disk(tmp_path / "saved")
    with pytest.raises(UsageError, match=r"split train, row 2: 'question' is missing"):
        load_examples(*arguments(dataset_name=str(tmp_path / "saved")), ["train"])


def test_a_local_folder_of_nested_files_is_a_data_set(tmp_path):
    (tmp_path / "more").mkdir()
    write_nested(tmp_path / "train-v1.1.json")
    write_json(tmp_path / "more" / "dev.json", NESTED["paragraphs"])
    (tmp_path / "README.md").write_text("My questions.", encoding="utf-8")
    loaded = load_examples(*arguments(dataset_name=str(tmp_path)), ["train", "validation"])
    assert loaded["train"] == EXAMPLES
    assert [row["answers"] for row in loaded["validation"]] == [ODILE, ODILE]
    write_json(tmp_path / "more" / "dev.json", [{"context": MILL, "qas": [{}, 5]}])
    with pytest.raises(UsageError, match=r"split validation, more/dev.json, paragraph 1, question 1: 'question'"):
        load_examples(*arguments(dataset_name=str(tmp_path)), ["validation"])


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    rows=st.lists(
        st.tuples(
            st.text(max_size=20),
            st.text(max_size=20),
            st.text(min_size=1, max_size=5).filter(str.strip),  # a blank text is no answer
            st.integers(0, 20),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_good_examples_survive_every_format(rows, tmp_path):
    examples = [
        {
            "id": str(number),
            "context": context[:start] + text + context[start:],
            "question": question,
            "answers": {"text": [text], "answer_start": [min(start, len(context))]},
        }
        for number, (context, question, text, start) in enumerate(rows)
    ]
    write_json(tmp_path / "f.json", {"data": examples})
    write_lines(tmp_path / "f.jsonl", examples)
    write_csv(tmp_path / "f.csv", examples)
    write_csv(tmp_path / "g.csv", examples, encode=repr)
    write_parquet(tmp_path / "f.parquet", examples)
    for name in ("f.json", "f.jsonl", "f.csv", "g.csv", "f.parquet"):
        assert read_examples(str(tmp_path / name), SOURCE) == examples
        check_for_training(examples, SOURCE, False)


@pytest.mark.parametrize(("said", "exact"), [("", 100.0), ("a mill", 50.0)])
def test_blank_answers_are_scored_as_the_official_script_scores_none(said, exact, tmp_path):
    from qa.questions.answers import Answers
    from qa.questions.features import dataset_of
    from qa.questions.scores import compute_metrics

    rows = [
        {"question": "Who?", "context": MILL, "answers": [{"text": text, "answer_start": 0}]} for text in ("", " ")
    ]
    write_json(tmp_path / "f.json", rows)
    examples = read_examples(str(tmp_path / "f.json"), SOURCE)
    check_for_scoring(examples, SOURCE, True)
    with pytest.raises(UsageError, match="2 questions have no answer"):
        check_for_scoring(examples, SOURCE, False)
    odds = {"0": 1.0, "1": -1.0 if said else 1.0}
    scores = compute_metrics(dataset_of(examples), Answers({"0": "", "1": said}, {}, odds))
    assert scores["exact"] == scores["f1"] == scores["NoAns_exact"] == exact
    assert scores["NoAns_total"] == scores["total"] == 2
    assert "HasAns_exact" not in scores
