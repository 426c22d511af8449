"""Models and tokenizers in, and what no run can start from refused.

Belongs here: loading what a run starts from, from a folder or the hub.
Does not belong here: what a run saved compressed (`compressed.py`), and running models (`passes.py`).
"""

import copy
import importlib.util
from pathlib import Path

from qa.models.compressed import load_pickled
from qa.questions.spans import own_rules, spans_are_late
from qa.start.errors import UsageError
from qa.start.hub_answers import why_not_given
from qa.start.paths import is_lfs_pointer, kind_of
from qa.start.stack import how_to_install

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "spiece.model", "sentencepiece.bpe.model"),
    "tokenizer.model",
)


def load_config_and_tokenizer(model_args, int8_too=False):
    """Load the configuration and the tokenizer, and check that a run can start from them.

    Args:
        model_args: `ModelArguments`.
        int8_too: let an int8 model pass.

    Returns:
        `(config, tokenizer)`, the first for a question-answering model, whatever the model was trained for.

    Raises:
        UsageError: either cannot be loaded, or the model is of the wrong kind, or the two do not fit together.
    """
    from transformers import AutoConfig

    name = model_args.model_name_or_path
    config_flag = "config_name" if model_args.config_name else "model_name_or_path"
    config = from_pretrained(AutoConfig, config_flag, model_args.config_name or name, model_args)
    _refuse_missing_weights("model_name_or_path", name)
    _settle_config(config, "model_name_or_path", name, int8_too)
    tokenizer = load_tokenizer("tokenizer_name", model_args.tokenizer_name or name, model_args)
    _refuse_misfit(config, "model_name_or_path", model_args.model_name_or_path, tokenizer)
    return config, tokenizer


def load_tokenizer(flag, name, model_args):
    """Load a tokenizer, and check that features can be made with it; parameters as in `from_pretrained`.

    Raises:
        UsageError: it cannot be loaded, gives no or wrong character positions, or has no padding or CLS token.
    """
    from transformers import AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, flag, name, model_args)
    if not tokenizer.is_fast:
        raise UsageError(
            f"--{flag} {name}: {type(tokenizer).__name__} gives no character positions; "
            "use a model with a fast tokenizer (tokenizer.json)"
        )
    try:
        with own_rules(tokenizer):
            first = tokenizer("a", "b")["input_ids"][0]
    except Exception as error:  # whatever a tokenizer.json of another kind leads to
        raise UsageError(f"--{flag} {name} splits no text: {error}; use the tokenizer of the model") from error
    if tokenizer.pad_token_id is None or first != tokenizer.cls_token_id:
        raise UsageError(
            f"--{flag} {name} has no padding token or does not begin with a CLS token; use a BERT-like model"
        )
    try:
        late = spans_are_late(tokenizer)
    except ValueError as error:
        raise UsageError(f"--{flag} {name}: {error}; use a tokenizer with right character positions") from error
    if late:
        print(f"note: --{flag} {name}: its tokens say that they begin behind their first letters; this is put right")
    return tokenizer


def is_int8(config):
    """Tell by the configuration whether a model is one that INC quantized."""
    return "int8" in str(getattr(config, "torch_dtype", None))


def _settle_config(config, flag, name, int8_too=False):
    """Refuse the configuration of an int8 model, and make it that of a question-answering model that only answers."""
    if not is_int8(config):
        config.return_dict, config.torchscript = True, False
        config.output_hidden_states = config.output_attentions = False
    elif not int8_too:
        raise UsageError(f"--{flag} {name} is quantized already; name the fp32 model it was made from")
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird itself leaves it at the first short window, for good: answers would hang on what came before.
        print(f"note: --{flag} {name}: its attention is computed in full, not in blocks")
        config.attention_type = "original_full"
    if config.num_labels != 2:
        config.num_labels = 2
        config.problem_type = None


def _refuse_misfit(config, flag, name, tokenizer):
    """Refuse a model that knows fewer words than its tokenizer, or says of its size what is no number."""
    for key in ("max_position_embeddings", "vocab_size"):
        if not isinstance(getattr(config, key, 0), int):
            raise UsageError(f"--{flag} {name}: {key} is {getattr(config, key)!r} in its config.json; give a number")
    tokens = max(tokenizer.get_vocab().values()) + 1  # some numbers may stand for none
    if tokens > getattr(config, "vocab_size", tokens):
        raise UsageError(
            f"--{flag} {name} knows {config.vocab_size} tokens, but its tokenizer has {tokens}; "
            "use the tokenizer of the model"
        )


