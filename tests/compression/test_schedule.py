"""Pruning settings as a whole: what INC makes of every schedule that passes, and lines for those that do not."""

import drawn_training
import hypothesis
import pytest
from hypothesis import strategies as st

from qa.compression.schedule import (
    PRUNING_APPROACHES,
    check_pruner,
    fit_schedule,
    is_locked,
    merge_flags,
    pruners_of,
    share_of_pattern,
)
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


# --- the parts ---


@pytest.mark.parametrize(
    ("pattern", "share"),
    [
        *(("2:4", 0.5), ("1:4", 0.25), ("tile_pattern_4:8", 0.5), ("10:16", 0.625), ("9999:9999", 1)),
        *(("4x1", 1), ("1xchannel", 1), ("2:0", 1), ("12345:9", 1), ("1:12345", 1), ("x2:4", 1)),
    ],
)
def test_what_a_pattern_can_prune(pattern, share):
    assert share_of_pattern(pattern) == share


LOCKED = {"pruning_type": "pattern_lock"}
LITTLE_BY_LITTLE = (
    "; snip_progressive fills blocks little by little: give a pattern of at least 4 weights, as 4x1 or 4:8"
)
NO_SCHEDULE = "; pattern_lock has no schedule, it keeps the zeros of the first step: leave start_step and end_step out"
ALL_THAT = "which is all that the pattern {} and max_sparsity_ratio_per_op allow"


@pytest.mark.parametrize(
    ("pruner", "message"),
    [
        ({"start_step": 5, "end_step": 4}, "--end_step is 4; give at least start_step, which is 5"),
        ({"start_epoch": 2.5, "end_epoch": 0}, "--end_epoch is 0; give at least start_epoch, which is 2.5"),
        ({**LOCKED, "end_step": 7}, "--end_step is 7" + NO_SCHEDULE),
        ({**LOCKED, "start_step": 3}, "--start_step is 3" + NO_SCHEDULE),
        ({"target_sparsity": 0.99}, f"--target_sparsity is 0.99; give at most 0.98, {ALL_THAT.format('4x1')}"),
        (
            {"target_sparsity": 0.6, "pattern": "2:4"},
            f"--target_sparsity is 0.6; give at most 0.5, {ALL_THAT.format('2:4')}",
        ),
        (
            {"min_sparsity_ratio_per_op": 0.7, "max_sparsity_ratio_per_op": 0.6, "target_sparsity": 0.65},
            f"--min_sparsity_ratio_per_op is 0.7; give at most 0.6, {ALL_THAT.format('4x1')}",
        ),
        (
            {**LOCKED, "min_sparsity_ratio_per_op": 0.99},
            f"--min_sparsity_ratio_per_op is 0.99; give at most 0.98, {ALL_THAT.format('4x1')}",
        ),
        (
            {"min_sparsity_ratio_per_op": 0.4, "target_sparsity": 0.2},
            "--min_sparsity_ratio_per_op is 0.4; give at most 0.2, which is target_sparsity",
        ),
        *(
            ({"pruning_type": "snip_progressive", "pattern": pattern}, f"--pattern is {pattern}{LITTLE_BY_LITTLE}")
            for pattern in ("1x1", "3x1", "1x2", "2:4", "3:16")
        ),
    ],
)
def test_a_pruner_that_contradicts_itself_is_refused_by_name(pruner, message):
    with pytest.raises(UsageError) as refusal:
        check_pruner(pruner, lambda key: f"--{key}")
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    "pruner",
    [
        {},
        {"start_step": 5, "end_step": 5, "start_epoch": 1, "end_epoch": 1},
        *({"start_step": 5, "end_step": None}, {"start_step": None, "end_step": 0}, {**LOCKED, "start_step": 0}),
        {**LOCKED, "end_epoch": 2, "target_sparsity": 0.99, "min_sparsity_ratio_per_op": 0.5, "pattern": "1x1"},
        {"target_sparsity": 0.98, "min_sparsity_ratio_per_op": 0.98},
        {"target_sparsity": 0.99, "max_sparsity_ratio_per_op": 0.99},
        {"min_sparsity_ratio_per_op": 0.9},
        {"pruning_type": "snip", "pattern": "1x1"},
        *(
            {"pruning_type": "snip_progressive", "pattern": pattern}
            for pattern in ("4x1", "1x4", "2x2", "4:8", "channelx1", "1xchannel")
        ),
        {"pruning_type": "snip_progressive"},
    ],
)
def test_a_pruner_that_goes_together_is_left_alone(pruner):
    check_pruner(pruner, str)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pattern": "1x1"}, [{"pattern": "1x1"}]),
        ({"pattern": "1x1", "pruning_configs": []}, [{"pattern": "1x1"}]),
        # What is local wins; a local step also over an epoch for all.
        (
            {
                "start_epoch": 1,
                "end_epoch": 2,
                "pattern": "1x1",
                "pruning_configs": [{"end_step": 9}, {"pattern": "4x1"}],
            },
            [
                {"start_epoch": 1, "pattern": "1x1", "end_step": 9},
                {"start_epoch": 1, "end_epoch": 2, "pattern": "4x1"},
            ],
        ),
        # The schedule of pattern_lock is none for others.
        (
            {
                **LOCKED,
                "start_step": 0,
                "end_step": 0,
                "end_epoch": 0,
                "pruning_configs": [{"pruning_type": "snip"}, {}],
            },
            [{"pruning_type": "snip"}, {**LOCKED, "start_step": 0, "end_step": 0, "end_epoch": 0}],
        ),
    ],
)
def test_what_is_local_to_a_pruner_wins(settings, expected):
    assert pruners_of(settings) == expected


