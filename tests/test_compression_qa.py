"""Pruning with masks counted once: the masks and weights that INC finds by counting them all every time."""

import pytest
import torch

from environment_qa import without_ipex

with without_ipex():
    from neural_compressor import training

    from compression_qa import count_masks_once, pruning_config

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
