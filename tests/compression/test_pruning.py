"""What a model lets be pruned: its answer head never, and a line where INC would do something else than was asked."""

from types import SimpleNamespace

import drawn_training
import pytest
import torch

from qa.corrections.ipex import without_ipex
from qa.start.errors import UsageError

with without_ipex():
    from neural_compressor import training

    from qa.compression.pruning import Scheduler, check_pruners, keep_zeros, pruning_config
    from qa.compression.sparsity import answer_head, prunable_weights


LOCK = {"pruning_type": "pattern_lock", "end_step": 0}


def model_of(head="qa_outputs", zeros=0.0):
    """Build a body of four linear operators, 16 x 16, with a share of zeros, and a head."""
    body = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(4)))
    model = torch.nn.ModuleDict(
        {"body": body, head: torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Linear(8, 2))}
    )
    with torch.no_grad():
        for layer in body:
            layer.weight.view(-1)[: int(256 * zeros)] = 0.0
    return model


def pruners_for(settings, model):
    settings = {"start_step": 0, "end_step": 5, "pattern": "1x1", "target_sparsity": 0.5, **settings}
    return (
        training.prepare_compression(model, confs=pruning_config(settings, model)).callbacks.callbacks_list[0].pruners
    )


@pytest.mark.parametrize("head", ["qa_outputs", "splinter_qass"])
def test_the_head_is_never_pruned_whatever_it_is_called(head):
    model = model_of(head)
    assert answer_head(model) == {f"{head}.0", f"{head}.1"}
    assert sorted(prunable_weights(model)) == ["body.0", "body.1", "body.2", "body.3"]
    locals_too = {"pruning_configs": [{"op_names": ["0"], "excluded_op_names": []}, {"op_names": ["[1-3]"]}]}
    for settings, expected in (({}, [[0, 1, 2, 3]]), (locals_too, [[0], [1, 2, 3]])):
        pruners = pruners_for(settings, model)
        assert [sorted(pruner.modules) for pruner in pruners] == [
            [f"body.{n}" for n in numbers] for numbers in expected
        ]
        check_pruners(pruners)


@pytest.mark.parametrize(
    ("settings", "zeros", "words"),
    [
        ({"op_names": ["query"]}, 0, ["no operator to prune", "op_names"]),
        ({"pruning_op_types": ["Conv"]}, 0, ["no operator to prune", "Conv"]),
        ({"pruning_configs": [{"op_names": ["0"]}, {"op_names": ["body"]}]}, 0, ["body.0", "op_names"]),
        ({"pattern": "3x1"}, 0, ["3x1", "body.0", "16 x 16"]),
        ({"pattern": "3:5"}, 0, ["3:5", "body.0", "16 x 16"]),
        ({"target_sparsity": 0.25}, 0.5, ["0.5000 zeros", "0.25 of --target_sparsity", "pattern_lock"]),
        (LOCK, 0, ["nothing to keep", "0.0000 zeros"]),
        (
            {"pruning_type": "pattern_lock", "end_step": 0, "pattern": "16x16"},
            0.5,
            ["nothing to keep", "0.5000 zeros"],
        ),
    ],
)
def test_what_the_model_cannot_do_is_a_line(settings, zeros, words):
    with pytest.raises(UsageError) as refusal:
        check_pruners(pruners_for(settings, model_of(zeros=zeros)))
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize(("settings", "zeros"), [({}, 0.0), ({}, 0.5), (LOCK, 0.1)])
def test_what_the_model_can_do_passes(settings, zeros):
    check_pruners(pruners_for(settings, model_of(zeros=zeros)))


def test_a_few_zeros_change_nothing():
    model = model_of()
    with torch.no_grad():
        model["body"][0].weight[0, 0] = 0.0
    for pruner in pruners_for({}, model):
        plain = pruner.pattern.get_masks
        keep_zeros(pruner)
        assert pruner.init_sparsity_ratio == 0 and pruner.pattern.get_masks == plain
        assert all(bool(mask.all()) for mask in pruner.masks.values())


@pytest.mark.parametrize("decay", ["cubic", "exp", "cos", "linear", "cube"])
def test_the_first_step_prunes_no_more_than_there_is(decay):
    """By the last digit more, and weights without a score would all be chosen."""
    scheduler = Scheduler(SimpleNamespace(sparsity_decay_type=decay, max_sparsity_ratio_per_op=0.98))
    for zeros in range(1, 500):
        scheduler.there = share = zeros / 576
        assert scheduler.update_sparsity_ratio(0.9, 0, 24, {}) == share
        assert share < scheduler.update_sparsity_ratio(0.9, 12, 24, {}) < 0.9


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("decay", ["cubic", "exp", "linear"])
@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        *(("magnitude", "1x1"), ("snip_momentum", "1x1"), ("gradient", "1x1"), ("magnitude", "4x1")),
        *(("snip_momentum_progressive", "4x1"), ("magnitude_progressive", "4x1")),
    ],
)
def test_zeros_that_are_there_stay_and_sparsity_goes_on_from_them(kind, pattern, decay, start):
    model, generator = model_of(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model["body"]:
            layer.weight[:8] = 0.0  # half of the blocks of four rows
    settings = {"pruning_type": kind, "pattern": pattern, "sparsity_decay_type": decay, "target_sparsity": 0.75}
    settings |= {"start_step": start, "end_step": start + 23, "pruning_frequency": 4}
    callbacks = training.prepare_compression(model, confs=pruning_config(settings, model)).callbacks
    for pruner in callbacks.callbacks_list[0].pruners:
        keep_zeros(pruner)
    shares, body = [], [layer.weight for layer in model["body"]]
    for _ in drawn_training.train(model, callbacks, 30, generator):
        # By gradients alone any weight may have its turn, by size a zero has none.
        assert kind == "gradient" or all(not weight[:8].any() for weight in body)
        shares.append(sum(int((weight == 0).sum()) for weight in body) / 1024)
    assert shares[: start + 1] == [0.5] * (start + 1) and min(shares) == 0.5
    # A block that is filled little by little may have one weight too many at the next step.
    assert shares == sorted(shares) or kind.endswith("_progressive")
    assert shares[-1] == pytest.approx(0.75, abs=0.001)
    assert len(set(shares)) > 3


def test_a_cubic_schedule_takes_most_at_first():
    settings = {"pruning_type": "magnitude", "sparsity_decay_type": "cubic", "pruning_scope": "local"}
    (pruner,) = pruners_for({**settings, "end_step": 4}, model_of())
    shares = []
    for _ in range(6):
        pruner.on_step_begin(0)
        pruner.on_before_optimizer_step()
        pruner.on_after_optimizer_step()
        shares.append(sum(float((module.weight == 0).float().mean()) for module in pruner.modules.values()) / 4)
    # 0.5 (1 - (1 - t) ** 3), in whole weights of 256.
    assert shares == pytest.approx([0, 0.2891, 0.4375, 0.4922, 0.5, 0.5], abs=1 / 256)
