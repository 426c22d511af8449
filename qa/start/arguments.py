"""The arguments that the scripts share, how they are read, and what is refused about them.

Belongs here: the shared dataclasses, the parser, and checks of single values. Of the libraries only `torch` and
`transformers` are imported, and those inside functions.
Does not belong here: what is asked of one script alone (its `OptimizationArguments`), argument files
(`argument_words.py`), arguments that have no effect or do not go together (`arguments_checks.py`), and reading data
files (`qa/questions/`).
"""

import argparse
import os
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from qa.corrections.accelerate import mixed_precision
from qa.start.argument_words import known_values, refuse, value_of, values_of_file, words_of
from qa.start.errors import UsageError
from qa.start.output import last_checkpoint, step_of
from qa.start.paths import check_output_dir, kind_of
from qa.start.process import go_offline_without_hub, quiet_libraries
from qa.start.training_arguments import HELP, NO_EFFECT, OF_TRAINING, REFUSED

# Arguments that may name something on the hub.
HUB_NAMES = ("model_name_or_path", "config_name", "tokenizer_name", "dataset_name", "teacher_model_name_or_path")
# The argument that names the file of a split.
FILE_FLAGS = {"train": "train_file", "validation": "validation_file", "test": "test_file"}
DATA_FILE_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
# Of files to learn a language from as well.
TEXT_FILE_SUFFIXES = (*DATA_FILE_SUFFIXES, ".txt")
# Larger numbers are slips of the pen, and overflow somewhere inside the libraries.
LARGEST = 2**31 - 1
MOST_WORKERS = 1024
# What numbers may be; those of `TrainingArguments` it leaves to fail in the middle of the training.
RANGES = {
    **dict.fromkeys(
        (
            *("max_seq_length", "max_train_samples", "max_eval_samples", "max_predict_samples", "n_best_size"),
            *("max_answer_length", "num_calibration_samples", "eval_accumulation_steps"),
            *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
        ),
        ("a whole number of at least 1", lambda value: value >= 1),
    ),
    **dict.fromkeys(
        ("seed", "data_seed", "warmup_steps", "save_total_limit", "steps", "start_step"),
        ("a whole number of at least 0", lambda value: value >= 0),
    ),
    **dict.fromkeys(
        ("learning_rate", "weight_decay", "max_grad_norm", "adam_epsilon", "eval_delay"),
        ("a number of at least 0", lambda value: value >= 0),
    ),
    **dict.fromkeys(
        ("num_train_epochs", "logging_steps", "save_steps", "eval_steps"),
        ("a number above 0", lambda value: value > 0),
    ),
    **dict.fromkeys(
        ("adam_beta1", "adam_beta2", "label_smoothing_factor", "target_sparsity", "prune_heads", "prune_ffn"),
        ("a number from 0 to below 1", lambda value: 0 <= value < 1),
    ),
    "preprocessing_num_workers": (f"a number from 1 to {MOST_WORKERS}", lambda value: 1 <= value <= MOST_WORKERS),
    "dataloader_num_workers": (f"a number from 0 to {MOST_WORKERS}", lambda value: 0 <= value <= MOST_WORKERS),
    "max_steps": ("a whole number of at least 1, or leave it out", lambda value: value >= 1 or value == -1),
}


