"""What may stand in YAML files, as pydantic models: one for each configuration, and one for INC's older layout.

Belongs here: keys, the values that each may have, and what to say where pydantic says too little.
Does not belong here: reading files and saying what is wrong in them (`settings.py`), and what pruning settings mean
together (`schedule.py`).
"""

import re
import sys
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from qa.compression.schedule import PRUNING_APPROACHES, share_of_pattern


def _compiled(text):
    try:
        re.compile(text)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise ValueError("give a regular expression (as '.*query')") from error
    return text


def _checked_pattern(text):
    blocks = re.fullmatch(r"(tile_pattern_)?(channelx1|1xchannel|[1-9]\d{0,3}x[1-9]\d{0,3})", str(text), re.ASCII)
    if not (blocks or text == "mha" or 0 < share_of_pattern(str(text)) < 1):
        raise ValueError("give NxM (as 4x1), channelx1, 1xchannel, mha, or N:M with N below M (as 2:4)")
    return text.removeprefix("tile_pattern_")


def _operators_of(names):
    """INC's older layout named weights, where operators are named today."""
    return [rf"(^|\.){re.escape(name[:-7])}$" if name.endswith(".weight") else name for name in names]


def _one_or_more(*allowed):
    return Literal[allowed] | Annotated[list[Literal[allowed]], Field(min_length=1)]


_Share = Annotated[float, Field(ge=0, lt=1)]
_UpToOne = Annotated[float, Field(ge=0, le=1)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# Beyond `maxsize` are only slips of the pen.
_Step = Annotated[int, Field(ge=0, le=sys.maxsize)]
_Count = Annotated[int, Field(ge=1, le=sys.maxsize)]
_Regex = Annotated[str, BeforeValidator(_compiled)]
_Pattern = Annotated[str, BeforeValidator(_checked_pattern)]
# To Python, and to pydantic, True is 1.
_NotBool = BeforeValidator(lambda value: str(value) if isinstance(value, bool) else value)
# INC's `hawq_v2` needs a Python function, and 3.7.1 comes without `tpe`.
_Strategy = Literal["basic", "bayesian", "exhaustive", "mse", "mse_v2", "random"]
_Objective = _one_or_more("performance", "accuracy", "modelsize", "footprint")
_Unused = Annotated[Any, AfterValidator(lambda _, info: info.context.append(info.field_name)), Field(exclude=True)]


class _Mapping(pydantic.BaseModel, strict=True):
    @pydantic.model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values):
        """Say of other keys which there are: pydantic does not."""
        keys, values = ", ".join(cls.model_fields), {} if values is None else values
        if not isinstance(values, dict):
            raise ValueError(f"give a mapping with keys among: {keys}")
        for key in (key for key in values if key not in cls.model_fields):
            raise PydanticCustomError("unknown_key", "allowed here: {keys}", {"key": key, "keys": keys})
        return values


def _mapping(*unused, base=_Mapping, **fields):
    """Build the model of a mapping; keys that are `unused` are known, but have no effect today."""
    fields |= dict.fromkeys(unused, _Unused)
    return pydantic.create_model("Mapping", __base__=base, **{key: (kind, None) for key, kind in fields.items()})


_Side = _mapping(
    dtype=_one_or_more("int8", "uint8", "fp32", "bf16"),
    scheme=_one_or_more("sym", "asym"),
    granularity=_one_or_more("per_tensor", "per_channel"),
    algorithm=_one_or_more("minmax", "kl"),
)
_Operator = _mapping(weight=_Side, activation=_Side)
_Operators = dict[_Regex, _Operator]
_Fp32 = _mapping(dtype=_one_or_more("fp32"))
_LeftOut = dict[_Regex, _mapping(weight=_Fp32, activation=_Fp32)]
_Accuracy = _mapping(criterion=Literal["relative", "absolute"], tolerable_loss=_NotNegative, higher_is_better=bool)
_Tuning = _mapping(max_trials=_Count, timeout=_NotNegative, strategy=_Strategy, objective=_Objective)


class QuantizationAware(_Mapping):
    """Those keys of INC's QuantizationAwareTrainingConfig that its training looks at."""

    op_type_dict: _LeftOut = None
    op_name_dict: _LeftOut = None


class PostTraining(_Mapping):
    """Keys of INC's PostTrainingQuantConfig."""

    op_type_dict: _Operators = None
    op_name_dict: _Operators = None
    quant_level: Annotated[Literal["auto", 0, 1], _NotBool] = None
    accuracy_criterion: _Accuracy = None
    tuning_criterion: _Tuning = None
    recipes: _mapping(
        smooth_quant=bool,
        smooth_quant_args=_mapping(alpha=_UpToOne, folding=bool),
        fast_bias_correction=bool,
        weight_correction=bool,
    ) = None


