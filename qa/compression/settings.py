"""YAML files in, checked settings for Intel Neural Compressor out.

Belongs here: reading the files of `config/` and users' own ones, and saying which line of which file is wrong.
Does not belong here: what the settings are used for, and INC itself: all settings are plain values.
"""

import re
import sys
from pathlib import Path

import yaml

from qa.start.errors import UsageError
from qa.start.stack import PROJECT_DIR
from qa.start.yaml_files import at_line, compose, described, plain

CONFIG_DIR = PROJECT_DIR / "config"
_CRITERIA = ("snip_momentum", "magnitude", "gradient", "snip")
PRUNING_APPROACHES = (*(name + way for name in _CRITERIA for way in ("", "_progressive")), "pattern_lock")


class Value:
    """Schema of a single value: `text` says what is allowed, `test` whether a value of one of `kinds` is."""

    def __init__(self, text, kinds, test):
        self.text, self.kinds, self.test = text, kinds, test

    def accepts(self, value):
        try:
            return type(value) in self.kinds and bool(self.test(value))
        except (re.error, OverflowError, RecursionError):
            return False


class ListOf:
    """Schema of a list of at least so many items; with `or_one`, a single item may stand there without a list."""

    def __init__(self, item, least=0, or_one=False):
        self.item, self.least, self.or_one = item, least, or_one
        self.text = f"a list, each item {item.text}" if isinstance(item, Value) else "a list of mappings"


class AnyKey:
    """Schema of a mapping whose keys are regular expressions for operators, and whose values follow one schema."""

    def __init__(self, schema):
        self.schema = schema


def _choice(*allowed):
    return Value(f"one of {', '.join(map(str, allowed))}", (str, int), lambda value: value in allowed)


def _number(kind, bounds, test):
    """Whole numbers will do for a `float`. Beyond `maxsize` are only slips of the pen, and infinity."""
    text = f"a {'whole number' if kind is int else 'number'} {bounds}"
    return Value(text, {int, kind}, lambda value: value <= sys.maxsize and test(value))


def _is_pattern(text):
    blocks = re.fullmatch(r"(tile_pattern_)?(channelx1|1xchannel|[1-9]\d{0,3}x[1-9]\d{0,3})", text, re.ASCII)
    return blocks or 0 < _share_of_pattern(text) < 1


def _share_of_pattern(text):
    """Return the part that an N:M pattern can prune, 1 for other patterns."""
    ratio = re.fullmatch(r"(?:tile_pattern_)?(\d{1,4}):([1-9]\d{0,3})", text, re.ASCII)
    return int(ratio[1]) / int(ratio[2]) if ratio else 1.0


