"""Spans of tokens: wrong ones are mended, none has white space around it, and tokenizers stay as they are."""

import itertools

import hypothesis
import numpy as np
import pytest
from conftest import SAMPLE
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from tokenizers import processors as post
from transformers import PreTrainedTokenizerFast

from qa.questions.examples import read_examples
from qa.questions.features import dataset_of, prepare_features
from qa.questions.spans import own_rules, spans_are_late, trim_white
from qa.start.arguments import DataTrainingArguments

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
TEXT = "Ann met  Bob,\tin Rome's 1874 house: a Zoë (I think) saw\nx-rays. And 9 trains went, b by b, to Ulm at 7."
WORDS = ["Ann", "Bob", "Rome", "1874", "house", "a", "Zoë", "I", "saw", "x", "And", "9", "b", "Ulm", "7"]


def built(pre_tokenizer, post_processor, unigram=False):
    """A tokenizer whose words are those of the sample."""
    if unigram:
        words, decoder = Tokenizer(models.Unigram()), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
        )
    else:
        words, decoder = Tokenizer(models.BPE()), decoders.ByteLevel()
        alphabet = pre.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=500, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
        )
    words.pre_tokenizer = pre_tokenizer
    contexts = [each["context"] for each in read_examples(str(SAMPLE / "dev.json"), "dev", 20)]
    words.train_from_iterator([*contexts, TEXT], trainer)
    words.decoder, words.post_processor = decoder, post_processor
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


def roberta(trim=True, prefix=True):
    return post.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=trim, add_prefix_space=prefix)


def template():
    return post.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", [("<s>", 0), ("</s>", 2)])


def spaced():
    return pre.ByteLevel(add_prefix_space=True)


LATE = {
    "words, bytes, punctuation": lambda: built(
        pre.Sequence([pre.Whitespace(), spaced(), pre.Punctuation()]), roberta()
    ),
    "words, bytes": lambda: built(pre.Sequence([pre.WhitespaceSplit(), spaced()]), roberta(prefix=False)),
    "punctuation, bytes": lambda: built(pre.Sequence([pre.Punctuation(), spaced()]), roberta()),
    "bytes, the first word alone": lambda: built(spaced(), roberta(prefix=False)),
    "digits, bytes": lambda: built(pre.Sequence([pre.Digits(True), spaced()]), roberta()),
    "trimmed twice": lambda: built(
        pre.Sequence([pre.Whitespace(), spaced()]), post.Sequence([post.ByteLevel(trim_offsets=True), template()])
    ),
}
RIGHT = {
    "bytes": lambda: built(pre.ByteLevel(add_prefix_space=False), roberta(prefix=False)),
    "bytes, a space in front": lambda: built(spaced(), roberta()),
    "bytes, nothing trimmed": lambda: built(spaced(), roberta(trim=False)),
    "bytes, template": lambda: built(spaced(), template()),
    "pieces": lambda: built(pre.Metaspace(), template(), unigram=True),
    "words, pieces": lambda: built(pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace()]), template(), unigram=True),
}


@pytest.mark.parametrize("name", [*LATE, *RIGHT])
def test_every_word_is_found_in_the_text_by_its_tokens(name, tmp_path):
    tokenizer = {**LATE, **RIGHT}[name]()
    assert spans_are_late(tokenizer) == (name in LATE)
    examples = [
        {
            "id": word,
            "context": TEXT,
            "question": "Who?",
            "answers": {"text": [word], "answer_start": [TEXT.index(word)]},
        }
        for word in WORDS
    ]
    data_args = DataTrainingArguments(max_seq_length=24, doc_stride=9)
    features = list(prepare_features(dataset_of(examples), tokenizer, data_args, str(tmp_path)))
    assert len(features) > 3 * len(examples)
    for feature in features:
        spans = feature["offset_mapping"]
        for token, span in zip(feature["input_ids"], spans, strict=True):
            if span is not None:
                text, piece = TEXT[slice(*span)], tokenizer.decode([token]).strip()
                assert text == text.strip()
                # A space that the tokenizer put there itself has the character behind it.
                assert text == piece or not piece.isascii() or not piece or token == tokenizer.unk_token_id
    for word in WORDS:
        labels = [feature for feature in features if feature["example_id"] == word and feature["start_positions"]]
        assert labels
        for feature in labels:
            begin = feature["offset_mapping"][feature["start_positions"]][0]
            end = feature["offset_mapping"][feature["end_positions"]][1]
            # A token may hold more than the answer, but no more than the answer and its neighbours.
            assert word in TEXT[begin:end]
            assert len(TEXT[begin:end]) <= len(word) + 3
            assert not set(TEXT[begin:end]) & set(" \t\n")


