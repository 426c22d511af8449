"""What becomes of the arguments of a run: they work, are refused, or have no effect, and the run says so.

Belongs here: which arguments work together with others only.
Does not belong here: what becomes of an argument whatever the others are (`training_arguments.py`), values out of
range, and what is wrong between two arguments of one script.
"""

import json
import os
from dataclasses import fields
from importlib.util import find_spec

from qa.corrections.accelerate import VARIABLE
from qa.start.arguments import FILE_FLAGS, HUB_NAMES
from qa.start.cpu import processor
from qa.start.errors import UsageError
from qa.start.paths import kind_of
from qa.start.training_arguments import NO_EFFECT, OF_TRAINING, REFUSED

# Optimizers of `--optim` by the package that they come from, as Python imports it.
OPTIMIZERS = {
    None: ("adamw_hf", "adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"),
    "torch_xla": ("adamw_torch_xla",),
    "torch_npu": ("adamw_torch_npu_fused",),
    "apex": ("adamw_apex_fused",),
    "torchdistx": ("adamw_anyprecision",),
    "torchao": ("adamw_torch_4bit",),
    "bitsandbytes": (
        *("adamw_bnb_8bit", "adamw_8bit", "ademamix", "ademamix_8bit", "lion_8bit", "lion_32bit", "paged_adamw_32bit"),
        *("paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit"),
        *("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
    ),
    "galore_torch": (
        *("galore_adamw", "galore_adamw_8bit", "galore_adafactor", "galore_adamw_layerwise"),
        *("galore_adamw_8bit_layerwise", "galore_adafactor_layerwise"),
    ),
    "lomo_optim": ("lomo", "adalomo"),
    "grokadamw": ("grokadamw",),
    "schedulefree": ("schedule_free_adamw", "schedule_free_sgd"),
}
# Arguments of ours that do something with another flag only.
OF_COMPRESSION = {
    "apply_pruning": (
        *("target_sparsity", "start_step", "end_step", "pruning_approach", "pruning_config"),
        *("prune_heads", "prune_ffn"),
    ),
    "apply_distillation": ("teacher_model_name_or_path", "generate_teacher_logits", "distillation_config"),
    "apply_quantization": ("quantization_config",),
}


def _conditions(args):
    """Return, for arguments that work together with another one only, whether they do, and with what."""
    tensorboard, trackers = "tensorboard" in args.report_to, set(args.report_to) - {"tensorboard"}
    several, plateau = args.world_size > 1, args.lr_scheduler_type == "reduce_lr_on_plateau"
    gpu = not args.use_cpu
    # Plain AdamW and its like take no arguments by name.
    takes_arguments = args.optim not in OPTIMIZERS[None]
    adam = args.optim not in ("adafactor", "sgd", "adagrad", "rmsprop") and not args.adafactor
    schedule = args.lr_scheduler_type
    warms_up = schedule not in ("constant", "reduce_lr_on_plateau")
    return {
        "eval_steps": (args.eval_strategy == "steps", "--eval_strategy steps"),
        "eval_delay": (args.eval_strategy != "no", "--eval_strategy"),
        "save_steps": (args.save_strategy == "steps", "--save_strategy steps"),
        "save_total_limit": (args.save_strategy != "no", "--save_strategy"),
        "logging_steps": (args.logging_strategy == "steps", "--logging_strategy steps"),
        "logging_dir": (tensorboard, "--report_to tensorboard"),
        "run_name": (bool(trackers), "a tracker in --report_to that names its runs"),
        "metric_for_best_model": (plateau, "--lr_scheduler_type reduce_lr_on_plateau"),
        "num_train_epochs": (args.max_steps <= 0, "a training whose --max_steps is left out"),
        "warmup_ratio": (
            (args.warmup_steps == 0, "a training whose --warmup_steps is left out")
            if warms_up
            else (False, "an --lr_scheduler_type that warms up")
        ),
        "warmup_steps": (warms_up, "an --lr_scheduler_type that warms up"),
        "lr_scheduler_kwargs": (
            schedule not in ("constant", "constant_with_warmup", "inverse_sqrt"),
            "an --lr_scheduler_type that takes arguments",
        ),
        **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon"), (adam, "an --optim of the Adam kind")),
        "optim_args": (takes_arguments, "an --optim that takes arguments of its own"),
        "gradient_checkpointing_kwargs": (args.gradient_checkpointing, "--gradient_checkpointing"),
        "dataloader_persistent_workers": (args.dataloader_num_workers > 0, "--dataloader_num_workers"),
        "torch_empty_cache_steps": (gpu, "a GPU"),
        "dataloader_pin_memory": (gpu, "a GPU"),
        **dict.fromkeys(
            (
                *("ddp_backend", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"),
                *("ddp_timeout", "log_level_replica", "log_on_each_node"),
            ),
            (several, "several processes"),
        ),
        **dict.fromkeys(
            ("hub_model_id", "hub_token", "hub_private_repo", "push_to_hub_model_id"),
            (args.push_to_hub, "--push_to_hub"),
        ),
    }


def _conditions_of_ours(run, trains):
    data_args, args, optimization_args = run.data_args, run.training_args, run.optimization_args
    quantizes = getattr(optimization_args, "apply_quantization", False)
    static = quantizes and not trains and getattr(optimization_args, "quantization_approach", "static") == "static"
    saves = trains or quantizes or hasattr(optimization_args, "export_format") or not optimization_args.takes_questions
    of_bf16 = "--do_train" if hasattr(optimization_args, "apply_pruning") else "--apply_quantization"
    arguments = run.arguments
    names = {flag: arguments[flag] for flag in HUB_NAMES if arguments.get(flag) is not None}
    on_hub = {flag for flag, name in names.items() if kind_of(name) is None}
    return {
        "model_revision": (on_hub - {"dataset_name"}, "a model on the hub"),
        **dict.fromkeys(("token", "use_auth_token"), (on_hub, "a model or a data set on the hub")),
        "dataset_config_name": (data_args.dataset_name is not None, "--dataset_name"),
        "null_score_diff_threshold": (data_args.version_2_with_negative, "--version_2_with_negative"),
        **dict.fromkeys(("validation_file", "max_eval_samples"), (args.do_eval, "--do_eval")),
        **dict.fromkeys(("test_file", "max_predict_samples"), (args.do_predict, "--do_predict")),
        **dict.fromkeys(("train_file", "max_train_samples"), (trains or static, "a training or a calibration")),
        "num_calibration_samples": (static, "a static quantization"),
        **dict.fromkeys(("quantization_approach", "use_ipex"), (quantizes, "--apply_quantization")),
        "bf16": (quantizes or trains, of_bf16),
        "verify_loading": (saves, "a model that is saved"),
    }


def _asked(run):
    groups = (run.model_args, run.data_args, run.training_args, run.optimization_args)
    everything = [(group, each) for group in groups for each in fields(group)]
    given = run.optimization_args.given
    return [
        each.name for group, each in everything if each.name in given and getattr(group, each.name) != each.default
    ]


def check_effects(run, trains=False):
    """Refuse arguments that ask for what cannot be done here, or for a part of what is not asked for.

    Args:
        run: `Run` with its arguments.
        trains: whether it trains.

    Raises:
        UsageError: there is such an argument.
    """
    refused = REFUSED | run.optimization_args.refused
    for name in filter(refused.__contains__, _asked(run)):
        if run.arguments[name] != "no":  # as a dump of arguments may have it
            raise UsageError(f"--{name} does not work here: {refused[name]}")
    for flag, names in OF_COMPRESSION.items():
        for name in names:
            if name in run.optimization_args.given and not getattr(run.optimization_args, flag):
                value = getattr(run.optimization_args, name)
                raise UsageError(f"--{name} {value} is given without --{flag}; add that flag or drop this one")
    if trains:
        _check_training(run.training_args)
        applied = [what for what in OF_COMPRESSION if getattr(run.optimization_args, what, False)]
        if run.training_args.torch_compile and applied:
            what = applied[0].removeprefix("apply_")
            raise UsageError(f"--torch_compile goes without {what} only, since INC changes the model as it trains")
    elif run.training_args.report_to:
        raise UsageError("--report_to shows a training, and nothing is trained here; leave it out")
    elif run.training_args.fp16:
        raise UsageError("--fp16 is for trainings on a GPU, and nothing is trained here; leave it out")


def note_effects(run, trains=False):
    """Name, in a line each, the arguments of a run that do nothing in it; parameters as in `check_effects`."""
    for name in sorted(run.optimization_args.given & NO_EFFECT.keys()):
        print(f"note: --{name} has no effect: {NO_EFFECT[name]}")
    for name in FILE_FLAGS.values():
        if run.data_args.dataset_name and name in run.optimization_args.given:
            print(f"note: --{name} has no effect: questions are those of --dataset_name {run.data_args.dataset_name}")
    conditions = _conditions(run.training_args) | _conditions_of_ours(run, trains)
    for name in _asked(run):
        works, companion = conditions.get(name, (True, ""))
        if name in OF_TRAINING and not trains:
            print(f"note: --{name} has no effect: nothing is trained here")
        elif not works:
            print(f"note: --{name} has no effect without {companion}")


def check_questions(run, path, splits):
    """Refuse what needs questions where none are read.

    Args:
        run: `Run` with its arguments and settings.
        path: file of its quantization settings.
        splits: dictionary from split to whether it is read.

    Raises:
        UsageError: no question is there for an accuracy criterion, or to compare models on.
    """
    settings = run.settings.get("quantization", {})
    if "tuning_criterion" in settings and "accuracy_criterion" not in settings:
        print(f"note: {path}: tuning_criterion has no effect without accuracy_criterion")
    if "accuracy_criterion" in settings and not run.training_args.do_eval:
        raise UsageError(
            f"{path} has an accuracy criterion, which is tuned on the validation questions: give --do_eval"
        )
    if run.optimization_args.verify_loading and not any(splits.values()):
        raise UsageError("--verify_loading compares logits on real questions: give --do_eval or --do_predict as well")


def _check_training(args):
    sharing = args.accelerator_config
    if sharing.split_batches or sharing.dispatch_batches or not sharing.even_batches:
        raise UsageError(
            "--accelerator_config: split_batches, dispatch_batches and even_batches work with their defaults only; "
            "leave them out"
        )
    if args.n_gpu > 1:
        raise UsageError(
            f"one process cannot train on {args.n_gpu} GPUs: start the same words with torchrun --nproc_per_node "
            f"{args.n_gpu}, or set CUDA_VISIBLE_DEVICES to one of them"
        )
    if args.fp16 and args.use_cpu:
        raise UsageError("--fp16 is for GPUs, and this run is on a CPU; leave it out")
    if args.bf16 and args.use_cpu and "bf16" not in processor()[1]:
        raise UsageError("--bf16: this processor has no bf16 instructions, and would only be slower; leave it out")
    launched, asked = os.environ.get(VARIABLE, "no"), "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
    if launched not in ("no", asked):
        raise UsageError(
            f"accelerate launch --mixed_precision {launched} (or its configuration): give the script --bf16 or --fp16 "
            "in its place"
        )
    if (args.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
        raise UsageError(
            "--gradient_checkpointing_kwargs: with use_reentrant the weights come out differently; leave it out"
        )
    for word in (args.optim_args or "").split(","):
        if word.strip() and word.count("=") != 1:
            raise UsageError(f"--optim_args has {word!r}; give NAME=VALUE, several with commas between them")
    package = next(package for package, names in OPTIMIZERS.items() if args.optim in names)
    if package is not None and find_spec(package) is None:
        raise UsageError(
            f"--optim {args.optim.value} needs the package {package}, which is not installed; choose from "
            f"{', '.join(OPTIMIZERS[None])}"
        )
    if args.lr_scheduler_type == "reduce_lr_on_plateau":
        metric, mode = args.metric_for_best_model, (args.lr_scheduler_kwargs or {}).get("mode")
        if metric.removeprefix("eval_") not in ("f1", "exact_match", "exact") or mode != "max":
            raise UsageError(
                "--lr_scheduler_type reduce_lr_on_plateau waits for a score to stop rising: give "
                '--metric_for_best_model f1 and --lr_scheduler_kwargs \'{"mode": "max"}\''
            )
    _check_schedule(args)


def _check_schedule(args):
    """See that the schedule of the learning rate can be made, by making one."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, args.lr_scheduler_kwargs)
    except Exception as error:  # of whatever kind: torch and transformers unpack what they are given
        kind, reason = args.lr_scheduler_type.value, str(error).rpartition("() ")[2]
        raise UsageError(
            f"--lr_scheduler_type {kind} cannot be made with --lr_scheduler_kwargs "
            f"{json.dumps(args.lr_scheduler_kwargs)}: {reason}; give what it takes"
        ) from error
