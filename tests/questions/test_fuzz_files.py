"""Question files that nobody would write: each becomes checked examples, or one line that says what is wrong.

The tests try some thousand files, the same ones each time. By hand, so many new ones:

    PYTHONPATH=. python tests/test_fuzz_data_qa.py 100000
"""

import collections
import contextlib
import copy
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from test_examples import EXAMPLES, FORMATS

from qa.questions.checks import check_for_scoring, check_for_training
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of
from qa.start.errors import UsageError

SOURCE = "--train_file F"
_TEMPORARY = tempfile.TemporaryDirectory(prefix="qa-fuzz-")
FOLDER = Path(_TEMPORARY.name)


def is_loaded(suffix, content):
    """Read a file; return whether it became examples. Anything but these or one line for the user is an error."""
    path = FOLDER / f"f{suffix}"
    path.write_bytes(content)
    try:
        examples = read_examples(str(path), SOURCE)
        for check in (check_for_scoring, check_for_training):
            for version_2 in (True, False):
                check(examples, SOURCE, version_2)
    except UsageError as error:
        message = str(error)
        assert message.startswith(SOURCE)
        assert "\n" not in message
        assert "\r" not in message
        assert len(message) < 1000
        return False
    assert examples
    assert dataset_of(examples).to_list() == examples
    return True


# --- from nothing to nearly good ---

FIELDS = ("data", "paragraphs", "qas", "id", "title", "context", "question", "answers", "text", "answer_start")
LITERALS = ["text", "c", "\ud800", "a\nb", "\u200b", "{'text': ['c'], 'answer_start': [0]}", "[[[["]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, -(2**63), 10**400])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(LITERALS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.sampled_from(FIELDS), inner, max_size=5)
    ),
    max_leaves=12,
)
nearly_answers = st.one_of(
    st.lists(
        st.fixed_dictionaries({"text": st.text(max_size=3) | values, "answer_start": st.integers() | values}),
        max_size=2,
    ),
    st.fixed_dictionaries(
        {"text": st.lists(st.text(max_size=3), max_size=2), "answer_start": st.lists(st.integers(), max_size=2)}
    ),
    values,
)
nearly_text = st.text(max_size=6) | values
nearly_example = st.fixed_dictionaries(
    {"question": nearly_text, "context": nearly_text},
    optional={"id": nearly_text, "title": nearly_text, "answers": nearly_answers},
)
nearly_paragraphs = st.lists(
    st.fixed_dictionaries({"context": nearly_text, "qas": st.lists(nearly_example, max_size=2)}), max_size=2
)
nearly_articles = st.lists(st.fixed_dictionaries({"paragraphs": nearly_paragraphs | values}) | values, max_size=2)


def as_json(content):
    return json.dumps(content).encode()


def as_csv(answers):
    quoted = answers.replace('"', '""')
    return f'question,context,answers\nq,c,"{quoted}"\n'.encode("utf-8", "replace")


# --- good files, damaged ---


def good_file(name):
    file_name, write = FORMATS[name]
    write(FOLDER / file_name)
    return Path(file_name).suffix, (FOLDER / file_name).read_bytes()


GOOD = {name: good_file(name) for name in FORMATS}
DOCUMENTS = [json.loads(content) for name, (_, content) in GOOD.items() if name.startswith(("nested", "flat", "list"))]


@st.composite
def damaged_bytes(draw):
    """Cut, put in, overwrite or repeat some bytes of a good file in any format."""
    suffix, content = draw(st.sampled_from(list(GOOD.values())))
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(content)))
        end = begin + draw(st.sampled_from([0, 1, 1, 5, len(content)]))
        part = draw(
            st.binary(max_size=4)
            | st.just(bytes(content[begin : end + 1]) * 2)
            | st.sampled_from(
                [b"\x00", b"\xff", b"\xef\xbb\xbf", b'"', b"\\ud800", b"\r", b",", b"[" * 2000, b"9" * 400]
            )
        )
        content[begin:end] = part
    return suffix, bytes(content)