_FLAG = Value("true or false", (bool,), lambda value: True)
_SHARE = _number(float, "of at least 0 and below 1", lambda value: 0 <= value < 1)
_UP_TO_ONE = _number(float, "of at least 0 and at most 1", lambda value: 0 <= value <= 1)
_NOT_NEGATIVE = _number(float, "of at least 0", lambda value: value >= 0)
_ABOVE_ZERO = _number(float, "above 0", lambda value: value > 0)
_STEP = _number(int, "of at least 0", lambda value: value >= 0)
_COUNT = _number(int, "of at least 1", lambda value: value >= 1)
_REGEX = Value("a regular expression (as '.*query')", (str,), lambda value: re.compile(value) is not None)
_PATTERN = Value("NxM (as 4x1), channelx1, 1xchannel, or N:M with N below M (as 2:4)", (str,), _is_pattern)
# A schema is one of the classes above, a dictionary from key to schema, a tuple of schemas (a list of that length), or
# `None` for what is known but not used.
_OPERATOR = {
    side: {
        "dtype": ListOf(_choice("int8", "uint8", "fp32", "bf16"), least=1, or_one=True),
        "scheme": ListOf(_choice("sym", "asym"), least=1, or_one=True),
        "granularity": ListOf(_choice("per_tensor", "per_channel"), least=1, or_one=True),
        "algorithm": ListOf(_choice("minmax", "kl"), least=1, or_one=True),
    }
    for side in ("weight", "activation")
}
_TUNING = {
    "max_trials": _COUNT,
    "timeout": _NOT_NEGATIVE,
    # INC's `hawq_v2` needs a Python function, and 3.7.1 comes without `tpe`.
    "strategy": _choice("basic", "bayesian", "exhaustive", "mse", "mse_v2", "random"),
    "objective": ListOf(_choice("performance", "accuracy", "modelsize", "footprint"), least=1, or_one=True),
}
_QUANTIZATION_AWARE = {
    "op_type_dict": AnyKey(_OPERATOR),
    "op_name_dict": AnyKey(_OPERATOR),
    "quant_level": _choice("auto", 0, 1),
    "accuracy_criterion": {
        "criterion": _choice("relative", "absolute"),
        "tolerable_loss": _NOT_NEGATIVE,
        "higher_is_better": _FLAG,
    },
    "tuning_criterion": _TUNING,
}
_POST_TRAINING = {
    **_QUANTIZATION_AWARE,
    "recipes": {
        "smooth_quant": _FLAG,
        "smooth_quant_args": {"alpha": _UP_TO_ONE, "folding": _FLAG},
        "fast_bias_correction": _FLAG,
        "weight_correction": _FLAG,
    },
}
_APPROACHES = {**dict.fromkeys(("dynamic", "static", "ipex"), _POST_TRAINING), "qat": _QUANTIZATION_AWARE}
# Keys of INC's PostTrainingQuantConfig and QuantizationAwareTrainingConfig, at the top for every approach or under the
# name of the one they are for.
QUANTIZATION_SCHEMA = {**_POST_TRAINING, **_APPROACHES}
# Keys of INC's WeightPruningConfig.
_PRUNING = {
    "target_sparsity": _SHARE,
    "pruning_type": _choice(*PRUNING_APPROACHES),
    "pattern": _PATTERN,
    "op_names": ListOf(_REGEX),
    "excluded_op_names": ListOf(_REGEX),
    "start_step": _STEP,
    "end_step": _STEP,
    "pruning_scope": _choice("global", "local"),
    "pruning_frequency": _COUNT,
    "min_sparsity_ratio_per_op": _SHARE,
    "max_sparsity_ratio_per_op": _SHARE,
    "sparsity_decay_type": _choice("exp", "cos", "linear", "cube"),
    "pruning_op_types": ListOf(_choice("Conv", "Linear"), least=1),
}
PRUNING_SCHEMA = {**_PRUNING, "pruning_configs": ListOf(_PRUNING)}
# Keys of INC's KnowledgeDistillationLossConfig, flat or as INC nests them itself.
_LOSS = {
    "temperature": _ABOVE_ZERO,
    "loss_types": (_choice("CE", "MSE"), _choice("CE", "KL", "MSE")),
    "loss_weights": (_UP_TO_ONE, _UP_TO_ONE),
}
DISTILLATION_SCHEMA = {**_LOSS, "criterion": {"KnowledgeDistillationLoss": _LOSS}}
# INC's older layout, in which one file held everything. First what is called otherwise today.
_PRUNE_TYPES = {"basic_magnitude": "magnitude", "gradient_sensitivity": "gradient"}
_PRUNER_KEYS = {
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
}
_PRUNER = {
    **_PRUNING,
    **{old: _PRUNING[new] for old, new in _PRUNER_KEYS.items()},
    "prune_type": _choice(*PRUNING_APPROACHES, *_PRUNE_TYPES),
    "start_epoch": _NOT_NEGATIVE,
    "end_epoch": _NOT_NEGATIVE,
    # Today sparsity grows from zero, and in steps, not in epochs.
    **dict.fromkeys(("initial_sparsity", "initial_sparsity_ratio", "update_frequency", "method", "parameters")),
}
_COMPRESSION = {**_PRUNER, "pruners": ListOf(_PRUNER)}
_UNUSED_IN_TRAIN = ("optimizer", "dataloader", "postprocess", "epoch", "start_epoch", "end_epoch", "iteration")
_OLDER_LAYOUT = {
    **dict.fromkeys(("version", "model", "device", "evaluation")),
    "pruning": {
        "approach": {"weight_compression": _COMPRESSION, "weight_compression_pytorch": _COMPRESSION},
        "train": None,
    },
    "distillation": {
        "train": {"criterion": {"KnowledgeDistillationLoss": _LOSS}, **dict.fromkeys(_UNUSED_IN_TRAIN)},
    },
    "quantization": {
        "op_wise": AnyKey(_OPERATOR),
        "optype_wise": AnyKey(_OPERATOR),
        "model_wise": _OPERATOR,
        **dict.fromkeys(("approach", "calibration", "recipes", "train", "use_bf16")),
    },
    "tuning": {
        "accuracy_criterion": {"relative": _NOT_NEGATIVE, "absolute": _NOT_NEGATIVE, "higher_is_better": _FLAG},
        "exit_policy": {"timeout": _NOT_NEGATIVE, "max_trials": _COUNT, "performance_only": None},
        "strategy": {"name": _TUNING["strategy"], **dict.fromkeys(("sigopt_api_token", "accuracy_weight"))},
        "objective": _TUNING["objective"],
        **dict.fromkeys(("random_seed", "workspace", "tensorboard", "multi_objectives")),
    },
}


