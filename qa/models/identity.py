"""What a run was made from, by content.

Belongs here: which arguments, files, packages and code the outcome of a run depends on, told apart by digests.
Does not belong here: what follows from it for an output folder (`qa/start/output.py`).
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path

from qa.models.loading import WEIGHT_FILES, from_pretrained
from qa.questions.spans import tokenizer_rules
from qa.start.digests import DIGITS, code_of, digest
from qa.start.engines import ENGINES
from qa.start.paths import kind_of
from qa.start.stack import STACK
from qa.start.training_arguments import NO_EFFECT

# What decides about features, weights and scores.
ROOMS = ("questions", "models", "compression", "training", "corrections")
# Arguments that leave the saved model as it is: where things are (their content counts), what is shown, kept, sent and
# evaluated, and how many processes prepare data. All others count.
# fmt: off
WITHOUT_EFFECT = frozenset((
    *NO_EFFECT,
    "model_name_or_path", "config_name", "tokenizer_name", "model_revision", "cache_dir", "token", "use_auth_token",
    "teacher_model_name_or_path", "quantization_config", "pruning_config", "distillation_config", "dataset_name",
    "dataset_config_name", "train_file", "validation_file", "test_file", "max_train_samples", "max_eval_samples",
    "max_predict_samples", "overwrite_cache", "preprocessing_num_workers", "n_best_size", "max_answer_length",
    "null_score_diff_threshold", "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "do_eval",
    "do_predict", "verify_loading", "report", "eval_strategy", "evaluation_strategy", "eval_steps", "eval_delay",
    "load_best_model_at_end", "metric_for_best_model", "log_level", "log_level_replica", "log_on_each_node",
    "logging_dir", "logging_strategy", "logging_first_step", "logging_steps", "logging_nan_inf_filter",
    "report_to", "run_name", "disable_tqdm", "skip_memory_metrics", "include_num_input_tokens_seen",
    "save_strategy", "save_steps", "save_total_limit", "push_to_hub", "hub_model_id", "hub_token",
    "hub_private_repo", "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token",
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory",
    "dataloader_persistent_workers", "ddp_timeout", "no_cuda", "_n_gpu", "debug",
))
# fmt: on
# Those of them that count where validation questions decide what becomes of the model.
OF_SCORES = (
    *("n_best_size", "max_answer_length", "null_score_diff_threshold", "metric_for_best_model"),
    *("eval_strategy", "eval_steps", "eval_delay"),
)


def made_from(run):
    """Collect what the outcome of a run depends on.

    Args:
        run: `Run` with settings, examples, configuration and tokenizer, the teacher's as well.

    Returns:
        Dictionary of three dictionaries of JSON values: `settings` (arguments and merged configuration files),
        `inputs` (digests of the content behind each flag), and `versions` (packages, and a digest of the code).
    """
    settings = {"processes": int(os.environ.get("WORLD_SIZE", "1"))}
    for arguments in (run.model_args, run.data_args, run.training_args, run.optimization_args):
        for field in dataclasses.fields(arguments):
            if field.name not in WITHOUT_EFFECT:
                settings[field.name] = getattr(arguments, field.name)
    inputs = {
        "--model_name_or_path": weights_of_base(run.model_args, run.config),
        "--config_name": digest(run.config.to_json_string(use_diff=False)),
        "--tokenizer_name": digest(tokenizer_rules(run.tokenizer)),
    }
    if "distillation" in run.settings:
        teacher = weights_of(run.optimization_args.teacher_model_name_or_path, run.teacher_config)
        inputs["--teacher_model_name_or_path"] = digest([teacher, tokenizer_rules(run.teacher_tokenizer)])
    if "train" in run.examples:
        inputs["--train_file or --dataset_name"] = digest(run.examples["train"])
    waits = run.training_args.lr_scheduler_type == "reduce_lr_on_plateau"
    if waits or "accuracy_criterion" in run.settings.get("quantization", {}):
        inputs["--validation_file or --dataset_name"] = digest(run.examples.get("validation"))
        arguments = run.arguments
        settings |= {name: arguments[name] for name in OF_SCORES}
    found = {
        "settings": {**settings, **run.settings},
        "inputs": inputs,
        "versions": versions(getattr(run.optimization_args, "export_format", None)),
    }
    return json.loads(json.dumps(found, default=str))  # as it comes back from run.json


def versions(export_format=None):
    """Return the versions of the packages, and a digest of the code, that decide about weights."""
    engine = ENGINES[export_format].packages if export_format else ()
    names = (*STACK, "accelerate", "tokenizers", *engine)
    return {**{name: importlib.metadata.version(name) for name in names}, "code": code_of(*ROOMS)}


def weights_of_base(model_args, config):
    """Return the same as `weights_of` of the model that a run starts from, whose `config` may be `--config_name`'s."""
    from transformers import AutoConfig

    name = model_args.model_name_or_path
    if model_args.config_name:  # it does not know the model's commit
        config = from_pretrained(AutoConfig, "model_name_or_path", name, model_args)
    return weights_of(name, config)


def weights_of(name, config):
    """Return what tells the weights of a model from others: a digest of their files, or the commit on the hub.

    Args:
        name: folder or hub name.
        config: its configuration as loaded, which knows the commit.
    """
    if kind_of(name) != "folder":
        return f"{name} {config._commit_hash}"
    found = hashlib.sha256()
    patterns = [*WEIGHT_FILES, "config.json", "*.safetensors", "pytorch_model*.bin"]
    for path in sorted({path for pattern in patterns for path in Path(name).glob(pattern)}):
        with path.open("rb") as file:
            found.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:DIGITS]
