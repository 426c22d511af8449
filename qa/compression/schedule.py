"""Pruning settings as a whole: which go together, which flags win, and how a schedule fits into a training.

Belongs here: pure functions from plain values to plain values, checked before INC sees them.
Does not belong here: reading YAML (`settings.py`), and INC's pruners (`pruning.py`).
"""

import re

from qa.start.errors import UsageError

_CRITERIA = ("snip_momentum", "magnitude", "gradient", "snip")
PRUNING_APPROACHES = (*(name + way for name in _CRITERIA for way in ("", "_progressive")), "pattern_lock")
# INC's `max_sparsity_ratio_per_op`, where nothing is said.
MOST_PER_OPERATOR = 0.98
# Weights of a block that INC's progressive masks fill, and steps that they take to do so.
PROGRESSIVE_STEPS = 4
_EDGES = ("start_step", "end_step", "start_epoch", "end_epoch")


def is_locked(pruner):
    """Tell whether the settings of a pruner only keep the zeros that are there."""
    return pruner.get("pruning_type") == "pattern_lock"


def share_of_pattern(pattern):
    """Return the part that an N:M pattern can prune, 1 for other patterns."""
    ratio = re.fullmatch(r"(?:tile_pattern_)?(\d{1,4}):([1-9]\d{0,3})", pattern, re.ASCII)
    return int(ratio[1]) / int(ratio[2]) if ratio else 1.0


def _weights_at_once(pattern):
    """Return how many weights of a block go together, N of N:M and the area of NxM; channels are large enough."""
    if "channel" in pattern:
        return PROGRESSIVE_STEPS
    first, second = re.findall(r"\d+", pattern)
    return int(first) if ":" in pattern else int(first) * int(second)


def pruners_of(settings):
    """Return the settings of each pruner: what is local to it, and what holds everywhere for the rest.

    Args:
        settings: keyword arguments for `WeightPruningConfig`, and `start_epoch` and `end_epoch`.

    Returns:
        List of dictionaries without `pruning_configs`, at least one.
    """
    common = {key: value for key, value in settings.items() if key != "pruning_configs"}
    pruners = []
    for local in settings.get("pruning_configs") or [{}]:
        hidden = {key.replace("step", "epoch") for key in local}  # a common epoch would win over a local step
        if is_locked(common) and not is_locked({**common, **local}):
            hidden.update(_EDGES)  # other approaches do not inherit its schedule
        hidden &= set(_EDGES)
        pruners.append({**{key: value for key, value in common.items() if key not in hidden}, **local})
    return pruners


def check_pruner(pruner, name):
    """Refuse settings of one pruner that do not go together.

    Args:
        pruner: dictionary from `pruners_of`; what is not in it is not checked.
        name: callable from a key to what a message calls it: the flag, or the key with its file and line.

    Raises:
        UsageError: two of them contradict each other.
    """
    pattern = pruner.get("pattern", "4x1")
    for kind in ("step", "epoch"):
        first, last = pruner.get(f"start_{kind}") or 0, pruner.get(f"end_{kind}")
        given = f"end_{kind}" if last is not None else f"start_{kind}"
        if last is not None and last < first:
            raise UsageError(f"{name(given)} is {last:g}; give at least start_{kind}, which is {first:g}")
        if is_locked(pruner) and kind == "step" and (first or last):
            raise UsageError(
                f"{name(given)} is {pruner[given]:g}; pattern_lock has no schedule, it keeps the zeros of the first "
                "step: leave start_step and end_step out"
            )
    allowed = min(pruner.get("max_sparsity_ratio_per_op", MOST_PER_OPERATOR), share_of_pattern(pattern))
    for key in ("min_sparsity_ratio_per_op", *(() if is_locked(pruner) else ("target_sparsity",))):
        if pruner.get(key, 0) > allowed:
            raise UsageError(
                f"{name(key)} is {pruner[key]:g}; give at most {allowed:g}, which is all that the pattern "
                f"{pattern} and max_sparsity_ratio_per_op allow"
            )
    if not is_locked(pruner) and pruner.get("min_sparsity_ratio_per_op", 0) > pruner.get("target_sparsity", 1):
        raise UsageError(
            f"{name('min_sparsity_ratio_per_op')} is {pruner['min_sparsity_ratio_per_op']:g}; give at most "
            f"{pruner['target_sparsity']:g}, which is target_sparsity"
        )
    if pruner.get("pruning_type", "").endswith("_progressive") and _weights_at_once(pattern) < PROGRESSIVE_STEPS:
        raise UsageError(
            f"{name('pattern')} is {pattern}; {pruner['pruning_type']} fills blocks little by little: give a pattern "
            f"of at least {PROGRESSIVE_STEPS} weights, as 4x1 or 4:8"
        )


