"""What counts as sparse: linear operators that answers depend on, and no others."""

import json

import pytest
import torch
from small_models import bert_tokenizer, small_model
from torch.ao.quantization import quantize_dynamic

from qa.compression.sparsity import (
    answer_head,
    prunable_weights,
    save_sparsity,
    sparsity,
    sparsity_report,
    unused_linears,
)
from qa.corrections.ipex import without_ipex
from qa.start.errors import UsageError

with without_ipex():
    from qa.compression.pruning import pruning_config


def test_a_pooler_that_no_answer_depends_on_is_neither_pruned_nor_counted(tokenizer):
    model = small_model("squeezebert", tokenizer)
    before = torch.get_rng_state()
    assert unused_linears(model.train()) == {"transformer.pooler.dense"}
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.grad is None for weight in model.parameters())
    assert prunable_weights(model) == {}
    assert sparsity(model) == sparsity_report(model, 1)["sparsity_of_model"] == 0.0
    with pytest.raises(UsageError, match="--apply_pruning: the model uses no linear operator but its head"):
        pruning_config({}, model)


def test_only_what_is_not_used_is_left_out(tokenizer):
    model = small_model("bert", tokenizer)
    assert unused_linears(model) == set()
    assert len(prunable_weights(model)) == 12
    model = small_model("bert", tokenizer)
    model.bert.pooler = torch.nn.Linear(32, 32)
    assert unused_linears(model) == {"bert.pooler"}
    assert len(prunable_weights(model)) == 12
    config = pruning_config({"excluded_op_names": [".*qa_outputs"]}, model)
    assert config.weight_compression["excluded_op_names"] == [".*qa_outputs", r"^bert\.pooler$", "^qa_outputs$"]


def test_an_operator_that_took_a_relu_in_counts_as_well():
    from torch.ao.nn import intrinsic
    from torch.ao.quantization import get_default_qat_qconfig

    fake_quant = intrinsic.qat.LinearReLU(4, 2, qconfig=get_default_qat_qconfig("x86"))
    fp32 = intrinsic.LinearReLU(torch.nn.Linear(2, 2), torch.nn.ReLU())
    model = torch.nn.ModuleDict({"first": fake_quant, "second": fp32, "qa_outputs": torch.nn.Linear(2, 2)})
    assert list(prunable_weights(model)) == ["first", "second.0"]


def test_a_model_without_a_linear_operator_in_fp32_has_none_that_is_unused(tokenizer):
    model = quantize_dynamic(small_model("bert", tokenizer), {torch.nn.Linear})
    assert unused_linears(model) == set()
    assert len(prunable_weights(model)) == 12


class Wrapped(torch.nn.Module):
    """An operator as INC wraps it, under the name `module`."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def plain(wrap=lambda module: module):
    """Two layers of 4 x 2 weights and a head, all weights 1 but for three in the first layer and one in the head."""
    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 4) for name in ("first", "second", "qa_outputs")})
    with torch.no_grad():
        for module in model.values():
            module.weight.fill_(1.0)
        model["first"].weight[:3, 0] = 0.0
        model["qa_outputs"].weight[0, 0] = 0.0
    return torch.nn.ModuleDict({name: wrap(module) for name, module in model.items()})


def quantized(model):
    return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("model", [plain(), plain(Wrapped), quantized(plain())], ids=["fp32", "wrapped", "int8"])
def test_zeros_are_counted_by_operator_without_the_head(model, tmp_path):
    weights = prunable_weights(model)
    assert weights.keys() == {"first", "second"}
    torch.testing.assert_close(weights["second"], torch.ones(4, 2), atol=0.01, rtol=0)
    assert not any(weight.requires_grad for weight in weights.values())
    assert sparsity(model) == 3 / 16
    report = sparsity_report(model, parameters=60)
    assert report == {
        "sparsity": 3 / 16,
        "sparsity_of_model": 3 / 60,
        "sparsity_per_op": {"first": 3 / 8, "second": 0},
    }

    kept = {"pruning": {"approach": "magnitude", "sparsity": 5.26}, "distillation": {"temperature": 2.0}}
    (tmp_path / "inc_config.json").write_text(json.dumps(kept))
    save_sparsity(report, tmp_path)
    text = (tmp_path / "inc_config.json").read_text()
    expected = {**kept, "pruning": {"approach": "magnitude", **report}}
    assert text == json.dumps(expected, indent=2, sort_keys=True) + "\n"


def test_nothing_to_prune_is_not_sparse():
    assert sparsity(torch.nn.Embedding(2, 2)) == 0.0


def named(*names):
    """A model with linear operators of these names."""
    model = torch.nn.Module()
    for name in names:
        *folders, last = name.split(".")
        place = model
        for folder in folders:
            if not hasattr(place, folder):
                place.add_module(folder, torch.nn.Module())
            place = getattr(place, folder)
        place.add_module(last, torch.nn.Linear(1, 1))
    return model


@pytest.mark.parametrize(
    ("names", "head"),
    [
        (["bert.layer.0.lin", "bert.layer.1.lin", "qa_outputs"], {"qa_outputs"}),
        (["qa.first.module", "qa.second.module", "bert.0", "bert.1", "bert.2"], {"qa.first", "qa.second"}),
        (["bert.0", "classifier", "bert.1"], {"classifier"}),
        # No part holds more than half of them.
        (["layers.qa_outputs", "other.lin"], {"layers.qa_outputs"}),
        (["first", "second", "qa_outputs"], {"qa_outputs"}),
        (["first", "second", "third"], set()),
    ],
)
def test_the_head_is_what_the_language_model_does_not_hold(names, head):
    assert answer_head(named(*names)) == head


def test_a_language_model_alone_has_no_head(tokenizer):
    model = small_model("electra", tokenizer, embedding_size=16)
    assert answer_head(model) == {"qa_outputs"}
    assert "electra.embeddings_project" in prunable_weights(model)
    assert answer_head(model.electra) == set()


@pytest.mark.parametrize("separator", [2, 7])  # among the ids of transformers' own dummies
def test_a_layout_that_looks_for_its_separators_is_asked_as_well(separator, tokenizer):
    used = bert_tokenizer(tokenizer)
    changes = {"attention_window": 8, "pad_token_id": 0, "sep_token_id": separator, "max_position_embeddings": 66}
    model = small_model("longformer", used, **changes)
    assert unused_linears(model) == set()