@pytest.mark.parametrize(
    ("pruner", "steps", "expected"),
    [
        # The last step that INC sees is the last but one of the training.
        ({"start_step": 0, "end_step": None}, 40, (0, 39, 1)),
        ({"start_step": 3, "end_step": 1000}, 40, (3, 39, 1)),
        ({"start_step": 3, "end_step": 7, "pruning_frequency": 2}, 40, (3, 7, 2)),
        ({"start_step": 3, "end_step": 7, "pruning_frequency": 9}, 40, (3, 7, 4)),
        ({"start_step": 38, "end_step": None}, 40, (38, 39, 1)),
        ({"start_epoch": 0.5, "end_epoch": 1.5}, 40, (6, 18, 1)),
        ({"start_step": 2, "end_epoch": 1}, 40, (2, 12, 1)),
        # In whole rounds of at least four steps; two of them, or none.
        ({"start_step": 0, "end_step": None, "pruning_type": "snip_progressive"}, 40, (0, 39, 4)),
        ({"start_step": 1, "end_step": 30, "pruning_type": "snip_progressive"}, 40, (1, 28, 4)),
        (
            {"start_step": 0, "end_step": None, "pruning_type": "snip_progressive", "pruning_frequency": 15},
            40,
            (0, 29, 15),
        ),
        ({"start_step": 0, "end_step": 7, "pruning_type": "snip_progressive"}, 40, (0, 7, 4)),
        ({"start_step": 0, "end_step": 6, "pruning_type": "snip_progressive", "pruning_frequency": 3}, 40, (0, 6, 1)),
    ],
)
def test_a_schedule_ends_with_the_training(pruner, steps, expected):
    pruner = {"pruning_type": "magnitude", **pruner}
    fitted = fit_schedule(pruner, EPOCH, steps)
    assert fitted.pop("pruning_configs") == []
    assert (fitted["start_step"], fitted["end_step"], fitted["pruning_frequency"]) == expected
    assert fitted.keys() == {"pruning_type", "start_step", "end_step", "pruning_frequency"}


def test_a_schedule_that_does_not_fit_is_refused_with_a_way_out():
    message = (
        "pruning from step 39 to step 39 does not fit into 40 training steps: lower --start_step, raise --end_step or "
        "--num_train_epochs, or make the batches smaller"
    )
    with pytest.raises(UsageError) as refusal:
        fit_schedule({"pruning_type": "snip", "start_step": 39, "end_step": None}, EPOCH, 40)
    assert str(refusal.value) == message


def test_several_pruners_come_back_with_what_they_share():
    snip, locked = {"pruning_type": "snip", "pattern": "4x1", "target_sparsity": 0.5}, {**LOCKED, "pattern": "4x1"}
    merged = merge_flags({"pattern": "4x1", "pruning_configs": [snip, locked]}, FLAGS, set())
    snip = {**snip, "start_step": 0, "end_step": None}
    locked = {**locked, "start_step": 0, "end_step": 0}
    assert merged == {
        **{"pruning_type": "snip", "pattern": "4x1", "start_step": 0},
        "pruning_configs": [snip, locked],
    }
    only = merge_flags({"pattern": "4x1"}, FLAGS, set())
    assert only == {**FLAGS, "pattern": "4x1", "pruning_configs": []}


@pytest.mark.parametrize("flag", ["target_sparsity", "start_step", "end_step"])
def test_flags_that_mean_nothing_to_pattern_lock_are_refused(flag):
    message = f"--{flag} means nothing to pattern_lock, which keeps the zeros of the model; drop it"
    with pytest.raises(UsageError) as refusal:
        merge_flags(LOCKED, {**FLAGS, flag: 0}, {flag})
    assert str(refusal.value) == message
    # Unless there is a pruner besides to which they mean something.
    merged = merge_flags({**LOCKED, "pruning_configs": [{"pruning_type": "snip"}, {}]}, {**FLAGS, flag: 0}, {flag})
    assert [pruner["pruning_type"] for pruner in pruners_of(merged)] == ["snip", "pattern_lock"]


def test_a_flag_names_itself_and_a_file_its_key():
    flags = {**FLAGS, "start_step": 5}
    with pytest.raises(UsageError, match=r"^end_step of the pruning configuration is 4; give at least start_step"):
        merge_flags({"end_step": 4}, flags, {"start_step"})
    with pytest.raises(UsageError, match=r"^--end_step is 4; give at least start_step, which is 5$"):
        merge_flags({"start_step": 5}, {**FLAGS, "end_step": 4}, {"end_step"})
    # INC's limit is not meant against a flag, one of the file is.
    (pruner,) = pruners_of(merge_flags({}, {**FLAGS, "target_sparsity": 0.99}, {"target_sparsity"}))
    assert pruner["max_sparsity_ratio_per_op"] == 0.99
    (pruner,) = pruners_of(merge_flags({}, {**FLAGS, "target_sparsity": 0.2}, {"target_sparsity"}))
    assert pruner["max_sparsity_ratio_per_op"] == 0.98


@pytest.mark.parametrize(("start", "growth", "end"), [(0, 0.5, 10), (12, 0.5, 16), (12, 1.0, 19), (18, 0.5, 19)])
def test_sparsity_grows_in_a_share_of_the_steps_behind_the_start(start, growth, end):
    pruner = {"pruning_type": "magnitude", "start_step": start, "end_step": None, "target_sparsity": 0.9}
    assert fit_schedule(pruner, 10, 20, growth)["end_step"] == end
