"""How sparse a model is.

Belongs here: which weights pruning is about, and counting their zeros, in fp32 and int8 models.
Does not belong here: making zeros (`pruning.py`).
"""

import json
import re
from pathlib import Path

from qa.start.output import write_text


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
