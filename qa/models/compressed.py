"""Compressed models back from disk.

Belongs here: loading again what a run saved, with no weights of an earlier run, and refusing files that could do more
than that.
Does not belong here: compressing (`qa/compression/`).
"""

import json
import pickle
import re
from pathlib import Path

from qa.corrections.ipex import without_ipex
from qa.corrections.torch_tracer import trace_without_stacks
from qa.start.cpu import note_saturation
from qa.start.errors import UsageError

# Widths that IPEX batches are padded to are multiples of this: it compiles the graph anew for every shape.
IPEX_WIDTH_STEP = 64


def load_pickled(path, device="cpu"):
    """Load a file that `torch.save` wrote. Nothing but tensors and plain values is built, no code in it is run.

    The types allowed are those of torch's own list. What INC saves with a model (`best_configure`), optimizers,
    schedulers and the trainer's progress are made of these alone, so that no other has to be named here.

    Args:
        path: of the file.
        device: where the tensors go.

    Returns:
        What was saved.

    Raises:
        UsageError: the file is missing or damaged, or names anything else.
    """
    import torch

    # With several processes on CPUs accelerate calls the device cpu:0, a place that torch.load does not know.
    place = "cpu" if torch.device(device).type == "cpu" else device
    try:
        return torch.load(path, map_location=place, weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)|class (\S+) was not", str(error))
        found = next(filter(None, named.groups())) if named else "more than that, or is damaged"
        raise UsageError(
            f"{path} is not loaded: it may hold tensors and plain values, and holds {found}, which could run code; "
            "make it anew, or get it as safetensors"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; name a whole file") from error
    except Exception as error:  # a damaged file leads torch to nearly any of them
        found = "a TorchScript program" if "TorchScript" in str(error) else "damaged, or not from torch.save"
        raise UsageError(f"{path} is {found}; give the weights as safetensors") from error


def drop_stale_weights(output_dir):
    """Remove a `model.safetensors` beside a newly saved `pytorch_model.bin`: being loaded first, it would win."""
    (Path(output_dir) / "model.safetensors").unlink(missing_ok=True)


def is_dynamic(output_dir):
    """Tell whether a folder that holds an int8 model was quantized dynamically, by what INC noted there."""
    path = Path(output_dir) / "inc_config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["quantization"]["is_static"] is False
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{path} does not say how the model was quantized; name a folder of these scripts") from error


def operators_of(output_dir):
    """Return what INC did to each operator of an int8 model in a folder: from `(name, type)` to its settings."""
    return load_pickled(Path(output_dir) / "pytorch_model.bin")["best_configure"]["op"]


def is_ipex(config):
    """Tell whether the configuration of a saved model is that of a model on IPEX."""
    return getattr(config, "backend", None) == "ipex"


def import_inc(ipex):
    """Import what runs compressed models, IPEX only for those that need it, and return the class that loads them."""
    with without_ipex(not ipex):
        from optimum.intel import INCModelForQuestionAnswering
    if ipex:
        import intel_extension_for_pytorch  # noqa: F401  registers the operators of the saved graph
    return INCModelForQuestionAnswering


def load_compressed(output_dir):
    """Load a saved model as its users do, with `INCModelForQuestionAnswering`.

    Raises:
        UsageError: its file holds more than weights, or a program that does more than compute.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(output_dir, trust_remote_code=False)
    # INC looks for them in this order, and reads either as a pickle or as TorchScript.
    path = next(Path(output_dir).glob("model.safetensors"), Path(output_dir) / "pytorch_model.bin")
    if is_ipex(config) or config.torchscript:
        check_torchscript(path)
    else:
        load_pickled(path)

    inc_model = import_inc(is_ipex(config))
    trace_without_stacks()
    note_saturation()
    return inc_model.from_pretrained(output_dir)


def check_torchscript(path):
    """Refuse a TorchScript archive whose program could do more than compute.

    The program is in torch's own language, not in Python, and parts of it run while it is loaded. It has no statement
    for files, the network or other programs, but operators that do: `save` and `from_file` write and read files, those
    of other libraries may do anything. What INC saves for IPEX needs `torch.*` and `ops.prim.*` and no foreign class.

    Args:
        path: of the archive, read with the reader that `torch.jit.load` uses.

    Raises:
        UsageError: the archive cannot be read, or uses any other operator, a class from outside, or `getattr`.
    """
    import torch

    try:
        reader = torch._C.PyTorchFileReader(str(path))
        names = {"constants.pkl", *(name for name in reader.get_all_records() if name.endswith((".py", ".pkl")))}
        parts = {name: reader.get_record(name) for name in names}
    except RuntimeError as error:
        raise UsageError(f"{path} is no TorchScript archive; quantize the model anew") from error
    for name, content in parts.items():
        found = re.search(rb"\b(save|from_file|getattr|classes)\b|\bops\b(?!\.prim\.)", content)
        if found:
            raise UsageError(
                f"{path} is not loaded: its program uses {found[0].decode()!r} in {name}, which could write files or "
                "run code; quantize the model anew"
            )


def is_torchscript(model):
    """Tell whether a model is, or holds, a TorchScript program."""
    import torch

    return isinstance(getattr(model, "model", model), torch.jit.ScriptModule)
