"""Answers from logits: those of the textbook to the last digit, the files that hold them, and their errors."""

import json
import logging
import re

import datasets
import hypothesis
import numpy as np
import pytest
import textbook
from conftest import SAMPLE
from hypothesis import strategies as st
from test_features import example, features_of

from qa.questions import answers as answers_room
from qa.questions.answers import extract_answers, write_answers
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of
from qa.questions.scores import compute_metrics
from utils_qa import postprocess_qa_predictions

datasets.disable_progress_bars()


def random_case(generator, examples=4, length=24, levels=None, dtype=np.float32, blank=0.2):
    """Examples with words for tokens, their windows, and logits; `levels` rounds the logits so that many tie."""
    rows, features = [], []
    for number in range(examples):
        words = ["".join(generator.choice(list('abcé東\u2028"\\'), size=generator.integers(1, 4))) for _ in range(40)]
        context = " ".join(words)
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        offsets = [[int(end) - len(word), int(end)] for word, end in zip(words, ends, strict=True)]
        rows.append({"id": f'id-{number}"é', "context": context})
        for window in range(generator.integers(1, 4)):
            first = 10 * window
            count = int(generator.integers(1, length - 4))
            mapping = [None, None, None, *offsets[first : first + count], None]
            mapping = [pair if generator.random() > blank / 4 else None for pair in mapping]
            features.append({"example_id": rows[-1]["id"], "offset_mapping": mapping})
    logits = [generator.normal(0, 3, (len(features), length)).astype(dtype) for _ in range(2)]
    if levels:
        logits = [np.round(values / 6 * levels).astype(dtype) for values in logits]
    return rows, features, tuple(logits)


def textbook_or_none(rows, features, logits, *args):
    """The textbook's answers; it has none for SQuAD 2.0 questions without any span."""
    try:
        return textbook.answers_of(rows, features, logits, *args)
    except StopIteration:
        return None


def assert_equal_to_textbook(found, expected, version_2):
    texts, nbest, null_odds = expected
    assert textbook.as_json(found.predictions) == textbook.as_json(texts)
    assert textbook.as_json(found.nbest) == textbook.as_json(nbest)
    if version_2:
        assert textbook.as_json(found.null_odds) == textbook.as_json(null_odds)
    else:
        assert found.null_odds is None


def as_dataset(features):
    pair = datasets.Sequence(datasets.Value("int64"))
    types = datasets.Features(example_id=datasets.Value("string"), offset_mapping=datasets.Sequence(pair))
    return datasets.Dataset.from_list(features, features=types)


@pytest.mark.parametrize("version_2", [False, True])
@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("as_rows", [True, False], ids=["list", "dataset"])
def test_answers_are_those_of_the_textbook_to_the_last_digit(version_2, levels, dtype, as_rows):
    generator = np.random.default_rng([version_2, levels or 0, np.dtype(dtype).itemsize, as_rows])
    compared = 0
    for n_best_size in (1, 2, 3, 5, 20, 1000):
        for max_answer_length in (1, 4, 30):
            rows, features, logits = random_case(generator, levels=levels, dtype=dtype)
            threshold = float(generator.normal())
            expected = textbook_or_none(rows, features, logits, version_2, n_best_size, max_answer_length, threshold)
            found = extract_answers(
                rows if as_rows else datasets.Dataset.from_list(rows),
                features if as_rows else as_dataset(features),
                logits,
                version_2,
                n_best_size,
                max_answer_length,
                threshold,
            )
            if expected is not None:
                compared += 1
                assert_equal_to_textbook(found, expected, version_2)
    assert compared >= 8


@hypothesis.settings(max_examples=80)
@hypothesis.given(
    seed=st.integers(0, 2**32),
    version_2=st.booleans(),
    levels=st.sampled_from([None, 1, 2, 10]),
    n_best_size=st.integers(1, 20),
    max_answer_length=st.integers(1, 40),
    threshold=st.floats(-10, 10),
    length=st.integers(6, 40),
    blank=st.sampled_from([0.0, 0.5, 4.0]),
)
def test_answers_are_those_of_the_textbook_on_any_logits(
    seed, version_2, levels, n_best_size, max_answer_length, threshold, length, blank
):
    rows, features, logits = random_case(np.random.default_rng(seed), 3, length, levels, blank=blank)
    options = (version_2, n_best_size, max_answer_length, threshold)
    expected = textbook_or_none(rows, features, logits, *options)
    found = extract_answers(rows, features, logits, *options)
    if expected is not None:
        assert_equal_to_textbook(found, expected, version_2)


