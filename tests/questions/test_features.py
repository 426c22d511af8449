"""Features and answers: equal to the plain code of `textbook.py`, and right on any text."""

import itertools
import json
import logging
import re
import resource
import signal

import datasets
import hypothesis
import numpy as np
import pytest
import textbook
from conftest import SAMPLE
from hypothesis import strategies as st

from qa.questions import answers as answers_room
from qa.questions import features as features_room
from qa.questions.answers import extract_answers, write_answers
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of, draw_features, label_windows, prepare_features
from qa.questions.scores import compute_metrics
from qa.start.arguments import DataTrainingArguments
from qa.start.errors import SaveError, UsageError
from utils_qa import postprocess_qa_predictions

datasets.disable_progress_bars()


def example(context, question="What?", text=None, start=0, identifier="e"):
    answers = {"text": [], "answer_start": []} if text is None else {"text": [text], "answer_start": [start]}
    return {"id": identifier, "title": "", "context": context, "question": question, "answers": answers}


def features_of(examples, tokenizer, max_seq_length=32, doc_stride=8, cache_dir=None, **kwargs):
    """The features without their cache, which is tested on its own."""
    data_args = DataTrainingArguments(max_seq_length=max_seq_length, doc_stride=doc_stride, **kwargs)
    if cache_dir is not None:
        return prepare_features(dataset_of(examples), tokenizer, data_args, str(cache_dir))
    table = dataset_of(examples).with_format("arrow")[:]
    return datasets.Dataset(features_room._windows_of(table, tokenizer, max_seq_length, doc_stride))


# --- labels ---


@st.composite
def windows(draw):
    """Token offsets of some windows, and an answer for each: gaps, empty tokens, empty and contextless windows."""
    offsets, in_context, first_token, answers = [], [], [0], []
    for _ in range(draw(st.integers(0, 4))):
        before, inside, after = draw(st.integers(0, 2)), draw(st.integers(0, 6)), draw(st.integers(0, 2))
        place = draw(st.integers(0, 3))
        for number in range(before + inside + after):
            begin = place + draw(st.integers(0, 2))
            end = begin + draw(st.integers(0, 3))
            within = before <= number < before + inside
            offsets.append((begin, end) if within else (draw(st.integers(0, 9)), draw(st.integers(0, 9))))
            in_context.append(within)
            place = end if within else place
        first_token.append(len(offsets))
        begin = draw(st.integers(-1, 14))
        answers.append((begin, begin + draw(st.integers(0, 5))) if begin >= 0 else (-1, -1))
    return (
        np.array(offsets, dtype=np.int64).reshape(-1, 2),
        np.array(in_context, dtype=bool),
        np.array(first_token),
        np.array(answers, dtype=np.int64).reshape(-1, 2),
    )


@hypothesis.settings(max_examples=400)
@hypothesis.given(windows())
def test_labels_are_those_of_the_textbook(case):
    offsets, in_context, first_token, answers = case
    expected = [
        textbook.label_window(offsets[begin:end].tolist(), in_context[begin:end].tolist(), tuple(answer))
        for begin, end, answer in zip(first_token[:-1], first_token[1:], answers.tolist(), strict=True)
    ]
    # The function is given the context tokens alone, and where the first of them stands in each window.
    runs = [in_context[begin:end] for begin, end in itertools.pairwise(first_token)]
    first_context_token = np.concatenate(([0], np.cumsum(in_context)))[first_token]
    context_begin = np.array([run.argmax() if run.any() else 0 for run in runs], dtype=np.int64)
    starts, ends = label_windows(offsets[in_context], first_context_token, context_begin, answers)
    assert starts.dtype == ends.dtype == np.int32
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == expected


# --- features ---


