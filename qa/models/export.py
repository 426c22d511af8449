"""Models for the engines that need no PyTorch: ONNX for ONNX Runtime, OpenVINO's IR for OpenVINO.

Belongs here: everything between a model in memory and a file that such an engine runs, and finding that file again.
Does not belong here: int8 by the engines' own tools (`engine_quantization.py`), running a file (`engine_runs.py`), and
what an engine is called and needs (`qa/start/engines.py`). The engines and PyTorch are imported where they are used.
"""

import copy
import tempfile
from pathlib import Path

from qa.models.engine_quantization import Trials, quantize_onnx, quantize_openvino
from qa.models.engine_runs import arrays_of, run_of_onnx, run_of_openvino
from qa.models.loading import is_int8
from qa.models.openvino_attention import rewrite_attention
from qa.start.cpu import note_saturation
from qa.start.engines import ENGINES, is_int8_export
from qa.start.errors import UsageError
from qa.start.writing import written_beside

# Kinds that look token types up among their words: for them no types at all are not the same as zeros.
_TYPES_AS_WORDS = ("xlm", "flaubert")
# An ONNX file is a protocol buffer, which ends here.
LARGEST_FILE = 2**31 - 1


def exporter_of(model, name, columns):
    """Find the exporter of a model.

    Args:
        model: a transformers model.
        name: that of `--model_name_or_path`.
        columns: what the tokenizer gives the model, `tokenizer.model_input_names`.

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
    exporter = constructor(model.config)
    # A column that the graph lacks would be dropped, and what nobody gives made up, both in silence.
    given, taken = {*columns}, {*exporter.inputs}
    left_out = {"attention_mask"} if kind in _TYPES_AS_WORDS else {"attention_mask", "token_type_ids"}
    if given - taken or taken - given - left_out:
        raise UsageError(
            f"--model_name_or_path {name}: its tokenizer gives {', '.join(columns)}, and the graph that optimum-onnx "
            f"makes of {kind} models takes {', '.join(exporter.inputs)}; use another kind of model"
        )
    return exporter


def export(run, model, exporter, calibration=None, tuning=None):
    """Write a model for an engine; its batches and sequences may have any length.

    Args:
        run: `Run`; its output folder, for `config.json` and the engine's files, is there. What its arguments ask to be
            made int8 becomes so by `run.settings["quantization"]`; all else is written as it is.
        model: the fp32 model, or what `int8_operators.spell_out` made of an int8 one, in evaluation mode; it is not
            changed.
        exporter: from `exporter_of`.
        calibration: `passes.Batches` of the calibration features, for static int8.
        tuning: function from a callable as `load_exported` returns to its F1, and the `Batches` that it calls it with,
            if the settings have an accuracy criterion.

    Raises:
        SaveError: something cannot be written.
        CriterionError: no trial met the accuracy criterion; nothing is written.
    """
    from optimum.exporters.onnx import export as export_onnx

    args, settings, names = run.optimization_args, run.settings["quantization"], list(exporter.inputs)

    def arrays_in(batches):
        return [arrays_of(batches.inputs(rows), names) for rows in batches.by_length()]

    batches, trials = calibration and arrays_in(calibration), tuning and Trials(tuning[0], arrays_in(tuning[1]))
    with written_beside(run.output_dir) as folder, tempfile.TemporaryDirectory(dir=folder) as workspace:
        source = Path(workspace) / "model.onnx"
        if is_int8(model.config):
            # From 20 on GELU is one operator, which no rounding keeps ONNX Runtime from finding.
            export_onnx(model, exporter, source, opset=20)
            _look_past_roundings(source)
        else:
            export_onnx(model, exporter, source)
        _WRITERS[args.export_format](source, folder, batches, args.apply_quantization, settings, trials)
        config = copy.deepcopy(model.config)
        if is_int8(config):
            # What INC loads it by; it is INC's no more.
            config.torch_dtype = "float32"
            for name in ("backend", "framework"):
                vars(config).pop(name, None)
        config.save_pretrained(folder)


def _look_past_roundings(path):
    """Let what asks for a shape ask in front of a rounding, in place.

    ONNX Runtime dequantizes again for each consumer, even one that reads only the shape: 36 of 72 times in
    minilm-squad after quantization-aware training.
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


def _write_onnx(source, folder, batches, quantizes, settings, trials):
    """Write a model for ONNX Runtime as it is, or made int8, which is dynamic without batches to calibrate on."""
    if quantizes:
        quantize_onnx(source, folder / "model.onnx", batches, settings, trials)
    else:
        source.rename(folder / "model.onnx")


def _write_openvino(source, folder, batches, quantizes, settings, trials):
    """Write a model as OpenVINO IR, made int8 or as it is; what is int8 in it stays so."""
    import openvino

    model = openvino.convert_model(source)
    if quantizes:
        model = quantize_openvino(model, batches, settings, trials)
    else:
        rewrite_attention(model)
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
    if is_int8_export(folder, name):
        note_saturation()
    return _RUNS[name](folder / ENGINES[name].files[-1])


# For each of `ENGINES`, the functions that write a model from an fp32 ONNX file, and load it.
_WRITERS = {"onnx": _write_onnx, "openvino": _write_openvino}
_RUNS = {"onnx": run_of_onnx, "openvino": run_of_openvino}