def test_answers_do_not_depend_on_how_examples_are_chunked(monkeypatch):
    rows, features, logits = random_case(np.random.default_rng(0), 23, levels=2)
    whole = [extract_answers(rows, features, logits, version_2, 5) for version_2 in (False, True)]
    for size in (1, 4, 22, 23):
        monkeypatch.setattr(answers_room, "POSTPROCESSING_PAIRS", size * 5**2)
        for version_2 in (False, True):
            assert extract_answers(rows, features, logits, version_2, 5) == whole[version_2]


def test_features_may_come_in_any_order():
    generator = np.random.default_rng(1)
    rows, features, logits = random_case(generator, 6)
    order = generator.permutation(len(features))
    shuffled = [features[number] for number in order]
    mixed = tuple(values[order] for values in logits)
    expected = textbook.answers_of(rows, shuffled, mixed, False)
    assert_equal_to_textbook(extract_answers(rows, shuffled, mixed), expected, False)


def test_features_in_the_layout_of_the_transformers_example():
    """Padded to one length, pairs as tuples, null outside the context, more columns than are needed."""
    rows, features, logits = random_case(np.random.default_rng(2), length=30)
    padded = [
        {
            "input_ids": [0] * 30,
            "example_id": feature["example_id"],
            "offset_mapping": [
                tuple(pair) if pair else None
                for pair in feature["offset_mapping"] + [None] * (30 - len(feature["offset_mapping"]))
            ],
        }
        for feature in features
    ]
    for version_2 in (False, True):
        expected = textbook.answers_of(rows, padded, logits, version_2)
        assert_equal_to_textbook(extract_answers(rows, padded, logits, version_2), expected, version_2)
        assert_equal_to_textbook(extract_answers(rows, features, logits, version_2), expected, version_2)


def test_a_span_that_another_window_sees_better_is_left_out():
    """As in the transformers example, where features may say which tokens have their best context here."""
    rows = [{"id": "a", "context": "one two"}]
    features = [
        {
            "example_id": "a",
            "offset_mapping": [None, [0, 3], [4, 7]],
            "token_is_max_context": {"1": False, "2": True},
        }
    ]
    logits = np.array([[0, 5, 1]]), np.array([[0, 5, 1]])
    assert extract_answers(rows, features, logits).predictions == {"a": "two"}


def test_real_features_are_answered_like_the_textbook_does(tokenizer):
    rows = dataset_of(read_examples(str(SAMPLE / "dev_v2.json"), "dev", 12))
    features = features_of(list(rows), tokenizer, 64, 16)
    width = max(map(len, features["input_ids"]))
    generator = np.random.default_rng(3)
    logits = [generator.normal(0, 3, (len(features), width)).astype(np.float32) for _ in range(2)]
    for values in logits:
        for number, tokens in enumerate(features["input_ids"]):
            values[number, len(tokens) :] = -np.inf
    for version_2 in (False, True):
        expected = textbook.answers_of(list(rows), list(features), logits, version_2)
        assert_equal_to_textbook(extract_answers(rows, features, tuple(logits), version_2), expected, version_2)


def one_example(mapping, start, end):
    return (
        [{"id": "a", "context": "one two"}],
        [{"example_id": "a", "offset_mapping": mapping}],
        (np.array([start], dtype=np.float32), np.array([end], dtype=np.float32)),
    )


@pytest.mark.parametrize("version_2", [False, True])
def test_a_feature_without_context_is_answered_with_the_word_empty_or_nothing(version_2):
    rows, features, logits = one_example([None, None], [1, 2], [1, 2])
    found = extract_answers(rows, features, logits, version_2, null_score_diff_threshold=0.0)
    first = found.nbest["a"][0]
    assert (first["text"], first["start_logit"], first["end_logit"]) == ("empty", 0.0, 0.0)
    assert sum(entry["probability"] for entry in found.nbest["a"]) == pytest.approx(1)
    assert found.predictions == {"a": "" if version_2 else "empty"}
    assert (found.null_odds == {"a": 2.0}) if version_2 else found.null_odds is None