class _File:
    """A file read after one of two schemas.

    Attributes:
        values: nested dictionary of plain values.
        older: whether it is in INC's older layout.
        lines: dictionary from the keys and indices that lead to a value to its line.
        unused: keys whose values are not used.
    """

    def __init__(self, path, schema):
        self.path, self.lines, self.unused = path, {}, []
        root = compose(path) or yaml.compose("{}", Loader=yaml.SafeLoader)
        keys = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
        self.older = any(key in _OLDER_LAYOUT for key in keys if isinstance(key, str))
        self.values = self._checked(root, _OLDER_LAYOUT if self.older else schema, ())

    def place(self, line):
        return at_line(self.path, line)

    def _refusal(self, node, text):
        return UsageError(f"{self.place(node.start_mark.line + 1)}{text}")

    def _checked(self, node, schema, trail):
        """Turn a node into plain values after a schema; `trail` are the keys and indices that lead to it."""
        name = next((part for part in reversed(trail) if isinstance(part, str)), "the file")
        if isinstance(schema, (dict, AnyKey)):
            return self._checked_mapping(node, schema, trail, name)
        if isinstance(schema, ListOf) and schema.or_one and isinstance(node, yaml.ScalarNode):
            schema = schema.item
        if isinstance(schema, Value):
            if not isinstance(node, yaml.ScalarNode) or not schema.accepts(plain(node)):
                raise self._refusal(node, f"{name} is {described(node)}; give {schema.text}")
            return float(plain(node)) if float in schema.kinds else plain(node)
        if isinstance(schema, tuple):
            right, text = len(schema), f"a list of {len(schema)}: {'; '.join(item.text for item in schema)}"
        else:
            right, text = max(len(node.value), schema.least), schema.text
        if not isinstance(node, yaml.SequenceNode) or len(node.value) != right:
            raise self._refusal(node, f"{name} is {described(node)}; give {text}")
        items = schema if isinstance(schema, tuple) else [schema.item] * right
        return [self._checked(child, items[i], (*trail, i)) for i, child in enumerate(node.value)]

    def _checked_mapping(self, node, schema, trail, name):
        known = ", ".join(schema) if isinstance(schema, dict) else "regular expressions for operators"
        if node.tag == "tag:yaml.org,2002:null":
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise self._refusal(node, f"{name} is {described(node)}; give a mapping with keys among: {known}")
        values = {}
        for key_node, value_node in node.value:
            key = plain(key_node)
            if not (_REGEX.accepts(key) if isinstance(schema, AnyKey) else isinstance(key, str) and key in schema):
                raise self._refusal(key_node, f"unknown key {described(key_node)} in {name}; allowed here: {known}")
            if (*trail, key) in self.lines:
                raise self._refusal(key_node, f"the key {key!r:.100} stands twice in {name}; keep one")
            self.lines[*trail, key] = key_node.start_mark.line + 1
            inner = schema[key] if isinstance(schema, dict) else schema.schema
            if inner is not None:
                values[key] = self._checked(value_node, inner, (*trail, key))
            elif trail:  # that `version`, `model` and their like are not used goes without saying
                self.unused.append(key)
        return values

    def section(self, name):
        """Return one section of a file in the older layout; the others count as unused."""
        if name not in self.values:
            found = ", ".join(self.values) or "no section"
            raise UsageError(f"{self.place(1)}this file of INC's older layout has {found}; give it a {name} section")
        self.unused += [key for key in self.values if key != name]
        return self.values[name]

    def show_older_layout(self, settings):
        """Print what a file in the older layout was understood as."""
        if self.older:
            shown = ", ".join(f"{key}={_shown(value)}" for key, value in settings.items()) or "no settings"
            unused = dict.fromkeys(self.unused)
            rest = f"; not used: {', '.join(unused)}" if unused else ""
            print(f"note: {self.path} is in INC's older layout; understood as: {shown}{rest}")