def places(node):
    """Return every (container, key) in a document."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, child in children for place in ((node, key), *places(child))]


@st.composite
def damaged_document(draw):
    """Remove, replace, repeat or rename something in a good JSON document; write it as JSON or, if rows, as lines."""
    document = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(1, 3))):
        found = places(document)
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        change = draw(st.sampled_from(["remove", "replace", "repeat", "rename", "move"]))
        if change == "remove":
            del container[key]
        elif change == "replace":
            container[key] = draw(values)
        elif change == "repeat" and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif change == "rename" and isinstance(container, dict):
            container[draw(st.sampled_from(FIELDS))] = container.pop(key)
        else:
            other, place = draw(st.sampled_from(found))
            other_value = other[place] if isinstance(other, dict) or place < len(other) else None
            container[key] = copy.deepcopy(other_value)
    if isinstance(document, list) and draw(st.booleans()):
        return ".jsonl", b"\n".join(map(as_json, document))
    return ".json", as_json(document)


TYPES = [
    *(pa.string(), pa.large_string(), pa.binary(), pa.int8(), pa.uint64(), pa.float16(), pa.bool_(), pa.null()),
    *(pa.timestamp("ns"), pa.date64(), pa.duration("us"), pa.decimal128(5, 2), pa.list_(pa.string())),
    *(pa.dictionary(pa.int8(), pa.string()), pa.list_(pa.struct([("text", pa.string())]))),
    pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int64()))]),
]


@st.composite
def parquet_file(draw):
    """A table in which every column may be missing, renamed, empty or of another type."""
    columns = {}
    for name in ("id", "title", "context", "question", "answers"):
        how = draw(st.sampled_from(["good", "good", "good", "missing", "type", "rename"]))
        column = pa.array([example.get(name, "Title") for example in EXAMPLES])
        if how == "type":
            kind = draw(st.sampled_from(TYPES))
            # Types that do not convert are filled with zeros, whatever these bits mean to them.
            try:
                column = column.cast(kind)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                column = pa.nulls(len(EXAMPLES), kind)
        if how != "missing":
            columns[draw(st.sampled_from(FIELDS)) if how == "rename" else name] = column
    sink = pa.BufferOutputStream()
    count = draw(st.integers(0, len(EXAMPLES)))
    try:
        pq.write_table(pa.table(columns).slice(0, count), sink, compression=draw(st.sampled_from(["none", "zstd"])))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        hypothesis.assume(False)
    return ".parquet", sink.getvalue().to_pybytes()


suffixes = st.sampled_from([".json", ".jsonl", ".csv", ".parquet"])
KINDS = {
    "bytes": st.tuples(suffixes, st.binary(max_size=200)),
    "text": st.tuples(suffixes, st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))),
    "JSON": st.tuples(suffixes, values.map(as_json)),
    "nearly good rows": st.tuples(
        st.sampled_from([".json", ".jsonl"]),
        st.lists(nearly_example, min_size=1, max_size=3).flatmap(
            lambda rows: st.sampled_from([as_json(rows), as_json({"data": rows}), b"\n".join(map(as_json, rows))])
        ),
    ),
    "nearly good articles": st.tuples(
        st.just(".json"), nearly_articles.map(lambda articles: as_json({"version": "v2.0", "data": articles}))
    ),
    "answers in CSV": st.tuples(
        st.just(".csv"),
        st.one_of(values.map(repr), nearly_answers.map(repr), nearly_answers.map(json.dumps), st.text()).map(as_csv),
    ),
    "damaged files": damaged_bytes(),
    "damaged documents": damaged_document(),
    "Parquet of other columns": parquet_file(),
}


def fuzz(kind, count, **settings):
    """Try `count` files of one kind; return `Counter` with how many were loaded (`True`) and refused (`False`)."""
    outcomes = collections.Counter()

    @hypothesis.settings(max_examples=count, **settings)
    @hypothesis.given(KINDS[kind])
    def try_one(file):
        outcomes[is_loaded(*file)] += 1

    try_one()
    return outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_loads_or_is_refused(kind):
    outcomes = fuzz(kind, 200)
    assert outcomes[False] >= 20, "these were too good"


def main(count):
    begin = time.time()
    total = collections.Counter()
    for kind in KINDS:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # the checks print notes
            outcomes = fuzz(kind, -(-count // len(KINDS)), derandomize=False)
        total += outcomes
        print(f"{kind:<26} {outcomes[True]:>7} loaded {outcomes[False]:>7} refused", flush=True)
    print(f"{'all':<26} {total[True]:>7} loaded {total[False]:>7} refused, {time.time() - begin:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]))
