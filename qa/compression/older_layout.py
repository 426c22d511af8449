"""INC's older layout of configuration files, in which one file held everything.

Belongs here: its keys, and what they are called and mean today.
Does not belong here: today's keys (`schemas.py`), and what is refused about them (`settings.py`, `schedule.py`).
"""

import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, Field

from qa.compression.schedule import PRUNING_APPROACHES, is_locked
from qa.compression.schemas import (
    Count,
    HigherIsBetter,
    Loss,
    NotNegative,
    Objective,
    Operator,
    Operators,
    Pruner,
    Regex,
    Strategy,
    mapping,
)
from qa.start.errors import UsageError

_PRUNE_TYPES = {"basic_magnitude": "magnitude", "gradient_sensitivity": "gradient"}
PRUNER_KEYS = {
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


def _operators_of(names):
    """It named weights, where operators are named today."""
    return [rf"(^|\.){re.escape(name[:-7])}$" if name.endswith(".weight") else name for name in names]


_Unused = Annotated[Any, AfterValidator(lambda _, info: info.context.append(info.field_name)), Field(exclude=True)]


def _mapping(*unused, **fields):
    """Build the model of a mapping; keys that are `unused` are known, but have no effect today."""
    return mapping(**fields, **dict.fromkeys(unused, _Unused))


_OldType = Annotated[
    Literal[*PRUNING_APPROACHES, *_PRUNE_TYPES], AfterValidator(lambda kind: _PRUNE_TYPES.get(kind, kind))
]
_OldNames = Annotated[list[Regex], AfterValidator(_operators_of)]
_OLD_KINDS = {"pruning_type": _OldType, "op_names": _OldNames, "excluded_op_names": _OldNames}
_Pruner = pydantic.create_model(
    "Pruner",
    __base__=_mapping(
        # Today sparsity grows from zero, and in steps, not in epochs.
        *("initial_sparsity", "initial_sparsity_ratio", "update_frequency", "method", "parameters"),
        base=Pruner,
        op_names=_OldNames,
        excluded_op_names=_OldNames,
        start_epoch=NotNegative,
        end_epoch=NotNegative,
    ),
    **{
        old: (_OLD_KINDS.get(new, Pruner.__annotations__[new]), Field(None, serialization_alias=new))
        for old, new in PRUNER_KEYS.items()
    },
)
_Compression = _mapping(base=_Pruner, pruners=list[_Pruner])


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
        op_wise=Operators,
        optype_wise=Operators,
        model_wise=Operator,
    ) = None
    tuning: _mapping(
        *("random_seed", "workspace", "tensorboard", "multi_objectives"),
        accuracy_criterion=_mapping(relative=NotNegative, absolute=NotNegative, higher_is_better=HigherIsBetter),
        exit_policy=_mapping("performance_only", timeout=NotNegative, max_trials=Count),
        strategy=_mapping("sigopt_api_token", "accuracy_weight", name=Strategy),
        objective=Objective,
    ) = None


def todays_settings(path, values, section, unused):
    """Say a section in today's keys, and print what it was understood as.

    Args:
        path: of the file, for messages.
        values: plain values after `OlderLayout`.
        section: `quantization`, `pruning` or `distillation`.
        unused: list of those keys that have no effect today; others may come to it.

    Returns:
        Plain values after the model of the section in `schemas.py`, for pruning perhaps with `start_epoch` and
        `end_epoch`.

    Raises:
        UsageError: the file lacks the section.
    """
    if section not in values:
        found = ", ".join(values) or "no section"
        raise UsageError(f"{path}, line 1: this file of INC's older layout has {found}; give it a {section} section")
    unused = [key for key in unused if key not in OlderLayout.model_fields]
    unused += [key for key in values if key != section and (key, section) != ("tuning", "quantization")]
    if section == "quantization":
        settings = _quantization(values[section], values.get("tuning", {}))
    elif section == "pruning":
        settings = _pruning(values[section].get("approach", {}), unused)
    else:
        settings = values[section].get("train", {}).get("criterion", {}).get("KnowledgeDistillationLoss", {})
    shown = ", ".join(f"{key}={_shown(value)}" for key, value in settings.items()) or "no settings"
    rest = f"; not used: {', '.join(dict.fromkeys(unused))}" if unused else ""
    print(f"note: {path} is in INC's older layout; understood as: {shown}{rest}")
    return settings


def _quantization(section, tuning):
    loss, trials = tuning.get("accuracy_criterion", {}), tuning.get("exit_policy", {})
    for kind in loss.keys() & {"relative", "absolute"}:
        loss |= {"criterion": kind, "tolerable_loss": loss.pop(kind)}
    if tuning.get("strategy"):
        trials["strategy"] = tuning["strategy"]["name"]
    if "objective" in tuning:
        trials["objective"] = tuning["objective"]
    everywhere = {".*": section["model_wise"]} if "model_wise" in section else {}
    settings = {
        "op_type_dict": {**everywhere, **section.get("optype_wise", {})},
        "op_name_dict": section.get("op_wise"),
        "accuracy_criterion": loss,
        "tuning_criterion": trials,
    }
    return {key: value for key, value in settings.items() if value}


def _pruning(approach, unused):
    old = approach.get("weight_compression") or approach.get("weight_compression_pytorch") or {}
    pruners = old.pop("pruners", [])
    # What held in that layout for a file that does not say.
    settings = {"pruning_type": "magnitude", "pattern": "1x1", **old}
    settings |= pruners[0] if len(pruners) == 1 else {"pruning_configs": pruners}
    for part in (settings, *settings.get("pruning_configs", [])):
        if is_locked({**settings, **part}):  # such files gave a schedule all the same; today INC refuses it
            scheduled = [key for key in part if key.startswith(("start_", "end_"))]
            unused.extend(f"{key}={part.pop(key):g}" for key in scheduled)
    return settings


def _shown(value):
    if isinstance(value, list) and len(value) > 3:
        return f"[{value[0]!r} and {len(value) - 1} more]"
    return f"{value:g}" if isinstance(value, float) else str(value)