def check_features(examples, features, tokenizer, max_seq_length, doc_stride):
    """Everything that must hold of features, whatever the texts."""
    specials = tokenizer.num_special_tokens_to_add(pair=True)
    rows = list(features)
    order = [row["example_id"] for row in rows]
    assert list(dict.fromkeys(order)) == [row["id"] for row in examples], "an example is missing or out of order"
    assert order == sorted(order, key=[row["id"] for row in examples].index)
    for row in examples:
        context, answers = row["context"], row["answers"]
        mine = [feature for feature in rows if feature["example_id"] == row["id"]]
        whole = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)
        question = tokenizer(row["question"].lstrip(), add_special_tokens=False)["input_ids"]
        room = max_seq_length - specials - len(question)
        covered = []
        for number, feature in enumerate(mine):
            length = len(feature["input_ids"])
            assert specials <= length <= max_seq_length
            assert len(feature["attention_mask"]) == len(feature["offset_mapping"]) == length
            assert set(feature["attention_mask"]) == {1}
            assert feature["input_ids"][0] == tokenizer.cls_token_id
            assert tokenizer.pad_token_id not in feature["input_ids"] or tokenizer.pad_token_id in whole["input_ids"]
            inside = [place for place, pair in enumerate(feature["offset_mapping"]) if pair is not None]
            assert inside == list(range(inside[0], inside[0] + len(inside))) if inside else not whole["input_ids"]
            outside = [token for place, token in enumerate(feature["input_ids"]) if place not in inside]
            assert [token for token in outside if token not in tokenizer.all_special_ids] == [
                token for token in question if token not in tokenizer.all_special_ids
            ]
            tokens = [(feature["input_ids"][place], *feature["offset_mapping"][place]) for place in inside]
            # Every window but the last is full, and shares exactly the stride with the one before it.
            if number < len(mine) - 1:
                assert len(tokens) == room
            if number:
                assert len(tokens) > doc_stride
                assert covered[len(covered) - doc_stride :] == tokens[:doc_stride]
                tokens = tokens[doc_stride:]
            covered += tokens
            check_label(feature, inside, context, answers)
        expected = [(token, *pair) for token, pair in zip(whole["input_ids"], whole["offset_mapping"], strict=True)]
        assert covered == expected, "the windows do not cover the context"


def check_label(feature, inside, context, answers):
    start, end = feature["start_positions"], feature["end_positions"]
    if not answers["text"] or not answers["text"][0].strip() or not inside:
        assert (start, end) == (0, 0)
        return
    text = answers["text"][0].strip()
    begin = answers["answer_start"][0] + answers["text"][0].find(text)
    first, last = feature["offset_mapping"][inside[0]][0], feature["offset_mapping"][inside[-1]][1]
    if begin < first or begin + len(text) > last:
        assert (start, end) == (0, 0), "the answer is not in this window"
        return
    spans = [feature["offset_mapping"][place] for place in inside]
    if not any(pair[1] > begin and pair[0] < begin + len(text) for pair in spans):
        assert (start, end) == (0, 0), "no token of the answer survived the tokenizer"
        return
    assert start in inside
    assert end in inside
    assert start <= end
    decoded = context[feature["offset_mapping"][start][0] : feature["offset_mapping"][end][1]]
    # The tokenizer drops control characters and the like; where it dropped none, the whole answer is there.
    if all(
        any(pair[0] <= place < pair[1] for pair in spans) or context[place].isspace()
        for place in range(begin, begin + len(text))
    ):
        assert text in decoded
    # And no token more than needed.
    assert feature["offset_mapping"][start][1] > begin
    assert feature["offset_mapping"][end][0] < begin + len(text)


WORDS = [
    "Ann",
    "Bob",
    "Rome",
    "1999",
    "the",
    "Zélie",
    "naïve",
    "unbelievableness",
    "東京",
    "ﷺ",
    "🚂👩‍👩‍👧",
    "x\u0301\u0323",
    "...",
    "(a)",
    "\u200b",
    "'s",
]
GAPS = [" ", "  ", "\n", "\t", "\u00a0", "\u3000", "-", ""]
wild_texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), max_size=60).map(
        lambda pieces: "".join(word + gap for word, gap in pieces)
    ),
)


@st.composite
def wild_examples(draw):
    examples = []
    for number in range(draw(st.integers(1, 3))):
        context = draw(wild_texts)
        question = draw(st.sampled_from(["", " ", "What?", "  Who met Ann?", "首都？", "\n"]))
        text, start = None, 0
        if context and draw(st.booleans()):
            start = draw(st.integers(0, len(context) - 1))
            text = context[start : start + draw(st.integers(1, 12))]
        examples.append(example(context, question, text, start, f"e{number}"))
    return examples


@pytest.mark.parametrize("kind", ["tokenizer", "left_tokenizer"])
@hypothesis.settings(max_examples=40)
@hypothesis.given(examples=wild_examples(), max_seq_length=st.integers(24, 48), doc_stride=st.integers(0, 12))
def test_features_of_wild_texts(kind, examples, max_seq_length, doc_stride, request):
    used = request.getfixturevalue(kind)
    features = features_of(examples, used, max_seq_length, doc_stride)
    check_features(examples, features, used, max_seq_length, doc_stride)


