"""The engines that a model can be exported to: what each is called, needs and writes.

Belongs here: an entry for each engine, without importing it.
Does not belong here: writing its files and running them (`export.py` and `engine_runs.py` in `qa/models/`).
"""

from pathlib import Path
from typing import NamedTuple


class Engine(NamedTuple):
    """What the project has to know about an engine."""

    format: str  # name of its format, for people
    files: tuple  # names of the files that hold a model, in the order in which they get their place
    packages: tuple  # modules that an export needs; `requirements-NAME.txt` brings them
    runtime: str  # the one of them that runs a model
    quantizer: str  # what makes it int8, for people
    rounding: bytes  # how the last of the files spells the rounding of activations, which int8 models have
    dynamic: bool  # whether it runs int8 whose activations get their scales from each batch
    library: str  # the hub's name for what loads it
    distribution: str  # package of the class that its users load it with
    loader: tuple  # module and name of that class, and what it is given besides the folder
    # Python alone: what loads `model` from `folder`, the names of its inputs, its outputs from `inputs`.
    bare: tuple


ENGINES = {
    "onnx": Engine(
        format="ONNX",
        files=("model.onnx",),
        packages=("onnx", "onnxruntime"),
        runtime="onnxruntime",
        quantizer="ONNX Runtime",
        rounding=b"QuantizeLinear",
        dynamic=True,
        library="optimum",
        distribution="optimum-onnx",
        loader=("optimum.onnxruntime", "ORTModelForQuestionAnswering", ""),
        bare=(
            'onnxruntime.InferenceSession(f"{folder}/model.onnx")',
            "[each.name for each in model.get_inputs()]",
            'model.run(["start_logits", "end_logits"], inputs)',
        ),
    ),
    "openvino": Engine(
        format="OpenVINO IR",
        files=("openvino_model.bin", "openvino_model.xml"),
        packages=("onnx", "openvino", "nncf"),
        runtime="openvino",
        quantizer="NNCF",
        rounding=b"FakeQuantize",
        dynamic=False,
        library="optimum-intel",
        distribution="optimum-intel",
        # As it was scored; else OpenVINO computes in bf16 where the processor can.
        loader=("optimum.intel", "OVModelForQuestionAnswering", ', ov_config={"INFERENCE_PRECISION_HINT": "f32"}'),
        bare=(
            'openvino.compile_model(f"{folder}/openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
            "[each.any_name for each in model.inputs]",
            'map(model(inputs).__getitem__, ["start_logits", "end_logits"])',
        ),
    ),
}


def is_int8_export(folder, name):
    """Tell whether what one of the `ENGINES` has in a folder is an int8 model."""
    engine = ENGINES[name]
    return engine.rounding in (Path(folder) / engine.files[-1]).read_bytes()
