"""Features and labels: equal to the plain code of `textbook.py`, and right on any text."""

import itertools
import json
import resource
import signal

import datasets
import hypothesis
import numpy as np
import pytest
import textbook
from conftest import SAMPLE
from hypothesis import strategies as st
from small_models import bert_tokenizer
from tokenizers import Tokenizer, models
from tokenizers import pre_tokenizers as pre
from tokenizers.processors import RobertaProcessing
from transformers import PreTrainedTokenizerFast

from qa.questions import features as features_room
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of, draw_features, label_windows, prepare_features
from qa.start.arguments import DataTrainingArguments
from qa.start.errors import SaveError, UsageError

datasets.disable_progress_bars()


def example(context, question="What?", text=None, start=0, identifier="e"):
    answers = {"text": [], "answer_start": []} if text is None else {"text": [text], "answer_start": [start]}
    return {"id": identifier, "context": context, "question": question, "answers": answers}


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


@pytest.fixture(scope="module")
def pair_tokenizer(tokenizer):
    return bert_tokenizer(tokenizer)


@pytest.mark.parametrize("kind", ["tokenizer", "left_tokenizer", "byte_tokenizer", "pair_tokenizer"])
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


@pytest.fixture(scope="module")
def letter_tokenizer():
    """One token for each byte, and one for a space that it puts in front of every text."""
    words = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", *pre.ByteLevel.alphabet()])}
    letters = Tokenizer(models.BPE(words, []))
    letters.pre_tokenizer = pre.ByteLevel(add_prefix_space=True)
    letters.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=letters, **names)


@pytest.mark.parametrize(
    ("kind", "longest"), [("tokenizer", "?" * 12), ("letter_tokenizer", "?" * 10), ("letter_tokenizer", "é" * 5)]
)
def test_questions_are_refused_from_the_token_on_that_leaves_no_room(kind, longest, request):
    # Room is for 12 tokens, or 11 where two special ones part the texts. Few characters may be many tokens.
    used = request.getfixturevalue(kind)
    assert len(features_of([example(CONTEXT, longest)], used, 24, 8)) > 2
    with pytest.raises(UsageError, match=r"question e has \d+ tokens"):
        features_of([example(CONTEXT, longest + longest[0])], used, 24, 8)


@pytest.mark.parametrize("max_seq_length", [1, 2, 3, 4, 11])
def test_a_length_that_holds_no_context_is_refused(max_seq_length, tokenizer):
    with pytest.raises(UsageError, match=f"--max_seq_length {max_seq_length} and .* it may have 0"):
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
    cutting_left = AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa", truncation_side="left")
    rows = [example(CONTEXT, "Who?", "Bob", 8)]
    cases = [
        (rows, tokenizer, 32, 8),
        (rows, left_tokenizer, 32, 8),
        (rows, cutting_left, 32, 8),
        (rows, tokenizer, 40, 8),
        (rows, tokenizer, 32, 4),
        ([example(CONTEXT, "What?", "Bob", 8)], tokenizer, 32, 8),
        ([example(CONTEXT, "Who?", "Ann", 0)], tokenizer, 32, 8),
        ([example(CONTEXT, "Who?", "Bob", 8, "f")], tokenizer, 32, 8),
    ]
    cached = [list(features_of(*case, cache_dir=tmp_path)) for case in cases * 2]
    assert cached == [list(features_of(*case)) for case in cases * 2]


def test_the_cache_tells_apart_the_code_and_the_tokenizers_that_made_features(tokenizer, tmp_path, monkeypatch):
    def file_of(digest=None, version=None):
        with monkeypatch.context() as patch:
            if digest:
                patch.setattr(features_room, "code_of", lambda *rooms: digest + str(rooms))
            if version:
                patch.setattr(features_room.tokenizers, "__version__", version)
            return features_of([example(CONTEXT)], tokenizer, cache_dir=tmp_path).cache_files[0]["filename"]

    assert len({file_of(), file_of("a"), file_of("b"), file_of("a", "0.1"), file_of(version="0.1")}) == 5
    asked = []
    monkeypatch.setattr(features_room, "code_of", asked.append)
    file_of()
    assert asked == ["questions"]


def test_equal_features_have_one_fingerprint_wherever_they_are_kept(tokenizer, tmp_path):
    """By which several processes tell that they see the same."""
    rows = [example(CONTEXT, "Who?", "Bob", 8)]
    prints = [features_of(rows, tokenizer, cache_dir=tmp_path / place / "deep")._fingerprint for place in "ab"]
    assert prints[0] == prints[1] != features_of(rows, tokenizer, 40, cache_dir=tmp_path)._fingerprint


def test_a_damaged_cache_is_named(tokenizer, tmp_path):
    features_of([example(CONTEXT)], tokenizer, cache_dir=tmp_path)
    (cached,) = (tmp_path / "qa_features").iterdir()
    cached.write_bytes(b"no table")
    with pytest.raises(UsageError, match=f"^{cached} in the cache is damaged .*--overwrite_cache"):
        features_of([example(CONTEXT)], tokenizer, cache_dir=tmp_path)
    assert len(features_of([example(CONTEXT)], tokenizer, cache_dir=tmp_path, overwrite_cache=True)) > 1


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"^--cache_dir: {tmp_path}/file/qa_features cannot be made "):
        features_room.feature_cache(tmp_path / "file")


def test_columns_have_their_types_also_where_nothing_is_in_them(pair_tokenizer):
    rows = dataset_of([example("Ann met Bob.")])
    assert rows.features == features_room.EXAMPLE_FEATURES
    table = features_room.uncached_features(
        rows, pair_tokenizer, DataTrainingArguments(max_seq_length=32, doc_stride=8)
    )
    kinds = {name: str(table.data.schema.field(name).type) for name in table.column_names}
    assert {kinds.pop(name) for name in ("attention_mask", "token_type_ids")} == {"list<item: int8>"}
    assert {kinds.pop(name) for name in ("start_positions", "end_positions")} == {"int32"}
    assert kinds == {
        **{"input_ids": "list<item: int32>", "example_id": "string"},
        "offset_mapping": "list<item: list<item: int32>>",
    }


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
