"""Post-training quantization by the engines' own tools: ONNX Runtime's, and NNCF for OpenVINO.

Belongs here: from an fp32 ONNX file to an int8 model, and operators that go back to fp32 until F1 is kept.
Does not belong here: writing the fp32 file and running the result (`export.py`), and reading settings
(`qa/compression/`). The engines are imported where they are used.
"""

import contextlib
import logging
import re
import sys
from typing import NamedTuple

import numpy as np

from qa.models.engine_runs import LOGITS, run_of_onnx, run_of_openvino
from qa.start.errors import CriterionError, UsageError

# INC's default for what may be lost, too: a hundredth of the original's F1.
TOLERABLE_LOSS = 0.01


class Trials(NamedTuple):
    """What an accuracy criterion is tried with."""

    f1_of: object  # function of a callable as `export.load_exported` returns that gives its F1, and shows it
    inputs: list  # dictionaries of `(b, l)` int64 arrays: those that `f1_of` calls it with, in their order


def _lowest(criterion, f1):
    """Return the lowest F1 that passes where the fp32 model has `f1`."""
    loss = criterion.get("tolerable_loss", TOLERABLE_LOSS)
    return f1 - (loss if criterion.get("criterion") == "absolute" else loss * f1)


def _left_out(names, settings):
    """Choose the operators that stay in fp32; "/bert/.../dense/MatMul" in a graph is "bert.....dense" in settings."""
    modules = {name: ".".join(name.strip("/").split("/")[:-1]) for name in names}
    left_out = set()
    for pattern in settings.get("excluded_op_names", ()):
        found = {name for name, module in modules.items() if re.fullmatch(pattern, module)}
        if not found:
            longest = max(modules.values(), key=len)
            print(f"note: excluded_op_names: no operator here is called {pattern!r}; names are such as {longest!r}")
        left_out |= found
    return left_out


# INC's own export (`Torch2ONNXConfig`) was tried first, with INC 3.7.1 and torch 2.8: torch cannot unpack the
# quantized embeddings of INC's static models. With these left in fp32 it exports BERT, in three times the size,
# and DistilBERT not at all ("Graph::copy() encountered a use of a value ... not in scope").
def quantize_onnx(source, target, batches, settings, trials=None):
    """Write an int8 model for ONNX Runtime.

    Linear operators and embeddings become int8. With trials they go back to fp32 one by one, those first that move the
    logits most, until F1 meets the accuracy criterion.

    Args:
        source, target: paths of the fp32 and the int8 model.
        batches: list of dictionaries of `(b, l)` int64 arrays to calibrate on; `None`: dynamic.
        settings: from `settings.quantization_settings("onnx")`.
        trials: `Trials`, if the settings have an accuracy criterion.

    Raises:
        CriterionError: the F1 of no trial meets the criterion.
        UsageError: the settings leave no operator to be int8.
    """
    import onnx

    prepared = _prepared(source)
    graph = onnx.load(prepared).graph
    weights = {tensor.name for tensor in graph.initializer}
    # Products of two activations, in attention, gain no time. (The option MatMulConstBOnly is not for QDQ.)
    nodes = [node for node in graph.node if node.op_type in ("MatMul", "Gather") and weights.intersection(node.input)]
    left_out = _left_out([node.name for node in nodes], settings)
    names = [node.name for node in nodes if node.name not in left_out]
    if not names:  # to ONNX Runtime that means all
        raise UsageError("--quantization_config: excluded_op_names leave no operator to be int8; leave out fewer")

    def quantize(names, batches):
        if batches:
            _quantize_statically(prepared, target, batches, names, settings.get("calibration_method", "minmax"))
        else:
            _quantize_dynamically(prepared, target, names)

    quantize(names, batches)
    if trials is None:
        return
    lowest = _lowest(settings["accuracy_criterion"], trials.f1_of(run_of_onnx(prepared)))
    worst_last = None
    while trials.f1_of(run_of_onnx(target)) < lowest:
        if worst_last is None:
            worst_last = _by_error(quantize, prepared, target, batches, names, trials.inputs[0])
        print(f"back to fp32: {worst_last[-1]}")
        names.remove(worst_last.pop())
        if not names:
            raise CriterionError
        quantize(names, batches)


def _by_error(quantize, prepared, target, batches, names, inputs):
    """Return names of operators in the order of what each alone, in int8, moves the logits of `inputs` by."""
    expected, errors = run_of_onnx(prepared)(**inputs), {}
    for name in names:
        quantize([name], batches and batches[:1])
        found = run_of_onnx(target)(**inputs)
        errors[name] = sum(float(np.abs(found[each] - expected[each]).mean()) for each in LOGITS)
    return sorted(names, key=errors.get)