class Calibrated(PostTraining):
    """The same, and a key of our own."""

    minmax_ranges: Literal["narrowed", "whole"] = None


class ByOnnxRuntime(_Mapping):
    """Keys of our own for export_qa.py, and INC's criterion."""

    excluded_op_names: list[_Regex] = None
    calibration_method: Literal["minmax", "entropy", "percentile"] = None
    accuracy_criterion: _Accuracy = None


class ByNNCF(ByOnnxRuntime):
    """The same for OpenVINO, with NNCF's names of its range estimators."""

    calibration_method: Literal[
        "minmax", "mean_minmax", "median_minmax", "mean_no_outliers_minmax", "mean_quantile", "histogram"
    ] = None
    smooth_quant_alpha: _UpToOne = None


class Quantization(PostTraining):
    """Keys at the top are for every approach, those under its name for that one."""

    dynamic: PostTraining = None
    static: Calibrated = None
    ipex: Calibrated = None
    qat: QuantizationAware = None
    onnx: ByOnnxRuntime = None
    openvino: ByNNCF = None


class Pruner(_Mapping):
    """Keys of INC's WeightPruningConfig."""

    target_sparsity: _Share = None
    pruning_type: Literal[PRUNING_APPROACHES] = None
    pattern: _Pattern = None
    op_names: list[_Regex] = None
    excluded_op_names: list[_Regex] = None
    start_step: _Step = None
    end_step: _Step = None
    pruning_scope: Literal["global", "local"] = None
    pruning_frequency: _Count = None
    min_sparsity_ratio_per_op: _Share = None
    max_sparsity_ratio_per_op: _Share = None
    sparsity_decay_type: Literal["exp", "cos", "linear", "cube", "cubic"] = None
    pruning_op_types: Annotated[list[Literal["Conv", "Linear"]], Field(min_length=1)] = None


class Pruning(Pruner):
    """What holds everywhere, and what for some operators."""

    pruning_configs: list[Pruner] = None
    # Arguments of INC's parse_auto_slim_config: shares of heads and of feed-forward channels.
    auto_slim: _mapping(mha_sparsity=_Share, ffn2_sparsity=_Share) = None


class Loss(_Mapping):
    """Keys of INC's KnowledgeDistillationLossConfig."""

    temperature: _AboveZero = None
    loss_types: list[Literal["CE", "KL", "MSE"]] = Field(None, min_length=2, max_length=2)
    loss_weights: list[_UpToOne] = Field(None, min_length=2, max_length=2)


class Distillation(Loss):
    """The same keys, flat or as INC nests them itself."""

    criterion: _mapping(KnowledgeDistillationLoss=Loss) = None
    # Ours: a loss between hidden states.
    intermediate: _mapping(
        layers=Annotated[list[_Step], Field(min_length=1)],
        loss=Literal["MSE", "relations"],
        weight=_AboveZero,
    ) = None


# INC's older layout, in which one file held everything. First what it calls otherwise.
_PRUNE_TYPES = {"basic_magnitude": "magnitude", "gradient_sensitivity": "gradient"}
OLDER_PRUNER_KEYS = {
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
_OldType = Annotated[
    Literal[*PRUNING_APPROACHES, *_PRUNE_TYPES], AfterValidator(lambda kind: _PRUNE_TYPES.get(kind, kind))
]
_OldNames = Annotated[list[_Regex], AfterValidator(_operators_of)]
_OLD_KINDS = {"pruning_type": _OldType, "op_names": _OldNames, "excluded_op_names": _OldNames}
_OlderPruner = pydantic.create_model(
    "OlderPruner",
    __base__=_mapping(
        # Today sparsity grows from zero, and in steps, not in epochs.
        *("initial_sparsity", "initial_sparsity_ratio", "update_frequency", "method", "parameters"),
        base=Pruner,
        op_names=_OldNames,
        excluded_op_names=_OldNames,
        start_epoch=_NotNegative,
        end_epoch=_NotNegative,
    ),
    **{
        old: (_OLD_KINDS.get(new, Pruner.__annotations__[new]), Field(None, serialization_alias=new))
        for old, new in OLDER_PRUNER_KEYS.items()
    },
)
_Compression = _mapping(base=_OlderPruner, pruners=list[_OlderPruner])


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
