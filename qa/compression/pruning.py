"""Pruning: INC's configuration, and the state of its pruners.

Belongs here: what is pruned, and when.
Does not belong here: the loop itself (`trainer_qa.py`, `qa/training/`) counting zeros (`sparsity.py`) and
reading YAML (`settings.py`).
"""

import re

import torch
from neural_compressor import WeightPruningConfig

from qa.compression.sparsity import prunable_weights, unused_linears
from qa.start.errors import UsageError


def pruning_config(settings, model=None):
    """Build the pruning configuration.

    Args:
        settings: keyword arguments of `WeightPruningConfig`.
        model: to be pruned; operators that its forward pass leaves out are left out here as well.

    Returns:
        A fresh `WeightPruningConfig`.

    Raises:
        UsageError: there is nothing to prune.
    """
    if model is not None:
        if not prunable_weights(model):
            raise UsageError("--apply_pruning: the model uses no linear operator but its head; leave the flag out")
        unused = [f"^{re.escape(name)}$" for name in sorted(unused_linears(model))]
        settings = {**settings, "excluded_op_names": [*settings.get("excluded_op_names", []), *unused]}
    settings = {"op_names": [], "excluded_op_names": [], "pruning_op_types": ["Linear"], **settings}
    # INC writes into these lists, and its own defaults are shared by all configurations of a process.
    fresh = {key: list(value) if isinstance(value, list) else value for key, value in settings.items()}
    fresh["pruning_configs"] = [dict(local) for local in settings.get("pruning_configs", [])] or [{}]
    return WeightPruningConfig(**fresh)


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
