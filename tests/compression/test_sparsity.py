"""What counts as sparse: linear operators that answers depend on, and no others."""

import pytest
import torch
from small_models import small_model

from qa.compression.sparsity import prunable_weights, sparsity, sparsity_report, unused_linears
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
