"""Models for the engines that need no PyTorch: ONNX for ONNX Runtime, OpenVINO's IR for OpenVINO.

Belongs here: everything between a model in memory and a file that such an engine runs, quantization included, and
running that file.
Does not belong here: running it over questions (`passes.py`), and what an engine is called and needs
(`qa/start/engines.py`). The engines and PyTorch are imported where they are used: to run a model one is enough.
"""

import contextlib
import copy
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from qa.models.loading import is_int8
from qa.start.engines import ENGINES
from qa.start.errors import UsageError
from qa.start.output import written_beside
from qa.start.process import chosen_threads
from qa.start.processor import note_saturation

LOGITS = ["start_logits", "end_logits"]
# An ONNX file is a protocol buffer, which ends here.
LARGEST_FILE = 2**31 - 1


def exporter_of(model, name):
    """Find the exporter of a model.

    Args:
        model: a transformers model.
        name: that of `--model_name_or_path`.

    Returns:
        `optimum.exporters.onnx.OnnxConfig`: names and dynamic axes of inputs and outputs.

    Raises:
        UsageError: optimum has none for this kind of model, or the model does not fit into one file.
    """
    import optimum.exporters.onnx.model_configs  # noqa: F401  registers the kinds of models
    from optimum.exporters.tasks import TasksManager

    kind = model.config.model_type
    size = sum(weights.numel() * weights.element_size() for weights in model.parameters())
    if size > LARGEST_FILE:
        raise UsageError(
            f"--model_name_or_path {name} has {size / 1e9:.1f} GB of weights, and an ONNX file holds 2.1 GB; name a "
            "smaller model"
        )
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            "onnx", model_type=kind, task="question-answering", library_name="transformers"
        )
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"--model_name_or_path {name} is of the kind {kind}, which optimum-onnx cannot export for question "
            "answering; use BERT, RoBERTa, DistilBERT or another of its kinds"
        ) from error
    return constructor(model.config)


def export(model, exporter, export_format, output_dir, calibration=None, dynamic=False):
    """Write a model for an engine; its batches and sequences may have any length.

    Args:
        model: the fp32 model, or what `int8_operators.spell_out` made of an int8 one, in evaluation mode; it is not
            changed.
        exporter: from `exporter_of`.
        export_format: one of `ENGINES`.
        output_dir: existing folder for `config.json` and the engine's files.
        calibration: `passes.Batches` of the calibration features, to write a static int8 model.
        dynamic: write a dynamic int8 model (ONNX only). Without either, operators are written as they are.

    Raises:
        SaveError: something cannot be written.
    """
    from optimum.exporters.onnx import export as export_onnx

    names = list(exporter.inputs)
    batches = calibration and [_arrays(calibration.inputs(rows), names) for rows in calibration.by_length()]
    with written_beside(output_dir) as folder, tempfile.TemporaryDirectory() as workspace:
        source = Path(workspace) / "model.onnx"
        if is_int8(model.config):
            # From 20 on GELU is one operator, which no rounding keeps ONNX Runtime from finding.
            export_onnx(model, exporter, source, opset=20)
            _look_past_roundings(source)
        else:
            export_onnx(model, exporter, source)
        if dynamic:
            _quantize_dynamically(source)
        _WRITERS[export_format](source, folder, batches)
        config = copy.deepcopy(model.config)
        if is_int8(config):
            # What INC loads it by; it is INC's no more.
            config.torch_dtype = "float32"
            for name in ("backend", "framework"):
                vars(config).pop(name, None)
        config.save_pretrained(folder)


def _look_past_roundings(path):
    """Let what asks for a shape ask in front of a rounding, in place.

    ONNX Runtime dequantizes anew for each consumer, also for one that looks at no value: half of 72 times in what
    minilm-squad is after quantization-aware training.
    """
    import onnx

    model = onnx.load(path)
    rounding = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    for node in model.graph.node:
        while node.op_type == "Shape" and node.input[0] in rounding:
            node.input[0] = rounding[node.input[0]]
    onnx.save(model, path)


def _write_onnx(source, folder, batches):
    """Write a model for ONNX Runtime; with batches to calibrate on, in int8."""
    if batches:
        _quantize_onnx(source, folder / "model.onnx", batches)
    else:
        shutil.move(source, folder / "model.onnx")


