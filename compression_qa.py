"""What training-time compression needs besides the training loop: INC's configurations, and how sparse a model is.

Belongs here: configurations of quantization-aware training, pruning and distillation as fresh INC objects, the
observers' life during training, and counting zeros.
Does not belong here: the loop itself (`trainer_qa.py`) and reading YAML (`config_qa.py`).
"""

import contextlib
import json
import math
import re
import types
from pathlib import Path

import torch
from neural_compressor import DistillationConfig, QuantizationAwareTrainingConfig, WeightPruningConfig
from neural_compressor.compression.pruner.patterns.base import SparsityInfo
from neural_compressor.compression.pruner.patterns.nxm import PytorchPatternNxM
from neural_compressor.config import KnowledgeDistillationLossConfig
from torch.ao.quantization import FakeQuantize, FakeQuantizeBase

from inference_qa import forward_passes
from output_qa import write_text


def training_quantization_config(settings, model):
    """Build the configuration of quantization-aware training.

    Args:
        settings: from `config_qa.quantization_settings("qat")`.
        model: the model to be trained. For this approach INC compares operator names letter by letter, so that the
            regular expressions of `op_name_dict` are spelled out for its modules here.

    Returns:
        A fresh `QuantizationAwareTrainingConfig`.
    """
    names = [name + suffix for name, _ in model.named_modules() for suffix in ("", ".module")]
    by_name = {
        name: operator
        for pattern, operator in settings.get("op_name_dict", {}).items()
        for name in names
        if re.fullmatch(pattern, name)
    }
    by_type = settings.get("op_type_dict", {})
    # Only this notation, a list of one, makes INC leave an operator out here.
    fp32 = {side: {"dtype": ["fp32"]} for side in ("weight", "activation")}
    return QuantizationAwareTrainingConfig(
        op_name_dict={name: fp32 for name, operator in by_name.items() if _is_fp32(operator)},
        op_type_dict={kind: fp32 for kind, operator in by_type.items() if _is_fp32(operator)},
    )


def _is_fp32(operator):
    return operator.get("weight", {}).get("dtype") in ("fp32", ["fp32"])


