"""YAML files in, checked settings for Intel Neural Compressor out.

Belongs here: what may stand in the files of `config/` and in users' own ones, also in INC's older layout.
Does not belong here: YAML itself (`qa/start/yaml_files.py`); what pruning settings mean together, with flags and with
steps (`schedule.py`); and INC: all settings are plain values.
"""

import functools
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)

from qa.compression.schedule import (
    PRUNING_APPROACHES,
    check_pruner,
    is_locked,
    merge_flags,
    pruners_of,
    share_of_pattern,
)
from qa.start.errors import UsageError
from qa.start.stack import PROJECT_DIR
from qa.start.yaml_files import read_values

CONFIG_DIR = PROJECT_DIR / "config"


def _compiled(text):
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError from error
    return text


def _checked_pattern(text):
    blocks = re.fullmatch(r"(tile_pattern_)?(channelx1|1xchannel|[1-9]\d{0,3}x[1-9]\d{0,3})", text, re.ASCII)
    if not (blocks or text == "mha" or 0 < share_of_pattern(text) < 1):
        raise ValueError
    return text.removeprefix("tile_pattern_")


def _not_bool(value):
    return str(value) if isinstance(value, bool) else value  # to Python, and to pydantic, True is 1


def _operators_of(names):
    """INC's older layout named weights, where operators are named today."""
    return [rf"(^|\.){re.escape(name[:-7])}$" if name.endswith(".weight") else name for name in names]


def _one_or_more(*allowed):
    one, more = (
        Annotated[Literal[allowed], Tag("one")],
        Annotated[list[Literal[allowed]], Field(min_length=1), Tag("more")],
    )
    return Annotated[one | more, Discriminator(lambda value: "more" if isinstance(value, list) else "one")]


def _number(kind, text, **bounds):
    """Beyond `maxsize` are only slips of the pen, and infinity."""
    return Annotated[kind, Field(description=text, **{"le": sys.maxsize, **bounds})]


# Of each type the description, if it has one, is what messages say is allowed.
_Share = _number(float, "a number of at least 0 and below 1", ge=0, lt=1)
_UpToOne = _number(float, "a number of at least 0 and at most 1", ge=0, le=1)
_NotNegative = _number(float, "a number of at least 0", ge=0)
_Step = _number(int, "a whole number of at least 0", ge=0)
_Count = _number(int, "a whole number of at least 1", ge=1)
_Regex = Annotated[str, AfterValidator(_compiled), Field(description="a regular expression (as '.*query')")]
_Approach = Literal[PRUNING_APPROACHES]
_Pattern = Annotated[
    str,
    AfterValidator(_checked_pattern),
    Field(description="NxM (as 4x1), channelx1, 1xchannel, mha, or N:M with N below M (as 2:4)"),
]
_Types = Annotated[list[Literal["Conv", "Linear"]], Field(min_length=1)]
# INC's `hawq_v2` needs a Python function, and 3.7.1 comes without `tpe`.
_Strategy = Literal["basic", "bayesian", "exhaustive", "mse", "mse_v2", "random"]
_Objective = _one_or_more("performance", "accuracy", "modelsize", "footprint")
_Unused = Annotated[Any, AfterValidator(lambda _, info: info.context.append(info.field_name)), Field(exclude=True)]


class _Mapping(BaseModel, extra="forbid", strict=True):
    @model_validator(mode="before")
    @classmethod
    def _empty(cls, values):
        return {} if values is None else values


def _mapping(*unused, base=_Mapping, **fields):
    """Build the model of a mapping; keys that are `unused` are known, but have no effect today."""
    fields |= dict.fromkeys(unused, _Unused)
    return create_model("Mapping", __base__=base, **{key: (kind, None) for key, kind in fields.items()})


_Side = _mapping(
    dtype=_one_or_more("int8", "uint8", "fp32", "bf16"),
    scheme=_one_or_more("sym", "asym"),
    granularity=_one_or_more("per_tensor", "per_channel"),
    algorithm=_one_or_more("minmax", "kl"),
)
_Operator = _mapping(weight=_Side, activation=_Side)
_Operators = Annotated[dict[_Regex, _Operator], Field(description="a mapping from regular expressions for operators")]


class QuantizationAware(_Mapping):
    """Keys of INC's QuantizationAwareTrainingConfig."""

    op_type_dict: _Operators = None
    op_name_dict: _Operators = None
    quant_level: Annotated[Literal["auto", 0, 1], BeforeValidator(_not_bool)] = None
    accuracy_criterion: _mapping(
        criterion=Literal["relative", "absolute"], tolerable_loss=_NotNegative, higher_is_better=bool
    ) = None
    tuning_criterion: _mapping(max_trials=_Count, timeout=_NotNegative, strategy=_Strategy, objective=_Objective) = (
        None
    )