# INC's own export (`Torch2ONNXConfig`) was tried first, with INC 3.7.1 and torch 2.8: torch cannot unpack the
# quantized embeddings of INC's static models. With these left in fp32 it exports BERT, in three times the size,
# and DistilBERT not at all ("Graph::copy() encountered a use of a value ... not in scope").
def _quantize_onnx(source, target, batches):
    """Write a static int8 model with pairs of QuantizeLinear and DequantizeLinear (QDQ).

    Linear operators and embeddings become int8. "Error" is the mean absolute difference to the fp32 logits of
    minilm-squad on 443 features of real questions: 0.097 for what is written here.

    Args:
        source, target: paths of the fp32 and the int8 model.
        batches: list of dictionaries of `(b, l)` int64 arrays to calibrate on.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(batches)

        def get_next(self):
            return next(self.batches, None)

    prepared = _prepared(source)
    graph = onnx.load(prepared).graph
    weights = {tensor.name for tensor in graph.initializer}
    # Products of two activations, in attention, gain no time. (The option MatMulConstBOnly is not for QDQ.)
    products = [node.name for node in graph.node if node.op_type == "MatMul" and not weights.intersection(node.input)]
    quantize_static(
        prepared,
        target,
        Reader(),
        op_types_to_quantize=["MatMul", "Gather"],
        nodes_to_exclude=products,
        per_channel=True,
        # Signed activations take three times as long on x86.
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # Outputs go on in fp32. Rounded as well, which is the default: error 0.27.
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )


def _quantize_dynamically(path):
    """Make a model dynamic int8, in place: weights and embeddings are int8, activations get scales from the batch."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        _prepared(path),
        path,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )


def _prepared(source):
    """Fold and fuse what can be before a graph is quantized, and return the path of the result."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    return prepared


def _write_openvino(source, folder, batches):
    """Write a model as OpenVINO IR; with batches to calibrate on, in int8 by NNCF, which smooths activations first."""
    import openvino

    model = openvino.convert_model(source)
    if batches:
        import nncf

        nncf.set_log_level(logging.ERROR)
        with contextlib.redirect_stdout(sys.stderr):  # where progress bars go
            model = nncf.quantize(
                model,
                nncf.Dataset(batches),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(batches),
            )
    openvino.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)


def load_exported(output_dir):
    """Load what `export` wrote, on the CPU.

    Args:
        output_dir: folder with the files of one of `ENGINES`.

    Returns:
        Function of the tokenizer's inputs as keywords, `(b, l)` int64 arrays or tensors, that returns a dictionary of
        `start_logits` and `end_logits`, `(b, l)` float32 arrays. Its attribute `takes_arrays` says that it needs no
        PyTorch.
    """
    folder = Path(output_dir)
    name = next(name for name, engine in ENGINES.items() if (folder / engine.files[-1]).is_file())
    if ENGINES[name].rounding in (folder / ENGINES[name].files[-1]).read_bytes():
        note_saturation()
    return _LOADERS[name](folder, chosen_threads())


def _load_onnx(folder, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]

    def run(**inputs):
        return dict(zip(LOGITS, session.run(LOGITS, _arrays(inputs, names)), strict=True))

    run.takes_arrays = True
    return run


def _load_openvino(folder, threads):
    import openvino

    # Else it computes in bf16 where the processor can, and results depend on the machine.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", settings)
    names = [argument.any_name for argument in compiled.inputs]

    def run(**inputs):
        outputs = compiled(_arrays(inputs, names))
        return {name: outputs[name] for name in LOGITS}

    run.takes_arrays = True
    return run


# For each of `ENGINES`, the functions that write a model from an fp32 ONNX file, and load it.
_WRITERS = {"onnx": _write_onnx, "openvino": _write_openvino}
_LOADERS = {"onnx": _load_onnx, "openvino": _load_openvino}


def _arrays(inputs, names):
    """Pick the inputs that a graph takes; segments that its tokenizer does not tell are all 0."""
    return {
        name: np.asarray(inputs[name]) if name in inputs else np.zeros_like(np.asarray(inputs["input_ids"]))
        for name in names
    }
