"""What may stand in YAML files, as pydantic models: one for each configuration.

Belongs here: keys, the values that each may have, and what to say where pydantic says too little.
Does not belong here: what INC called them before (`older_layout.py`), reading files and saying what is wrong in them
(`settings.py`), and what pruning settings mean together (`schedule.py`).
"""

import re
import sys
from typing import Annotated, Literal

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


def _true(value):
    if not value:
        raise ValueError("leave it out: F1 is compared, and more of it is better")
    return value


def _one_or_more(*allowed):
    return Literal[allowed] | Annotated[list[Literal[allowed]], Field(min_length=1)]


_Share = Annotated[float, Field(ge=0, lt=1)]
_UpToOne = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# Beyond `maxsize` are only slips of the pen.
_Step = Annotated[int, Field(ge=0, le=sys.maxsize)]
Count = Annotated[int, Field(ge=1, le=sys.maxsize)]
Regex = Annotated[str, BeforeValidator(_compiled)]
_Pattern = Annotated[str, BeforeValidator(_checked_pattern)]
HigherIsBetter = Annotated[bool, AfterValidator(_true)]
# To Python, and to pydantic, True is 1.
_NotBool = BeforeValidator(lambda value: str(value) if isinstance(value, bool) else value)
# INC's `hawq_v2` needs a Python function and `mse_v2` a data loader, `random` lists all mixes before it draws one, and
# 3.7.1 comes without `tpe`.
Strategy = Literal["basic", "bayesian", "exhaustive", "mse"]
# INC measures `modelsize` with TensorFlow, and takes several as a mapping only.
Objective = Literal["performance", "accuracy", "footprint"]


class _Mapping(pydantic.BaseModel, strict=True):
    @pydantic.model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values):
        """Say of other keys which there are: pydantic does not."""
        keys, values = ", ".join(cls.model_fields), {} if values is None else values
        if not isinstance(values, dict):
            raise ValueError(f"give a mapping with keys among: {keys}")
        for key in values:
            if key not in cls.model_fields:
                raise PydanticCustomError("unknown_key", "allowed here: {keys}", {"key": key, "keys": keys})
        return values


def mapping(base=_Mapping, **fields):
    """Build the model of a mapping with keys, none of them required, and their types."""
    return pydantic.create_model("Mapping", __base__=base, **{key: (kind, None) for key, kind in fields.items()})


_Side = mapping(
    dtype=_one_or_more("int8", "uint8", "fp32", "bf16"),
    scheme=_one_or_more("sym", "asym"),
    granularity=_one_or_more("per_tensor", "per_channel"),
)
_ByMinmax = mapping(_Side, algorithm=_one_or_more("minmax"))
Operator = mapping(weight=_ByMinmax, activation=mapping(_Side, algorithm=_one_or_more("minmax", "kl")))
Operators = dict[Regex, Operator]
_OperatorsByMinmax = dict[Regex, mapping(weight=_ByMinmax, activation=_ByMinmax)]
_Fp32 = mapping(dtype=_one_or_more("fp32"))
_LeftOut = dict[Regex, mapping(weight=_Fp32, activation=_Fp32)]
_Accuracy = mapping(
    criterion=Literal["relative", "absolute"], tolerable_loss=NotNegative, higher_is_better=HigherIsBetter
)
_Tuning = mapping(max_trials=Count, timeout=NotNegative, strategy=Strategy, objective=Objective)


class QuantizationAware(_Mapping):
    """Those keys of INC's QuantizationAwareTrainingConfig that its training looks at."""

    op_type_dict: _LeftOut = None
    op_name_dict: _LeftOut = None


class PostTraining(_Mapping):
    """Keys of INC's PostTrainingQuantConfig."""

    op_type_dict: Operators = None
    op_name_dict: Operators = None
    quant_level: Annotated[Literal["auto", 0, 1], _NotBool] = None
    accuracy_criterion: _Accuracy = None
    tuning_criterion: _Tuning = None
    # Without INC's `smooth_quant`: it imports peft, which is not among the requirements.
    recipes: mapping(fast_bias_correction=bool, weight_correction=bool) = None


class Calibrated(PostTraining):
    """The same, and a key of our own."""

    minmax_ranges: Literal["narrowed", "whole"] = None


class OnIpex(Calibrated):
    """The same without `kl`, which IPEX's observers do not take."""

    op_type_dict: _OperatorsByMinmax = None
    op_name_dict: _OperatorsByMinmax = None


class ByOnnxRuntime(_Mapping):
    """Keys of our own for export_qa.py, and INC's criterion."""

    excluded_op_names: list[Regex] = None
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
    ipex: OnIpex = None
    qat: QuantizationAware = None
    onnx: ByOnnxRuntime = None
    openvino: ByNNCF = None


class Pruner(_Mapping):
    """Keys of INC's WeightPruningConfig."""

    target_sparsity: _Share = None
    pruning_type: Literal[PRUNING_APPROACHES] = None
    pattern: _Pattern = None
    op_names: list[Regex] = None
    excluded_op_names: list[Regex] = None
    start_step: _Step = None
    end_step: _Step = None
    pruning_scope: Literal["global", "local"] = None
    pruning_frequency: Count = None
    min_sparsity_ratio_per_op: _Share = None
    max_sparsity_ratio_per_op: _Share = None
    sparsity_decay_type: Literal["exp", "cos", "linear", "cube", "cubic"] = None
    pruning_op_types: Annotated[list[Literal["Conv", "Linear"]], Field(min_length=1)] = None


class Pruning(Pruner):
    """What holds everywhere, and what for some operators."""

    pruning_configs: list[Pruner] = None
    # Arguments of INC's parse_auto_slim_config: shares of heads and of feed-forward channels.
    auto_slim: mapping(mha_sparsity=_Share, ffn2_sparsity=_Share) = None


class Loss(_Mapping):
    """Keys of INC's KnowledgeDistillationLossConfig."""

    temperature: _AboveZero = None
    loss_types: list[Literal["CE", "KL", "MSE"]] = Field(None, min_length=2, max_length=2)
    loss_weights: list[_UpToOne] = Field(None, min_length=2, max_length=2)


class Distillation(Loss):
    """The same keys, flat or as INC nests them itself."""

    criterion: mapping(KnowledgeDistillationLoss=Loss) = None
    # Ours: a loss between hidden states.
    intermediate: mapping(
        layers=Annotated[list[_Step], Field(min_length=1)],
        loss=Literal["MSE", "relations"],
        weight=_AboveZero,
    ) = None
