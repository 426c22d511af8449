"""The engines that a model can be exported to: what each is called, needs and writes.

Belongs here: an entry for each engine, without importing it.
Does not belong here: writing its files and running them (`engines.py` and `engine_runs.py` in `qa/models/`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    """What the project has to know about an engine.

    Attributes:
        format: name of its format, for people.
        files: names of the files that hold a model, in the order in which they get their place.
        packages: modules that an export needs; `requirements-NAME.txt` brings them.
        runtime: the one of them that runs a model.
        quantizer: what makes it int8, for people.
        rounding: how the last of the files spells the rounding of activations, which int8 models have.
        dynamic: whether it runs int8 whose activations get their scales from each batch.
        library: the hub's name for what loads it.
        distribution: package of the class that its users load it with.
        loader: module and name of that class, and what it is given besides the folder.
        bare: Python that needs the engine alone: what loads `model` from `folder`, the names of its inputs, and its
            outputs from a dictionary of `inputs`.
    """

    format: str
    files: tuple
    packages: tuple
    runtime: str
    quantizer: str
    rounding: bytes
    dynamic: bool
    library: str
    distribution: str
    loader: tuple
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