def _shown(value):
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list) and len(value) > 3:
        return f"[{value[0]!r} and {len(value) - 1} more]"
    return str(value)


def find_config(path, flag):
    """Return the path of a configuration file: as given, else by its name in the project's `config/`.

    Raises:
        UsageError: there is neither.
    """
    for candidate in (Path(path), CONFIG_DIR / Path(path).name):
        if candidate.is_file():
            return candidate
    raise UsageError(f"--{flag} {path}: there is no such file, nor {CONFIG_DIR / Path(path).name}")


def quantization_settings(approach, path=CONFIG_DIR / "quantization.yml"):
    """Read INC's settings for one approach.

    Args:
        approach: `dynamic`, `static`, `ipex` or `qat`.
        path: YAML file after `QUANTIZATION_SCHEMA`, or in INC's older layout.

    Returns:
        Keyword arguments for `PostTrainingQuantConfig` (`qat`: `QuantizationAwareTrainingConfig`) as nested plain
        values: those at the top of the file, then those of the approach. `accuracy_criterion` and `tuning_criterion`,
        where given, are keyword arguments for INC's classes of these names.

    Raises:
        UsageError: the file cannot be read, or a key or value in it is not allowed; the message has the line.
    """
    file = _File(path, QUANTIZATION_SCHEMA)
    settings = file.values
    if file.older:
        settings = _quantization_of_older_layout(file)
        file.show_older_layout(settings)
    # What is at the top but not for this approach (`recipes` in training) is there for the others.
    common = {key: value for key, value in settings.items() if key in _APPROACHES[approach]}
    return {**common, **settings.get(approach, {})}


def _quantization_of_older_layout(file):
    old = file.section("quantization")
    tuning = file.values.get("tuning", {})
    file.unused = [key for key in file.unused if key != "tuning"]
    everywhere = {".*": old["model_wise"]} if "model_wise" in old else {}
    loss = tuning.get("accuracy_criterion", {})
    criterion = {key: value for key, value in loss.items() if key == "higher_is_better"}
    for kind in ("relative", "absolute"):
        if kind in loss:
            criterion.update(criterion=kind, tolerable_loss=loss[kind])
    trials = {**tuning.get("exit_policy", {})}
    if "name" in tuning.get("strategy", {}):
        trials["strategy"] = tuning["strategy"]["name"]
    if "objective" in tuning:
        trials["objective"] = tuning["objective"]
    settings = {
        "op_type_dict": {**everywhere, **old.get("optype_wise", {})},
        "op_name_dict": old.get("op_wise", {}),
        "accuracy_criterion": criterion,
        "tuning_criterion": trials,
    }
    return {key: value for key, value in settings.items() if value}


def pruning_settings(path=CONFIG_DIR / "prune.yml"):
    """Read INC's settings for pruning.

    Args:
        path: YAML file after `PRUNING_SCHEMA`, or in INC's older layout.

    Returns:
        Keyword arguments for `WeightPruningConfig` as plain values. `pruning_configs`, `op_names` and
        `excluded_op_names` are always there, since INC writes into its own defaults; so are `start_step` and
        `end_step`, and equal, with `pattern_lock`. The older layout may bring `start_epoch` and `end_epoch` in their
        place: see `steps_of_epochs`.

    Raises:
        UsageError: the file cannot be read, a key or value in it is not allowed, or two values do not go together;
            the message has the line.
    """
    file = _File(path, PRUNING_SCHEMA)
    settings = _pruning_of_older_layout(file) if file.older else file.values
    local_settings = settings.get("pruning_configs", [])
    for part in (settings, *local_settings):
        if {**settings, **part}.get("pruning_type") == "pattern_lock":
            if file.older:  # such files gave a schedule here too; it meant nothing, and today INC refuses it
                for key in [key for key in part if key.startswith(("start_", "end_"))]:
                    file.unused.append(f"{key}={part.pop(key):g}")
            part.setdefault("start_step", 0)
            part.setdefault("end_step", part["start_step"])
    for index, local in enumerate(local_settings or [{}]):
        _check_pruning(file, index, {**settings, **local})
    file.show_older_layout(settings)
    return {"pruning_configs": [], "op_names": [], "excluded_op_names": [], **settings}