@pytest.mark.parametrize("version_2", [False, True])
def test_spans_without_a_character_are_no_answer(version_2):
    """Several of them; the transformers example knows no answer to SQuAD 2.0 then, and ends."""
    rows, features, logits = one_example([None, [3, 3], [3, 3]], [1, 3, 2], [1, 3, 2])
    found = extract_answers(rows, features, logits, version_2, null_score_diff_threshold=0.0)
    texts = [entry["text"] for entry in found.nbest["a"]]
    assert sum(entry["probability"] for entry in found.nbest["a"]) == pytest.approx(1)
    assert found.spans == {"a": None}
    assert found.predictions == {"a": ""}
    if version_2:
        assert texts == ["empty", "", "", "", ""]
        assert found.null_odds == {"a": 2.0}
        found = extract_answers(rows, features, logits, version_2, null_score_diff_threshold=2.0)
        assert found.predictions == {"a": "empty"}
    else:
        assert texts == ["", "", ""]


def test_the_best_of_several_may_have_no_character():
    rows, features, logits = one_example([None, [3, 3], [0, 3]], [1, 3, 2], [1, 3, 2])
    found = extract_answers(rows, features, logits)
    assert [entry["text"] for entry in found.nbest["a"]] == ["", "", "one"]
    assert (found.predictions, found.spans) == ({"a": ""}, {"a": None})
    # In SQuAD 2.0 the best that has some is compared with the null score.
    found = extract_answers(rows, features, logits, True, null_score_diff_threshold=0.0)
    assert (found.predictions, found.spans, found.null_odds) == ({"a": "one"}, {"a": (0, 3)}, {"a": -2.0})


@pytest.mark.parametrize("version_2", [False, True])
def test_spans_are_where_the_answers_are(version_2):
    rows, features, logits = random_case(np.random.default_rng(9), 20)
    found = extract_answers(rows, features, logits, version_2, 3)
    assert list(found.spans) == list(found.predictions) == [row["id"] for row in rows]
    for row in rows:
        text, span = found.predictions[row["id"]], found.spans[row["id"]]
        assert text in ([row["context"][slice(*span)]] if span else ["", "empty"])
    if version_2:
        assert {bool(span) for span in found.spans.values()} == {True, False}


def test_the_null_threshold_is_strict():
    rows, features, logits = one_example([None, [0, 3], [4, 7]], [2, 1, 0], [2, 1, 0])
    assert extract_answers(rows, features, logits, True).null_odds == {"a": 2.0}
    for threshold, expected in ((1.9, ""), (2.0, "one"), (2.1, "one")):
        found = extract_answers(rows, features, logits, True, null_score_diff_threshold=threshold)
        assert found.predictions == {"a": expected}


def test_probabilities_sum_to_one_and_fall():
    rows, features, logits = random_case(np.random.default_rng(4))
    for version_2 in (False, True):
        for nbest in extract_answers(rows, features, logits, version_2).nbest.values():
            probabilities = [entry["probability"] for entry in nbest]
            assert sum(probabilities) == pytest.approx(1, abs=1e-6)
            if not version_2:
                assert probabilities == sorted(probabilities, reverse=True)


def test_answers_are_at_most_as_long_as_asked():
    rows, features, logits = random_case(np.random.default_rng(5))
    for length in (1, 2, 5):
        found = extract_answers(rows, features, logits, max_answer_length=length)
        for row in rows:
            assert all(entry["text"] in row["context"] for entry in found.nbest[row["id"]])
            assert all(len(entry["text"].split(" ")) <= length for entry in found.nbest[row["id"]])


# --- files and errors ---


@pytest.mark.parametrize("version_2", [False, True])
@pytest.mark.parametrize("prefix", [None, "eval", "predict"])
def test_the_files_are_those_of_the_transformers_example(version_2, prefix, tmp_path):
    rows, features, logits = random_case(np.random.default_rng(6))
    texts, nbest, null_odds = textbook.answers_of(rows, features, logits, version_2)
    returned = postprocess_qa_predictions(
        rows, features, logits, version_2, output_dir=str(tmp_path), prefix=prefix, log_level=logging.ERROR
    )
    assert returned == texts
    start = f"{prefix}_" if prefix else ""
    expected = {f"{start}predictions.json": texts, f"{start}nbest_predictions.json": nbest}
    if version_2:
        expected[f"{start}null_odds.json"] = null_odds
    assert {path.name for path in tmp_path.iterdir()} == set(expected)
    for name, content in expected.items():
        written = (tmp_path / name).read_text(encoding="utf-8")
        assert textbook.as_json(json.loads(written)) == textbook.as_json(content)
        assert written.startswith("{\n  ") and written.endswith("\n}\n")


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, features, logits = random_case(np.random.default_rng(7))
    assert set(postprocess_qa_predictions(rows, features, logits)) == {row["id"] for row in rows}
    assert not list(tmp_path.iterdir())