@pytest.mark.parametrize("kind", ["tokenizer", "left_tokenizer", "byte_tokenizer"])
@hypothesis.settings(max_examples=60)
@hypothesis.given(examples=wild_examples(), max_seq_length=st.integers(24, 48), doc_stride=st.integers(0, 12))
def test_features_are_those_of_the_textbook(kind, examples, max_seq_length, doc_stride, request):
    used = request.getfixturevalue(kind)
    expected = textbook.features_of(examples, used, max_seq_length, doc_stride, padding=False)
    assert list(features_of(examples, used, max_seq_length, doc_stride)) == expected


@pytest.mark.parametrize("kind", ["tokenizer", "left_tokenizer"])
@pytest.mark.parametrize(("max_seq_length", "doc_stride"), [(384, 128), (64, 16), (32, 0), (32, 13)])
def test_features_of_the_sample_questions(kind, max_seq_length, doc_stride, request):
    used = request.getfixturevalue(kind)
    examples = read_examples(str(SAMPLE / "dev_v2.json"), "dev", 15)
    features = features_of(examples, used, max_seq_length, doc_stride)
    check_features(examples, features, used, max_seq_length, doc_stride)
    assert len(features) > len(examples)


CONTEXT = "Ann met Bob in Rome, and then they went to Athens. " * 4 + "At last Zoe came"


@pytest.mark.parametrize("kind", ["tokenizer", "left_tokenizer"])
@pytest.mark.parametrize("max_seq_length", [16, 24, 48, 128])
@pytest.mark.parametrize("text", ["Ann", "A", "e", "Zoe came", "At last Zoe"])
def test_answers_at_the_very_edges_are_labelled(kind, max_seq_length, text, request):
    used = request.getfixturevalue(kind)
    start = 0 if CONTEXT.startswith(text) else CONTEXT.rfind(text)
    row = example(CONTEXT, "Who?", text, start)
    features = features_of([row], used, max_seq_length, 4)
    check_features([row], features, used, max_seq_length, 4)
    labelled = [feature for feature in features if feature["start_positions"]]
    assert labelled
    for feature in labelled:
        begin = feature["offset_mapping"][feature["start_positions"]][0]
        end = feature["offset_mapping"][feature["end_positions"]][1]
        assert text in CONTEXT[begin:end]


def test_an_answer_longer_than_any_window_is_nowhere(tokenizer):
    features = features_of([example(CONTEXT, "Who?", CONTEXT, 0)], tokenizer, 24, 4)
    assert len(features) > 2
    assert set(features["start_positions"]) == set(features["end_positions"]) == {0}


def test_white_space_around_an_answer_is_not_labelled(tokenizer):
    plain = features_of([example("Ann met Bob in Rome.", text="Bob", start=8)], tokenizer)[0]
    wide = features_of([example("Ann met Bob in Rome.", text=" Bob ", start=7)], tokenizer)[0]
    assert plain == wide
    spans = plain["offset_mapping"]
    assert (spans[plain["start_positions"]][0], spans[plain["end_positions"]][1]) == (8, 11)


@pytest.mark.parametrize(("text", "start"), [("", 0), ("", 1), ("", 7), (" ", 3), ("\x1f", 3)])
def test_blank_answers_are_labelled_like_none(text, start, tokenizer):
    row = example("Ann\x1fmet Bob." if text == "\x1f" else "Ann met Bob.", text=text, start=start)
    (feature,) = features_of([row], tokenizer)
    assert (feature["start_positions"], feature["end_positions"]) == (0, 0)


def test_examples_without_answers_become_features(tokenizer):
    rows = [{**example("Ann met Bob."), "answers": None}, example("Ann met Bob.", identifier="f")]
    features = features_of(rows, tokenizer)
    assert features["example_id"] == ["e", "f"]
    assert features["start_positions"] == features["end_positions"] == [0, 0]


def test_an_empty_context_gives_one_feature_without_context(tokenizer, left_tokenizer):
    for used in (tokenizer, left_tokenizer):
        (feature,) = features_of([example("", "Who?")], used)
        assert set(map(str, feature["offset_mapping"])) == {"None"}
        assert feature["start_positions"] == 0


def test_white_space_before_a_question_is_stripped(tokenizer):
    for question in ("  Who met Ann?", "\n\tWho met Ann?", "\u3000Who met Ann?"):
        assert (
            features_of([example("c", question)], tokenizer)[0]
            == features_of([example("c", "Who met Ann?")], tokenizer)[0]
        )


