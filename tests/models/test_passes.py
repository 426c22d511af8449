"""Batches and collected logits: equal to the tokenizer's own padding and to one forward pass for each feature."""

import hypothesis
import numpy as np
import pytest
import torch
from conftest import SAMPLE
from hypothesis import strategies as st

from qa.models.passes import Batches, predict_logits
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of, prepare_features
from qa.start.arguments import DataTrainingArguments


@pytest.fixture(scope="module")
def prepared(tokenizer, left_tokenizer, tmp_path_factory):
    """Features of lengths from 24 to 96, by padding side."""
    examples = dataset_of(read_examples(str(SAMPLE / "dev_v2.json"), "dev", 24))
    data_args = DataTrainingArguments(max_seq_length=96, doc_stride=16)
    cache_dir = str(tmp_path_factory.mktemp("features"))
    return {
        used.padding_side: (used, prepare_features(examples, used, data_args, cache_dir))
        for used in (tokenizer, left_tokenizer)
    }


@pytest.mark.parametrize("side", ["right", "left"])
@hypothesis.settings(max_examples=40)
@hypothesis.given(
    seed=st.integers(0, 2**32),
    batch_size=st.integers(1, 9),
    width=st.sampled_from([None, 96, 100]),
    multiple=st.sampled_from([1, 8, 64]),
    shuffled=st.booleans(),
)
def test_batches_are_padded_as_the_tokenizer_pads_behind(side, prepared, seed, batch_size, width, multiple, shuffled):
    tokenizer, features = prepared[side]
    if shuffled:
        features = features.shuffle(seed=seed % 1000, keep_in_memory=True)
    batches = Batches(features, tokenizer, batch_size, width, multiple)
    assert batches.lengths.tolist() == [len(row) for row in features["input_ids"]]
    rows = np.random.default_rng(seed).permutation(len(features))[:batch_size]
    names = [name for name in tokenizer.model_input_names if name in features.column_names]
    expected = tokenizer.pad(
        {name: [features[int(row)][name] for row in rows] for name in names},
        padding="max_length" if width else "longest",
        max_length=width,
        pad_to_multiple_of=None if width else multiple,
        padding_side="right",
        return_tensors="pt",
    )
    found = batches.inputs(rows)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values)
        assert found[name].dtype == torch.int64
    assert np.array_equal(batches.token_mask(rows), expected["attention_mask"].numpy().astype(bool))


@hypothesis.given(batch_size=st.integers(1, 50))
def test_every_feature_is_in_one_batch_of_its_like(batch_size, prepared):
    tokenizer, features = prepared["right"]
    batches = Batches(features, tokenizer, batch_size)
    rows = list(batches.by_length())
    assert sorted(np.concatenate(rows)) == list(range(len(features)))
    lengths = batches.lengths[np.concatenate(rows)]
    assert (np.diff(lengths) <= 0).all()
    assert all(len(batch) == batch_size for batch in rows[:-1])


def test_batches_that_are_not_padded_hold_one_length(prepared):
    tokenizer, features = prepared["right"]
    batches = Batches(features, tokenizer, 4, width=0, multiple=64)
    rows = list(batches.by_length())
    assert sorted(np.concatenate(rows)) == list(range(len(features)))
    assert max(map(len, rows)) == 4
    for batch in rows:
        assert batches.token_mask(batch).all()


def test_rounding_up_ends_at_the_longest_that_the_model_takes(prepared):
    tokenizer, features = prepared["right"]
    batches = Batches(features, tokenizer, 4, multiple=64, longest=96)
    widths = {batches.token_mask(rows).shape[1] for rows in batches.by_length()}
    assert widths == {64, 96}


class Echo:
    """A model whose logits tell which token they belong to."""

    def __call__(self, input_ids, attention_mask):
        return {
            "start_logits": (input_ids * 3.0 + input_ids.sum(dim=1, keepdim=True)),
            "end_logits": (input_ids * 5.0),
        }


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("width", [None, 100])
@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_logits_come_back_in_the_order_of_the_features(side, width, batch_size, prepared):
    tokenizer, features = prepared[side]
    starts, ends = predict_logits(Echo(), Batches(features, tokenizer, batch_size, width))
    assert starts.dtype == ends.dtype == np.float32
    assert starts.shape == ends.shape == (len(features), max(map(len, features["input_ids"])))
    for row, ids in enumerate(features["input_ids"]):
        assert ends[row, : len(ids)].tolist() == [5.0 * token for token in ids]
        padding = tokenizer.pad_token_id
        assert padding == 0, "padding adds nothing to the sum below"
        assert starts[row, : len(ids)].tolist() == [3.0 * token + sum(ids) for token in ids]
        assert np.isneginf(starts[row, len(ids) :]).all()
        assert np.isneginf(ends[row, len(ids) :]).all()