def test_letters_without_a_token_are_no_fault_of_the_others():
    tokenizer = built(pre.WhitespaceSplit(), template())
    tokenizer.backend_tokenizer.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), pre.Split("l", "removed")])
    assert not spans_are_late(tokenizer)


def test_the_mark_of_a_piece_that_goes_on_is_no_part_of_it(tokenizer):
    """WordPiece's `##`: without the letters that have no token, all others are where they should be."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre.Sequence([pre.BertPreTokenizer(), pre.Split("l", "removed")])
    names = {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in ("cls", "sep", "pad", "unk")}
    pieces = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    assert any(token.startswith("##") for token in backend.encode("crew thought").tokens)
    assert not spans_are_late(pieces)


def test_spans_that_are_wrong_in_another_way_are_refused_with_a_token():
    tokenizer, last = built(pre.WhitespaceSplit(), template()), Regex(r"b\.")
    tokenizer.backend_tokenizer.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), pre.Split(last, "removed")])
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("m", "n")
    with pytest.raises(ValueError, match=r"^it says that the token 'n\w*' is 'm\w*' in the text$"):
        spans_are_late(tokenizer)


def test_a_tokenizer_that_does_not_tell_two_texts_apart_is_refused():
    tokenizer = built(spaced(), post.Sequence([template(), post.ByteLevel()]))
    with pytest.raises(ValueError, match=r"^it says of no token that it is of the second of two texts$"):
        spans_are_late(tokenizer)


@hypothesis.given(
    st.lists(st.tuples(st.text(" \t\nab\u3000é🚂", max_size=9), st.lists(st.integers(0, 9), max_size=4)), max_size=4)
)
def test_white_space_is_trimmed_as_text_is(cases):
    texts = [text for text, _ in cases]
    spans, text_of = [], []
    for number, (text, cuts) in enumerate(cases):
        cuts = sorted(min(cut, len(text)) for cut in cuts)
        spans += itertools.pairwise(cuts)
        text_of += [number] * max(len(cuts) - 1, 0)
    offsets = np.array(spans, dtype=np.int32).reshape(-1, 2)
    before = offsets.copy()
    blank = trim_white(offsets, texts, np.array(text_of, dtype=np.int64))
    for number, (begin, end) in enumerate(before.tolist()):
        text = texts[text_of[number]]
        assert blank[number] == text[begin:end].isspace()
        if blank[number] or begin == end:
            assert offsets[number].tolist() == [begin, end]
        else:
            assert text[slice(*offsets[number].tolist())] == text[begin:end].strip()


@pytest.mark.parametrize("truncation", [None, {"max_length": 77, "stride": 3}])
@pytest.mark.parametrize("padding", [None, {"length": 50, "direction": "left"}])
def test_a_tokenizer_keeps_its_own_truncation_and_padding(truncation, padding, tmp_path):
    tokenizer = built(spaced(), roberta())
    backend = tokenizer.backend_tokenizer
    if truncation:
        backend.enable_truncation(**truncation)
    if padding:
        backend.enable_padding(**padding)
    before = backend.to_str()
    data_args = DataTrainingArguments(max_seq_length=24, doc_stride=4)
    row = {"id": "a", "context": TEXT, "question": "Who?", "answers": None}
    widths = set()
    for _ in range(2):  # the second time from the cache
        features = prepare_features(dataset_of([row]), tokenizer, data_args, str(tmp_path))
        widths.add(tuple(map(len, features["input_ids"])))
        assert backend.to_str() == before
    assert len(widths) == 1
    with own_rules(tokenizer):
        tokenizer("a b", padding="max_length", max_length=9, truncation=True)
        assert backend.to_str() != before
    assert backend.to_str() == before
