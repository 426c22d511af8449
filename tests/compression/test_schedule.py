"""Pruning settings as a whole: what INC makes of every schedule that passes, and lines for those that do not."""

import drawn_training
import hypothesis
import pytest
from hypothesis import strategies as st

from qa.compression.schedule import PRUNING_APPROACHES, fit_schedule, is_locked, merge_flags, pruners_of
from qa.compression.settings import pruning_settings, settings_for_pruning
from qa.start.errors import UsageError

FLAGS = {"target_sparsity": 0.1, "pruning_type": "snip_momentum", "start_step": 0, "end_step": None}
EPOCH = 12


def pruned(settings, steps):
    """Return the share of zeros of each of INC's pruners over the operators that it prunes, after a training."""
    _, pruners = drawn_training.prune(settings, layers=4, width=128, shrink=0.5, steps=steps, bias=False)
    found = []
    for pruner in pruners:
        weights = [module.weight for module in pruner.modules.values()]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        found.append(zeros / sum(weight.numel() for weight in weights))
    return found


SHARES = st.sampled_from([0.0, 0.05, 0.25, 0.333, 0.5, 0.75, 0.9, 0.97])
STEPS = st.integers(0, 25)
SCHEDULE = {"start_step": STEPS, "end_step": STEPS | st.just(1000)}
CHOSEN = {"target_sparsity": SHARES, "pruning_type": st.sampled_from(PRUNING_APPROACHES)}
PRUNER = st.fixed_dictionaries(
    {},
    optional={
        **CHOSEN,
        **SCHEDULE,
        "pattern": st.sampled_from(["1x1", "4x1", "2x2", "1x8", "2:4", "1:4", "4:8"]),
        "pruning_scope": st.sampled_from(["global", "local"]),
        "pruning_frequency": st.integers(1, 15),
        "min_sparsity_ratio_per_op": st.sampled_from([0.0, 0.05, 0.3]),
        "max_sparsity_ratio_per_op": st.sampled_from([0.5, 0.8, 0.99]),
        "sparsity_decay_type": st.sampled_from(["exp", "cos", "linear", "cube"]),
    },
)
EPOCHS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("start_epoch", "end_epoch"), st.sampled_from([0.0, 0.5, 1, 2]))
)
GIVEN = st.fixed_dictionaries({}, optional={**CHOSEN, **SCHEDULE})


@hypothesis.given(PRUNER, EPOCHS, st.lists(PRUNER, max_size=2), GIVEN, st.integers(2, 40))
@hypothesis.settings(max_examples=150, deadline=None)
def test_what_passes_reaches_its_sparsity_with_inc(settings, epochs, local, flags, steps):
    # Each on operators of its own.
    local = [{**pruner, "op_names": [names]} for pruner, names in zip(local, ["[01]", "[23]"], strict=False)]
    settings = {**settings, **epochs, "op_names": [], "excluded_op_names": [], "pruning_configs": local}
    try:
        fitted = fit_schedule(merge_flags(settings, {**FLAGS, **flags}, set(flags)), EPOCH, steps)
    except UsageError:
        hypothesis.event("refused")

        return
    hypothesis.event("passed")
    asked = pruners_of(fitted)
    found = pruned(fitted, steps)
    assert len(found) == len(asked)
    for pruner, share in zip(asked, found, strict=True):
        assert all(pruner[key] == flags[key] for key in {"target_sparsity", "pruning_type"} & flags.keys())
        assert share == pytest.approx(0 if is_locked(pruner) else pruner["target_sparsity"], abs=0.001), pruner


