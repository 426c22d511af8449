"""Pruning: INC's configuration, its pruners' state, and how sparse a model is.

Belongs here: what is pruned, when, and counting zeros.
Does not belong here: the loop itself (`trainer_qa.py`, `qa/training/`) and reading YAML (`settings.py`).
"""

import json
import re
from pathlib import Path

import torch
from neural_compressor import WeightPruningConfig

from qa.start.output import write_text


def pruning_config(settings):
    """Build the pruning configuration.

    Args:
        settings: keyword arguments of `WeightPruningConfig`.

    Returns:
        A fresh `WeightPruningConfig`.
    """
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


def prunable_weights(model, excluded=r".*qa_outputs"):
    """Find the weights of all linear operators but the excluded ones, in an fp32 or an int8 model.

    Returns:
        Dictionary from operator name (without INC's ".module") to the `(out, in)` tensor of values that the
        operator multiplies with; an int8 weight is dequantized, its zeros stay zeros.
    """
    weights = {}
    for name, module in model.named_modules():
        name = name.removesuffix(".module")
        if type(module).__name__ != "Linear" or re.fullmatch(excluded, name):
            continue
        weight = module.weight() if callable(module.weight) else module.weight
        weights[name] = (weight.dequantize() if weight.is_quantized else weight).detach()
    return weights


def sparsity(model):
    """Return the share of zeros, from 0 to 1, in the linear operators of a model without the answer head."""
    weights = prunable_weights(model).values()
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def sparsity_report(model, parameters):
    """Count zeros.

    Args:
        model: fp32 or int8 model.
        parameters: how many it has; an int8 model no longer tells.

    Returns:
        Dictionary of shares from 0 to 1: `sparsity` over the linear operators without the answer head,
        `sparsity_of_model` over all parameters, and `sparsity_per_op` by operator name.
    """
    weights = prunable_weights(model)
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    return {
        "sparsity": sparsity(model),
        "sparsity_of_model": sum(zeros.values()) / parameters,
        "sparsity_per_op": {name: zeros[name] / weight.numel() for name, weight in weights.items()},
    }


def save_sparsity(report, output_dir):
    """Put a sparsity report into `inc_config.json`, in place of INC's percentage of all parameters."""
    path = Path(output_dir) / "inc_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["pruning"].update(report)
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
