"""Text for a language model: from any file, each text once, in windows that lose no token."""

import copy
import json

import pytest

from qa.questions.text import load_texts, text_windows
from qa.start.arguments import DataTrainingArguments, ModelArguments
from qa.start.errors import UsageError

TEXTS = ["Ann met Bob in Rome.", "They went to Athens,\nand came back."]
NESTED = {
    "data": [
        {
            "title": "T",
            "paragraphs": [{"context": text, "qas": [{"id": "q", "question": "Who?"}] * 2} for text in TEXTS],
        }
    ]
}
FILES = {
    "plain.txt": "\n\n \n".join([*TEXTS, TEXTS[0]]) + "\n\n",
    "lines.jsonl": "\n".join(json.dumps({"text": text, "url": "u"}) for text in TEXTS),
    "questions.json": json.dumps(NESTED),
    "table.csv": "content,n\n" + "\n".join(f'"{text}",1' for text in TEXTS),
}


def load(path, **kwargs):
    return load_texts(DataTrainingArguments(train_file=str(path), **kwargs), ModelArguments("m"), ["train"])


@pytest.mark.parametrize("name", FILES)
def test_each_kind_of_file_gives_its_texts_once(name, tmp_path):
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    assert load(tmp_path / name) == {"train": TEXTS}
    assert load(tmp_path / name, max_train_samples=1) == {"train": TEXTS[:1]}


@pytest.mark.parametrize("saved", [True, False], ids=["data set", "Parquet"])
def test_tables_of_text_have_no_questions(saved, tmp_path):
    import datasets

    rows = datasets.Dataset.from_dict({"text": TEXTS, "page": [1, 2]})
    if saved:
        datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "saved")
        arguments = DataTrainingArguments(dataset_name=str(tmp_path / "saved"))
    else:
        rows.to_parquet(tmp_path / "rows.parquet")
        arguments = DataTrainingArguments(train_file=str(tmp_path / "rows.parquet"))
    assert load_texts(arguments, ModelArguments("m"), ["train"]) == {"train": TEXTS}


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("bad.jsonl", '{"text": "a"}\n{"text": 7}', "line 2: there is no text, but a number"),
        ("bad.jsonl", '{"url": "a"}', "line 1: there is no text, but missing; call the column 'text'"),
        ("bad.json", "[", "not valid JSON"),
        ("bad.txt", "\n \n", "there is no text in it"),
        ("bad.txt", b"caf\xe9", "not UTF-8 text"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(name, content, named, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=named) as refused:
        load(tmp_path / name)
    assert str(refused.value).startswith(f"--train_file {tmp_path / name}")


def test_windows_hold_all_tokens_in_order(tokenizer):
    rules = tokenizer.backend_tokenizer.to_str()
    windows = text_windows(TEXTS * 3, tokenizer, 8)
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS * 3]
    expected = [token for text in tokens for token in [*text, tokenizer.sep_token_id]][:-1]
    ids = windows["input_ids"]
    assert all(each[0] == tokenizer.cls_token_id and each[-1] == tokenizer.sep_token_id for each in ids)
    assert [token for each in ids for token in each[1:-1]] == expected
    assert {len(each) for each in ids[:-1]} == {8} and len(ids[-1]) <= 8
    assert windows["attention_mask"] == [[1] * len(each) for each in ids]
    assert tokenizer.backend_tokenizer.to_str() == rules


def test_samples_are_texts_and_not_their_questions(tmp_path):
    (tmp_path / "questions.json").write_text(json.dumps(NESTED), encoding="utf-8")
    assert load(tmp_path / "questions.json", max_train_samples=2) == {"train": TEXTS}
    assert load(tmp_path / "questions.json", max_train_samples=1) == {"train": TEXTS[:1]}


def test_windows_have_room_and_a_token_between_texts(tokenizer):
    with pytest.raises(UsageError, match="--max_seq_length is 2; give at least 3"):
        text_windows(TEXTS, tokenizer, 2)
    assert len(text_windows(TEXTS, tokenizer, 3)) > 10
    without = copy.deepcopy(tokenizer)
    without.sep_token = None
    with pytest.raises(UsageError, match="no SEP token"):
        text_windows(TEXTS, without, 16)