class PostTraining(QuantizationAware):
    """Keys of INC's PostTrainingQuantConfig."""

    recipes: _mapping(
        smooth_quant=bool,
        smooth_quant_args=_mapping(alpha=_UpToOne, folding=bool),
        fast_bias_correction=bool,
        weight_correction=bool,
    ) = None


class Quantization(PostTraining):
    """Keys at the top are for every approach, those under its name for that one."""

    dynamic: PostTraining = None
    static: PostTraining = None
    ipex: PostTraining = None
    qat: QuantizationAware = None


class Pruner(_Mapping):
    """Keys of INC's WeightPruningConfig."""

    target_sparsity: _Share = None
    pruning_type: _Approach = None
    pattern: _Pattern = None
    op_names: list[_Regex] = None
    excluded_op_names: list[_Regex] = None
    start_step: _Step = None
    end_step: _Step = None
    pruning_scope: Literal["global", "local"] = None
    pruning_frequency: _Count = None
    min_sparsity_ratio_per_op: _Share = None
    max_sparsity_ratio_per_op: _Share = None
    sparsity_decay_type: Literal["exp", "cos", "linear", "cube"] = None
    pruning_op_types: _Types = None


class Pruning(Pruner):
    """What holds everywhere, and what for some operators."""

    pruning_configs: list[Pruner] = Field(None, description="a list of mappings")
    # Arguments of INC's parse_auto_slim_config: shares of heads and of feed-forward channels.
    auto_slim: _mapping(mha_sparsity=_Share, ffn2_sparsity=_Share) = None


class Loss(_Mapping):
    """Keys of INC's KnowledgeDistillationLossConfig."""

    temperature: _number(float, "a number above 0", gt=0) = None
    loss_types: tuple[Literal["CE", "MSE"], Literal["CE", "KL", "MSE"]] = Field(None, strict=False)
    loss_weights: tuple[_UpToOne, _UpToOne] = Field(None, strict=False)


class Distillation(Loss):
    """The same keys, flat or as INC nests them itself."""

    criterion: _mapping(KnowledgeDistillationLoss=Loss) = None
    # Ours: a loss between hidden states.
    intermediate: _mapping(
        layers=Annotated[list[_Step], Field(min_length=1)],
        loss=Literal["MSE"],
        weight=_number(float, "a number above 0", gt=0),
    ) = None


# INC's older layout, in which one file held everything. First what it calls otherwise.
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
_OLD_KINDS = {
    "prune_type": Annotated[
        Literal[*PRUNING_APPROACHES, *_PRUNE_TYPES], AfterValidator(lambda kind: _PRUNE_TYPES.get(kind, kind))
    ],
    **dict.fromkeys(
        ("names", "excluded_names", "extra_excluded_names"), Annotated[list[_Regex], AfterValidator(_operators_of)]
    ),
}
_OlderPruner = create_model(
    "OlderPruner",
    __base__=_mapping(
        # Today sparsity grows from zero, and in steps, not in epochs.
        *("initial_sparsity", "initial_sparsity_ratio", "update_frequency", "method", "parameters"),
        base=Pruner,
        start_epoch=_NotNegative,
        end_epoch=_NotNegative,
    ),
    **{
        old: (_OLD_KINDS.get(old, Pruner.__annotations__[new]), Field(None, serialization_alias=new))
        for old, new in _PRUNER_KEYS.items()
    },
)
_Compression = _mapping(
    base=_OlderPruner, pruners=Annotated[list[_OlderPruner], Field(description="a list of mappings")]
)


class OlderLayout(_mapping("version", "model", "device", "evaluation")):
    """One section for each configuration; `tuning` belongs to quantization."""

    pruning: _mapping(
        "train", approach=_mapping(weight_compression=_Compression, weight_compression_pytorch=_Compression)
    ) = None
    distillation: _mapping(
        train=_mapping(
            *("optimizer", "dataloader", "postprocess", "epoch", "start_epoch", "end_epoch", "iteration"),
            criterion=_mapping(KnowledgeDistillationLoss=Loss),
        )
    ) = None
    quantization: _mapping(
        *("approach", "calibration", "recipes", "train", "use_bf16"),
        op_wise=_Operators,
        optype_wise=_Operators,
        model_wise=_Operator,
    ) = None
    tuning: _mapping(
        *("random_seed", "workspace", "tensorboard", "multi_objectives"),
        accuracy_criterion=_mapping(relative=_NotNegative, absolute=_NotNegative, higher_is_better=bool),
        exit_policy=_mapping("performance_only", timeout=_NotNegative, max_trials=_Count),
        strategy=_mapping("sigopt_api_token", "accuracy_weight", name=_Strategy),
        objective=_Objective,
    ) = None