def use_plain_dropout(model):
    """Put torch's own dropout in place of DeBERTa's, which drops out and scales in the same way.

    INC puts fake-quant into a graph that is traced in training mode. Of a dropout in Python code that would keep the
    training's branch for good; torch's own stays a module, which evaluation mode turns off.

    Args:
        model: the model to be trained, changed in place.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "StableDropout":
                setattr(module, name, torch.nn.Dropout(child.drop_prob))


def calibrate_observers(model, batches, device="cpu"):
    """Set the ranges of the activation observers of a fake-quant model anew, from a pass in evaluation mode.

    In training mode they would see dropout, which widens every range behind it by a tenth and more.

    Args:
        model: model prepared for quantization-aware training.
        batches: `inference_qa.Batches` of training features.
        device: where the model is.
    """
    quantizers = _activation_quantizers(model).values()
    for quantizer in quantizers:
        quantizer.activation_post_process.reset_min_max_vals()
        quantizer.enable_observer()
        quantizer.disable_fake_quant()
    was_training = model.training
    model.eval()
    for _ in forward_passes(model, batches, device, desc="Calibrating"):
        pass
    model.train(was_training)
    for quantizer in quantizers:
        quantizer.enable_fake_quant()


def observe_together(model, counts):
    """Make the activation observers of a fake-quant model see the batches of all processes, as those of one would.

    Their operator moves the range towards the lowest and the highest activation of the batch and rounds by what comes
    of it. Here it is shown those two values of all processes first, and then rounds without looking again.

    Args:
        model: fake-quant model, which must see batches in training mode in all processes at the same time.
        counts: callable that tells whether this process's batch is one of those that count.
    """

    def forward(quantizer, activations):
        plain = type(quantizer).forward
        if not (quantizer.training and int(quantizer.observer_enabled)):
            return plain(quantizer, activations)
        with torch.no_grad():
            low, high = torch.aminmax(activations)
            furthest = torch.stack((-low, high))
            if not counts():
                furthest.fill_(-math.inf)
            torch.distributed.all_reduce(furthest, torch.distributed.ReduceOp.MAX)
            plain(quantizer, furthest * furthest.new_tensor((-1, 1)))
        quantizer.disable_observer()
        try:
            return plain(quantizer, activations)
        finally:
            quantizer.enable_observer()

    for quantizer in _activation_quantizers(model).values():
        quantizer.forward = types.MethodType(forward, quantizer)


class _StraightThrough(torch.autograd.Function):
    """A weight as the int8 model will have it, with the gradient of the weight itself."""

    @staticmethod
    def forward(ctx, weight, quantizer):
        return FakeQuantize.forward(quantizer, weight)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def _straight_through(quantizer, weight):
    return _StraightThrough.apply(weight, quantizer)


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
    forward = _straight_through if scored else FakeQuantize.forward
    for name, module in model.named_modules():
        if name.endswith("weight_fake_quant"):
            module.forward = types.MethodType(forward, module)


def keep_survivors(model):
    """Lift weights that survived pruning but would round to zero to the nearest int8 value that is none.

    Without it the int8 model has more zeros than the pruning left (0.503 for 0.500).

    Args:
        model: fake-quant model at the end of its training; its weights are changed in place.
    """
    with torch.no_grad():
        for module in model.modules():
            quantizer = getattr(module, "weight_fake_quant", None)
            if quantizer is None:
                continue
            scale, _ = quantizer.calculate_qparams()
            scale = scale.reshape(-1, *[1] * (module.weight.dim() - 1)).to(module.weight.device)
            # Half a step rounds to the even neighbour, zero; a little more does not.
            vanishing = (module.weight != 0) & (module.weight.abs() <= 0.505 * scale)
            module.weight.copy_(torch.where(vanishing, module.weight.sign() * 0.51 * scale, module.weight))


def freeze_observers(model):
    """Keep the activation ranges of a fake-quant model as they are; those of the weights go on following them."""
    for quantizer in _activation_quantizers(model).values():
        quantizer.disable_observer()


@contextlib.contextmanager
def observers_at_rest(model):
    """Keep the activation ranges of a fake-quant model during its evaluation, in which observers would look on."""
    observing = [quantizer for quantizer in _activation_quantizers(model).values() if int(quantizer.observer_enabled)]
    for quantizer in observing:
        quantizer.disable_observer()
    yield
    for quantizer in observing:
        quantizer.enable_observer()


def observers_are_frozen(model):
    """Tell whether `freeze_observers` was called; the model's buffers hold that, so that checkpoints do."""
    return not any(int(quantizer.observer_enabled) for quantizer in _activation_quantizers(model).values())


def scores_by_gradients(pruner):
    """Tell whether one of INC's pruners chooses weights by their gradients: magnitude and pattern_lock do not."""
    return pruner.config["pruning_type"].startswith(("snip", "gradient"))


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


def _activation_quantizers(model):
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, FakeQuantizeBase) and not name.endswith("weight_fake_quant")
    }


def activation_ranges(model):
    """Collect the ranges that the activation observers of a fake-quant model hold, the widest over all layers.

    Args:
        model: any model; one without observers has no ranges.

    Returns:
        Dictionary from the operator's name, layer numbers as `*`, and the place of the observer in it (0 is in front
        of the first operation) to `(min, max)`.
    """
    ranges = {}
    for name, quantizer in _activation_quantizers(model).items():
        place = re.sub(r"\.\d+(?=\.)", ".*", name).replace("activation_post_process_", "")
        observer = quantizer.activation_post_process
        low, high = ranges.get(place, (math.inf, -math.inf))
        ranges[place] = min(low, float(observer.min_val)), max(high, float(observer.max_val))
    return ranges


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


def distillation_config(settings, teacher):
    """Build the distillation configuration for a teacher model; `settings` as from `config_qa`."""
    return DistillationConfig(
        teacher_model=teacher,
        criterion=KnowledgeDistillationLossConfig(
            temperature=settings["temperature"],
            loss_types=list(settings["loss_types"]),
            loss_weights=list(settings["loss_weights"]),
        ),
        optimizer={},
    )