def _pruning_of_older_layout(file):
    approach = file.section("pruning").get("approach", {})
    old = approach.get("weight_compression") or approach.get("weight_compression_pytorch") or {}
    # What held in that layout for a file that does not say.
    settings = {"pruning_type": "magnitude", "pattern": "1x1", **_pruner_of_older_layout(old)}
    pruners = [_pruner_of_older_layout(pruner) for pruner in old.get("pruners", [])]
    return {**settings, **pruners[0]} if len(pruners) == 1 else {**settings, "pruning_configs": pruners}


def _pruner_of_older_layout(old):
    new = {_PRUNER_KEYS.get(key, key): value for key, value in old.items() if key != "pruners"}
    for key in ("op_names", "excluded_op_names"):
        if key in new:
            # Weights were named, where operators are today.
            new[key] = [
                rf"(^|\.){re.escape(name.removesuffix('.weight'))}$" if name.endswith(".weight") else name
                for name in new[key]
            ]
    if "pattern" in new:
        new["pattern"] = new["pattern"].removeprefix("tile_pattern_")
    if "pruning_type" in new:
        new["pruning_type"] = _PRUNE_TYPES.get(new["pruning_type"], new["pruning_type"])
    return new


def _check_pruning(file, index, settings):
    """Refuse values that do not go together; `settings` hold for the local ones at `index`, if there are any."""
    lines = {}
    for trail in sorted(file.lines, key=len):  # local settings lie deeper and so come last
        if trail[-2:][0] == index or isinstance(trail[-2:][0], str):
            lines[_PRUNER_KEYS.get(trail[-1], trail[-1])] = file.lines[trail]

    locked = settings.get("pruning_type") == "pattern_lock"
    limit = min(settings.get("max_sparsity_ratio_per_op", 0.98), _share_of_pattern(settings.get("pattern", "4x1")))
    for key in ("min_sparsity_ratio_per_op", "target_sparsity"):
        if settings.get(key, 0) > limit and not (locked and key == "target_sparsity"):
            raise UsageError(
                f"{file.place(lines[key])}{key} is {settings[key]:g}; give at most {limit:g}, which is all that the "
                f"pattern and max_sparsity_ratio_per_op allow"
            )
    for start, end in (("start_step", "end_step"), ("start_epoch", "end_epoch")):
        place = file.place(lines.get(end, lines.get(start)))
        first, last = settings.get(start, 0), settings.get(end, sys.maxsize)
        if last < first:
            raise UsageError(f"{place}{end} is {last:g}; give at least {start}, which is {first:g}")
        if locked and start == "start_step" and last != first:
            raise UsageError(
                f"{place}{end} is {last:g} and {start} is {first:g}; pattern_lock has no schedule: give both the same "
                f"value, or none"
            )


def steps_of_epochs(settings, steps_per_epoch):
    """Turn epochs into steps.

    Args:
        settings: from `pruning_settings`; left as it is.
        steps_per_epoch: optimizer steps in one epoch.

    Returns:
        The settings with `start_step` and `end_step` in place of `start_epoch` and `end_epoch`.
    """
    steps = {}
    for key, value in settings.items():
        if key in ("start_epoch", "end_epoch"):
            steps[key.replace("epoch", "step")] = round(value * steps_per_epoch)
        elif key == "pruning_configs":
            steps[key] = [steps_of_epochs(local, steps_per_epoch) for local in value]
        else:
            steps.setdefault(key, value)
    return steps


def distillation_settings(path=CONFIG_DIR / "distillation.yml"):
    """Read INC's settings for distillation.

    Args:
        path: YAML file after `DISTILLATION_SCHEMA`, or in INC's older layout.

    Returns:
        Dictionary of `temperature`, `loss_types` and `loss_weights`, with INC's defaults for what the file leaves out.

    Raises:
        UsageError: the file cannot be read, or a key or value in it is not allowed; the message has the line.
    """
    file = _File(path, DISTILLATION_SCHEMA)
    flat = file.section("distillation").get("train", {}) if file.older else file.values
    nested = flat.pop("criterion", {}).get("KnowledgeDistillationLoss", {})
    settings = {**flat, **nested}
    file.show_older_layout(settings)
    weights = settings.get("loss_weights", [0.5, 0.5])
    if sum(weights) != 1:  # INC compares exactly, too; two decimals that sum to 1 do so as floats
        line = max(line for trail, line in file.lines.items() if trail[-1] == "loss_weights")
        raise UsageError(f"{file.place(line)}loss_weights is {weights}; give two numbers that sum to 1")
    return {"temperature": 1.0, "loss_types": ["CE", "CE"], "loss_weights": weights, **settings}