class _File(NamedTuple):
    path: Path
    values: dict  # plain values of the keys that were given
    older: bool  # whether in INC's older layout
    lines: dict  # from the keys and indices that lead to a value to the lines of its key and of the value
    unused: list  # keys that have no effect

    def section(self, name):
        """Return a section of a file in the older layout; the others count as unused."""
        if name not in self.values:
            found = ", ".join(self.values) or "no section"
            raise UsageError(
                f"{self.path}, line 1: this file of INC's older layout has {found}; give it a {name} section"
            )
        self.unused.extend(key for key in self.values if (key, name) not in ((name, name), ("tuning", "quantization")))
        return self.values[name]

    def named(self, key, index):
        """Name a pruning key by file and line: in the local settings at `index` if it is there, else of all."""
        for trail in sorted(filter(None, self.lines), key=len):  # local settings lie deeper and so come last
            if _PRUNER_KEYS.get(trail[-1], trail[-1]) == key and (
                trail[-2:][0] == index or isinstance(trail[-2:][0], str)
            ):
                line, _ = self.lines[trail]
        return f"{self.path}, line {line}: {key}"

    def show_older_layout(self, settings):
        """Print what a file in the older layout was understood as."""
        if self.older:
            shown = ", ".join(f"{key}={_shown(value)}" for key, value in settings.items()) or "no settings"
            rest = f"; not used: {', '.join(dict.fromkeys(self.unused))}" if self.unused else ""
            print(f"note: {self.path} is in INC's older layout; understood as: {shown}{rest}")


def _read(path, model):
    """Check a file by a model, or by that of the older layout if it looks like one."""
    values, lines = read_values(path)
    older = isinstance(values, dict) and not OlderLayout.model_fields.keys().isdisjoint(values)
    model, unused = OlderLayout if older else model, []
    try:
        checked = model.model_validate(values, context=unused)
    except ValidationError as error:
        raise _refusal(path, lines, model.model_json_schema(), error.errors()[0]) from error
    unused = [key for key in unused if key not in OlderLayout.model_fields]
    return _File(path, checked.model_dump(exclude_unset=True, by_alias=True), older, lines, unused)


def _refusal(path, lines, schema, problem):
    """Say what is wrong in one line.

    Args:
        path, lines: of the file.
        schema: JSON schema of its model.
        problem: the first of pydantic's errors.
    """
    trail, known = (), schema["$defs"]
    whole = {"missing": 1}.get(
        problem["type"], 2 * (problem["loc"][-1:] == ("[key]",))
    )  # what is wrong lies higher up
    for part in problem["loc"][: len(problem["loc"]) - whole]:
        schema = known.get(schema.get("$ref", "").rpartition("/")[2], schema)
        inner = {**schema.get("properties", {}), **dict(zip(("one", "more"), schema.get("oneOf", ()), strict=False))}
        inner |= dict(enumerate(schema.get("prefixItems", ())))
        schema = inner.get(part) or schema.get("items") or schema.get("additionalProperties") or schema
    for part in problem["loc"]:
        trail += (part,) if (*trail, part) in lines else ()
    unknown = problem["type"] == "extra_forbidden" or "[key]" in problem["loc"][-1:]
    line = lines[trail][0 if unknown else 1]
    names = [part for part in (trail[:-1] if unknown else trail) if isinstance(part, str)]
    name, allowed = [*names, "the file"][-1 if not names else len(names) - 1], _allowed(schema, known)
    if unknown:
        return UsageError(f"{path}, line {line}: unknown key {trail[-1]!r:.100} in {name}; allowed here: {allowed}")
    return UsageError(f"{path}, line {line}: {name} is {_found(problem['input'])}; give {allowed}")


def _allowed(schema, known):
    """Put a JSON schema into words."""
    schema = {**known.get(schema.get("$ref", "").rpartition("/")[2], {}), **schema}
    if "properties" in schema:
        return f"a mapping with keys among: {', '.join(schema['properties'])}"
    if "description" in schema or schema.get("type") == "boolean":
        return schema.get("description", "true or false")
    if "items" in schema:
        return f"a list, each item {_allowed(schema['items'], known)}"
    if "prefixItems" in schema:
        items = [_allowed(item, known) for item in schema["prefixItems"]]
        return f"a list of {len(items)}: {'; '.join(items)}"
    return f"one of {', '.join(map(str, schema.get('enum', [schema.get('const')])))}"