@dataclass
class ModelArguments:
    """Which model, configuration and tokenizer a run starts from."""

    model_name_or_path: str = field(metadata={"help": "Folder of a pretrained model, or its name on the hub."})
    config_name: str | None = field(
        default=None, metadata={"help": "Configuration name or folder, if not that of the model."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer name or folder, if not that of the model."}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder for what is downloaded from the hub and for prepared features."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model on the hub."})
    token: str | None = field(
        default=None, metadata={"help": "Token for private models and data sets, in place of the stored one."}
    )
    use_auth_token: bool = field(
        default=False, metadata={"help": "Use the token stored by `huggingface-cli login` (private models)."}
    )


@dataclass
class DataTrainingArguments:
    """Which questions a run reads, and how they become features and answers."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Data set on the hub, or a local folder (also one of `save_to_disk`)."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the data set on the hub."}
    )
    train_file: str | None = field(
        default=None,
        metadata={"help": "Training questions: SQuAD JSON (v1.1 or v2.0), flat JSON, JSON Lines, CSV or Parquet."},
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Questions for --do_eval, in any of the formats of --train_file."}
    )
    test_file: str | None = field(
        default=None, metadata={"help": "Questions for --do_predict; answers may be missing."}
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Prepare features anew, cached or not."})
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes that prepare features (one, if left out)."}
    )
    max_seq_length: int = field(
        default=384, metadata={"help": "Longest window in tokens; longer contexts are cut into several."}
    )
    pad_to_max_length: bool | None = field(
        default=None,
        # A bare flag means True; HfArgumentParser does that for plain booleans only.
        metadata={
            "help": "Pad every window to max_seq_length (--no_pad_to_max_length: to the longest of its batch). Left "
            "out: to the longest of its batch, except where the engine needs fixed shapes.",
            "nargs": "?",
            "const": True,
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use only the first so many training examples, with all their windows."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use only the first so many validation examples, with all their windows."}
    )
    max_predict_samples: int | None = field(
        default=None, metadata={"help": "Use only the first so many test examples, with all their windows."}
    )
    version_2_with_negative: bool = field(
        default=False, metadata={"help": "Some questions have no answer (SQuAD 2.0)."}
    )
    null_score_diff_threshold: float = field(
        default=0.0,
        metadata={
            "help": "Answer nothing where the null score exceeds the best answer's score by more than this "
            "(only with --version_2_with_negative)."
        },
    )
    doc_stride: int = field(
        default=128, metadata={"help": "Tokens that two neighbouring windows of a long context share."}
    )
    n_best_size: int = field(default=20, metadata={"help": "Candidate answers kept for each question."})
    max_answer_length: int = field(default=30, metadata={"help": "Longest answer in tokens."})

    @property
    def fixed_width(self):
        """Tokens that every batch is padded to, or `None` where each has its own width."""
        return self.max_seq_length if self.pad_to_max_length else None

    # No argument: the model says it (`qa/models/inputs.py`).
    never_pad = False

    @property
    def evaluation_width(self):
        """Tokens that every batch of an evaluation is padded to, 0 where none may be padded, else `None`."""
        return 0 if self.never_pad else self.fixed_width


@dataclass
class OutcomeArguments:
    """How the outcome of a run is proved; each script's `OptimizationArguments` goes on from here."""

    # No arguments: whether the script is about questions, or about any text, whether it trains, and which shared
    # arguments it refuses for what reasons.
    takes_questions = True
    trains = False
    refused: ClassVar = {"use_ipex": "it is for run_qa_post_training.py; leave it out"}

    verify_loading: bool = field(
        default=False,
        metadata={
            "help": "Load the saved model again and compare its logits with those in memory; exit code 1 if not alike."
        },
    )
    report: bool = field(
        default=False,
        metadata={
            "help": "Score, time and weigh the original model as well; write report.html, .md and .json, and plots."
        },
    )


def parse_arguments(optimization_arguments_class, argv=None):
    """Read the arguments of one run and refuse those that cannot work together.

    Args:
        optimization_arguments_class: the script's own dataclass, an `OutcomeArguments`, added to the other shared ones
            and `TrainingArguments`.
        argv: list of command-line words; those of the process if `None`. A `.json`, `.yaml` or `.yml` file given as
            the first word holds arguments by name, or all that `TrainingArguments.to_dict` gives; flags behind it win
            over the file, and question files over a data set that it names. Names may be cut short where that is
            unambiguous.

    `given`, a frozenset of names, is put on the last of the returned instances: the arguments that stood in the file
    or on the command line, written out, which alone win over a configuration file.

    Returns:
        `(ModelArguments, DataTrainingArguments, TrainingArguments, optimization_arguments_class)` instances.

    Raises:
        UsageError: an argument is unknown, malformed, out of range or missing.
    """
    flags = list(sys.argv[1:] if argv is None else argv)
    file, values = None, {}
    if flags and not flags[0].startswith("-") and flags[0].endswith((".json", ".yaml", ".yml")):
        file, *flags = flags
        values = values_of_file(Path(file))
        if flags and not flags[0].startswith("-"):
            refuse(f"unrecognized: {flags[0]} behind {file}")
        if value_of("dataset_name", flags) is None and any(value_of(name, flags) for name in FILE_FLAGS.values()):
            if values.get("dataset_name"):
                print(f"note: argument file {file}: dataset_name is left out, since question files are given")
            values = {name: value for name, value in values.items() if not name.startswith("dataset_")}
    # Of two equal flags argparse takes the second.
    words = [*words_of(values), *flags]
    # All must be settled before the libraries are imported, and so before there is a parser.
    if value_of("log_level", words) not in ("debug", "info", "detail"):
        quiet_libraries()
    if str(value_of("disable_tqdm", words)).lower() in ("true", "1", "yes"):
        os.environ["TQDM_DISABLE"] = "1"  # bars of other libraries and ours
    names = [value_of(flag, words) for flag in HUB_NAMES]
    pushing = any(word.split("=")[0] == "--push_to_hub" and word != "--push_to_hub=False" for word in words)
    if pushing or any(name is not None and kind_of(name) is None for name in names):
        go_offline_without_hub()

    import torch
    from transformers import HfArgumentParser, TrainingArguments
    from transformers.hf_argparser import string_to_bool

    parser = HfArgumentParser(
        (ModelArguments, DataTrainingArguments, TrainingArguments, optimization_arguments_class),
        description=sys.modules[optimization_arguments_class.__module__].__doc__.split("\n")[0],
    )
    parser.add_argument(
        "--no_pad_to_max_length",
        dest="pad_to_max_length",
        nargs="?",
        const=False,
        type=lambda word: not string_to_bool(word),
        metavar="true",
        help="Pad batches to their longest window, whatever the engine.",
    )
    # Batches of one length have little padding: a third less to compute on SQuAD.
    parser.set_defaults(group_by_length=True)
    # Checkpoints are there to continue from; all of a long run would fill the disk.
    parser.set_defaults(save_total_limit=2)
    # Without this TrainingArguments imports all of IPEX (8 s), to look for an Intel GPU where there is no NVIDIA one.
    parser.set_defaults(use_cpu=not torch.cuda.is_available())
    # Of several processes the first one says it all.
    parser.set_defaults(log_level_replica="error")
    # By default whatever tracker is installed would get the run, and tensorboard its files into the output folder.
    parser.set_defaults(report_to="none")
    parser.error = refuse
    actions = parser._option_string_actions
    actions["--report_to"].nargs = "+"
    hidden = {*NO_EFFECT, *REFUSED, *optimization_arguments_class.refused}
    if not optimization_arguments_class.trains:
        hidden |= {*OF_TRAINING, "report_to", "ddp_backend", "ddp_timeout"}
    for action in actions.values():
        action.help = argparse.SUPPRESS if action.dest in hidden else HELP.get(action.dest, action.help)
    known = known_values(values, actions, {each.name: each.default for each in fields(TrainingArguments)}, file)
    words = [*words_of(known), *flags]
    unset = argparse.Namespace(**dict.fromkeys((action.dest for action in actions.values()), parser))
    asked, _ = parser.parse_known_args(words, unset)
    try:
        with mixed_precision():
            model_args, data_args, training_args, optimization_args, unused = parser.parse_args_into_dataclasses(
                words, look_for_args_file=False, return_remaining_strings=True
            )
    except (ValueError, OSError, ImportError) as error:
        # TrainingArguments checks itself. Its message on bf16 speaks of GPUs only.
        hint = "; on a CPU give --no_cuda as well" if "bf16" in str(error) else ""
        raise UsageError(f"the training arguments do not work: {error}{hint}") from error
    if unused:
        before = [word for word in words[: words.index(unused[0])] if word.startswith("--")]
        place = f" behind {before[-1]}" if before and not unused[0].startswith("--") else ""
        refuse(f"unrecognized: {' '.join(unused)}{place}")
    optimization_args.given = frozenset(name for name, value in vars(asked).items() if value is not parser)
    for arguments in (data_args, training_args, optimization_args):
        _check_numbers(vars(arguments))
    _settle_source(data_args)
    _check_data_arguments(data_args, training_args, optimization_args.takes_questions)
    if optimization_args.takes_questions and optimization_args.report and not training_args.do_eval:
        raise UsageError("--report compares answers to the validation questions: give --do_eval as well")
    _check_local_model(model_args, training_args)
    return model_args, data_args, training_args, optimization_args


def check_growth(optimization_args):
    """Refuse steps between which sparsity cannot grow.

    Raises:
        UsageError: the last is not behind the first.
    """
    start, end = optimization_args.start_step, optimization_args.end_step
    if end is not None and end <= start:
        raise UsageError(f"--end_step is {end}; give more than --start_step, which is {start}")


def _check_numbers(values):
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if not abs(value) <= LARGEST:  # NaN compares to nothing
            raise UsageError(f"--{name} is {value}; give a number between -{LARGEST} and {LARGEST}")
        text, allowed = RANGES.get(name, ("", lambda value: True))
        if not allowed(value):
            raise UsageError(f"--{name} is {value}; give {text}")


def _settle_source(data_args):
    """Leave one place that questions come from: as in the transformers example a data set wins over files."""
    data_args.dataset_name = data_args.dataset_name or None  # an unset variable of the shell
    if data_args.dataset_name:
        vars(data_args).update(dict.fromkeys(FILE_FLAGS.values()))


def _check_data_arguments(data_args, training_args, takes_questions):
    if takes_questions and not 0 <= data_args.doc_stride < data_args.max_seq_length:
        raise UsageError(
            f"--doc_stride is {data_args.doc_stride}; it must be at least 0 and smaller than --max_seq_length "
            f"({data_args.max_seq_length})"
        )
    files = {name: getattr(data_args, name) for name in FILE_FLAGS.values()}
    for name, path in files.items():
        if path is None:
            continue
        if kind_of(path) != "file":
            raise UsageError(f"--{name} {path}: there is no such file")
        suffixes = DATA_FILE_SUFFIXES if takes_questions else TEXT_FILE_SUFFIXES
        if not path.endswith(suffixes):
            raise UsageError(f"--{name} {path}: the name must end in one of {', '.join(suffixes)}")
    if takes_questions and data_args.dataset_name is None:
        for wanted, flag, name in (
            (training_args.do_train, "do_train", "train_file"),
            (training_args.do_eval, "do_eval", "validation_file"),
            (training_args.do_predict, "do_predict", "test_file"),
        ):
            if wanted and files[name] is None:
                raise UsageError(f"--{flag} needs questions: give --{name} or --dataset_name")
    if training_args.report_to:
        from transformers.integrations import get_available_reporting_integrations

        installed = get_available_reporting_integrations()
        if missing := sorted(set(training_args.report_to) - set(installed)):
            raise UsageError(f"--report_to {missing[0]} is not installed here; choose from {', '.join(installed)}")
    check_output_dir(training_args.output_dir)


def _check_local_model(model_args, training_args):
    """Refuse a local folder that cannot be a model, or would be overwritten; hub names are left to the hub."""
    name = model_args.model_name_or_path
    if kind_of(name) == "folder":
        if not (Path(name) / "config.json").is_file():
            raise UsageError(f"--model_name_or_path {name}: the folder holds no config.json; name a saved model")
    elif kind_of(name) == "file" or name.startswith((".", "/")):
        raise UsageError(f"--model_name_or_path {name}: there is no such folder")
    if kind_of(name) == "folder" and Path(name).resolve() == Path(training_args.output_dir).resolve():
        raise UsageError(f"--output_dir {training_args.output_dir} is the model's own folder; name another one")
    if str(training_args.resume_from_checkpoint).lower() in ("true", "false"):
        training_args.resume_from_checkpoint = None  # the last one in the output folder is found without
    checkpoint = training_args.resume_from_checkpoint
    if checkpoint is not None and kind_of(checkpoint) != "folder":
        last = last_checkpoint(training_args.output_dir)
        within = Path(checkpoint).resolve().parent == Path(training_args.output_dir).resolve()
        removed = last and within and 0 < (step_of(checkpoint) or 0) < step_of(last)
        if not removed or training_args.overwrite_output_dir:
            raise UsageError(
                f"--resume_from_checkpoint {checkpoint}: there is no such folder; name a checkpoint-... folder"
            )
        # The same command once more, after a run that went on from there, and kept its last checkpoints.
        print(f"note: --resume_from_checkpoint {checkpoint} was removed since; {last} is taken")
        training_args.resume_from_checkpoint = last
    if model_args.cache_dir is not None and kind_of(model_args.cache_dir) == "file":
        raise UsageError(f"--cache_dir {model_args.cache_dir} is a file; name a folder")
