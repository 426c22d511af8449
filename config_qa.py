"""YAML files in, checked settings for Intel Neural Compressor out.

Belongs here: reading the files of `config/` and users' own ones, and saying which line of which file is wrong.
Does not belong here: what the settings are used for, and INC itself: settings are plain values.

Files are read as trees of nodes by PyYAML's safe loader: no tag builds an object, and every message knows its line.
A file in INC's older layout is rewritten, still as nodes, to today's keys, so that there is one set of checks.
"""

import re
import sys
from pathlib import Path

import yaml

from environment_qa import PROJECT_DIR, UsageError

CONFIG_DIR = PROJECT_DIR / "config"
# Far more than a sensible file has. Aliases can make a short file unfold to billions, or contain itself.
MAX_NODES = 10_000

PRUNING_APPROACHES = (
    "snip_momentum",
    "snip_momentum_progressive",
    "magnitude",
    "magnitude_progressive",
    "gradient",
    "gradient_progressive",
    "snip",
    "snip_progressive",
    "pattern_lock",
)

# Dates, binary data, merge keys, sets and Python objects are left out: nothing here needs them.
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
_BLOCKS = re.compile(r"(channelx1|1xchannel|[1-9][0-9]{0,3}x[1-9][0-9]{0,3})|([1-9][0-9]{0,3}):([1-9][0-9]{0,3})")


# A schema is a dictionary from key to schema, `AnyKey`, `ListOf`, a tuple of schemas (a list of that length), or one
# of the next four classes, which each accept some single values and say which.


class Choice:
    """One of some words or numbers."""

    def __init__(self, *allowed):
        self.allowed = allowed
        self.text = f"one of {', '.join(map(str, allowed))}"

    def accepts(self, value):
        return type(value) in (str, int) and value in self.allowed


class Number:
    """A number that passes a test; whole ones will do for a `float`, true and false for neither."""

    def __init__(self, kind, bounds, test):
        self.kind, self.test = kind, test
        self.text = f"a {'whole number' if kind is int else 'number'} {bounds}"

    def accepts(self, value):
        return type(value) in (int, self.kind) and value <= sys.maxsize and self.test(value)


class Flag:
    """True or false."""

    text = "true or false"

    def accepts(self, value):
        return isinstance(value, bool)


class Text:
    """A string for which `test` is true and raises nothing."""

    def __init__(self, text, test):
        self.text, self.test = text, test

    def accepts(self, value):
        try:
            return isinstance(value, str) and bool(self.test(value))
        except (re.error, OverflowError, RecursionError):
            return False


class ListOf:
    """A list of items of one schema; with `or_one`, at least one item, which may stand there without a list."""

    def __init__(self, item, or_one=False):
        self.item, self.or_one = item, or_one


class AnyKey:
    """A mapping whose keys are regular expressions for operator names or types, and whose values follow one schema."""

    def __init__(self, schema):
        self.schema = schema


def _is_pattern(value):
    match = _BLOCKS.fullmatch(value)
    return match and (match[1] or int(match[2]) < int(match[3]))


_SHARE = Number(float, "of at least 0 and below 1", lambda value: 0 <= value < 1)
_UP_TO_ONE = Number(float, "of at least 0 and at most 1", lambda value: 0 <= value <= 1)
_NOT_NEGATIVE = Number(float, "of at least 0", lambda value: value >= 0)
_STEP = Number(int, "of at least 0", lambda value: value >= 0)
_COUNT = Number(int, "of at least 1", lambda value: value >= 1)
_REGEX = Text("a regular expression (as '.*query')", lambda value: re.compile(value) is not None)
_PATTERN = Text("NxM (as 4x1), channelx1, 1xchannel, or N:M with N below M (as 2:4)", _is_pattern)

