"""Losses between hidden states: which layers are compared, and that padding does not count."""

import pytest
import torch
from transformers import BertConfig, BertModel

from qa.compression.intermediate import intermediate_loss, layer_pairs, relation_loss, watch_values
from qa.start.errors import UsageError


def config(layers, width=64):
    return BertConfig(num_hidden_layers=layers, hidden_size=width, num_attention_heads=4)


@pytest.mark.parametrize(
    ("depths", "layers", "expected"),
    [
        ((3, 3), None, [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ((3, 6), None, [(0, 0), (1, 2), (2, 4), (3, 6)]),
        ((6, 12), [0, 3, 6], [(0, 0), (3, 6), (6, 12)]),
        ((4, 2), [4, 1], [(4, 2), (1, 0)]),
    ],
)
def test_layers_are_compared_that_are_as_deep(depths, layers, expected):
    assert layer_pairs(*map(config, depths), layers) == expected


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UsageError, match="names layer 4; the student has 3"):
        layer_pairs(config(3), config(6), [0, 4])
    with pytest.raises(UsageError, match="64 wide in the student and 32 in the teacher"):
        layer_pairs(config(3), config(3, width=32))


def test_the_loss_is_the_mean_square_over_tokens_and_pairs():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    teacher = [torch.zeros(2, 3, 4) for _ in range(3)]
    student = [torch.full((2, 3, 4), value, requires_grad=True) for value in (1.0, 2.0, 3.0)]
    with torch.no_grad():
        student[0][0, 1] = 5.0  # of three tokens two differ by 1 and one by 5
        student[2][:, 2] = 100.0  # padding
    loss = intermediate_loss(student, teacher, mask, [(0, 0), (2, 1)])
    assert float(loss) == pytest.approx(((1 + 25 + 1) / 3 + 9) / 2)
    loss.backward()
    assert student[1].grad is None
    assert not student[2].grad[mask == 0].any() and student[2].grad[mask == 1].all()


def test_a_relative_loss_is_the_share_of_the_variance_that_is_not_met():
    generator = torch.Generator().manual_seed(0)
    teacher = [torch.randn(4, 50, 8, generator=generator) * scale + 3 for scale in (1, 100)]
    mask, pairs = torch.ones(4, 50), [(0, 0), (1, 1)]
    means = [torch.full_like(each, float(each.mean())) for each in teacher]
    assert float(intermediate_loss(means, teacher, mask, pairs, relative=True)) == pytest.approx(1, abs=1e-2)
    assert float(intermediate_loss(teacher, teacher, mask, pairs, relative=True)) == 0


def test_relations_are_those_of_tokens_in_each_head():
    settings = {"vocab_size": 50, "intermediate_size": 64}
    model = BertModel(BertConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, **settings)).eval()
    values = watch_values(model)
    ids, mask = torch.arange(10)[None], (torch.arange(10) < 7).long()[None]
    model(ids, attention_mask=mask)
    assert list(values) == [f"encoder.layer.{layer}.attention.self.value" for layer in (0, 1)]
    taught = {name: value.detach().clone() for name, value in values.items()}
    assert float(relation_loss(values, taught, mask, 4)) == pytest.approx(0, abs=1e-6)
    # By hand, of one layer in which the student sees no difference between tokens.
    name = next(iter(values))
    found = relation_loss({name: torch.zeros_like(taught[name])}, {name: taught[name]}, mask, 4)
    heads = taught[name][0, :7].view(7, 4, 16)
    probabilities = torch.stack([(head @ head.T / 4).softmax(dim=-1) for head in heads.unbind(1)])
    expected = (probabilities * (probabilities * 7).log()).sum(dim=-1).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-3)
