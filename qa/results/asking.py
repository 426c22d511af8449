"""One question to a model that a run saved, outside of any run.

Belongs here: finding out what an output folder holds and how its run was set up, loading no more than it takes, and
answering as `--do_predict` does.
Does not belong here: answering whole files (`evaluation.py`), and showing answers to people (`answer_qa.py`).
"""

import importlib.util
import os
import re
import time
from typing import NamedTuple

from qa.corrections.py_cpuinfo import ask_about_processor
from qa.results.files import read_json
from qa.start.arguments import DataTrainingArguments, ModelArguments
from qa.start.engines import ENGINES
from qa.start.errors import UsageError
from qa.start.output import RUN_FILE
from qa.start.paths import kind_of
from qa.start.process import go_offline_without_hub
from qa.start.run import ANSWERING, ORIGINAL
from qa.start.stack import how_to_install

# The default of --per_device_eval_batch_size: windows in a batch, which dynamic models take their scales from.
BATCH_SIZE = 8
# Characters of a sentence that are shown on either side of an answer.
LONGEST_SIDE = 300
# How a sentence ends. One or two letters, the first a capital, are rather an initial or a title: J., Dr., U.S.
END = r"(?:(?<!\b[A-Z])(?<!\b[A-Z][a-z])(?<!\bMrs)\.|[!?])['\")\]]*"


class Asked(NamedTuple):
    """A model that can be asked."""

    name: str  # what its folder is called
    model: object  # callable as in `passes.forward_passes`
    tokenizer: object
    data_args: DataTrainingArguments  # of its run
    batch_size: int  # as in `passes.Batches`
    multiple: int  # as in `passes.Batches`


def kind_of_model(folder):
    """Tell what kind of model lies in a folder, importing nothing.

    Args:
        folder: path of the folder.

    Returns:
        A name among `ENGINES`, `compressed` (by INC, also for IPEX), `fp32`, or `original` for a run that evaluated
        the model that it names and saved none.

    Raises:
        UsageError: there is no such folder, no model in it, or its engine is not installed.
    """
    if kind_of(folder) != "folder":
        raise UsageError(f"{folder}: there is no such folder; name the output folder of a finished run")
    for kind, engine in ENGINES.items():
        if not (folder / engine.files[-1]).is_file():
            continue
        if importlib.util.find_spec(engine.runtime) is None:
            raise UsageError(
                f"{folder} needs {engine.runtime}, not installed here; {how_to_install(f'requirements-{kind}.txt')}"
            )
        return kind
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        return "compressed" if "int8" in str(config.get("torch_dtype")) or config.get("backend") == "ipex" else "fp32"
    if "model_name_or_path" in settings_of(folder):
        return "original"
    raise UsageError(f"{folder} holds no model; name the output folder of a finished run")


def settings_of(folder):
    """Return what the run that wrote a folder left for those who ask its model, nothing if no run has finished there.

    Raises:
        UsageError: it cannot be read.
    """
    settings = read_json(folder / RUN_FILE).get("answering", {}) if (folder / RUN_FILE).is_file() else {}
    if not isinstance(settings, dict):
        raise UsageError(f"{folder / RUN_FILE}: answering is {settings!r}; name the output folder of a finished run")
    return settings


def prepare_imports(kinds):
    """Keep out progress bars, and libraries that models of these kinds do not need; call it before any is imported.

    Args:
        kinds: from `kind_of_model`.
    """
    os.environ["TQDM_DISABLE"] = "1"
    if "compressed" in kinds:
        ask_about_processor()
    if all(kind in ENGINES for kind in kinds):
        # PyTorch, which transformers imports for its tokenizers as well, takes 1.5 s.
        os.environ["USE_TORCH"] = "0"
        os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    if "original" in kinds:
        go_offline_without_hub()


def load(folder, kind, name):
    """Load what can be asked.

    Args:
        folder: path of the folder.
        kind: from `kind_of_model`.
        name: what to call it.

    Returns:
        `Asked`.

    Raises:
        UsageError: something in the folder is damaged, or cannot be asked.
    """
    import qa.results.evaluation  # noqa: F401  the first question is not to wait for it
    from qa.models.compressed import IPEX_WIDTH_STEP, is_ipex
    from qa.models.identity import weights_of_base
    from qa.models.loading import load_config_and_tokenizer, load_tokenizer

    settings = settings_of(folder)
    model_args = ModelArguments(model_name_or_path=str(folder))
    if kind == "original":
        vars(model_args).update({name: settings[name] for name in ORIGINAL if name in settings})
    known = _known(folder, settings)
    batch_size, never_pad = known.pop("per_device_eval_batch_size", BATCH_SIZE), known.pop("never_pad", False)
    try:
        if saved := kind in ENGINES or kind == "compressed":
            config, tokenizer = None, load_tokenizer("model_name_or_path", str(folder), model_args)
        else:
            config, tokenizer = load_config_and_tokenizer(model_args)
        model = _load_model(folder, kind, model_args, config)
        data_args = _data_args(known, tokenizer, getattr(model, "config", None))
        data_args.never_pad = never_pad
        if not saved:
            from qa.models.inputs import settle_inputs

            settle_inputs(model, tokenizer, data_args, model_args.model_name_or_path)
    except UsageError as error:
        # It names flags, and here are none.
        raise UsageError(re.sub("^--(model|config|tokenizer)_name(_or_path)? ", "", str(error))) from error
    except Exception as error:  # engines raise anything on a damaged file
        raise UsageError(f"{folder} cannot be loaded: {error}; make it anew") from error
    if kind == "original":
        made_from = read_json(folder / RUN_FILE).get("made_from", {})
        if weights_of_base(model_args, config) != made_from.get("inputs", {}).get("--model_name_or_path"):
            raise UsageError(
                f"{folder}: {model_args.model_name_or_path} is another model now than the one evaluated; evaluate it "
                "again"
            )
    ipex = kind == "compressed" and is_ipex(model.config)
    multiple = IPEX_WIDTH_STEP if ipex and data_args.pad_to_max_length is None else 1
    asked = Asked(name, model, tokenizer, data_args, batch_size, multiple)
    # The first passes of an engine prepare its graph and kernels; no answer is to be blamed for that.
    ask(asked, "Who?", "Nobody.")
    return asked