def _found(value):
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else f"a list of {len(value)}"
    return "empty" if value is None else f"{value!r:.100}"


def _shown(value):
    if isinstance(value, list) and len(value) > 3:
        return f"[{value[0]!r} and {len(value) - 1} more]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def find_config(path, flag):
    """Return the path of a configuration file: as given, or, if it is relative, that of its name in `config/`.

    Raises:
        UsageError: there is none.
    """
    shipped = CONFIG_DIR / Path(path).name
    if Path(path).is_file():
        return Path(path)
    if Path(path).is_absolute():
        raise UsageError(f"--{flag} {path}: there is no such file")
    if not shipped.is_file():
        raise UsageError(f"--{flag} {path}: there is no such file, nor {shipped}")
    print(f"note: --{flag} {path}: there is no such file; {shipped} is taken")
    return shipped


def quantization_settings(approach, path=CONFIG_DIR / "quantization.yml"):
    """Read INC's settings for one approach.

    Args:
        approach: `dynamic`, `static`, `ipex` or `qat`.
        path: YAML file after `Quantization`, or in INC's older layout.

    Returns:
        Keyword arguments for `PostTrainingQuantConfig` (`qat`: `QuantizationAwareTrainingConfig`) as nested plain
        values: those at the top of the file, then those of the approach. `accuracy_criterion` and `tuning_criterion`,
        where given, are keyword arguments for INC's classes of these names.

    Raises:
        UsageError: the file cannot be read, or a key or value in it is not allowed; the message has the line.
    """
    file = _read(path, Quantization)
    settings = file.values
    if file.older:
        settings = _quantization_of_older_layout(file.section("quantization"), file.values.get("tuning", {}))
        file.show_older_layout(settings)
    # What is at the top but not for this approach (`recipes` in training) is there for the others.
    allowed = (QuantizationAware if approach == "qat" else PostTraining).model_fields
    return {**{key: value for key, value in settings.items() if key in allowed}, **settings.get(approach, {})}


def _quantization_of_older_layout(old, tuning):
    loss = dict(tuning.get("accuracy_criterion", {}))
    for kind in loss.keys() & {"relative", "absolute"}:
        loss |= {"criterion": kind, "tolerable_loss": loss.pop(kind)}
    trials = {
        **tuning.get("exit_policy", {}),
        **({"strategy": tuning["strategy"]["name"]} if tuning.get("strategy") else {}),
    }
    settings = {
        "op_type_dict": {**({".*": old["model_wise"]} if "model_wise" in old else {}), **old.get("optype_wise", {})},
        "op_name_dict": old.get("op_wise", {}),
        "accuracy_criterion": loss,
        "tuning_criterion": {**trials, **({"objective": tuning["objective"]} if "objective" in tuning else {})},
    }
    return {key: value for key, value in settings.items() if value}


def pruning_settings(path=CONFIG_DIR / "prune.yml"):
    """Read INC's settings for pruning.

    Args:
        path: YAML file after `Pruning`, or in INC's older layout.

    Returns:
        Keyword arguments for `WeightPruningConfig` as plain values. `pruning_configs`, `op_names` and
        `excluded_op_names` are always there, since INC writes into its own defaults; so are `start_step` and
        `end_step`, and zero, with `pattern_lock`. The older layout may bring `start_epoch` and `end_epoch` in their
        place, which `schedule.py` turns into steps. Shares of heads and channels to take out, that of a
        `pattern: mha` among them, are in `auto_slim`, if there are any.

    Raises:
        UsageError: the file cannot be read, a key or value in it is not allowed, or two values do not go together;
            the message has the line.
    """
    file = _read(path, Pruning)
    settings = file.values
    if file.older:
        approach = file.section("pruning").get("approach", {})
        old = approach.get("weight_compression") or approach.get("weight_compression_pytorch") or {}
        pruners = old.pop("pruners", [])
        # What held in that layout for a file that does not say.
        settings = {"pruning_type": "magnitude", "pattern": "1x1", **old}
        settings |= pruners[0] if len(pruners) == 1 else {"pruning_configs": pruners}
    settings = _heads_to_auto_slim(file, settings)
    for part in (settings, *settings.get("pruning_configs", [])):
        if is_locked({**settings, **part}):
            if file.older:  # such files gave a schedule here too; it meant nothing, and today INC refuses it
                scheduled = [key for key in part if key.startswith(("start_", "end_"))]
                file.unused.extend(f"{key}={part.pop(key):g}" for key in scheduled)
            part.setdefault("start_step", 0)
            part.setdefault("end_step", part["start_step"])
    for index, pruner in enumerate(pruners_of(settings)):
        check_pruner(pruner, functools.partial(file.named, index=index))
    file.show_older_layout(settings)
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