@pytest.mark.parametrize("kind", ["tokenizer", "left_tokenizer"])
def test_a_question_that_leaves_no_room_is_refused_with_its_id(kind, request):
    used = request.getfixturevalue(kind)
    rows = [example(CONTEXT, identifier="good"), example(CONTEXT, "who " * 30, identifier="long-one")]
    with pytest.raises(UsageError) as caught:
        features_of(rows, used, 24, 8)
    message = str(caught.value)
    assert "question long-one has 30 tokens" in message
    assert "--max_seq_length 24" in message
    assert "--doc_stride 8" in message
    # 24 less 3 special tokens, 8 shared and 1 new context token.
    assert "may have 12" in message
    with pytest.raises(UsageError, match="question e has 13 tokens"):
        features_of([example(CONTEXT, "who " * 13)], used, 24, 8)
    longest = [example(CONTEXT, "who " * 12)]
    check_features(longest, features_of(longest, used, 24, 8), used, 24, 8)


@pytest.mark.parametrize(
    "question", ["ﷺ" * 10, "🚂" * 12, "東" * 12, "x\u0301" * 20, "-" * 12, "\u200b" * 400 + "who"]
)
def test_odd_questions_are_refused_or_windowed_but_never_hang(question, tokenizer):
    rows = [example(CONTEXT, question)]
    try:
        features = features_of(rows, tokenizer, 24, 8)
    except UsageError as error:
        assert "question e has" in str(error)
    else:
        check_features(rows, features, tokenizer, 24, 8)


@pytest.mark.parametrize("max_seq_length", [1, 2, 3, 4, 11])
def test_a_length_that_holds_no_context_is_refused(max_seq_length, tokenizer):
    with pytest.raises(UsageError, match=f"--max_seq_length {max_seq_length}"):
        features_of([example(CONTEXT, "Who?")], tokenizer, max_seq_length, max_seq_length - 1)


