"""What models are given: columns they take, no longer windows than they run on, and nothing of their neighbours."""

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from small_models import LAYOUTS, bert_tokenizer, small_model

from qa.models.inputs import settle_inputs
from qa.models.passes import Batches, predict_logits
from qa.questions.answers import extract_answers
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of, prepare_features
from qa.start.arguments import DataTrainingArguments
from qa.start.errors import UsageError


def arguments(max_seq_length=64, doc_stride=16, **values):
    return DataTrainingArguments(max_seq_length=max_seq_length, doc_stride=doc_stride, **values)


# --- columns ---


@pytest.mark.parametrize(
    ("layout", "changes", "types"),
    [
        ("bert", {}, True),
        ("bert", {"type_vocab_size": 1}, False),
        ("electra", {}, True),
        ("roberta", {}, False),
        ("roberta", {"type_vocab_size": 2}, True),
        ("distilbert", {}, False),
        ("mpnet", {}, False),
        ("deberta-v2", {}, False),
    ],
)
def test_a_model_gets_the_columns_that_it_takes(layout, changes, types, tokenizer):
    used = bert_tokenizer(tokenizer)
    assert set(used("a", "b")["token_type_ids"]) == {0, 1}
    model = small_model(layout, used, **changes)
    settle_inputs(model, used, arguments(), layout)
    assert ("token_type_ids" in used.model_input_names) == types
    inputs = used("a", "b", return_tensors="pt")
    assert model(**inputs)["start_logits"].shape == inputs["input_ids"].shape


def test_columns_that_a_tokenizer_does_not_make_are_not_given(tokenizer):
    used = bert_tokenizer(tokenizer, model_input_names=["input_ids", "attention_mask"])
    settle_inputs(small_model("bert", used), used, arguments(), "bert")
    assert used.model_input_names == ["input_ids", "attention_mask"]


# --- room ---


@pytest.mark.parametrize(
    ("layout", "changes", "longest"),
    [
        ("roberta", {"max_position_embeddings": 98}, 97),
        # The tokenizer's unknown word has the number of the model's padding, which takes no position.
        ("roberta", {"max_position_embeddings": 98, "pad_token_id": 1}, 96),
        ("bert", {"max_position_embeddings": 50}, 50),
        ("distilbert", {"max_position_embeddings": 77}, 77),
        ("deberta-v2", {"max_position_embeddings": 40}, 100),  # its positions are distances
        ("xlnet", {}, 100),
    ],
)
def test_windows_are_as_long_as_the_model_takes(layout, changes, longest, tokenizer, capsys):
    used = bert_tokenizer(tokenizer)
    data_args = arguments(100, 16)
    settle_inputs(small_model(layout, used, **changes), used, data_args, "M")
    assert data_args.max_seq_length == longest
    printed = capsys.readouterr().out
    said = f"warning: --max_seq_length is 100, but the model takes at most {longest} tokens (--model_name_or_path M)"
    assert printed.count("warning") == printed.count(said) == (longest < 100)


def test_a_layout_that_looks_for_its_separators_finds_them(tokenizer):
    from tokenizers.processors import TemplateProcessing

    used = bert_tokenizer(tokenizer)
    specials = list(zip(used.convert_ids_to_tokens([used.cls_token_id, used.sep_token_id]), (1, 2), strict=True))
    numbers = {token: used.convert_tokens_to_ids(token) for token, _ in specials}
    used.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=list(numbers.items())
    )
    changes = {"attention_window": 8, "pad_token_id": 0, "sep_token_id": used.sep_token_id}
    data_args = arguments(100, 16)
    settle_inputs(small_model("longformer", used, **changes, max_position_embeddings=66), used, data_args, "M")
    assert 40 < data_args.max_seq_length <= 66


def test_windows_are_as_long_as_the_tokenizer_allows(tokenizer):
    used = bert_tokenizer(tokenizer, model_max_length=33)
    data_args = arguments(100, 16)
    settle_inputs(small_model("bert", used), used, data_args, "M")
    assert data_args.max_seq_length == 33


def test_a_stride_that_no_longer_fits_and_a_short_teacher_are_refused(tokenizer):
    used = bert_tokenizer(tokenizer)
    model = small_model("bert", used, max_position_embeddings=50)
    with pytest.raises(UsageError, match=r"at most 50 tokens .*--doc_stride is 50; lower both"):
        settle_inputs(model, used, arguments(100, 50), "M")
    with pytest.raises(UsageError, match=r"--max_seq_length is 100, .* 50 tokens \(--teacher_model_name_or_path M\)"):
        settle_inputs(model, used, arguments(100, 16), "M", "teacher_model_name_or_path")


def test_a_model_that_runs_on_nothing_is_refused_with_its_reason(tokenizer):
    used = bert_tokenizer(tokenizer)
    model = small_model("bert", used)
    model.qa_outputs = torch.nn.Linear(32, 3)
    with pytest.raises(UsageError, match=r"--model_name_or_path M does not run on a window .*ValueError"):
        settle_inputs(model, used, arguments(), "M")


# --- neighbours ---


@pytest.mark.parametrize("layout", LAYOUTS)
def test_answers_do_not_depend_on_batch_size_or_order(layout, tokenizer, tmp_path):
    examples = read_examples(str(SAMPLE / "dev_v2.json"), "dev", 16)
    generator = np.random.default_rng(0)
    for side in ("right", "left"):
        used = bert_tokenizer(tokenizer, padding_side=side)
        model = small_model(layout, used)
        data_args = arguments(96, 24)
        settle_inputs(model, used, data_args, layout)
        found = []
        for batch_size in (1, 3, 32):
            dataset = dataset_of([examples[row] for row in generator.permutation(len(examples))])
            features = prepare_features(dataset, used, data_args, str(tmp_path))
            assert len(set(map(len, features["input_ids"]))) > 4
            logits = predict_logits(model, Batches(features, used, batch_size, data_args.evaluation_width))
            found.append(extract_answers(dataset, features, logits, version_2_with_negative=True))
        for other in found[1:]:
            assert other.predictions == found[0].predictions
            for identifier, odds in found[0].null_odds.items():
                assert other.null_odds[identifier] == pytest.approx(odds, abs=1e-3)
                best, same = found[0].nbest[identifier][0], other.nbest[identifier][0]
                assert same["text"] == best["text"]
                assert same["start_logit"] == pytest.approx(best["start_logit"], abs=1e-3)
        assert len(set(found[0].predictions.values())) > 2


def test_padding_is_kept_from_those_layouts_alone_that_see_it(tokenizer):
    seen = set()
    for layout in LAYOUTS:
        used, data_args = bert_tokenizer(tokenizer), arguments()
        settle_inputs(small_model(layout, used), used, data_args, layout)
        if data_args.never_pad:
            seen.add(layout)
            data_args = arguments(pad_to_max_length=True)  # then all have the same
            settle_inputs(small_model(layout, used), used, data_args, layout)
            assert data_args.evaluation_width == 64
    assert seen == {"mobilebert", "convbert", "fnet"}
