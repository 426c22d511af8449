"""Pruning settings as a whole: what INC makes of every schedule that passes, and lines for those that do not."""

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from qa.compression.schedule import PRUNING_APPROACHES, fit_schedule, is_locked, merge_flags, pruners_of
from qa.corrections.ipex import without_ipex
from qa.start.errors import UsageError

with without_ipex():
    from neural_compressor import training

    from qa.compression.pruning import pruning_config

FLAGS = {"target_sparsity": 0.1, "pruning_type": "snip_momentum", "start_step": 0, "end_step": None}
EPOCH = 12


def pruned(settings, steps):
    """Let INC's pruners go through a training of drawn gradients.

    Returns:
        List of `(share of zeros, blocks, operators)` for each pruner, over the operators that it prunes.
    """
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64, bias=False) for _ in range(4)))
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            # Layers of different size: the smallest would lose most of their weights.
            weight.copy_(torch.randn(weight.shape, generator=generator) * 2.0**-number)
    callbacks = training.prepare_compression(model, confs=pruning_config(settings)).callbacks
    for step in range(steps):
        callbacks.on_step_begin(step)
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
        callbacks.on_before_optimizer_step()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.01 * weight.grad
        callbacks.on_after_optimizer_step()
    found = []
    for pruner in callbacks.callbacks_list[0].pruners:
        weights = [module.weight for module in pruner.modules.values()]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        found.append(zeros / sum(weight.numel() for weight in weights))
    return found


SHARES = st.floats(0, 0.97).map(lambda share: round(share, 3))
STEPS = st.integers(0, 40)
PRUNER = st.fixed_dictionaries(
    {},
    optional={
        "target_sparsity": SHARES,
        "pruning_type": st.sampled_from(PRUNING_APPROACHES),
        "pattern": st.sampled_from(["1x1", "4x1", "2x2", "2:4", "1:4", "4:8", "tile_pattern_4x1"]),
        "start_step": STEPS,
        "end_step": STEPS,
        "pruning_scope": st.sampled_from(["global", "local"]),
        "pruning_frequency": st.integers(1, 15),
        "min_sparsity_ratio_per_op": SHARES,
        "max_sparsity_ratio_per_op": SHARES,
        "sparsity_decay_type": st.sampled_from(["exp", "cos", "linear", "cube"]),
    },
)
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "target_sparsity": SHARES,
        "pruning_type": st.sampled_from(PRUNING_APPROACHES),
        "start_step": STEPS,
        "end_step": STEPS,
    },
)


@hypothesis.given(PRUNER, st.lists(PRUNER, max_size=2), GIVEN, st.integers(1, 40))
@hypothesis.settings(max_examples=150)
def test_what_passes_reaches_its_sparsity_with_inc(settings, local, flags, steps):
    # Each on operators of its own.
    local = [{**pruner, "op_names": [names]} for pruner, names in zip(local, ["[01]", "[23]"], strict=False)]
    settings = {**settings, "op_names": [], "excluded_op_names": [], "pruning_configs": local}
    try:
        fitted = fit_schedule(merge_flags(settings, {**FLAGS, **flags}, set(flags)), EPOCH, steps)
    except UsageError:
        return
    asked = pruners_of(fitted)
    found = pruned(fitted, steps)
    assert len(found) == len(asked)
    for pruner, share in zip(asked, found, strict=True):
        assert all(pruner[key] == flags[key] for key in {"target_sparsity", "pruning_type"} & flags.keys())
        if is_locked(pruner):
            assert share == 0
        else:
            hypothesis.note(f"{share} for {pruner}")
            assert share == pytest.approx(pruner["target_sparsity"], abs=0.001)