def test_a_second_call_is_answered_from_the_cache(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa")
    rows = [example(CONTEXT, "Who?", "Bob", 8)]
    first = features_of(rows, tokenizer, cache_dir=tmp_path)

    def refuse(*args, **kwargs):
        raise AssertionError("prepared anew")

    monkeypatch.setattr(features_room, "_windows_of", refuse)
    assert list(features_of(rows, tokenizer, cache_dir=tmp_path)) == list(first)


def test_what_was_tokenized_before_does_not_change_the_cache(tmp_path):
    from transformers import AutoTokenizer

    rows = [example(CONTEXT, "Who?", "Bob", 8)]
    first = features_of(rows, AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa"), cache_dir=tmp_path)
    used = AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa")
    features_of([example("Another context.")], used, 24, cache_dir=tmp_path)
    assert features_of(rows, used, cache_dir=tmp_path).cache_files == first.cache_files


def test_the_cache_tells_apart_what_changes_the_features(tmp_path):
    from transformers import AutoTokenizer

    # Fresh ones, as in two runs of a script.
    tokenizer = AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa")
    left_tokenizer = AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa", padding_side="left")
    rows = [example(CONTEXT, "Who?", "Bob", 8)]
    cases = [
        (rows, tokenizer, 32, 8),
        (rows, left_tokenizer, 32, 8),
        (rows, tokenizer, 40, 8),
        (rows, tokenizer, 32, 4),
        ([example(CONTEXT, "What?", "Bob", 8)], tokenizer, 32, 8),
        ([example(CONTEXT, "Who?", "Ann", 0)], tokenizer, 32, 8),
        ([example(CONTEXT, "Who?", "Bob", 8, "f")], tokenizer, 32, 8),
    ]
    cached = [list(features_of(*case, cache_dir=tmp_path)) for case in cases * 2]
    assert cached == [list(features_of(*case)) for case in cases * 2]


def test_the_cache_knows_which_examples_were_selected(tokenizer, tmp_path):
    rows = dataset_of([example(CONTEXT, identifier=name) for name in "abcd"])
    data_args = DataTrainingArguments(max_seq_length=384)
    for chosen in ([0, 2], [3, 1], [1, 0]):
        features = prepare_features(rows.select(chosen), tokenizer, data_args, str(tmp_path))
        assert features["example_id"] == ["abcd"[number] for number in chosen]


def test_several_processes_prepare_the_same_features(tokenizer, tmp_path):
    rows = [example(CONTEXT, "Who?", "Bob", 8, f"e{number}") for number in range(5)]
    features = features_of(rows, tokenizer, cache_dir=tmp_path, preprocessing_num_workers=2)
    assert list(features) == list(features_of(rows, tokenizer))


def test_a_full_disk_is_told(tokenizer, tmp_path):
    rows = [example(CONTEXT, identifier=f"e{number}") for number in range(50)]
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(SaveError, match=f"^{tmp_path}/qa_features/.*arrow cannot be written .*; make room"):
            features_of(rows, tokenizer, cache_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(features_of(rows, tokenizer, cache_dir=tmp_path)) == list(features_of(rows, tokenizer))


def test_overwrite_cache_prepares_anew(tokenizer, tmp_path, monkeypatch):
    rows = [example(CONTEXT)]
    first = features_of(rows, tokenizer, cache_dir=tmp_path)
    calls = []
    prepare = features_room._windows_of
    monkeypatch.setattr(
        features_room, "_windows_of", lambda *args, **kwargs: calls.append(1) or prepare(*args, **kwargs)
    )
    again = features_of(rows, tokenizer, cache_dir=tmp_path, overwrite_cache=True)
    assert calls
    assert list(again) == list(first)


def test_features_hold_what_the_tokenizer_gives_and_no_padding(tokenizer):
    rows = [example(CONTEXT, identifier="long"), example("short", identifier="short")]
    features = features_of(rows, tokenizer)
    assert set(features.column_names) == {
        *("input_ids", "attention_mask", "example_id", "offset_mapping", "start_positions", "end_positions")
    }
    assert len(features[-1]["input_ids"]) < len(features[0]["input_ids"]) == 32


def test_drawn_features_are_those_of_the_whole_and_the_same_for_a_seed(tokenizer):
    rows = [example(CONTEXT, identifier=f"e{number}") for number in range(6)]
    data_args = DataTrainingArguments(max_seq_length=32, doc_stride=8)
    everything = list(features_of(rows, tokenizer))
    for count in (1, 4, len(everything) - 1, len(everything), 1000):
        drawn = list(draw_features(dataset_of(rows), tokenizer, data_args, count, 7))
        assert len(drawn) == min(count, len(everything))
        assert all(feature in everything for feature in drawn)
        assert len({json.dumps(feature) for feature in drawn}) == len(drawn)
        assert drawn == list(draw_features(dataset_of(rows), tokenizer, data_args, count, 7))
    draws = {json.dumps(list(draw_features(dataset_of(rows), tokenizer, data_args, 4, seed))) for seed in range(5)}
    assert len(draws) > 1


# --- answers ---


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
    assert answers_room._nbest_json(found.nbest) == textbook.as_json(nbest)
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
    for n_best_size in (1, 2, 3, 5, 20):
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
        assert (tmp_path / name).read_text(encoding="utf-8") == textbook.as_json(content)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, features, logits = random_case(np.random.default_rng(7))
    assert set(postprocess_qa_predictions(rows, features, logits)) == {row["id"] for row in rows}
    assert not list(tmp_path.iterdir())


nbest_values = st.fixed_dictionaries(
    {
        "start_logit": st.floats(allow_nan=False, allow_infinity=False),
        "end_logit": st.floats(allow_nan=False, allow_infinity=False),
        "text": st.text(),
        "probability": st.floats(0, 1),
    }
)


@hypothesis.settings(max_examples=80)
@hypothesis.given(st.dictionaries(st.text(), st.lists(nbest_values, min_size=1, max_size=3), max_size=3))
def test_the_n_best_file_is_formatted_as_json_does(nbest):
    assert answers_room._nbest_json(nbest) == textbook.as_json(nbest)


def test_predictions_that_do_not_fit_are_refused(tmp_path):
    rows, features, (starts, ends) = random_case(np.random.default_rng(8))
    with pytest.raises(ValueError, match="start and end logits"):
        postprocess_qa_predictions(rows, features, (starts, ends, ends))
    with pytest.raises(ValueError, match=re.escape(f"{len(features) - 1} predictions and {len(features)} features")):
        postprocess_qa_predictions(rows, features, (starts[:-1], ends[:-1]))
    with pytest.raises(ValueError, match="has no feature"):
        postprocess_qa_predictions([*rows, {"id": "more", "context": "c"}], features, (starts, ends))
    with pytest.raises(OSError, match="missing"):
        postprocess_qa_predictions(rows, features, (starts, ends), output_dir=str(tmp_path / "missing"))


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
