"""What becomes of each argument of `TrainingArguments` (transformers 4.45.2), whatever the others are.

Belongs here: which of them only a training looks at, which are refused and which have no effect, and what to say of
those whose own help text is not true here.
Does not belong here: arguments that work together with others only (`arguments_checks.py`).
"""

# Only a training looks at these, and does.
# fmt: off
OF_TRAINING = (
    "eval_strategy", "evaluation_strategy", "eval_steps", "eval_delay", "per_device_train_batch_size",
    "gradient_accumulation_steps", "torch_empty_cache_steps", "learning_rate", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "max_grad_norm", "num_train_epochs", "max_steps", "lr_scheduler_type",
    "lr_scheduler_kwargs", "warmup_ratio", "warmup_steps", "logging_dir", "logging_strategy", "logging_first_step",
    "logging_steps", "logging_nan_inf_filter", "save_strategy", "save_steps", "save_total_limit", "data_seed", "debug",
    "dataloader_drop_last", "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory",
    "dataloader_persistent_workers", "run_name", "metric_for_best_model", "ignore_data_skip", "accelerator_config",
    "optim", "optim_args", "adafactor", "group_by_length", "ddp_find_unused_parameters", "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers", "skip_memory_metrics", "resume_from_checkpoint", "gradient_checkpointing",
    "gradient_checkpointing_kwargs", "include_num_input_tokens_seen", "neftune_noise_alpha", "full_determinism",
    "torch_compile", "torch_compile_backend", "torch_compile_mode", "torchdynamo", "fp16", "log_level_replica",
    "log_on_each_node", "dispatch_batches", "split_batches", "do_train",
)
# fmt: on

_OWN_EVALUATION = "questions are evaluated batch by batch through the project's own loop"
_OTHER_MACHINES = "it is for machines of another kind"
_ONE_SAVER = "a checkpoint is written once, by the first process, in safetensors, with all that it takes to go on"
NO_EFFECT = {
    **dict.fromkeys(
        (
            *("prediction_loss_only", "eval_accumulation_steps", "jit_mode_eval", "label_names"),
            *("use_legacy_prediction_loop", "include_inputs_for_metrics", "eval_do_concat_batches"),
            *("batch_eval_metrics", "eval_use_gather_object"),
        ),
        _OWN_EVALUATION,
    ),
    **dict.fromkeys(("tpu_num_cores", "tpu_metrics_debug", "mp_parameters"), _OTHER_MACHINES),
    **dict.fromkeys(
        ("save_safetensors", "save_on_each_node", "save_only_model", "restore_callback_states_from_checkpoint"),
        _ONE_SAVER,
    ),
    **dict.fromkeys(("hub_strategy", "hub_always_push"), "the finished model is sent, once"),
    **dict.fromkeys(("fp16_opt_level", "fp16_backend"), "mixed precision is that of torch"),
    "local_rank": "processes are numbered by torchrun or accelerate launch",
    "past_index": "question-answering models keep no past",
    "remove_unused_columns": "batches hold what the model takes",
    "length_column_name": "lengths are those of the features",
    "greater_is_better": "no best checkpoint is kept; see --lr_scheduler_kwargs for reduce_lr_on_plateau",
    "optim_target_modules": "it is for GaLore, which is not installed",
    "ray_scope": "nothing is searched for",
    "include_tokens_per_second": "INC's loop does not count them",
    "eval_on_start": "INC's loop evaluates after a step; evaluate the model in a run without --do_train",
}
REFUSED = {
    **dict.fromkeys(
        ("per_gpu_train_batch_size", "per_gpu_eval_batch_size"),
        "give --per_device_train_batch_size or --per_device_eval_batch_size",
    ),
    **dict.fromkeys(
        ("fsdp", "fsdp_min_num_params", "fsdp_config", "fsdp_transformer_layer_cls_to_wrap", "deepspeed"),
        "INC works on whole models, not on shards; leave it out",
    ),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), "a model is evaluated as it is saved; leave it out"),
    "use_mps_device": "INC computes on CPUs and NVIDIA GPUs; leave it out",
    "label_smoothing_factor": "the loss on start and end positions knows no smoothing; leave it out",
    "half_precision_backend": "mixed precision is that of torch; leave it out",
    "auto_find_batch_size": "pruning and checkpoints count steps of one batch size; give the one that fits",
    "use_liger_kernel": "its kernels are for decoders; leave it out",
    "load_best_model_at_end": "the model that is saved is the one at the end; leave it out",
}
# Help texts in place of transformers'.
HELP = {
    "overwrite_output_dir": "Replace an earlier run in --output_dir; without it the same command goes on with one.",
    "no_cuda": "Compute on the CPU, as --use_cpu.",
    "use_ipex": "Quantize for IPEX (--quantization_approach static only).",
    "bf16": "bf16 beside fp32 in a training (autocast), beside int8 with run_qa_post_training.py --use_ipex.",
    "push_to_hub": "Send the finished model to the hub.",
    "torch_empty_cache_steps": "Steps after which memory that a GPU's cache holds is given back.",
}