_OPERATOR = {
    side: {
        "dtype": ListOf(Choice("int8", "uint8", "fp32", "bf16"), or_one=True),
        "scheme": ListOf(Choice("sym", "asym"), or_one=True),
        "granularity": ListOf(Choice("per_tensor", "per_channel"), or_one=True),
        "algorithm": ListOf(Choice("minmax", "kl"), or_one=True),
    }
    for side in ("weight", "activation")
}
_QUANTIZATION_AWARE = {
    "op_type_dict": AnyKey(_OPERATOR),
    "op_name_dict": AnyKey(_OPERATOR),
    "quant_level": Choice("auto", 0, 1),
    "accuracy_criterion": {
        "criterion": Choice("relative", "absolute"),
        "tolerable_loss": _NOT_NEGATIVE,
        "higher_is_better": Flag(),
    },
    "tuning_criterion": {
        "max_trials": _COUNT,
        "timeout": _NOT_NEGATIVE,
        # INC's `hawq_v2` needs a Python function, and 3.7.1 comes without `tpe`.
        "strategy": Choice("basic", "bayesian", "exhaustive", "mse", "mse_v2", "random"),
        "objective": ListOf(Choice("performance", "accuracy", "modelsize", "footprint"), or_one=True),
    },
}
_POST_TRAINING = {
    **_QUANTIZATION_AWARE,
    "recipes": {
        "smooth_quant": Flag(),
        "smooth_quant_args": {"alpha": _UP_TO_ONE, "folding": Flag()},
        "fast_bias_correction": Flag(),
        "weight_correction": Flag(),
    },
}
_APPROACHES = {
    "dynamic": _POST_TRAINING,
    "static": _POST_TRAINING,
    "ipex": _POST_TRAINING,
    "qat": _QUANTIZATION_AWARE,
}
# Keys of INC's PostTrainingQuantConfig and QuantizationAwareTrainingConfig, at the top for every approach or under the
# name of the one they are for.
QUANTIZATION_SCHEMA = {**_POST_TRAINING, **_APPROACHES}

# Keys of INC's WeightPruningConfig. Epochs come from the older layout only.
_PRUNING = {
    "target_sparsity": _SHARE,
    "pruning_type": Choice(*PRUNING_APPROACHES),
    "pattern": _PATTERN,
    "op_names": ListOf(_REGEX),
    "excluded_op_names": ListOf(_REGEX),
    "start_step": _STEP,
    "end_step": _STEP,
    "pruning_scope": Choice("global", "local"),
    "pruning_frequency": _COUNT,
    "min_sparsity_ratio_per_op": _SHARE,
    "max_sparsity_ratio_per_op": _SHARE,
    "sparsity_decay_type": Choice("exp", "cos", "linear", "cube"),
    "pruning_op_types": ListOf(Choice("Conv", "Linear"), or_one=True),
}
_OLD_PRUNING = {**_PRUNING, "start_epoch": _NOT_NEGATIVE, "end_epoch": _NOT_NEGATIVE}

# Keys of INC's KnowledgeDistillationLossConfig, flat or as INC itself nests them.
_LOSS = {
    "temperature": Number(float, "above 0", lambda value: value > 0),
    "loss_types": (Choice("CE", "MSE"), Choice("CE", "KL", "MSE")),
    "loss_weights": (_UP_TO_ONE, _UP_TO_ONE),
}
_DISTILLATION = {**_LOSS, "criterion": {"KnowledgeDistillationLoss": _LOSS}}

# The older layout: its keys, and what each is called today (None: it has no use today, or not in this project).
_OLD_SECTIONS = ("version", "model", "device", "evaluation", "tuning", "quantization", "pruning", "distillation")
_OLD_PRUNER = {
    **{key: key for key in _OLD_PRUNING},
    "target_sparsity_ratio": "target_sparsity",
    "prune_type": "pruning_type",
    "names": "op_names",
    "excluded_names": "excluded_op_names",
    "extra_excluded_names": "excluded_op_names",
    "update_frequency_on_step": "pruning_frequency",
    "prune_domain": "pruning_scope",
    "prune_layer_type": "pruning_op_types",
    "min_sparsity_ratio_per_layer": "min_sparsity_ratio_per_op",
    "max_sparsity_ratio_per_layer": "max_sparsity_ratio_per_op",
    # Sparsity grows from zero, in steps finer than epochs.
    **dict.fromkeys(("initial_sparsity", "initial_sparsity_ratio", "update_frequency", "method", "parameters")),
}
_OLD_QUANTIZATION = {
    "op_wise": "op_name_dict",
    "optype_wise": "op_type_dict",
    "model_wise": "op_type_dict",
    **dict.fromkeys(("approach", "calibration", "recipes", "train", "use_bf16")),
}
_OLD_TUNING = {
    **{key: key for key in ("accuracy_criterion", "strategy", "objective")},
    **dict.fromkeys(("exit_policy", "random_seed", "workspace", "tensorboard", "multi_objectives")),
}


def find_config(path, flag):
    """Return the path of a configuration file: as given, else by its name in the project's `config/`.

    Raises:
        UsageError: there is neither.
    """
    for candidate in (Path(path), CONFIG_DIR / Path(path).name):
        if candidate.is_file():
            return candidate
    raise UsageError(f"--{flag} {path}: there is no such file, nor {CONFIG_DIR / Path(path).name}")


