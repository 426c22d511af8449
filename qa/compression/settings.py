"""YAML files in, checked settings for Intel Neural Compressor out.

Belongs here: reading the files of `config/` and users' own ones, and saying which line of which file is wrong.
Does not belong here: what may stand in them (`schemas.py`, `older_layout.py`), YAML itself (`qa/start/yaml_files.py`),
schedules (`schedule.py`), and INC: all settings are plain values.
"""

import functools
import re
from pathlib import Path
from typing import NamedTuple

import pydantic

from qa.compression import schemas
from qa.compression.older_layout import PRUNER_KEYS, OlderLayout, todays_settings
from qa.compression.schedule import check_pruner, is_locked, merge_flags, pruners_of
from qa.start.errors import UsageError
from qa.start.stack import PROJECT_DIR
from qa.start.yaml_files import read_yaml

CONFIG_DIR = PROJECT_DIR / "config"


class _File(NamedTuple):
    path: Path
    values: dict  # plain values of the keys that were given
    lines: dict  # from the keys and indices that lead to a value to the lines of its key and of the value

    def named(self, key, index=None):
        """Name a key by file and line: in the local settings at `index` if it is there, else of all."""
        trails = [trail for trail in self.lines if trail and PRUNER_KEYS.get(trail[-1], trail[-1]) == key]
        here = [trail for trail in trails if trail[-2:][0] == index or isinstance(trail[-2:][0], str)]
        line, _ = self.lines[max(here, key=len)]  # local settings lie deeper
        return f"{self.path}, line {line}: {key}"


def _read(path, model, section):
    """Check a file by a model, or by that of the older layout if it looks like one; that has to have a section."""
    (values, lines), unused = read_yaml(path), []
    older = isinstance(values, dict) and not OlderLayout.model_fields.keys().isdisjoint(values)
    model = OlderLayout if older else model
    try:
        checked = model.model_validate(values, context=unused)
    except pydantic.ValidationError as error:
        deepest = max(error.errors(), key=lambda problem: len(problem["loc"]))  # of a union, what came furthest
        raise _refusal(path, lines, deepest) from error
    values = checked.model_dump(mode="json", exclude_unset=True, by_alias=True)
    return _File(path, todays_settings(path, values, section, unused) if older else values, lines)


def _refusal(path, lines, problem):
    """Put one of pydantic's errors into a line."""
    loc, context, found = problem["loc"], problem.get("ctx", {}), problem["input"]
    if problem["type"] == "unknown_key":
        loc = (*loc, context["key"])
    trail = ()
    for part in loc:  # some parts name the kinds that a union tried
        trail += (part,) if (*trail, part) in lines else ()
    names = ["the file", *(part for part in trail if isinstance(part, str))]
    # Without the "Value error" that pydantic puts before texts of our own.
    text = re.sub("^(Input|List) should", "it should", str(context.get("error", problem["msg"])))
    text = text.replace(" after validation", "")
    key_line, value_line = lines[trail]
    if problem["type"] == "unknown_key" or loc[-1:] == ("[key]",):
        return UsageError(f"{path}, line {key_line}: unknown key {names[-1]!r:.100} in {names[-2]}; {text}")
    if isinstance(found, dict | list):
        found = "a mapping" if isinstance(found, dict) else f"a list of {len(found)}"
    else:
        found = "empty" if found is None else f"{found!r:.100}"
    return UsageError(f"{path}, line {value_line}: {names[-1]} is {found}; {text}")


def find_config(args, flag, default):
    """Return the path of a configuration file: as its flag says, or, if that is relative, of its name in `config/`.

    Raises:
        UsageError: there is none.
    """
    path = getattr(args, flag) or CONFIG_DIR / default
    shipped = CONFIG_DIR / Path(path).name
    if Path(path).is_file():
        return Path(path)
    if Path(path).is_absolute() or not shipped.is_file():
        nor = "" if Path(path).is_absolute() else f", nor {shipped}"
        raise UsageError(f"--{flag} {path}: there is no such file{nor}")
    print(f"note: --{flag} {path}: there is no such file; {shipped} is taken")
    return shipped


def quantization_settings(approach, path=CONFIG_DIR / "quantization.yml"):
    """Read INC's settings for one approach.

    Args:
        approach: `dynamic`, `static`, `ipex`, `qat`, `onnx` or `openvino`.
        path: YAML file after `schemas.Quantization`, or in INC's older layout.

    Returns:
        Keyword arguments for `PostTrainingQuantConfig` (`qat`: `QuantizationAwareTrainingConfig`; `onnx`, `openvino`:
        what `engine_quantization.py` takes) as nested plain values: those at the top of the file, then those of the
        approach, operator by operator. `accuracy_criterion` and `tuning_criterion`, where given, are keyword arguments
        for INC's classes of these names.

    Raises:
        UsageError: the file cannot be read, or a key or value in it is not allowed; the message has the line.
    """
    settings = _read(path, schemas.Quantization, "quantization").values
    # What is at the top but not for this approach (`recipes` in training) is there for the others.
    model, own = schemas.Quantization.model_fields[approach].annotation, settings.get(approach, {})
    settings = {key: value for key, value in settings.items() if key in model.model_fields}
    operators = {key: settings.get(key, {}) | own.get(key, {}) for key in ("op_type_dict", "op_name_dict")}
    return settings | own | {key: named for key, named in operators.items() if named}


