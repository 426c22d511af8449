"""Losses between hidden states: which layers are compared, and that padding does not count."""

import pytest
import torch
from transformers import BertConfig

from qa.compression.intermediate import intermediate_loss, layer_pairs
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
