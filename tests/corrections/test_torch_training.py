"""Dropout and attention of a training step, against torch's own."""

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BertConfig, BertForQuestionAnswering

from qa.corrections.torch_training import attention, dropout, fast_steps

TORCHS = functional.dropout, functional.scaled_dot_product_attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_scales_the_rest(dtype, share):
    values = torch.ones(333, 301, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    dropped = dropout(values, share)
    dropped.float().sum().backward()
    zeros = (dropped == 0).float()
    # Four standard deviations of a share of so many draws; elements of one draw are as independent as others.
    assert zeros.mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / zeros.numel()) ** 0.5)
    assert dropped[dropped != 0].unique().tolist() == [pytest.approx(1 / (1 - share), rel=2**-8)]
    torch.testing.assert_close(values.grad, dropped.detach())
    assert torch.corrcoef(zeros.flatten()[: zeros.numel() // 4 * 4].view(-1, 4).T).fill_diagonal_(0).abs().max() < 0.03


def test_dropout_follows_the_generator_that_checkpoints_hold():
    values = torch.ones(7, 5)
    state = torch.get_rng_state()
    first, second = dropout(values, 0.5), dropout(values, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(dropout(values, 0.5), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("share, training", [(0.0, True), (1.0, True), (0.3, False), (1e-6, True), (0.999995, True)])
def test_dropout_of_nothing_or_nearly_all_is_torchs(share, training):
    values = torch.randn(3, 4)
    dropped = []
    for drop in (dropout, TORCHS[0]):
        torch.manual_seed(0)
        dropped.append(drop(values, share, training))
    assert torch.equal(*dropped)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_its_gradients_are_torchs(dtype, tolerance, masked):
    torch.manual_seed(0)
    shape = 2, 3, 9, 8
    parts = [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]
    mask = None
    if masked:
        # As transformers makes it; all keys of the second row are masked, as in a row that only fills a batch up.
        mask = torch.zeros(2, 1, 9, 9)
        mask[0, ..., 6:] = mask[1] = torch.finfo(torch.float32).min
    results = []
    for attend in (attention, TORCHS[1]):
        # The original takes the mask in the dtype of the query only, in which the smallest number is another.
        given = mask if mask is None or attend is attention else mask.clamp(min=torch.finfo(dtype).min).to(dtype)
        # The fused form has wrong gradients where all is masked.
        with sdpa_kernel(SDPBackend.MATH):
            attended = attend(*parts, attn_mask=given)
        results.append([attended, *torch.autograd.grad(attended.float().square().sum(), parts)])
    for ours, torchs in zip(*results, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, torchs, rtol=tolerance, atol=tolerance)


@pytest.fixture
def model():
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    return BertForQuestionAnswering(config)


TOKENS = torch.arange(24).view(2, 12)


def test_a_step_uses_both_and_leaves_nothing_behind(model, monkeypatch):
    drawn = []
    random = torch.Tensor.random_
    monkeypatch.setattr(torch.Tensor, "random_", lambda self, *args: drawn.append(self.numel()) or random(self, *args))
    with pytest.raises(KeyError), fast_steps():
        model.train()(TOKENS)
        raise KeyError
    # Embeddings, the probabilities of attention, and two outputs of the layer; four elements each.
    assert drawn == [96, 144, 96, 96]
    assert (functional.dropout, functional.scaled_dot_product_attention) == TORCHS
    model(TOKENS)
    assert drawn == [96, 144, 96, 96]


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpoints_drop_the_same_out_twice(model, reentrant, share):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
    model.bert.encoder.layer[0].attention.self.dropout_prob = share
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        torch.manual_seed(0)
        with fast_steps():
            labels = torch.tensor([1, 2])
            model.train()(TOKENS, start_positions=labels, end_positions=labels).loss.backward()
        gradients.append([weights.grad.clone() for weights in model.parameters()])
    # Up to the last bits: without gradients torch's other operators may sum in another order.
    for plain, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(twice, plain, rtol=1e-4, atol=1e-6)
