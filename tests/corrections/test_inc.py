"""INC's parts as they are mended: masks that are counted once, and gradients of fake-quant weights."""

import pytest
import torch
from torch.ao.nn.qat import Linear
from torch.ao.quantization import get_default_qat_qconfig

from qa.corrections.ipex import without_ipex

with without_ipex():
    from neural_compressor import training

    from qa.compression.pruning import pruning_config
    from qa.corrections.inc import align_weight_quantizers, count_masks_once, kept_exceptions

STEPS = 8


def pruned(pattern, settings, counted_once):
    """Run INC's callbacks over `STEPS` steps of drawn gradients; return weights, masks and INC's last count."""
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(5)))
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            # Layers of very different size: some would lose all of their weights.
            weight.copy_(torch.randn(weight.shape, generator=generator) * 10.0**-number)
    settings = {"pattern": pattern, "start_step": 0, "end_step": STEPS - 1, "pruning_frequency": 1, **settings}
    callbacks = training.prepare_compression(model, confs=pruning_config(settings)).callbacks
    pruner = callbacks.callbacks_list[0].pruners[0]
    if counted_once:
        count_masks_once(pruner)
    for step in range(STEPS + 1):
        callbacks.on_step_begin(step)
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
        callbacks.on_before_optimizer_step()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.01 * weight.grad
        callbacks.on_after_optimizer_step()
    return [*model.parameters(), *pruner.masks.values()], pruner.current_sparsity_ratio


@pytest.mark.parametrize(
    ("pattern", "kind", "settings"),
    [
        ("1x1", "snip_momentum", {"target_sparsity": 0.5}),
        ("4x1", "snip_momentum", {"target_sparsity": 0.5}),
        ("1x1", "snip_momentum", {"target_sparsity": 0.9, "max_sparsity_ratio_per_op": 0.92}),
        ("1x1", "magnitude", {"target_sparsity": 0.6, "min_sparsity_ratio_per_op": 0.3}),
        ("4x1", "gradient", {"target_sparsity": 0.4, "pruning_scope": "local"}),
        ("4x1", "snip_progressive", {"target_sparsity": 0.5, "pruning_frequency": 4}),
    ],
)
def test_masks_counted_once_are_those_of_inc(pattern, kind, settings):
    settings = {"pruning_type": kind, **settings}
    expected, expected_ratio = pruned(pattern, settings, counted_once=False)
    found, ratio = pruned(pattern, settings, counted_once=True)
    assert ratio == expected_ratio
    assert len(found) == len(expected)
    assert all(torch.equal(value, other) for value, other in zip(found, expected, strict=True))
    zeros = sum(int((mask == 0).sum()) for mask in found[-5:])
    assert zeros > 0


@pytest.mark.parametrize("scored", [False, True])
def test_fake_quant_rounds_as_the_conversion_and_hides_no_weight_from_pruning(scored):
    layer = Linear(16, 8, qconfig=get_default_qat_qconfig("x86"))
    align_weight_quantizers(torch.nn.Sequential(layer), scored)
    with torch.no_grad():
        layer.weight[:, 3] = 5.0
    inputs = torch.randn(4, 16)
    layer(inputs).sum().backward()
    expected = inputs.sum(dim=0).repeat(8, 1)
    if not scored:
        expected[:, 3] = 0.0  # clipped from 127.5 to 127
    assert torch.equal(layer.weight.grad, expected)
    scale = 5.0 / 127.5
    steps = layer.weight_fake_quant(layer.weight) / scale
    torch.testing.assert_close(steps, (layer.weight / scale).round().clamp(-128, 127), atol=1e-3, rtol=0)


@pytest.mark.parametrize("level", ["ERROR", "INFO"])
def test_what_inc_prints_of_an_exception_is_kept(level, monkeypatch, capsys):
    from neural_compressor import PostTrainingQuantConfig, quantization

    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, inputs):
            raise ValueError("this is why")

    def calibrate(model):
        model(torch.zeros(1, 2))

    monkeypatch.setenv("LOGLEVEL", level)
    with kept_exceptions() as kept:
        assert quantization.fit(Broken(), PostTrainingQuantConfig(approach="static"), calib_func=calibrate) is None
    assert [str(error) for error in kept] == ["this is why"]
    assert ("this is why" in capsys.readouterr().err) == (level == "INFO")