def pruning_settings(path=CONFIG_DIR / "prune.yml"):
    """Read INC's settings for pruning.

    Args:
        path: YAML file after `schemas.Pruning`, or in INC's older layout.

    Returns:
        Keyword arguments for `WeightPruningConfig` as plain values. `pruning_configs`, `op_names` and
        `excluded_op_names` are always there, since INC writes into its own defaults; so are `start_step` and
        `end_step`, and zero, with `pattern_lock`. The older layout may bring `start_epoch` and `end_epoch` in their
        place, which `schedule.py` turns into steps. Shares of heads and channels to take out, that of a
        `pattern: mha` among them, are in `auto_slim`, if there are any.

    Raises:
        UsageError: as `quantization_settings`, or two values do not go together.
    """
    file = _read(path, schemas.Pruning, "pruning")
    settings = _heads_to_auto_slim(file, file.values)
    for part in (settings, *settings.get("pruning_configs", [])):
        if is_locked({**settings, **part}):
            part.setdefault("start_step", 0)
            part.setdefault("end_step", part["start_step"])
    for index, pruner in enumerate(pruners_of(settings)):
        check_pruner(pruner, functools.partial(file.named, index=index))
    return {"pruning_configs": [], "op_names": [], "excluded_op_names": [], **settings}


def _heads_to_auto_slim(file, settings):
    """Move pruners of INC's pattern `mha` to `auto_slim`, which says the same of heads."""
    slim, local = dict(settings.get("auto_slim", {})), settings.get("pruning_configs", [])
    heads = [part for part in local or [{}] if {**settings, **part}.get("pattern") == "mha"]
    if not heads:
        return settings
    name = file.named("pattern", local.index(heads[-1]) if local else None)
    if len(heads) + ("mha_sparsity" in slim) > 1:
        raise UsageError(f"{name} is mha, so the share of heads stands twice in this file; keep one")
    slim["mha_sparsity"] = {**settings, **heads[0]}.get("target_sparsity")
    if slim["mha_sparsity"] is None:
        raise UsageError(f"{name} is mha; give target_sparsity as well, the share of heads to take out")
    others = [part for part in local if part is not heads[0]]
    meant = {"pattern": settings.get("pattern") == "mha", "target_sparsity": not others}  # for the heads alone
    rest = {key: value for key, value in settings.items() if not meant.get(key)}
    return {**rest, "pruning_configs": others, "auto_slim": slim}


def settings_for_pruning(optimization_args):
    """Read what a run takes out and what it sets to zero: by its file, or the one meant for its approach, and flags.

    Args:
        optimization_args: `OptimizationArguments` as parsed, with --apply_pruning.

    Returns:
        Dictionary of `slimming`, if something is taken out: the shares of `heads` and `channels`; and of `pruning`,
        if there shall be zeros: what `merge_flags` makes of them. Where something is taken out, there are zeros only
        if flags or file ask for them.

    Raises:
        UsageError: as `pruning_settings` and `merge_flags`.
    """
    args, given = optimization_args, optimization_args.given
    default = "prune_pattern_lock.yml" if args.pruning_approach == "pattern_lock" else "prune.yml"
    settings = pruning_settings(find_config(args, "pruning_config", default))
    slim = settings.pop("auto_slim", {})
    # prune_encoder_qa.py has no flags for them.
    heads, channels = (getattr(args, flag, None) for flag in ("prune_heads", "prune_ffn"))
    shares = {
        "heads": slim.get("mha_sparsity", 0.0) if heads is None else heads,
        "channels": slim.get("ffn2_sparsity", 0.0) if channels is None else channels,
    }
    zeros = {"target_sparsity", "pruning_approach"} & given
    if "pruning_config" in given:
        zeros = zeros or "target_sparsity" in settings or settings["pruning_configs"]
    elif args.pruning_approach.endswith("_progressive"):
        settings["pattern"] = "4x1"  # single weights are no blocks that could be filled little by little
    found = {"slimming": shares} if any(shares.values()) else {}
    if found and not zeros and (when := sorted({"start_step", "end_step"} & given)):
        raise UsageError(f"--{when[0]} is about zeros, and nothing asks for any; give --target_sparsity as well")
    if zeros or not found:
        flags = {key: getattr(args, key) for key in ("target_sparsity", "start_step", "end_step")}
        won = flags.keys() & given | ({"pruning_type"} if "pruning_approach" in given else set())
        found["pruning"] = merge_flags(settings, {"pruning_type": args.pruning_approach, **flags}, won)
    return found


def distillation_settings(path=CONFIG_DIR / "distillation.yml"):
    """Read INC's settings for distillation.

    Args:
        path: YAML file after `schemas.Distillation`, or in INC's older layout.

    Returns:
        Dictionary of `temperature`, `loss_types` and `loss_weights`, with INC's defaults for what the file leaves out;
        and `intermediate` with `loss`, `weight` and, if the file names them, `layers`, where it has that section.

    Raises:
        UsageError: as `pruning_settings`.
    """
    file = _read(path, schemas.Distillation, "distillation")
    nested = file.values.pop("criterion", {}).get("KnowledgeDistillationLoss", {})
    settings = {"temperature": 1.0, "loss_types": ["CE", "CE"], "loss_weights": [0.5, 0.5], **file.values, **nested}
    if "intermediate" in settings:
        settings["intermediate"] = {"loss": "MSE", "weight": 1.0, **settings["intermediate"]}
    weights = settings["loss_weights"]
    if sum(weights) != 1:  # INC compares exactly, too; two decimals that sum to 1 do so as floats
        raise UsageError(f"{file.named('loss_weights')} is {weights}; give two that sum to 1")
    kinds = settings["loss_types"]
    if kinds[0] == "KL" or (kinds[0] == "MSE" and weights[0] > 0):
        place = file.named("loss_types")
        raise UsageError(f"{place} is {kinds}; right answers take CE: give it first, or MSE where its weight is 0")
    return settings
