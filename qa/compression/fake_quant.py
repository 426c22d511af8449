"""Quantization-aware training: fake-quant operators and their observers.

Belongs here: INC's configuration for it, and the observers' life during training.
Does not belong here: which range activations are rounded in (`ranges.py`), the loop itself (`trainer_qa.py`,
`qa/training/`) and reading YAML (`settings.py`).
"""

import contextlib
import math
import re
import types

import torch
from neural_compressor import QuantizationAwareTrainingConfig
from torch.ao.quantization import FakeQuantizeBase

from qa.compression.ranges import narrowed_ranges
from qa.models.passes import forward_passes


def names_of_operators(model):
    """Name all modules of a model, by INC's names as well: it adds ".module" to some.

    Returns:
        Dictionary with `(name, type)` as keys, as `operator_settings.note_unmet` takes it.
    """
    modules = [(name, type(module).__name__) for name, module in model.named_modules()]
    return {(name + suffix, kind): None for name, kind in modules for suffix in ("", ".module")}


def training_quantization_config(settings, model):
    """Build the configuration of quantization-aware training.

    Args:
        settings: from `settings.quantization_settings("qat")`.
        model: the model to be trained. For this approach INC compares names and types letter by letter, so that the
            regular expressions are spelled out for its modules here.

    Returns:
        A fresh `QuantizationAwareTrainingConfig`.
    """
    names, types = zip(*names_of_operators(model), strict=True)
    # Only this notation, a list of one, makes INC leave an operator out here.
    fp32 = {side: {"dtype": ["fp32"]} for side in ("weight", "activation")}
    left_out = {}
    for key, known in (("op_name_dict", names), ("op_type_dict", types)):
        named = {}
        for pattern, operator in settings.get(key, {}).items():
            out = any(side.get("dtype") in ("fp32", ["fp32"]) for side in operator.values())
            named |= dict.fromkeys(filter(re.compile(pattern).fullmatch, known), out)
        left_out[key] = {name: fp32 for name, out in named.items() if out}
    return QuantizationAwareTrainingConfig(**left_out)


def calibrate_observers(model, batches, device="cpu"):
    """Set the ranges of the activation observers of a fake-quant model anew, from a pass in evaluation mode.

    In training mode they would see dropout, which widens every range behind it by a tenth and more.

    Args:
        model: model prepared for quantization-aware training.
        batches: `passes.Batches` of training features.
        device: where the model is.
    """
    quantizers = _activation_quantizers(model).values()
    for quantizer in quantizers:
        quantizer.enable_observer()
        quantizer.disable_fake_quant()
    was_training = model.training
    model.eval()
    with narrowed_ranges(quantizers):
        for _ in forward_passes(model, batches, device, desc="Calibrating"):
            pass
    for quantizer in quantizers:
        quantizer.enable_fake_quant()
    model.train(was_training)


def rest_embeddings(model):
    """Let embeddings train as they are; they become int8 at the conversion, see `observe_embeddings`.

    Rounding whole tables in each step costs time and teaches nothing: it moves the logits of minilm-squad by 0.4 % of
    their standard deviation, that of the linear operators by 8 %.

    Args:
        model: model prepared for quantization-aware training.
    """
    for module in _embeddings(model):
        module.weight_fake_quant.disable_fake_quant()
        module.weight_fake_quant.disable_observer()


def observe_embeddings(model):
    """Take the ranges of the rows of embeddings, right before the conversion."""
    for module in _embeddings(model):
        module.weight_fake_quant.enable_observer()
        module.weight_fake_quant(module.weight)


def _embeddings(model):
    return [module for module in model.modules() if isinstance(module, torch.ao.nn.qat.Embedding)]


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


def keep_survivors(model):
    """Lift weights that survived pruning but would round to zero to the nearest int8 value that is none.

    Without it the int8 model has more zeros than the pruning left (0.503 for 0.500).

    Args:
        model: fake-quant model at the end of its training; its weights are changed in place.
    """
    with torch.no_grad():
        for module in model.modules():
            quantizer = getattr(module, "weight_fake_quant", None)
            if quantizer is None or isinstance(module, torch.nn.Embedding):
                continue
            scale, _ = quantizer.calculate_qparams()
            scale = scale.reshape(-1, *[1] * (module.weight.dim() - 1)).to(module.weight.device)
            # Half a step rounds to the even neighbour, zero; a little more does not. The sign of a zero is zero.
            vanishing = module.weight.abs() <= 0.505 * scale
            module.weight.copy_(torch.where(vanishing, module.weight.sign() * 0.51 * scale, module.weight))


def freeze_observers(model):
    """Keep the activation ranges of a fake-quant model as they are; those of the weights go on following them."""
    for quantizer in _activation_quantizers(model).values():
        quantizer.disable_observer()


@contextlib.contextmanager
def observers_at_rest(model):
    """Keep all ranges of a fake-quant model, of activations and weights, through passes that are no training steps.

    Both follow a moving average, which each look carries on.
    """
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantizeBase)]
    observing = [quantizer for quantizer in quantizers if int(quantizer.observer_enabled)]
    for quantizer in observing:
        quantizer.disable_observer()
    try:
        yield
    finally:
        for quantizer in observing:
            quantizer.enable_observer()


def observers_are_frozen(model):
    """Tell whether `freeze_observers` was called; the model's buffers hold that, so that checkpoints do."""
    return not any(int(quantizer.observer_enabled) for quantizer in _activation_quantizers(model).values())


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
