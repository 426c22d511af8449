"""Models and tokenizers in, and what no run can start from refused.

Belongs here: loading what a run starts from, from a folder or the hub.
Does not belong here: what a run saved compressed (`compressed.py`), and running models (`passes.py`).
"""

import json
import os
from pathlib import Path

from qa.models.compressed import load_pickled
from qa.start.errors import UsageError
from qa.start.hub_answers import why_not_given
from qa.start.paths import kind_of

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def load_config_and_tokenizer(model_args, data_args, needs_head, int8_too=False):
    """Load the configuration and the tokenizer, and check that a run can start from them.

    Args:
        model_args: `ModelArguments`.
        data_args: `DataTrainingArguments`.
        needs_head: refuse a model that was not trained for question answering.
        int8_too: let an int8 model pass.

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
    _refuse_wrong_kind(config, "model_name_or_path", name, needs_head, int8_too)
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


def is_int8(config):
    """Tell by the configuration whether a model is one that INC quantized."""
    return "int8" in str(getattr(config, "torch_dtype", None))


def _refuse_wrong_kind(config, flag, name, needs_head, int8_too=False):
    if is_int8(config) and not int8_too:
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
            else:
                reason, hint = why_not_given(error) or (reason, hint)
        raise UsageError(f"--{flag} {name} cannot be loaded: {reason}; {hint}") from error
