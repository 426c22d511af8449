"""What training-time compression needs besides the training loop: INC's configurations, and how sparse a model is.

Belongs here: configurations of quantization-aware training, pruning and distillation as fresh INC objects, the
observers' life during training, and counting zeros.
Does not belong here: the loop itself (`trainer_qa.py`) and reading YAML (`config_qa.py`).
"""

import re

import torch
from neural_compressor import DistillationConfig, QuantizationAwareTrainingConfig, WeightPruningConfig
from neural_compressor.config import KnowledgeDistillationLossConfig
from transformers import TrainerCallback

from environment_qa import UsageError


def training_quantization_config(settings, model):
    """Build the configuration of quantization-aware training.

    Args:
        settings: from `config_qa.quantization_settings("qat")`.
        model: the model to be trained. For this approach INC compares operator names letter by letter, so that the
            regular expressions of `op_name_dict` are spelled out for its modules here.

    Returns:
        A fresh `QuantizationAwareTrainingConfig`.
    """
    settings = dict(settings)
    patterns = settings.pop("op_name_dict", {})
    names = [name + suffix for name, _ in model.named_modules() for suffix in ("", ".module")]
    spelled_out = {
        name: {side: {key: _as_list(value) for key, value in values.items()} for side, values in sides.items()}
        for pattern, sides in patterns.items()
        for name in names
        if re.fullmatch(pattern, name)
    }
    return QuantizationAwareTrainingConfig(op_name_dict=spelled_out or None, **settings)


def _as_list(value):
    return value if isinstance(value, list) else [value]


def pruning_config(settings, model):
    """Build the pruning configuration.

    Args:
        settings: keyword arguments of `WeightPruningConfig`.
        model: the model to be pruned, to see that there is something to prune.

    Returns:
        A fresh `WeightPruningConfig`.

    Raises:
        UsageError: the settings select no operator.
    """
    settings = {"op_names": [], "excluded_op_names": [], "pruning_op_types": ["Linear"], **settings}
    # INC writes into these lists, and its own defaults are shared by all configurations of a process.
    fresh = {key: list(value) if isinstance(value, list) else value for key, value in settings.items()}
    fresh["pruning_configs"] = [dict(local) for local in settings.get("pruning_configs", [{}])]
    return WeightPruningConfig(**fresh)


def distillation_config(settings, teacher):
    """Build the distillation configuration for a teacher model; `settings` as from `config_qa`."""
    return DistillationConfig(
        teacher_model=teacher,
        criterion=KnowledgeDistillationLossConfig(
            temperature=settings["temperature"],
            loss_types=list(settings["loss_types"]),
            loss_weights=list(settings["loss_weights"]),
        ),
        optimizer={},
    )