def _prepared(source):
    """Fold and fuse what can be before a graph is quantized, and return the path of the result."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    return prepared


def _quantize_statically(source, target, batches, names, method):
    """Write pairs of QuantizeLinear and DequantizeLinear (QDQ).

    "Error" is the mean absolute difference to the fp32 logits of minilm-squad on 443 features of real questions: 0.097
    for what is written here.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(batches)

        def get_next(self):
            return next(self.batches, None)

        def __len__(self):
            return len(batches)

        def set_range(self, start_index, end_index):
            self.batches = iter(batches[start_index:end_index])

    methods = {each.name.lower(): each for each in CalibrationMethod}
    # Batch by batch: all at once, histograms want batches of one width.
    strides = {} if method == "minmax" else {"CalibStridedMinMax": 1}
    with contextlib.redirect_stdout(sys.stderr):  # all methods but minmax tell of themselves
        quantize_static(
            source,
            target,
            Reader(),
            op_types_to_quantize=["MatMul", "Gather"],
            nodes_to_quantize=names,
            per_channel=True,
            # Signed activations take three times as long on x86.
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[method],
            # Outputs go on in fp32. Rounded as well, which is the default: error 0.27.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"], **strides},
        )


def _quantize_dynamically(source, target, names):
    """Write a dynamic int8 model: weights and embeddings are int8, activations get scales from the batch."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul", "Gather"],
        nodes_to_quantize=names,
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )


def quantize_openvino(model, batches, settings, trials=None):
    """Make an OpenVINO model int8 with NNCF, which smooths activations first.

    With trials, and if F1 does not meet the accuracy criterion, NNCF quantizes again without smoothing, and brings
    operators back to fp32, those first that move the logits most, until F1 does.

    Args:
        model: `openvino.Model`, fp32; it may be used up.
        batches, trials: as in `quantize_onnx`.
        settings: from `settings.quantization_settings("openvino")`.

    Returns:
        `openvino.Model`.

    Raises:
        CriterionError: the F1 of no trial meets the criterion.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    advanced = nncf.AdvancedQuantizationParameters()
    if "smooth_quant_alpha" in settings:
        advanced.smooth_quant_alphas = AdvancedSmoothQuantParameters(matmul=settings["smooth_quant_alpha"])
    if "calibration_method" in settings:
        ranges = getattr(RangeEstimatorParametersSet, settings["calibration_method"].upper())
        advanced.activations_range_estimator_params = ranges
    names = [node.get_friendly_name() for node in model.get_ops()]
    how = {
        "model_type": nncf.ModelType.TRANSFORMER,
        "subset_size": len(batches),
        "ignored_scope": nncf.IgnoredScope(names=sorted(_left_out(names, settings))),
    }
    dataset = nncf.Dataset(batches)
    with contextlib.redirect_stdout(sys.stderr):  # where progress bars go
        whole = nncf.quantize(model.clone(), dataset, advanced_parameters=advanced, **how)
    if trials is None:
        return whole
    criterion = settings["accuracy_criterion"]
    lowest = _lowest(criterion, f1 := trials.f1_of(run_of_openvino(model.clone())))
    if trials.f1_of(run_of_openvino(whole)) >= lowest:
        return whole
    # Where NNCF 3.4.0 takes an operator back to fp32, its weights are as before smoothing, but its inputs are not.
    advanced.smooth_quant_alphas = AdvancedSmoothQuantParameters(matmul=-1)
    known, out = [f1], sys.stdout

    def validate(compiled, items):
        run, logits, items = run_of_openvino(compiled), [], list(items)

        def kept(**inputs):
            outputs = run(**inputs)
            logits.append([outputs[name] for name in LOGITS])
            return outputs

        kept.takes_arrays = True
        scored = len(items) == len(trials.inputs)  # given a single one, NNCF only looks at the type of the result
        if scored and not known:
            with contextlib.redirect_stdout(out):
                return trials.f1_of(kept), logits
        for inputs in items:
            kept(**inputs)
        return known.pop() if scored else 0.0, logits

    relative = criterion.get("criterion") != "absolute"
    with contextlib.redirect_stdout(sys.stderr):
        mended = nncf.quantize_with_accuracy_control(
            model,
            *(dataset, nncf.Dataset(trials.inputs), validate),
            max_drop=criterion.get("tolerable_loss", TOLERABLE_LOSS),
            drop_type=nncf.DropType.RELATIVE if relative else nncf.DropType.ABSOLUTE,
            # In turn, as many at a time would share the threads.
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(num_ranking_workers=1),
            advanced_quantization_parameters=advanced,
            **how,
        )
    # Where nothing meets the criterion NNCF returns a model all the same.
    if trials.f1_of(run_of_openvino(mended)) < lowest:
        raise CriterionError
    return mended