def settings_for_slimming(optimization_args):
    """Find out which shares of heads and channels go, and whether weights are set to zero as well.

    Args:
        optimization_args: `OptimizationArguments` as parsed, with --apply_pruning.

    Returns:
        `(shares, zeros)`: dictionary of `heads` and `channels`, flags before the YAML file, empty if none go; and
        whether there shall be zeros: where something is taken out, only if flags or file ask for them.
    """
    file = {}
    if optimization_args.pruning_config is not None:
        file = pruning_settings(find_config(optimization_args.pruning_config, "pruning_config"))
    shares = {"heads": optimization_args.prune_heads, "channels": optimization_args.prune_ffn}
    for name, key in (("heads", "mha_sparsity"), ("channels", "ffn2_sparsity")):
        if shares[name] is None:
            shares[name] = file.get("auto_slim", {}).get(key, 0.0)
    if not any(shares.values()):
        return {}, True
    asked = {"target_sparsity", "pruning_approach"} & optimization_args.given
    return shares, bool(asked or "target_sparsity" in file or file.get("pruning_configs"))


def settings_for_pruning(optimization_args):
    """Read the pruning settings of a run: those of its file, or of the one that is meant for its approach, and flags.

    Args:
        optimization_args: `OptimizationArguments` as parsed.

    Returns:
        What `merge_flags` makes of them.

    Raises:
        UsageError: as `pruning_settings` and `merge_flags`.
    """
    locked = optimization_args.pruning_approach == "pattern_lock"
    default = CONFIG_DIR / ("prune_pattern_lock.yml" if locked else "prune.yml")
    settings = pruning_settings(find_config(optimization_args.pruning_config or default, "pruning_config"))
    settings.pop("auto_slim", None)  # see `settings_for_slimming`
    if optimization_args.pruning_config is None and optimization_args.pruning_approach.endswith("_progressive"):
        settings["pattern"] = "4x1"  # single weights are no blocks that could be filled little by little
    flags = ("pruning_approach", "target_sparsity", "start_step", "end_step")
    keys = dict(zip(flags, ("pruning_type", *flags[1:]), strict=True))
    values = {key: getattr(optimization_args, flag) for flag, key in keys.items()}
    return merge_flags(settings, values, {key for flag, key in keys.items() if flag in optimization_args.given})


def distillation_settings(path=CONFIG_DIR / "distillation.yml"):
    """Read INC's settings for distillation.

    Args:
        path: YAML file after `Distillation`, or in INC's older layout.

    Returns:
        Dictionary of `temperature`, `loss_types` and `loss_weights`, with INC's defaults for what the file leaves out;
        and `intermediate` with `loss`, `weight` and, if the file names them, `layers`, where it has that section.

    Raises:
        UsageError: the file cannot be read, or a key or value in it is not allowed; the message has the line.
    """
    file = _read(path, Distillation)
    flat = file.section("distillation").get("train", {}) if file.older else file.values
    given = {**flat, **flat.pop("criterion", {}).get("KnowledgeDistillationLoss", {})}
    given = {
        key: list(value) if isinstance(value, tuple) else value for key, value in given.items() if key != "criterion"
    }
    file.show_older_layout(given)
    settings = {"temperature": 1.0, "loss_types": ["CE", "CE"], "loss_weights": [0.5, 0.5], **given}
    if "intermediate" in settings:
        settings["intermediate"] = {"loss": "MSE", "weight": 1.0, **settings["intermediate"]}
    place = {trail[-1]: f"{file.path}, line {line}: " for trail, (line, _) in file.lines.items() if trail}
    if sum(settings["loss_weights"]) != 1:  # INC compares exactly, too; two decimals that sum to 1 do so as floats
        raise UsageError(f"{place['loss_weights']}loss_weights is {settings['loss_weights']}; give two that sum to 1")
    if settings["loss_types"][0] == "MSE" and settings["loss_weights"][0] > 0:
        raise UsageError(
            f"{place['loss_types']}the first of loss_types is 'MSE', but right answers are places in a text, not "
            "values: give CE, or 0 as the first of loss_weights"
        )
    return settings