def _load_model(folder, kind, model_args, config):
    if kind in ENGINES:
        from qa.models.export import load_exported

        return load_exported(folder)
    if kind == "compressed":
        from qa.models.compressed import load_compressed

        return load_compressed(folder)
    from qa.models.loading import load_model

    return load_model(model_args, config, needs_head=True)


def _known(folder, settings):
    """Return those of `ANSWERING` that a run has left, and refuse what cannot be their value."""
    defaults = vars(DataTrainingArguments()) | {"per_device_eval_batch_size": BATCH_SIZE}
    defaults["never_pad"] = False
    known = {name: settings[name] for name in ANSWERING if name in settings}
    for name, value in known.items():
        kind = type(defaults[name])
        # JSON writes 1.0 and 1 alike, and a padding that was not chosen as null.
        if not isinstance(value, {float: (int, float), type(None): (bool, type(None))}.get(kind, kind)):
            raise UsageError(f"{folder / RUN_FILE}: {name} is {value!r}; name the output folder of a finished run")
    return known


def _data_args(known, tokenizer, config):
    """Return the `DataTrainingArguments` of a run; its defaults, as far as the model is long enough, where none is."""
    data_args = DataTrainingArguments(**known)
    if "max_seq_length" not in known:
        longest = tokenizer.model_max_length
        longest = min(longest, getattr(config, "max_position_embeddings", longest))
        data_args.max_seq_length = min(data_args.max_seq_length, longest)
        data_args.doc_stride = min(data_args.doc_stride, data_args.max_seq_length // 3)
    return data_args


def ask(asked, question, context):
    """Answer a question about a text, in windows where it is long.

    Args:
        asked: `Asked`.
        question, context: text.

    Returns:
        Dictionary of `answer` (the empty text for none), `span` (its `[begin, end]` characters in the context, or
        `None`), `score` (its probability among the best candidates), for SQuAD 2.0 `null_odds` (the null score minus
        that of the best answer) and `null_score_diff_threshold` (answers nothing above it), and `seconds`, which the
        model and the choice of the answer took.

    Raises:
        UsageError: the question is so long that it leaves no room for the text.
    """
    from qa.models.passes import Batches, predict_logits
    from qa.questions.features import dataset_of, uncached_features
    from qa.results.evaluation import choose_answers

    example = {"id": "1", "context": context, "question": question, "answers": None}
    examples, data_args = dataset_of([example]), asked.data_args
    try:
        features = uncached_features(examples, asked.tokenizer, data_args)
    except UsageError as error:  # it names flags, and here are none
        width = data_args.max_seq_length
        raise UsageError(f"{asked.name} reads {width} tokens at a time; shorten the question") from error
    width, longest = data_args.evaluation_width, data_args.max_seq_length
    batches = Batches(features, asked.tokenizer, asked.batch_size, width, asked.multiple, longest)
    begin = time.perf_counter()
    logits = predict_logits(asked.model, batches)
    answers = choose_answers(examples, features, logits, data_args)
    seconds = time.perf_counter() - begin
    answer, span = answers.predictions["1"], answers.spans["1"]
    found = {
        "answer": answer,
        "span": list(span) if span else None,
        "score": next((entry["probability"] for entry in answers.nbest["1"] if entry["text"] == answer), 0.0),
    }
    if answers.null_odds is not None:
        threshold = data_args.null_score_diff_threshold
        found |= {"null_odds": answers.null_odds["1"], "null_score_diff_threshold": threshold}
    return found | {"seconds": seconds}


def sentence_around(context, span):
    """Cut out the sentence that an answer stands in.

    Args:
        context: text.
        span: `(begin, end)` characters of the answer.

    Returns:
        `(before, answer, after)`, at most `LONGEST_SIDE` characters on either side.
    """
    begin, end = span
    ends = [found.end() for found in re.finditer(rf"{END}\s+|\n", context[:begin])]
    first = max(ends[-1] if ends else 0, begin - LONGEST_SIDE)
    following = re.compile(rf"{END}(?=\s|$)|\n").search(context, max(begin, end - 1))
    last = min(following.end() if following else len(context), end + LONGEST_SIDE)
    return context[first:begin], context[begin:end], context[end : max(last, end)]
