"""INC's parts as they are mended: masks that are counted once, and gradients of fake-quant weights."""

import drawn_training
import pytest
import torch
from torch.ao.nn.qat import Linear
from torch.ao.quantization import get_default_qat_qconfig

from qa.corrections.ipex import without_ipex

with without_ipex():
    from qa.corrections.inc import align_weight_quantizers, count_masks_once, kept_exceptions

STEPS = 8


def pruned(pattern, settings, counted_once):
    """Let INC's pruner go through a training; return weights, masks and its last count."""
    settings = {"pattern": pattern, "start_step": 0, "end_step": STEPS - 1, "pruning_frequency": 1, **settings}
    mend = count_masks_once if counted_once else None
    model, (pruner,) = drawn_training.prune(settings, layers=5, width=16, shrink=0.1, steps=STEPS + 1, mend=mend)
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
def test_what_inc_prints_of_an_exception_is_kept(level, monkeypatch, capsys, tmp_path):
    from neural_compressor import PostTrainingQuantConfig, quantization, set_workspace

    set_workspace(str(tmp_path))

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
