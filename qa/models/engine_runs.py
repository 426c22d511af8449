"""The engines' own models as callables, from arrays to logits.

Belongs here: what is done with an engine between a file, or a model in its memory, and start and end logits.
Does not belong here: which engine a folder is for (`export.py`), and running it over questions (`passes.py`). The
engines are imported where they are used: to run a model one is enough.
"""

import numpy as np

from qa.start.process import chosen_threads

# What question-answering models give, in every engine.
LOGITS = ["start_logits", "end_logits"]


def run_of_onnx(path):
    """Load an ONNX file; returns what `export.load_exported` does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = chosen_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]

    def run(**inputs):
        return dict(zip(LOGITS, session.run(LOGITS, arrays_of(inputs, names)), strict=True))

    run.takes_arrays = True
    return run


def run_of_openvino(model):
    """Compile an IR, its path or itself, or take what is compiled; returns what `export.load_exported` does."""
    import openvino

    if not isinstance(model, openvino.CompiledModel):
        # Else it computes in bf16 where the processor can, and results depend on the machine.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": chosen_threads()}
        model = openvino.Core().compile_model(model, "CPU", settings)
    names = [argument.any_name for argument in model.inputs]

    def run(**inputs):
        outputs = model(arrays_of(inputs, names))
        return {name: outputs[name] for name in LOGITS}

    run.takes_arrays = True
    return run


_LEFT_OUT = {"attention_mask": np.ones_like, "token_type_ids": np.zeros_like}


def arrays_of(inputs, names):
    """Pick the inputs that a graph takes; what a tokenizer does not give is as in PyTorch: all seen, one segment."""
    return {
        name: np.asarray(inputs[name]) if name in inputs else _LEFT_OUT[name](np.asarray(inputs["input_ids"]))
        for name in names
    }