nbest_values = st.fixed_dictionaries(
    {
        "start_logit": st.floats(allow_nan=False, allow_infinity=False),
        "end_logit": st.floats(allow_nan=False, allow_infinity=False),
        "text": st.text() | st.text(alphabet=["a", "é", "\ud83d", "\ude00"]),
        "probability": st.floats(0, 1),
    }
)


@hypothesis.settings(max_examples=80)
@hypothesis.given(st.dictionaries(st.text(), st.lists(nbest_values, max_size=3), max_size=3))
def test_the_files_hold_every_number_and_text_to_the_last_digit_in_their_order(tmp_path, nbest):
    write_answers(answers_room.Answers({}, nbest, None), tmp_path)
    written = (tmp_path / "nbest_predictions.json").read_bytes().decode()
    assert textbook.as_json(json.loads(written)) == textbook.as_json(json.loads(textbook.as_json(nbest)))


def test_half_a_character_is_written_in_the_same_layout(tmp_path):
    for text, written in (("é", "é"), ("\ud83d", "\\ud83d")):
        write_answers(answers_room.Answers({"a": text}, {}, None), tmp_path)
        assert (tmp_path / "predictions.json").read_text(encoding="utf-8") == f'{{\n  "a": "{written}"\n}}\n'


def test_predictions_that_do_not_fit_are_refused(tmp_path):
    rows, features, (starts, ends) = random_case(np.random.default_rng(8))
    with pytest.raises(ValueError, match="start and end logits"):
        postprocess_qa_predictions(rows, features, (starts, ends, ends))
    with pytest.raises(ValueError, match=re.escape(f"{len(features) - 1} predictions and {len(features)} features")):
        postprocess_qa_predictions(rows, features, (starts[:-1], ends[:-1]))
    with pytest.raises(ValueError, match="'more' has no feature"):
        postprocess_qa_predictions([*rows, {"id": "more", "context": "c"}], features, (starts, ends), True)
    with pytest.raises(OSError, match="missing"):
        postprocess_qa_predictions(rows, features, (starts, ends), output_dir=str(tmp_path / "missing"))


def test_an_example_whose_features_were_cut_off_is_answered_as_in_the_transformers_example(tmp_path):
    rows, features, (starts, ends) = random_case(np.random.default_rng(8))
    whole = postprocess_qa_predictions(rows, features, (starts, ends))
    more = [{"id": name, "context": "c"} for name in ("first", "last")]
    found = postprocess_qa_predictions([more[0], *rows, more[1]], features, (starts, ends), output_dir=str(tmp_path))
    assert found == {"first": "empty", **whole, "last": "empty"}
    nbest = json.loads((tmp_path / "nbest_predictions.json").read_text(encoding="utf-8"))
    assert nbest["last"] == [{"text": "empty", "start_logit": 0.0, "end_logit": 0.0, "probability": 1.0}]
    for none in ([], as_dataset(features).select([])):
        assert set(postprocess_qa_predictions(more, none, (starts[:0], ends[:0])).values()) == {"empty"}


def test_more_tokens_than_logits_are_refused():
    rows, features, logits = one_example([None, [0, 3], [4, 7]], [2, 1], [2, 1])
    with pytest.raises(ValueError, match="3 tokens but logits for 2"):
        extract_answers(rows, features, logits)
    with pytest.raises(ValueError, match="3 tokens but logits for 2"):
        extract_answers(rows, as_dataset(features), logits)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(value):
    rows, features, logits = one_example([None, [0, 3], [4, 7]], [2, value, 1], [2, 1, 0])
    with pytest.raises(ValueError, match="not finite"):
        extract_answers(rows, features, logits)


@pytest.mark.parametrize("version_2", [False, True])
def test_written_answers_are_scored_through_the_metric_module(version_2, tmp_path):
    rows = dataset_of(
        [
            example("Ann met Bob.", text="Bob", start=8, identifier="a"),
            example("Ann met Bob.", text=None if version_2 else "Ann", identifier="b"),
        ]
    )
    odds = {"a": -1.0, "b": 2.0} if version_2 else None
    answers = answers_room.Answers({"a": "met Bob", "b": "" if version_2 else "Ann"}, {}, odds)
    write_answers(answers, tmp_path, "eval")
    scores = compute_metrics(rows, answers)
    assert scores["exact" if version_2 else "exact_match"] == 50
    assert scores["f1"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    if version_2:
        assert scores["best_f1"] == pytest.approx(100 * (2 / 3 + 1) / 2)
        assert scores["best_f1_thresh"] == -1
