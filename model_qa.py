"""Models and tokenizers in, compressed models back from disk.

Belongs here: loading what a run starts from, refusing what no run can start from, and loading again what a run saved.
Does not belong here: compressing (`quantization_qa.py`) and running over questions (`inference_qa.py`).
"""

import json
import os
import pickle
import re
import sys
from pathlib import Path

from environment_qa import UsageError, kind_of, trace_without_stacks

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def load_config_and_tokenizer(model_args, data_args, needs_head):
    """Load the configuration and the tokenizer, and check that a run can start from them.

    Args:
        model_args: `ModelArguments`.
        data_args: `DataTrainingArguments`.
        needs_head: refuse a model that was not trained for question answering.

    Returns:
        `(config, tokenizer)`.

    Raises:
        UsageError: either cannot be loaded, or the model is of the wrong kind, or too short for `max_seq_length`.
    """
    from transformers import AutoConfig, AutoTokenizer

    name = model_args.model_name_or_path
    config_flag = "config_name" if model_args.config_name else "model_name_or_path"
    config = from_pretrained(AutoConfig, config_flag, model_args.config_name or name, model_args)
    _refuse_missing_weights("model_name_or_path", name)
    _refuse_wrong_kind(config, "model_name_or_path", name, needs_head)
    flag, name = "tokenizer_name", model_args.tokenizer_name or name
    tokenizer = from_pretrained(AutoTokenizer, flag, name, model_args)
    if not tokenizer.is_fast:
        raise UsageError(
            f"--{flag} {name}: {type(tokenizer).__name__} gives no character positions; "
            "use a model with a fast tokenizer (tokenizer.json)"
        )
    try:
        first = tokenizer("a", "b")["input_ids"][0]
    except Exception as error:  # whatever a tokenizer.json of another kind leads to
        raise UsageError(f"--{flag} {name} splits no text: {error}; use the tokenizer of the model") from error
    if tokenizer.pad_token_id is None or first != tokenizer.cls_token_id:
        raise UsageError(
            f"--{flag} {name} has no padding token or does not begin with a CLS token; use a BERT-like model"
        )
    _refuse_misfit(config, "model_name_or_path", model_args.model_name_or_path, tokenizer, data_args)
    return config, tokenizer


def _refuse_wrong_kind(config, flag, name, needs_head):
    if "int8" in str(getattr(config, "torch_dtype", None)):
        raise UsageError(f"--{flag} {name} is quantized already; name the fp32 model it was made from")
    if needs_head and "QuestionAnswering" not in str(config.architectures):
        raise UsageError(
            f"--{flag} {name} has no question-answering head, its config.json says {config.architectures}; "
            "fine-tune it first"
        )


def _refuse_misfit(config, flag, name, tokenizer, data_args):
    """Refuse a model that has not as many positions or words as the features will."""
    for key in ("max_position_embeddings", "vocab_size"):
        if not isinstance(getattr(config, key, 0), int):
            raise UsageError(f"--{flag} {name}: {key} is {getattr(config, key)!r} in its config.json; give a number")
    longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", tokenizer.model_max_length))
    if data_args.max_seq_length > longest:
        raise UsageError(
            f"--max_seq_length is {data_args.max_seq_length}, but the model takes at most {longest} tokens (--{flag} "
            f"{name}); lower it"
        )
    if len(tokenizer) > getattr(config, "vocab_size", len(tokenizer)):
        raise UsageError(
            f"--{flag} {name} knows {config.vocab_size} tokens, but its tokenizer has {len(tokenizer)}; "
            "use the tokenizer of the model"
        )


def _refuse_missing_weights(flag, name):
    if kind_of(name) == "folder" and not any((Path(name) / file).is_file() for file in WEIGHT_FILES):
        raise UsageError(f"--{flag} {name}: the folder holds none of {', '.join(WEIGHT_FILES)}; name a saved model")


