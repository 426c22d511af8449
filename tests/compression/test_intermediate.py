"""Losses between hidden states: which layers are compared, and that padding does not count."""

import pytest
import torch
from transformers import BertConfig, BertModel

from qa.compression.intermediate import comparison, intermediate_loss, layer_pairs, relation_loss, watch_values
from qa.start.errors import UsageError


def config(layers, width=64):
    return BertConfig(num_hidden_layers=layers, hidden_size=width, num_attention_heads=4)


@pytest.mark.parametrize(
    ("depths", "layers", "expected"),
    [
        ((3, 3), None, [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ((3, 6), None, [(0, 0), (1, 2), (2, 4), (3, 6)]),
        ((6, 12), [0, 3, 6], [(0, 0), (3, 6), (6, 12)]),
        ((4, 2), [4, 1], [(4, 2), (1, 1)]),
        ((6, 3), None, [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)]),
    ],
)
def test_layers_are_compared_that_are_as_deep(depths, layers, expected):
    assert layer_pairs(*map(config, depths), layers) == expected


def test_models_with_a_decoder_are_refused():
    from transformers import BartConfig, BertConfig

    with pytest.raises(UsageError, match="models with a decoder have two lists"):
        comparison({"loss": "MSE"}, BartConfig(), BertConfig())


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
    for _ in range(2):
        states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    operators = [layer.attention.self.value for layer in model.encoder.layer]
    expected = [operator(state) for operator, state in zip(operators, states[:-1], strict=True)]
    assert all(map(torch.equal, values[:2], expected)) and len(values) == 4  # the operators were called once more
    taught = [value.detach().clone() for value in values[:2]]
    pairs = [(0, 0), (1, 1)]
    assert float(relation_loss(values, taught, mask, pairs, 4)) == pytest.approx(0, abs=1e-6)
    # By hand, of one layer in which the student sees no difference between tokens.
    found = relation_loss([torch.zeros_like(taught[0])], taught[:1], mask, [(0, 0)], 4)
    heads = taught[0][0, :7].view(7, 4, 16)
    probabilities = torch.stack([(head @ head.T / 4).softmax(dim=-1) for head in heads.unbind(1)])
    expected = (probabilities * (probabilities * 7).log()).sum(dim=-1).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-3)


def test_heads_of_one_width_are_as_many_as_a_layer_has_left():
    generator, mask = torch.Generator().manual_seed(0), torch.ones(2, 9)
    states, taught = ([torch.randn(2, 9, width, generator=generator) for width in (64, 48, 16)] for _ in range(2))
    pairs = [(layer, layer) for layer in range(3)]
    each = [relation_loss(states, taught, mask, [pair], heads) for pair, heads in zip(pairs, (4, 3, 1), strict=True)]
    together = relation_loss(states, taught, mask, pairs, width=16)
    assert float(together) == pytest.approx(float(sum(each)) / 3)


def test_relations_compare_models_of_any_width_and_depth():
    generator, mask = torch.Generator().manual_seed(0), torch.ones(2, 9)
    teacher = [torch.randn(2, 9, 64, generator=generator) for _ in range(7)]
    # Half of the width, and in it what makes the same products: each head of 16 as one of 8.
    narrow = [each.unflatten(-1, (4, 16))[..., :8].flatten(-2) for each in teacher]
    wide = [torch.cat((each.unflatten(-1, (4, 8)),) * 2, dim=-1).flatten(-2) / 2**0.25 for each in narrow]
    compare = comparison({"loss": "relations", "layers": [1, 3]}, config(3, width=32), config(6))
    assert float(compare([narrow[layer] for layer in (0, 2, 4, 6)], wide, mask)) == pytest.approx(0, abs=1e-6)
    assert float(compare([narrow[layer] for layer in (0, 2, 4, 5)], wide, mask)) > 0.1
