"""Values that were printed come back, whoever printed them; anything else is refused."""

import contextlib
import json
import pprint

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from qa.questions.answers_as_text import ShortenedError, value_of_text

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
answers = st.lists(st.tuples(texts, st.integers(-1, 10**6)), max_size=4)


@hypothesis.given(answers)
def test_answers_survive_being_printed(pairs):
    expected = {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}
    text = np.array(expected["text"], dtype=object)
    start = np.array(expected["answer_start"], dtype=np.int32)
    printed = [
        json.dumps(expected),
        repr(expected),
        repr({"text": text, "answer_start": start}),
        str({"answer_start": start.astype(np.int64), "text": text}),
        # NumPy 2 prints scalars like this.
        f"{{'text': [{', '.join(f'np.str_({word!r})' for word in text)}], 'answer_start': ["
        f"{', '.join(f'np.int64({place})' for place in start)}]}}",
    ]
    for each in printed:
        assert value_of_text(each) == expected
    # As cells of their own; a NumPy array of numbers alone is printed without commas.
    assert value_of_text(str(text)) == expected["text"]
    assert value_of_text(str(start)) == expected["answer_start"]
    assert value_of_text(str(start.astype(float))) == expected["answer_start"]
    assert value_of_text(repr(tuple(expected["text"]))) == expected["text"]
    assert value_of_text(str(pd.array(expected["answer_start"], dtype="Int64"))) == expected["answer_start"]
    made = np.array([{"text": word, "answer_start": place} for word, place in pairs], dtype=object)
    assert value_of_text(str(made)) == value_of_text(repr(made)) == list(made)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("['Rome' \"it's\"]", ["Rome", "it's"]),
        ("[ 3 15]", [3, 15]),
        ("[38.]", [38]),
        ("[1.e+10 3.e+00]", [10**10, 3]),
        ("[[1 2]\n [3 4]]", [[1, 2], [3, 4]]),
        ("array(['a', 'b'],\n      dtype='<U1')", ["a", "b"]),
        ("array([], shape=(0, 2), dtype=int64)", []),
        ("array(['a'], dtype=StringDType())", ["a"]),
        ("tensor([38], device='cuda:0')", [38]),
        ("<StringArray>\n['a', <NA>]\nLength: 2, dtype: string", ["a", None]),
        ("OrderedDict([('text', ['a']), ('answer_start', [1])])", {"text": ["a"], "answer_start": [1]}),
        ("{'text': [b'Z\\xc3\\xbcrich'], 'answer_start': [+3]}", {"text": ["Zürich"], "answer_start": [3]}),
        ("[nan, None, NaN, 1]", [None, None, None, 1]),
        ("['...', 'a ... b']", ["...", "a ... b"]),
        ("-3", -3),
        ("1_000", 1000),
        ("-.5e1", -5),
        ("nan", None),
        # One value in brackets, and a tuple of one.
        ("(1)", 1),
        ("(1,)", [1]),
        ("((1, 2), (3))", [[1, 2], 3]),
        # What Python joins, and what NumPy has no commas between.
        ("('a' 'b')", "ab"),
        ("['a', 'b' 'c' 'd']", ["a", "bcd"]),
        ("['a' 'b' 'c']", ["a", "b", "c"]),
        ("{1, 2}", {1, 2}),
        ("{'a': 1, 'b': (2, 3),}", {"a": 1, "b": [2, 3]}),
        ("{}", {}),
        ("list()", []),
        ("array(dtype=object)", []),
        ("dict([('a', array([1], shape=(1,)))])", {"a": [1]}),
        (r"['\d' r'\d']", [r"\d", r"\d"]),
        ("[True, false]", [True, False]),
    ],
)
def test_printed_values(text, value):
    assert value_of_text(text) == value


def test_a_long_text_broken_by_the_pretty_printer_is_one():
    value = {"text": ["word " * 40, "b"], "answer_start": [3, 4]}
    assert value_of_text(pprint.pformat(value)) == value


def test_what_numpy_shortens_is_told_apart():
    for array in (np.arange(2000), np.array(["a"] * 2000, dtype=object)):
        for text in (str(array), repr(array), repr({"text": array})):
            with pytest.raises(ShortenedError, match=r"^it is shortened by '\.\.\.'$"):
                value_of_text(text)


REFUSED = {
    "there is no value": [
        *(
            "Rome",
            "Rome, 3",
            "['a",
            "",
            "(",
            "{'a': }",
            "{1: 2",
            "f('x')",
            "open('x')",
            "__import__('os').system('false')",
        ),
        *("0x" + "f" * 4000, "lambda: 1", "[x for x in 'ab']", "<StringArray>\nLength: 2, dtype: string"),
    ],
    "there is more behind the value": ["['a'] b", "[1] [2]", "[1, 2]\nLength: 2, dtype: string"],
    "a bracket is open": ["array([1]", "array(1, ["],
    "it is no mapping": ["{'a': 1, 'b'}", "{'a': 1, 2, 'c': 3}"],
    "it is no printed value": ["[" * 50_000, "array(", "{[1]: 2}", "{[1]}", r"b'\xff'", r"'\x'"],
}


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, texts in REFUSED.items() for text in texts])
def test_anything_else_is_refused(reason, text):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        value_of_text(text)


@hypothesis.given(st.text(alphabet="[](){}'\",:.0a \\n<>=-", max_size=12))
def test_no_text_does_more_than_raise_a_value_error(text):
    with contextlib.suppress(ValueError):
        value_of_text(text)


def test_numbers_keep_their_kind_and_what_is_no_number_is_none():
    read = value_of_text("(38, 1_000, 2., 1e3, 1E3)")
    assert read == [38, 1000, 2.0, 1000.0, 1000.0]
    assert [type(number) for number in read] == [int, int, float, float, float]
    assert value_of_text('{"text": [NaN], "answer_start": [Infinity]}') == {"text": [None], "answer_start": [None]}
