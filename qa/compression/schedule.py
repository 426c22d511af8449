"""When what is pruned: INC's settings for one training.

Belongs here: merging the pruning settings of file and flags with the steps of the training.
Does not belong here: reading the file (`settings.py`) and INC's own objects (`pruning.py`).
"""

from qa.compression.settings import find_config, pruning_settings, steps_of_epochs
from qa.start.errors import UsageError


def settings_for_pruning(optimization_args, steps_per_epoch, last_step):
    """Merge the pruning settings: flags that were given win over the YAML file, the file over the flags' defaults.

    Args:
        optimization_args: `OptimizationArguments` as parsed.
        steps_per_epoch: optimizer steps of an epoch.
        last_step: optimizer steps of the whole training.

    Returns:
        Keyword arguments for `WeightPruningConfig` whose schedule ends inside the training.
    """
    locked = optimization_args.pruning_approach == "pattern_lock"
    default = "prune_pattern_lock.yml" if locked else "prune.yml"
    path = find_config(optimization_args.pruning_config or default, "pruning_config")
    settings = steps_of_epochs(pruning_settings(path), steps_per_epoch)
    for flag, key in (
        ("pruning_approach", "pruning_type"),
        ("target_sparsity", "target_sparsity"),
        ("start_step", "start_step"),
        ("end_step", "end_step"),
    ):
        if flag in optimization_args.given or key not in settings:
            settings[key] = getattr(optimization_args, flag)
    if settings["pruning_type"] == "pattern_lock":
        # INC accepts no schedule for it: the pattern is that of the first step and stays.
        return {**settings, "start_step": 0, "end_step": 0}
    # INC sees the steps 0 to last_step - 1, and what is due later never happens.
    end = last_step - 1 if settings["end_step"] is None else min(settings["end_step"], last_step - 1)
    frequency = settings.get("pruning_frequency", 1)
    if settings["pruning_type"].endswith("_progressive"):
        # Progressive masks fill blocks of at least four weights little by little, in at least four steps each time; a
        # round that the training cuts short leaves its block half done, so the last one ends with the schedule.
        if optimization_args.pruning_config is None:
            settings["pattern"] = "4x1"
        rounds = (end + 1 - settings["start_step"]) // max(frequency, 4)
        if rounds > 1:  # with less, INC prunes as the approach without "_progressive" does
            frequency = max(frequency, 4)
            end = settings["start_step"] + rounds * frequency - 1
    if end <= settings["start_step"]:
        raise UsageError(
            f"pruning from step {settings['start_step']} on does not fit into {last_step} training steps: lower "
            "--start_step, raise --num_train_epochs, or make the batches smaller"
        )
    settings["max_sparsity_ratio_per_op"] = max(
        settings.get("max_sparsity_ratio_per_op", 0.98), settings["target_sparsity"]
    )
    return {**settings, "end_step": end, "pruning_frequency": min(frequency, end - settings["start_step"])}