def _refuse_missing_weights(flag, name):
    if kind_of(name) == "folder" and not any((Path(name) / file).is_file() for file in WEIGHT_FILES):
        raise UsageError(f"--{flag} {name}: the folder holds none of {', '.join(WEIGHT_FILES)}; name a saved model")


def load_model(model_args, config=None, flag="model_name_or_path", name=None, needs_head=False):
    """Load an fp32 question-answering model, in evaluation mode.

    Args:
        model_args: `ModelArguments`.
        config: its configuration, if it is not the one saved with it; its `architectures` say afterwards what the
            weights are of, which the file may not know.
        flag: the argument that names the model.
        name: folder or hub name, if it is not in `model_args`.
        needs_head: refuse weights without a question-answering head; else it is drawn at random, and with `None` no
            word is said about it.

    Raises:
        UsageError: the weights cannot be loaded, are not those of the configuration, or not finite.
    """
    from transformers import AutoConfig, AutoModelForQuestionAnswering

    name = name or model_args.model_name_or_path
    _refuse_missing_weights(flag, name)
    if kind_of(name) == "folder" and not any(Path(name).glob("model.safetensors*")):
        for path in sorted(Path(name).glob("pytorch_model*.bin")):
            weights = load_pickled(path)  # for the errors: transformers does not say what it found
            if not isinstance(weights, dict) or "best_configure" in weights:
                raise UsageError(
                    f"--{flag} {name}: {path.name} holds no fp32 weights; name the model it was made from"
                )
    if config is None:
        config = from_pretrained(AutoConfig, flag, name, model_args)
        _settle_config(config, flag, name)
    kwargs = {"config": config, "ignore_mismatched_sizes": True}
    model, info = _load_quietly(AutoModelForQuestionAnswering, flag, name, model_args, **kwargs)
    missing, encoder = info["missing_keys"], model.base_model.state_dict()

    def of_encoder(key):  # which may be named with or without what it is a part of
        return key.removeprefix(f"{model.base_model_prefix}.") in encoder

    for key, found, expected in info["mismatched_keys"]:
        if needs_head or of_encoder(key):
            raise UsageError(
                f"--{flag} {name} cannot be loaded: {key} has the shape {list(found)} in the weights and "
                f"{list(expected)} by {'config.json' if of_encoder(key) else 'what answering takes'}; name a saved "
                "model for question answering"
            )
    says_so = "QuestionAnswering" in str(config.architectures)
    lacking = [key for key in missing if needs_head or of_encoder(key)]
    if lacking and (says_so or any(map(of_encoder, lacking))):
        raise UsageError(
            f"--{flag} {name}: the weights lack {len(lacking)} of those that config.json speaks of, {lacking[0]} for "
            "one; name a model saved for question answering"
        )
    if lacking:
        raise UsageError(
            f"--{flag} {name} has no question-answering head, its config.json says {config.architectures}; "
            "fine-tune it first"
        )
    untrained = missing or info["mismatched_keys"]
    if untrained and needs_head is not None:
        print(f"note: {name} has no question-answering head; the training starts from a random one")
    config.architectures = [type(model.base_model if untrained else model).__name__]
    broken = [key for key, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise UsageError(f"--{flag} {name}: {broken[0]} holds values that are not finite; train the model anew")
    # It is saved with the model, and a path of this machine tells others nothing.
    model.config.name_or_path = name_on_hub(name)
    return model.eval()


def _load_quietly(auto_class, flag, name, model_args, **kwargs):
    """Load a model and what there is to say of its weights, which transformers would print in many lines."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return from_pretrained(auto_class, flag, name, model_args, output_loading_info=True, **kwargs)
    finally:
        logging.set_verbosity(verbosity)


def load_language_model(model_args, model, tokenizer):
    """Load the language model that a question-answering model stands on, in fp32 and evaluation mode.

    Args:
        model_args: `ModelArguments`.
        model: from `load_model`, for the same arguments.
        tokenizer: its own.

    Returns:
        `(model, guesses)`: with its head that guesses hidden words, and true, if the weights hold one and the
        tokenizer has a token that hides words; else what is in `model` before its own head, and false.
    """
    from transformers import AutoModelForMaskedLM

    if type(model.config) in AutoModelForMaskedLM._model_mapping and tokenizer.mask_token_id is not None:
        flag, name = "model_name_or_path", model_args.model_name_or_path
        config = copy.deepcopy(model.config)
        language, info = _load_quietly(AutoModelForMaskedLM, flag, name, model_args, config=config)
        if not info["missing_keys"]:
            language.config.name_or_path = name_on_hub(name)
            return language.eval(), True
    return model.base_model, False


def name_on_hub(name):
    """Return the hub's name of a model, the empty string for a folder.

    What the `config.json` of a folder records is the model that its own was made from.
    """
    return name if kind_of(name) is None else ""


def called(name):
    """Return what to call a model to others: its name on the hub, or that of its folder, without the path."""
    return name_on_hub(name) or Path(name).resolve().name


def load_teacher_config_and_tokenizer(name, tokenizer, model_args):
    """Load configuration and tokenizer of a teacher, and refuse a teacher that cannot teach the student.

    Args:
        name: folder or hub name.
        tokenizer: the student's.
        model_args: `ModelArguments`.

    Returns:
        `(config, tokenizer)`: the teacher's own, the second with question and context in the student's order.

    Raises:
        UsageError: the teacher cannot be loaded, is of the wrong kind, or has another vocabulary.
    """
    from transformers import AutoConfig

    flag = "teacher_model_name_or_path"
    config = from_pretrained(AutoConfig, flag, name, model_args)
    _refuse_missing_weights(flag, name)
    _settle_config(config, flag, name)
    theirs = load_tokenizer(flag, name, model_args)
    theirs.padding_side = tokenizer.padding_side
    words, ours = theirs.get_vocab(), tokenizer.get_vocab()
    if words != ours:
        raise UsageError(
            f"--{flag} {name} has another vocabulary than the student ({len(words)} and {len(ours)} entries, "
            f"{len(words.items() & ours.items())} in common); use a teacher with the same tokenizer"
        )
    _refuse_misfit(config, flag, name, tokenizer)
    return config, theirs


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
    if kind_of(name) == "folder":
        pointer = next(filter(is_lfs_pointer, _used_files(Path(name))), None)
        if pointer is not None:
            raise UsageError(
                f"--{flag} {name}: {pointer.name} is a Git LFS pointer and not the file itself; run git lfs pull in "
                "that folder"
            )
    try:
        return auto_class.from_pretrained(
            name,
            cache_dir=model_args.cache_dir,
            # A teacher has revisions of its own.
            revision="main" if flag == "teacher_model_name_or_path" else model_args.model_revision,
            token=model_args.token or model_args.use_auth_token or None,
            trust_remote_code=False,
            **kwargs,
        )
    except Exception as error:  # the libraries raise anything from KeyError to a bare Exception on a broken file
        if "Tokenizer class TokenizersBackend" in str(error):  # as transformers 5 calls any fast tokenizer
            from transformers import PreTrainedTokenizerFast

            return from_pretrained(PreTrainedTokenizerFast, flag, name, model_args, **kwargs)
        reason, hint = str(error)[:300] or type(error).__name__, "name a saved model"
        if kind_of(name) != "folder":
            hint = "give the path of a local folder"
            if name.startswith((".", "/")):
                reason = "there is no such folder"
            else:
                reason, hint = why_not_given(error, hint) or (reason, hint)
        elif auto_class.__name__ == "AutoTokenizer":
            reason, hint = _what_a_tokenizer_lacks(Path(name)) or (reason, hint)
        raise UsageError(f"--{flag} {name} cannot be loaded: {reason}; {hint}") from error


def _used_files(folder):
    """Return the files of a model that are read: beside weights in safetensors no others, and none of other tools."""
    files = sorted(folder.iterdir())
    weights = [file for file in files if file.match("model*.safetensors")]
    weights = weights or [file for file in files if file.match("pytorch_model*.bin")]
    return [file for file in files if file.suffix in (".json", ".txt", ".model")] + weights


def _what_a_tokenizer_lacks(folder):
    """Say why a tokenizer cannot be loaded, and what to do, where the libraries blame something else."""
    files = {name for name in TOKENIZER_FILES if (folder / name).is_file()}
    if not files:
        return f"the folder holds none of {', '.join(TOKENIZER_FILES)}", "save the tokenizer of the model there"
    missing = [module for module in ("sentencepiece", "google.protobuf") if importlib.util.find_spec(module) is None]
    if missing and not files & {"tokenizer.json", "vocab.txt", "vocab.json"}:
        return f"its {min(files)} needs {' and '.join(missing)}, not installed here", how_to_install()
    return None
