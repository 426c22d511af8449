"""Intel Neural Compressor 3.7.1: fake-quant with other scales than int8, masks counted too often, dropout in what it
loads, exceptions that it prints in place of raising them.

`align_weight_quantizers` can go when the logits of a fake-quant model and of what `convert` makes of it agree to the
last rounding without it; `count_masks_once` when a pruning step of a model of 36 operators takes no longer than its
forward pass; `loading_instructions` when `INCModelForQuestionAnswering.from_pretrained` gives a model from
quantization-aware training in evaluation mode; `kept_exceptions` when `quantization.fit` raises what went wrong.
"""

import contextlib
import logging
import os
import sys
import traceback
import types

import torch
from neural_compressor.compression.pruner.patterns.base import SparsityInfo
from neural_compressor.compression.pruner.patterns.nxm import PytorchPatternNxM
from torch.ao.quantization import FakeQuantize


@contextlib.contextmanager
def kept_exceptions():
    """Keep the exceptions that `quantization.fit` catches, and that it prints with all that led to them.

    They hold whole tensors and graphs: for one model 1,600 lines, and in the end no word of the reason. With
    `--log_level info` they are printed as well.

    Yields:
        List of the exceptions, filled as they come.
    """
    kept, print_exc, logger = [], traceback.print_exc, logging.getLogger("neural_compressor")
    quiet = os.environ.get("LOGLEVEL") == "ERROR"

    def keep(*args, **kwargs):
        kept.append(sys.exc_info()[1])
        if not quiet:
            print_exc(*args, **kwargs)

    traceback.print_exc, disabled = keep, logger.disabled
    logger.disabled = quiet
    try:
        yield kept
    finally:
        traceback.print_exc, logger.disabled = print_exc, disabled


class _StraightThrough(torch.autograd.Function):
    """A weight as the int8 model will have it, with the gradient of the weight itself."""

    @staticmethod
    def forward(ctx, quantizer, weight):
        return FakeQuantize.forward(quantizer, weight)

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient


def align_weight_quantizers(model, scored=False):
    """Make fake-quant round weights by the very scales that the int8 model will have.

    INC prepares the model with torch's fused operator, which takes max(|min| / 128, max / 127) as the scale of a
    channel, while the conversion takes max(|min|, |max|) / 127.5: the int8 model then has other weights than the one
    that was trained. The plain operator asks the observer, as the conversion does.

    By that scale the largest weight of a channel, if it is positive, comes to 127.5, where torch's operators clip and
    pass no gradient. Pruning by gradients would take it for the one that matters least: with a tenth of the weights
    pruned, minilm-squad loses 2 F1 to that.

    Args:
        model: model prepared for quantization-aware training.
        scored: whether pruning scores its weights by their gradients; then these pass where weights are clipped.
    """
    forward = _StraightThrough.apply if scored else FakeQuantize.forward
    for name, module in model.named_modules():
        if name.endswith("weight_fake_quant"):
            module.forward = types.MethodType(forward, module)


def count_masks_once(pruner):
    """Keep one of INC's pruners from counting the zeros of all masks anew for each layer, longer than a step trains.

    To decide on the mask of one layer INC looks at those of all layers. Here a mask is counted when it is new.

    Args:
        pruner: from the callbacks of INC's compression manager. Only patterns of blocks (1x1, 4x1) count like that.
    """
    pattern = getattr(pruner, "pattern", None)
    if not isinstance(pattern, PytorchPatternNxM):
        return
    counted = {}  # layer -> the tensor, its version, and what was counted

    def count(name, mask):
        known, version, found = counted.get(name, (None, None, None))
        if mask is not known or mask._version != version:
            reduced = pattern.get_reduced_masks_from_data(mask.float(), name)
            zeros, total = reduced.numel() - int(reduced.count_nonzero()), reduced.numel()
            found = SparsityInfo(zeros, total, zeros / total)
            counted[name] = mask, mask._version, found
        return found

    def each_layer(masks):
        found = {name: count(name, mask) for name, mask in masks.items() if name not in pattern.invalid_layers}
        zeros, total = (sum(getattr(each, name) for each in found.values()) for name in ("zero_cnt", "total_cnt"))
        return found, SparsityInfo(zeros, total, zeros / total if total else 0.0)

    def ratio(masks, return_dict=False):
        _, info = each_layer(masks)
        return info._asdict() if return_dict else info.sparsity_ratio

    pattern.get_sparsity_ratio_each_layer, pattern.get_sparsity_ratio = each_layer, ratio


def loading_instructions(q_config):
    """Say how a model from quantization-aware training is rebuilt, in words that give it back in evaluation mode.

    INC's `load` builds what is marked as trained for int8 in training mode, with dropout, and leaves it so; what is
    marked as static post-training quantization it builds in evaluation mode. Once trained, the two have the same
    operators: int8 weights by channel, uint8 activations by tensor, all scales from the saved weights.

    Args:
        q_config: INC's description of the converted model (`q_config` of its PyTorch model).

    Returns:
        The dictionary that is saved with the weights as `best_configure`.
    """
    operators = {}
    for name, kind in q_config["op"]:
        weight = {"dtype": "int8", "scheme": "sym", "granularity": "per_channel", "algorithm": "minmax"}
        activation = {"dtype": "uint8", "scheme": "asym", "granularity": "per_tensor", "algorithm": "minmax"}
        quant_mode = "static"
        if kind in ("Embedding", "EmbeddingBag"):
            # A look-up has no activation to be quantized, and torch stores its rows as uint8 with scales in fp32.
            weight |= {"dtype": "uint8", "scheme": "asym_float"}
            quant_mode = "dynamic"
        operators[name, kind] = {"weight": weight, "activation": {**activation, "quant_mode": quant_mode}}
    return {
        "approach": "post_training_static_quant",
        "framework": q_config["framework"],
        "fx_sub_module_list": q_config["sub_module_list"],
        "op": operators,
    }
