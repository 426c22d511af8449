"""Pruning: INC's configuration, and the state of its pruners.

Belongs here: what is pruned, and when.
Does not belong here: the loop itself (`trainer_qa.py`, `qa/training/`), counting zeros (`sparsity.py`), and reading
YAML (`settings.py`).
"""

import copy
import re

import torch
from neural_compressor import WeightPruningConfig
from neural_compressor.compression.pruner.schedulers import IterativeScheduler, register_scheduler

from qa.compression.schedule import is_locked
from qa.compression.sparsity import answer_head, prunable_weights, unused_linears
from qa.start.errors import UsageError

# Share of weights that may be zero without anybody's doing.
BY_CHANCE = 0.001


@register_scheduler("iterative")
class Scheduler(IterativeScheduler):
    """INC's schedules, and the cubic one of Zhu and Gupta (2017, arXiv:1710.01878): fast first, while much is left.

    INC's own `cube` is the other way round: it takes half of the weights in the last fifth of the steps. All of them
    go on from `there`, the share of zeros that `keep_zeros` found.
    """

    there = 0.0

    def update_sparsity_ratio(
        self, target_ratio, current_prune_step, total_prune_steps, masks, init_sparsity_ratio=0.0
    ):
        init_sparsity_ratio = init_sparsity_ratio or self.there
        if not current_prune_step:
            # INC's formulas may come out a rounding above the share that is there already. No weight has a score yet:
            # all would be chosen.
            return init_sparsity_ratio
        if self.config.sparsity_decay_type != "cubic":
            return super().update_sparsity_ratio(
                target_ratio, current_prune_step, total_prune_steps, masks, init_sparsity_ratio
            )
        left = 1 - min(current_prune_step / total_prune_steps, 1.0)
        return target_ratio + (init_sparsity_ratio - target_ratio) * left**3


def pruning_config(settings, model=None):
    """Build the pruning configuration.

    Args:
        settings: keyword arguments of `WeightPruningConfig`.
        model: to be pruned; its answer head, whatever it is called, is left out, and so are operators that its forward
            pass does not use.

    Returns:
        A fresh `WeightPruningConfig`.

    Raises:
        UsageError: there is nothing to prune.
    """
    left_out = []
    if model is not None:
        if not prunable_weights(model):
            raise UsageError("--apply_pruning: the model uses no linear operator but its head; leave the flag out")
        left_out = [rf"^{re.escape(name)}$" for name in sorted(answer_head(model) | unused_linears(model))]
    settings = {"op_names": [], "excluded_op_names": [], "pruning_op_types": ["Linear"], **settings}
    # INC writes into what it is given, and its own defaults are shared by all configurations of a process.
    fresh = copy.deepcopy(settings)
    fresh["pruning_configs"] = fresh.get("pruning_configs") or [{}]
    for part in (fresh, *fresh["pruning_configs"]):
        if "excluded_op_names" in part:
            part["excluded_op_names"] += left_out
    return WeightPruningConfig(**fresh)


def check_pruners(pruners):
    """Refuse pruners that could not reach what is asked for with the operators of this model.

    Args:
        pruners: from the callbacks of INC's compression manager, before the training.

    Raises:
        UsageError: one has no operator or not the same as another, a pattern does not divide an operator, or the model
            has too many zeros, or none to be kept.
    """
    taken = {}
    for pruner in pruners:
        modules, settings = pruner.modules, pruner.config
        if not modules:
            raise UsageError(
                f"the pruning settings leave no operator to prune: none of {', '.join(settings['pruning_op_types'])} "
                "is among op_names and not among excluded_op_names; change these in --pruning_config"
            )
        for name in modules:
            if name in taken:
                raise UsageError(
                    f"two of the pruning_configs prune {name}; give them op_names that have nothing in common"
                )
            taken[name] = pruner
        if pruner.pattern.invalid_layers:
            name = pruner.pattern.invalid_layers[0]
            shape = " x ".join(map(str, modules[name].weight.shape))
            raise UsageError(
                f"pattern {settings['pattern']} does not divide {name}, which is {shape}; give another pattern in "
                "--pruning_config, or name the operator in excluded_op_names"
            )
        zeros = sum(int((module.weight == 0).sum()) for module in modules.values())
        share, target = zeros / sum(module.weight.numel() for module in modules.values()), settings["target_sparsity"]
        if settings["pruning_type"] == "pattern_lock":
            masks = pruner.pattern.get_pattern_lock_masks(modules)
            if all(bool(mask.all()) for mask in masks.values()):
                raise UsageError(
                    f"pattern_lock has nothing to keep: the model has {share:.4f} zeros and none that fill a block of "
                    f"pattern {settings['pattern']}; name a sparse model, or another --pruning_approach"
                )
        else:
            refuse_fewer_zeros(share, target)


def refuse_fewer_zeros(share, target):
    """Refuse a target sparsity below the share of zeros that a model has.

    Raises:
        UsageError: it is below, by more than rounding.
    """
    if share > target + 0.001:
        raise UsageError(
            f"the model has {share:.4f} zeros already, more than the {target:g} of --target_sparsity; ask for more, "
            "or keep them with run_qa.py --pruning_approach pattern_lock"
        )


def keep_zeros(pruner):
    """Let a pruner go on from the zeros, or blocks of them, that its operators have; INC's begins with none.

    Else all zeros of a sparse model would come back before the sparsity grows beyond theirs.

    Args:
        pruner: from the callbacks of INC's compression manager, before the training. Nothing happens to one of a
            pattern N:M, which allows no other share than its own.
    """
    pattern = pruner.pattern
    if is_locked(pruner.config) or ":" in pattern.pattern:
        return
    masks, choose = pattern.get_pattern_lock_masks(pruner.modules), pattern.get_masks
    share = pattern.get_sparsity_ratio(masks)

    def choose_more(scores, target, masks, *args, **kwargs):
        return masks if target <= share else choose(scores, target, masks, *args, **kwargs)

    if share > BY_CHANCE:
        pattern.get_masks = choose_more
        for name in ("masks", "pre_masks", "progressive_masks"):  # the latter two are progressive pruners' own
            if hasattr(pruner, name):
                setattr(pruner, name, copy.deepcopy(masks))
        pruner.init_sparsity_ratio = pruner.current_sparsity_ratio = pruner.scheduler.there = share


def scores_by_gradients(pruner):
    """Tell whether one of INC's pruners chooses weights by their gradients: magnitude and pattern_lock do not."""
    return pruner.config["pruning_type"].startswith(("snip", "gradient"))


def pruner_state(pruner):
    """Return what one of INC's pruners has come to: steps, masks and scores, which it cannot save itself.

    Args:
        pruner: from the callbacks of INC's compression manager.

    Returns:
        Dictionary from the name of its part to the values of that part: numbers, tensors, and lists and dictionaries
        of them.
    """
    return {
        part: {name: value for name, value in vars(holder).items() if name not in _GIVEN and _is_state(value)}
        for part, holder in _parts_of(pruner).items()
    }


def restore_pruner(pruner, state):
    """Put a pruner into a state from `pruner_state`."""
    for part, holder in _parts_of(pruner).items():
        vars(holder).update(state[part])


# What a pruner was built from, and is built from again.
_GIVEN = ("config", "modules")


def _parts_of(pruner):
    parts = {name: getattr(pruner, name, None) for name in ("pattern", "scheduler", "criterion", "reg")}
    return {"pruner": pruner, **{name: part for name, part in parts.items() if part is not None}}


def _is_state(value):
    if isinstance(value, dict):
        return all(map(_is_state, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_state, value))
    return isinstance(value, (bool, int, float, torch.Tensor))