def load_model(model_args, config=None, flag="model_name_or_path", name=None, needs_head=False):
    """Load an fp32 question-answering model, in evaluation mode.

    Args:
        model_args: `ModelArguments`.
        config: its configuration, if it is not the one saved with it.
        flag: the argument that names the model.
        name: folder or hub name, if it is not in `model_args`.
        needs_head: refuse weights without a question-answering head; else it is drawn at random.

    Raises:
        UsageError: the weights cannot be loaded, are not those of the configuration, or not finite.
    """
    from transformers import AutoModelForQuestionAnswering
    from transformers.utils import logging

    name = name or model_args.model_name_or_path
    _refuse_missing_weights(flag, name)
    if kind_of(name) == "folder" and not any(Path(name).glob("model.safetensors*")):
        for path in sorted(Path(name).glob("pytorch_model*.bin")):
            weights = load_pickled(path)  # for the errors: transformers does not say what it found
            if not isinstance(weights, dict) or "best_configure" in weights:
                raise UsageError(
                    f"--{flag} {name}: {path.name} holds no fp32 weights; name the model it was made from"
                )
    kwargs = {} if config is None else {"config": config}
    auto_class = AutoModelForQuestionAnswering
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it says of missing weights in many lines is said below in one
    try:
        model, info = from_pretrained(auto_class, flag, name, model_args, output_loading_info=True, **kwargs)
    finally:
        logging.set_verbosity(verbosity)
    missing, encoder = info["missing_keys"], model.base_model.state_dict()
    lacking = [key for key in missing if needs_head or key.removeprefix(f"{model.base_model_prefix}.") in encoder]
    if lacking:
        raise UsageError(
            f"--{flag} {name}: the weights lack {len(lacking)} of those that config.json speaks of, {lacking[0]} for "
            "one; name a model saved for question answering"
        )
    if missing:
        print(f"note: {name} has no question-answering head; the training starts from a random one")
    broken = [key for key, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise UsageError(f"--{flag} {name}: {broken[0]} holds values that are not finite; train the model anew")
    # It is saved with the model, and a path of this machine tells others nothing.
    model.config.name_or_path = name_on_hub(name)
    return model.eval()


def name_on_hub(name):
    """Return the hub's name of a model.

    Args:
        name: that name, or a folder whose `config.json` may know it.

    Returns:
        The name, or the empty string for a folder that does not come from the hub.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if kind_of(name) is None:
        return name
    recorded = json.loads((Path(name) / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
    try:
        validate_repo_id(recorded)
    except HFValidationError:
        return ""
    # "models/mine" could be either, unless it is there.
    return recorded if kind_of(recorded) is None else ""


def check_teacher(name, tokenizer, model_args, data_args):
    """Refuse a teacher that cannot teach the student.

    Args:
        name: folder or hub name.
        tokenizer: the student's.
        model_args: `ModelArguments`.
        data_args: `DataTrainingArguments`.

    Raises:
        UsageError: the teacher cannot be loaded, has no question-answering head, another vocabulary, or is too short.
    """
    from transformers import AutoConfig, AutoTokenizer

    flag = "teacher_model_name_or_path"
    config = from_pretrained(AutoConfig, flag, name, model_args)
    _refuse_missing_weights(flag, name)
    _refuse_wrong_kind(config, flag, name, needs_head=True)
    theirs = from_pretrained(AutoTokenizer, flag, name, model_args).get_vocab()
    ours = tokenizer.get_vocab()
    if theirs != ours:
        raise UsageError(
            f"--{flag} {name} has another vocabulary than the student ({len(theirs)} and {len(ours)} entries, "
            f"{len(theirs.items() & ours.items())} in common); use a teacher with the same tokenizer"
        )
    _refuse_misfit(config, flag, name, tokenizer, data_args)


def from_pretrained(auto_class, flag, name, model_args, **kwargs):
    """Load a configuration, tokenizer or model, from a folder or from the hub; nothing in it is run.

    Args:
        auto_class: `AutoConfig`, `AutoTokenizer`, ...
        flag: the argument that names it.
        name: folder or hub name.
        model_args: `ModelArguments`.
        kwargs: further arguments of `auto_class.from_pretrained`.

    Raises:
        UsageError: it cannot be loaded.
    """
    try:
        return auto_class.from_pretrained(
            name,
            cache_dir=model_args.cache_dir,
            revision=model_args.model_revision,
            token=True if model_args.use_auth_token else None,
            trust_remote_code=False,
            **kwargs,
        )
    except Exception as error:  # the libraries raise anything from KeyError to a bare Exception on a broken file
        reason, hint = str(error)[:300] or type(error).__name__, "name a saved model"
        if kind_of(name) != "folder":
            hint = "give the path of a local folder"
            if name.startswith((".", "/")):
                reason = "there is no such folder"
            elif isinstance(error, OSError) and os.environ.get("HF_HUB_OFFLINE") == "1":
                reason = "it is not in the cache, and the hub cannot be reached (offline)"
        raise UsageError(f"--{flag} {name} cannot be loaded: {reason}; {hint}") from error


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


def load_compressed(output_dir):
    """Load a saved model as its users do, with `INCModelForQuestionAnswering`.

    Raises:
        UsageError: its file holds more than weights, or a program that does more than compute.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(output_dir, trust_remote_code=False)
    # INC looks for them in this order, and reads either as a pickle or as TorchScript.
    path = next(Path(output_dir).glob("model.safetensors"), Path(output_dir) / "pytorch_model.bin")
    ipex = getattr(config, "backend", None) == "ipex"
    if ipex or config.torchscript:
        check_torchscript(path)
    else:
        load_pickled(path)

    from optimum.intel import INCModelForQuestionAnswering

    if ipex:
        import intel_extension_for_pytorch  # noqa: F401  registers the operators of the saved graph
    trace_without_stacks()
    return INCModelForQuestionAnswering.from_pretrained(output_dir)


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


def largest_difference(model, other, inputs):
    """Return the largest absolute difference between the start and end logits of two models on one batch.

    Args:
        model, other: callables as in `inference_qa.predict_logits`.
        inputs: dictionary of `(b, l)` int64 tensors.
    """
    import torch

    with torch.inference_mode():
        if is_torchscript(other):
            # It fuses its int8 operators after the first call, which runs without them.
            model(**inputs), other(**inputs)
        outputs, others = model(**inputs), other(**inputs)
    return max(
        float((torch.as_tensor(outputs[name]).float() - torch.as_tensor(others[name]).float()).abs().max())
        for name in ("start_logits", "end_logits")
    )


def verify(model, loaded, inputs, tolerance):
    """Print whether a loaded model gives the logits of the one in memory, and end the process with 1 if it does not.

    Args:
        model, loaded, inputs: as in `largest_difference`.
        tolerance: largest difference that passes.
    """
    difference = largest_difference(model, loaded, inputs)
    _conclude(f"largest logit difference {difference:.3g}, tolerance {tolerance:.3g}", difference <= tolerance)


def verify_error(model, loaded, batches, share):
    """Print how far the logits of an int8 model are from those of the fp32 model, and end with 1 if it is too far.

    Args:
        model, loaded: the fp32 and the int8 model, callables as in `inference_qa.predict_logits`.
        batches: list of dictionaries of `(b, l)` int64 tensors, with `attention_mask`; padding does not count.
        share: largest mean of the absolute differences that passes, as a share of the standard deviation of the fp32
            logits.
    """
    import numpy as np
    import torch

    def logits(run):
        parts = []
        for inputs in batches:
            outputs, tokens = run(**inputs), inputs["attention_mask"].numpy() == 1
            parts += [np.asarray(outputs[name])[tokens] for name in ("start_logits", "end_logits")]
        return np.concatenate(parts)

    with torch.inference_mode():
        expected, found = logits(model), logits(loaded)
    error = np.abs(found - expected).mean()
    relative = error / expected.std()
    _conclude(
        f"mean logit difference to fp32 {error:.3g}, {100 * relative:.2g} % of their standard deviation, tolerance "
        f"{100 * share:.2g} %",
        relative <= share,
    )


def _conclude(text, passed):
    print(f"verify_loading: {text}: {'passed' if passed else 'FAILED'}")
    if not passed:
        sys.exit(1)