@hypothesis.given(
    approach=st.sampled_from([approach for approach in PRUNING_APPROACHES if approach != "pattern_lock"]),
    pattern=st.sampled_from(["4x1", "4:8"]),
    frequency=st.integers(1, 15),
    start=st.integers(0, 4),
    steps=st.integers(6, 40),
)
@hypothesis.settings(max_examples=60)
def test_every_frequency_comes_to_its_end(approach, pattern, frequency, start, steps):
    settings = {"pattern": pattern, "pruning_frequency": frequency, "target_sparsity": 0.4, "start_step": start}
    fitted = fit_schedule(merge_flags(settings, {**FLAGS, "pruning_type": approach}, {"pruning_type"}), EPOCH, steps)
    assert pruned(fitted, steps) == [pytest.approx(0.4, abs=0.001)]


class Arguments:
    """The part of `OptimizationArguments` that is about pruning."""

    def __init__(self, **given):
        defaults = {**FLAGS, "pruning_approach": FLAGS["pruning_type"]}
        defaults |= dict.fromkeys(("pruning_config", "prune_heads", "prune_ffn"))
        vars(self).update({**defaults, **given, "given": frozenset(given)})


def scheduled(folder, content, steps_per_epoch, last_step, **flags):
    (folder / "own.yml").write_text(content, encoding="utf-8")
    merged = settings_for_pruning(Arguments(pruning_config=str(folder / "own.yml"), **flags))
    return fit_schedule(merged["pruning"], steps_per_epoch, last_step)


OLDER_LOCAL = "pruning: {approach: {weight_compression: {end_epoch: 1, pruners: [{end_step: 5}, {}]}}}\n"
LOCAL = "target_sparsity: 0.2\nend_step: 9\npruning_configs:\n- {target_sparsity: 0.5, end_step: 1000}\n- {}\n"
OLDER = "pruning: {approach: {weight_compression: {end_epoch: 1, target_sparsity: 0.3}}}\n"


@pytest.mark.parametrize(
    ("content", "flags", "expected"),
    [
        (LOCAL, {}, [(0.5, 0, 39), (0.2, 0, 9)]),
        (LOCAL, {"target_sparsity": 0.7, "end_step": 20}, [(0.7, 0, 20)] * 2),
        (OLDER, {}, [(0.3, 0, 20)]),
        (OLDER, {"start_step": 2}, [(0.3, 2, 20)]),
        (OLDER, {"end_step": 5}, [(0.3, 0, 5)]),
        (OLDER_LOCAL, {}, [(0.1, 0, 5), (0.1, 0, 20)]),
        ("pattern: 1x1\n", {"target_sparsity": 0.99}, [(0.99, 0, 39)]),
        ("pruning_type: pattern_lock\n", {"pruning_approach": "snip"}, [(0.1, 0, 39)]),
        ("start_step: 3\nend_step: 9\n", {"pruning_approach": "pattern_lock"}, [(None, 0, 0)]),
        ("pruning_type: pattern_lock\npruning_configs: [{pruning_type: snip}]\n", {}, [(0.1, 0, 39)]),
    ],
)
def test_flags_win_over_global_and_local_settings(content, flags, expected, tmp_path):
    pruners = pruners_of(scheduled(tmp_path, content, 20, 40, **flags))
    found = [(pruner.get("target_sparsity"), pruner["start_step"], pruner["end_step"]) for pruner in pruners]
    assert found == expected
    # INC's own limit does not hold against a flag.
    assert all(pruner.get("target_sparsity", 0) <= pruner.get("max_sparsity_ratio_per_op", 0.98) for pruner in pruners)
    assert {pruner["pruning_type"] for pruner in pruners} <= {
        flags.get("pruning_approach", "snip_momentum"),
        *("magnitude", "snip"),
    }


