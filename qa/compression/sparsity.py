"""How sparse a model is.

Belongs here: which weights pruning is about, and counting their zeros, in fp32 and int8 models.
Does not belong here: making zeros (`pruning.py`).
"""

import collections
import json
import weakref
from pathlib import Path

import torch
from transformers import PreTrainedModel

from qa.models.engine_runs import LOGITS
from qa.models.inputs import dummy_inputs
from qa.start.writing import write_text

_UNUSED = weakref.WeakKeyDictionary()  # model -> what `unused_linears` found


def unused_linears(model):
    """Find the linear operators that no answer of a model depends on, such as the pooler of another task.

    A graph that was traced for quantization has none of them any more.

    Args:
        model: fp32 or int8 model, which is run once and not changed.

    Returns:
        Set of operator names.
    """
    if not isinstance(model, PreTrainedModel):
        return set()
    if model not in _UNUSED:
        weights = {
            name: module.weight
            for name, module in model.named_modules()
            if type(module) is torch.nn.Linear and module.weight.requires_grad
        }
        was_training = model.training
        with torch.enable_grad():
            # A pooler is run by its encoder also where nobody looks at what it gives: gradients tell that.
            outputs = model.eval()(**dummy_inputs(model))
            # A language model has logits of words, or states of the last layer.
            logits = [outputs[name] for name in LOGITS if name in outputs] or [outputs[0]]
            total = sum(each.sum() for each in logits)
            # A model whose operators are all int8 has none to ask about.
            gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True) if weights else ()
        model.train(was_training)
        _UNUSED[model] = {name for name, gradient in zip(weights, gradients, strict=True) if gradient is None}
    return _UNUSED[model]


def answer_head(model):
    """Name the linear operators that make answers of what the language model says, whatever they are called.

    Args:
        model: with or without a head, fp32 or int8.

    Returns:
        Set of operator names (without INC's ".module"): those outside the part that holds most of them, or, where no
        part does, those of the head's usual name. Empty for a model that is a language model alone.
    """
    names = [name.removesuffix(".module") for name, module in model.named_modules() if _is_linear(module)]
    if getattr(model, "base_model", None) is model:
        return set()
    prefix = getattr(model, "base_model_prefix", "")
    if prefix and hasattr(model, prefix):
        return {name for name in names if name.split(".")[0] != prefix}
    for part, count in collections.Counter(name.split(".")[0] for name in names).items():
        if 2 * count > len(names):
            return {name for name in names if name.split(".")[0] != part}
    return {name for name in names if name.endswith("qa_outputs")}


def _is_linear(module):
    # Fake-quant and int8 have one operator of both; in fp32 it is a sequence, whose first part counts.
    return type(module).__name__ in ("Linear", "LinearReLU") and hasattr(module, "weight")


def prunable_weights(model):
    """Find the weights of all linear operators in use but those of the answer head, in an fp32 or an int8 model.

    Returns:
        Dictionary from operator name (without INC's ".module") to the `(out, in)` tensor of values that the
        operator multiplies with; an int8 weight is dequantized, its zeros stay zeros.
    """
    weights, left_out = {}, answer_head(model) | unused_linears(model)
    for name, module in model.named_modules():
        name = name.removesuffix(".module")
        if not _is_linear(module) or name in left_out:
            continue
        weight = module.weight() if callable(module.weight) else module.weight
        weights[name] = (weight.dequantize() if weight.is_quantized else weight).detach()
    return weights


def sparsity(model):
    """Return the share of zeros, from 0 to 1, in the linear operators of a model without the answer head."""
    return sparsity_report(model, 1)["sparsity"]


def sparsity_report(model, parameters):
    """Count zeros.

    Args:
        model: fp32 or int8 model.
        parameters: how many it has; an int8 model no longer tells.

    Returns:
        Dictionary of shares from 0 to 1: `sparsity` over the linear operators without the answer head,
        `sparsity_of_model`, the same zeros over all parameters, and `sparsity_per_op` by operator name.
    """
    weights = prunable_weights(model)
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    count = sum(weight.numel() for weight in weights.values())
    return {
        "sparsity": sum(zeros.values()) / count if count else 0.0,
        "sparsity_of_model": sum(zeros.values()) / parameters,
        "sparsity_per_op": {name: zeros[name] / weight.numel() for name, weight in weights.items()},
    }


def save_sparsity(report, output_dir):
    """Put a sparsity report into `inc_config.json`, in place of INC's percentage of all parameters."""
    path = Path(output_dir) / "inc_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["pruning"].update(report)
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