def merge_flags(settings, flags, given):
    """Let flags that were given win over a file, and the file over the flags' defaults, for each pruner.

    Args:
        settings: of the file, from `pruning_settings`; left as it is.
        flags: dictionary of `pruning_type`, `target_sparsity`, `start_step` and `end_step` (`None`: the last step).
        given: those of its keys whose flags were given.

    Returns:
        The settings with all four for each pruner, or epochs in place of steps; `fit_schedule` takes them.

    Raises:
        UsageError: what comes out does not go together.
    """
    won = {key: flags[key] for key in given}
    pruners = []
    for own in pruners_of(settings):
        locked = is_locked({**own, **won})
        lost = set(_EDGES) if locked != is_locked(own) else {key.replace("step", "epoch") for key in won}
        pruner = {**{key: value for key, value in own.items() if key not in lost}, **won}
        if locked:
            pruner |= {"start_step": 0, "end_step": 0}
        else:
            pruner = {**flags, **pruner}
            if "target_sparsity" in won:  # the flag may exceed INC's default limit, not the file's
                pruner.setdefault("max_sparsity_ratio_per_op", max(MOST_PER_OPERATOR, pruner["target_sparsity"]))
        check_pruner(pruner, lambda key: f"--{key}" if key in given else f"{key} of the pruning configuration")
        pruners.append(pruner)
    useless = sorted({"target_sparsity", "start_step", "end_step"} & set(given))
    if useless and all(map(is_locked, pruners)):
        raise UsageError(f"--{useless[0]} means nothing to pattern_lock, which keeps the zeros of the model; drop it")
    return _together(pruners, settings)


def fit_schedule(settings, steps_per_epoch, last_step, growth=1.0):
    """Fit the schedule of each pruner into the training, so that it comes to its end and reaches its sparsity.

    Args:
        settings: from `merge_flags`; left as it is.
        steps_per_epoch: optimizer steps of an epoch.
        last_step: optimizer steps of the whole training.
        growth: share of those after the start in which sparsity grows, where no end is given.

    Returns:
        Keyword arguments for `WeightPruningConfig`.

    Raises:
        UsageError: a schedule does not fit.
    """
    fitted = [_fitted(pruner, steps_per_epoch, last_step, growth) for pruner in pruners_of(settings)]
    return _together(fitted, settings)


def _together(pruners, settings):
    """Put pruners back into one dictionary: with `pruning_configs`, if there were any, else the one as it is."""
    if not settings.get("pruning_configs"):
        return {**pruners[0], "pruning_configs": []}
    first, *others = pruners
    common = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    return {"pruning_type": first["pruning_type"], **common, "pruning_configs": pruners}


def _fitted(pruner, steps_per_epoch, last_step, growth):
    if is_locked(pruner):
        return pruner
    pruner, frequency = dict(pruner), pruner.get("pruning_frequency", 1)
    for key in ("start_epoch", "end_epoch"):
        if key in pruner:
            pruner[key.replace("epoch", "step")] = round(pruner.pop(key) * steps_per_epoch)
    start, end = pruner["start_step"], pruner["end_step"]
    if end is None:
        end = max(start + 1, start + round(growth * (last_step - start)))
    # INC sees the steps 0 to last_step - 1, and what is due later never happens.
    end = min(end, last_step - 1)
    if pruner["pruning_type"].endswith("_progressive"):
        # A block takes at least four steps to be filled, and one that the training cuts short stays half done: so the
        # last round ends with the schedule. With a frequency of 1 INC prunes as without "_progressive".
        rounds = (end + 1 - start) // max(frequency, PROGRESSIVE_STEPS)
        frequency = max(frequency, PROGRESSIVE_STEPS) if rounds > 1 else 1
        end = start + rounds * frequency - 1 if rounds > 1 else end
    if end <= start:
        raise UsageError(
            f"pruning from step {start} to step {end} does not fit into {last_step} training steps: lower "
            "--start_step, raise --end_step or --num_train_epochs, or make the batches smaller"
        )
    return {**pruner, "start_step": start, "end_step": end, "pruning_frequency": min(frequency, end - start)}