@pytest.mark.parametrize(
    ("content", "flags", "words"),
    [
        ("pattern: 2:4\n", {"target_sparsity": 0.6}, ["--target_sparsity is 0.6", "0.5", "2:4"]),
        ("pruning_configs: [{pattern: 2:4}]\n", {"target_sparsity": 0.6}, ["--target_sparsity is 0.6", "0.5"]),
        ("pattern: 1x1\n", {"pruning_approach": "snip_progressive"}, ["pattern", "1x1", "snip_progressive", "4x1"]),
        ("pattern: 2:4\n", {"pruning_approach": "magnitude_progressive"}, ["pattern", "2:4", "4:8"]),
        ("max_sparsity_ratio_per_op: 0.4\n", {"target_sparsity": 0.6}, ["--target_sparsity is 0.6", "0.4"]),
        ("min_sparsity_ratio_per_op: 0.4\n", {"target_sparsity": 0.2}, ["min_sparsity_ratio_per_op", "0.2"]),
        ("end_step: 4\n", {"start_step": 5}, ["end_step", "is 4", "5"]),
        ("pruning_configs: [{end_step: 4}]\n", {"start_step": 5}, ["end_step", "is 4", "5"]),
        ("pruning_type: pattern_lock\n", {"target_sparsity": 0.5}, ["--target_sparsity", "pattern_lock", "drop"]),
        ("pruning_type: pattern_lock\n", {"start_step": 5}, ["--start_step", "pattern_lock", "drop"]),
        (OLDER, {"start_step": 25}, ["step 25", "step 20", "does not fit into 40"]),
        ("pruning_configs: [{start_step: 60}]\n", {}, ["step 60", "does not fit into 40"]),
    ],
)
def test_what_does_not_go_together_is_refused(content, flags, words, tmp_path):
    with pytest.raises(UsageError) as refusal:
        scheduled(tmp_path, content, 20, 40, **flags)
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_a_file_with_a_progressive_approach_needs_blocks(tmp_path):
    content = "pruning_type: snip_progressive\npattern: 1x1\n"
    with pytest.raises(UsageError, match=r"own.yml, line 2: pattern is 1x1; snip_progressive fills blocks"):
        scheduled(tmp_path, content, 20, 40)


def test_merging_and_fitting_leave_their_settings_as_they_are(tmp_path):
    (tmp_path / "own.yml").write_text(LOCAL, encoding="utf-8")
    settings = pruning_settings(tmp_path / "own.yml")
    before = repr(settings)
    merged = merge_flags(settings, FLAGS, set())
    assert repr(settings) == before
    before = repr(merged)
    fit_schedule(merged, 20, 40)
    assert repr(merged) == before


SLIM = "auto_slim: {mha_sparsity: 0.5}\n"


@pytest.mark.parametrize(
    ("content", "flags", "slimming", "zeros"),
    [
        (SLIM, {}, (0.5, 0.0), None),
        (SLIM, {"prune_heads": 0.25, "prune_ffn": 0.75}, (0.25, 0.75), None),
        (SLIM, {"prune_heads": 0.0}, None, 0.1),
        (SLIM, {"target_sparsity": 0.3}, (0.5, 0.0), 0.3),
        (SLIM + "target_sparsity: 0.2\n", {}, (0.5, 0.0), 0.2),
        ("pattern: 1x1\n", {"prune_ffn": 0.5}, (0.0, 0.5), None),
        (None, {"prune_ffn": 0.5}, (0.0, 0.5), None),
        (None, {}, None, 0.1),
    ],
)
def test_what_is_taken_out_and_what_becomes_zero(content, flags, slimming, zeros, tmp_path):
    if content is not None:
        (tmp_path / "own.yml").write_text(content, encoding="utf-8")
        flags = {**flags, "pruning_config": str(tmp_path / "own.yml")}
    found = settings_for_pruning(Arguments(**flags))
    assert found.get("slimming") == (slimming and dict(zip(("heads", "channels"), slimming, strict=True)))
    assert found.get("pruning", {}).get("target_sparsity") == zeros


def test_a_file_is_read_and_told_of_once(tmp_path, capsys):
    (tmp_path / "own.yml").write_text(OLDER, encoding="utf-8")
    settings_for_pruning(Arguments(pruning_config=str(tmp_path / "own.yml"), prune_ffn=0.5))
    assert capsys.readouterr().out.count("\n") == 1
