"""Fine-tune an extractive question-answering model while it is quantized, pruned and distilled, in any mix.

    python run_qa.py --model_name_or_path sample/distilbert-qa --train_file sample/train.json \\
        --validation_file sample/dev.json --apply_quantization --verify_loading --do_train --do_eval \\
        --output_dir /tmp/qat

On several processes with the same words behind `torchrun --nproc_per_node N`, or `accelerate launch`.

Supported: quantization-aware training, nine pruning approaches, distillation from a live teacher or from its stored
logits. Refused: IPEX and bf16 (see run_qa_post_training.py), configuration files without the flag that applies them.
"""

import math
import os
from dataclasses import dataclass, field

from qa.compression.settings import (
    PRUNING_APPROACHES,
    distillation_settings,
    find_config,
    pruning_settings,
    quantization_settings,
    steps_of_epochs,
)
from qa.corrections.ipex import without_ipex
from qa.corrections.launchers import others_are_missing
from qa.corrections.py_cpuinfo import ask_about_processor
from qa.models.compressed import load_compressed
from qa.models.loading import check_teacher, load_config_and_tokenizer, load_model, name_on_hub
from qa.questions.examples import check_for_training, load_examples, source_of
from qa.results.hub import hub_of, push
from qa.results.report import report_run
from qa.results.verification import verify
from qa.start.arguments import DataTrainingArguments, ModelArguments, OutcomeArguments, parse_arguments
from qa.start.command import command
from qa.start.errors import UsageError
from qa.start.output import check_owner, claim_output_dir, decisive_settings, last_checkpoint
from qa.start.process import is_first_process, prepare_process
from qa.start.stack import check_stack

__all__ = ["DataTrainingArguments", "ModelArguments", "OptimizationArguments", "main"]

# Training features that activation ranges are taken from.
CALIBRATION_FEATURES = 64
# Share of the training between two points of a report's curve of the loss.
LOGGED_SHARE = 0.02


@dataclass
class OptimizationArguments(OutcomeArguments):
    """What is done to the model while it trains."""

    apply_quantization: bool = field(default=False, metadata={"help": "Train for int8 (quantization-aware)."})
    apply_pruning: bool = field(default=False, metadata={"help": "Set weights to zero while training."})
    apply_distillation: bool = field(default=False, metadata={"help": "Learn from a teacher model as well."})
    target_sparsity: float = field(
        default=0.1, metadata={"help": "Share of zeros to reach in the pruned linear operators."}
    )
    start_step: int = field(default=0, metadata={"help": "Optimizer step at which pruning starts."})
    end_step: int | None = field(
        default=None, metadata={"help": "Step at which pruning ends (the last, if left out)."}
    )
    pruning_approach: str = field(
        default="snip_momentum",
        metadata={"help": "How weights are chosen, and how fast.", "choices": list(PRUNING_APPROACHES)},
    )
    pruning_config: str | None = field(default=None, metadata={"help": "YAML file with INC's pruning settings."})
    quantization_config: str | None = field(
        default=None, metadata={"help": "YAML file with INC's quantization settings."}
    )
    distillation_config: str | None = field(
        default=None, metadata={"help": "YAML file with INC's distillation settings."}
    )
    teacher_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or hub name of the teacher, with the student's vocabulary."}
    )
    generate_teacher_logits: bool = field(
        default=False, metadata={"help": "Run the teacher once over the training features and store its logits."}
    )


def check_optimization(optimization_args, training_args):
    """Refuse what cannot be done together, and configuration files that nothing would read."""
    for what in ("quantization", "pruning", "distillation"):
        path = getattr(optimization_args, f"{what}_config")
        if path is not None and not getattr(optimization_args, f"apply_{what}"):
            raise UsageError(f"--{what}_config {path} is given without --apply_{what}; add that flag or drop the file")
    if not (training_args.do_train or training_args.do_eval or training_args.do_predict):
        raise UsageError("there is nothing to do: give --do_train, --do_eval or --do_predict")
    applied = [
        f"--apply_{what}"
        for what in ("quantization", "pruning", "distillation")
        if getattr(optimization_args, f"apply_{what}")
    ]
    if applied and not training_args.do_train:
        raise UsageError(f"{applied[0]} happens during training: give --do_train and training questions as well")
    if training_args.push_to_hub and not training_args.do_train:
        raise UsageError("--push_to_hub sends the trained model: give --do_train as well")
    if optimization_args.generate_teacher_logits and not optimization_args.apply_distillation:
        raise UsageError("--generate_teacher_logits is given without --apply_distillation; add that flag")
    if optimization_args.apply_distillation and optimization_args.teacher_model_name_or_path is None:
        raise UsageError("--apply_distillation needs a teacher: give --teacher_model_name_or_path")
    if training_args.load_best_model_at_end:
        raise UsageError(
            "--load_best_model_at_end does not work: the model that is saved is the one at the end; drop it"
        )
    if training_args.use_ipex or training_args.bf16:
        raise UsageError("--use_ipex and --bf16 are for run_qa_post_training.py; leave them out here")
    sharing = training_args.accelerator_config
    if sharing.split_batches or sharing.dispatch_batches or not sharing.even_batches:
        raise UsageError(
            "--accelerator_config: split_batches, dispatch_batches and even_batches work with their defaults only; "
            "leave them out"
        )
    if not 0.0 <= optimization_args.target_sparsity < 1.0:
        raise UsageError(f"--target_sparsity is {optimization_args.target_sparsity}; give a number from 0 to below 1")
    start, end = optimization_args.start_step, optimization_args.end_step
    if start < 0:
        raise UsageError(f"--start_step is {start}; give a whole number of at least 0")
    if end is not None and end <= start:
        raise UsageError(f"--end_step is {end}; give more than --start_step, which is {start}")


def settings_for_pruning(optimization_args, steps_per_epoch, last_step):
    """Merge the pruning settings: flags that were given win over the YAML file, the file over the flags' defaults.

    Args:
        optimization_args: `OptimizationArguments` as parsed.
        steps_per_epoch: optimizer steps of an epoch.
        last_step: optimizer steps of the whole training.

    Returns:
        Keyword arguments for `WeightPruningConfig` whose schedule ends inside the training.
    """
    locked = optimization_args.pruning_approach == "pattern_lock"
    default = "prune_pattern_lock.yml" if locked else "prune.yml"
    path = find_config(optimization_args.pruning_config or default, "pruning_config")
    settings = steps_of_epochs(pruning_settings(path), steps_per_epoch)
    for flag, key in (
        ("pruning_approach", "pruning_type"),
        ("target_sparsity", "target_sparsity"),
        ("start_step", "start_step"),
        ("end_step", "end_step"),
    ):
        if flag in optimization_args.given or key not in settings:
            settings[key] = getattr(optimization_args, flag)
    if settings["pruning_type"] == "pattern_lock":
        # INC accepts no schedule for it: the pattern is that of the first step and stays.
        return {**settings, "start_step": 0, "end_step": 0}
    # INC sees the steps 0 to last_step - 1, and what is due later never happens.
    end = last_step - 1 if settings["end_step"] is None else min(settings["end_step"], last_step - 1)
    frequency = settings.get("pruning_frequency", 1)
    if settings["pruning_type"].endswith("_progressive"):
        # Progressive masks fill blocks of at least four weights little by little, in at least four steps each time; a
        # round that the training cuts short leaves its block half done, so the last one ends with the schedule.
        if optimization_args.pruning_config is None:
            settings["pattern"] = "4x1"
        rounds = (end + 1 - settings["start_step"]) // max(frequency, 4)
        if rounds > 1:  # with less, INC prunes as the approach without "_progressive" does
            frequency = max(frequency, 4)
            end = settings["start_step"] + rounds * frequency - 1
    if end <= settings["start_step"]:
        raise UsageError(
            f"pruning from step {settings['start_step']} on does not fit into {last_step} training steps: lower "
            "--start_step, raise --num_train_epochs, or make the batches smaller"
        )
    settings["max_sparsity_ratio_per_op"] = max(
        settings.get("max_sparsity_ratio_per_op", 0.98), settings["target_sparsity"]
    )
    return {**settings, "end_step": end, "pruning_frequency": min(frequency, end - settings["start_step"])}


def steps_of(settings, training_args, optimization_args):
    """Tell what was done to the model, for its card.

    Args:
        settings: dictionary from `quantization`, `pruning` and `distillation`, as far as applied, to their settings.
        training_args: `TrainingArguments`.
        optimization_args: `OptimizationArguments`.

    Returns:
        Dictionary from a line of text to the settings behind it.
    """
    epochs, rate = training_args.num_train_epochs, training_args.learning_rate
    steps = {f"Training: epochs {epochs:g}, learning rate {rate:g}, seed {training_args.seed}": None}
    if optimization_args.apply_quantization:
        steps["Quantization-aware training for int8"] = settings["quantization"]
    if optimization_args.apply_pruning:
        steps[f"Pruning by `{settings['pruning']['pruning_type']}`"] = settings["pruning"]
    if optimization_args.apply_distillation:
        teacher = name_on_hub(optimization_args.teacher_model_name_or_path)
        named = f"`{teacher}`" if teacher else "a teacher that is not on the hub"
        steps[f"Distillation from {named}"] = settings["distillation"]
    return steps


@command
def main():
    prepare_process()
    check_stack()
    model_args, data_args, training_args, optimization_args = parse_arguments(OptimizationArguments)
    check_optimization(optimization_args, training_args)
    if others_are_missing(os.environ):
        print("note: accelerate launch has started one process only; --multi_gpu makes it start more, on CPUs as well")
    hub = hub_of(training_args)
    if optimization_args.report and "logging_steps" not in optimization_args.given:
        training_args.logging_steps = LOGGED_SHARE
    quantizing = optimization_args.apply_quantization
    pruning = optimization_args.apply_pruning
    distilling = optimization_args.apply_distillation
    settings = {}
    if quantizing:
        path = find_config(optimization_args.quantization_config or "quantization.yml", "quantization_config")
        settings["quantization"] = quantization_settings("qat", path)
    if distilling:
        path = find_config(optimization_args.distillation_config or "distillation.yml", "distillation_config")
        settings["distillation"] = distillation_settings(path)
    if pruning:
        # The number of steps is not known yet.
        settings["pruning"] = settings_for_pruning(optimization_args, 1, 10**9)
    decisive = decisive_settings(model_args, data_args, training_args, optimization_args, settings)
    check_owner(training_args.output_dir, decisive, training_args.overwrite_output_dir)

    splits = {
        "train": training_args.do_train,
        "validation": training_args.do_eval,
        "test": training_args.do_predict,
    }
    examples = load_examples(data_args, model_args, [split for split, needed in splits.items() if needed])
    if training_args.do_train:
        source = source_of(data_args, "train")
        check_for_training(examples["train"], source, data_args.version_2_with_negative)
    config, tokenizer = load_config_and_tokenizer(model_args, data_args, needs_head=not training_args.do_train)
    if distilling:
        check_teacher(optimization_args.teacher_model_name_or_path, tokenizer, model_args, data_args)

    # The heavy libraries are loaded only now that nothing more can be said about the input.
    ask_about_processor()
    import torch

    from qa.questions.features import dataset_of, prepare_features
    from qa.questions.scores import score
    from qa.results.card import write_card
    from qa.results.evaluation import evaluate_and_report, post_processing, prepare_evaluation
    from qa.results.files import save_results, show_results
    from qa.start.processes import check_same, gather, part, wait_for_all

    torch.manual_seed(training_args.seed)  # a head that is not in the checkpoint is drawn at random
    batch_size = training_args.per_device_eval_batch_size
    model = load_model(model_args, config, needs_head=not training_args.do_train)
    if distilling:
        name = optimization_args.teacher_model_name_or_path
        teacher = load_model(model_args, flag="teacher_model_name_or_path", name=name, needs_head=True)
    # The first process of each machine fills the cache, the others read it.
    data_args.overwrite_cache &= training_args.local_process_index == 0
    with training_args.main_process_first():
        prepared = prepare_evaluation(examples, tokenizer, data_args, model_args, batch_size)
        used = [features for _, features, _ in prepared.values()]
        if training_args.do_train:
            train_examples = dataset_of(examples["train"])
            features = prepare_features(train_examples, tokenizer, data_args, model_args.cache_dir, "train features")
            used.append(features)
    check_same(tuple(features._fingerprint for features in used), "questions, tokenizers or lengths of windows")
    output_dir = training_args.output_dir
    claim_output_dir(output_dir, decisive, training_args.overwrite_output_dir)
    if not training_args.do_train:
        device = training_args.device
        answers = evaluate_and_report(model.to(device), prepared, data_args, output_dir, device, saved=False)
        part()
        if optimization_args.report and is_first_process():
            report_run(prepared["eval"], answers["eval"], config, tokenizer, model_args, data_args, training_args)
        return

    with without_ipex():
        from qa.compression.distillation import distillation_config
        from qa.compression.fake_quant import training_quantization_config
        from qa.compression.pruning import pruning_config, save_sparsity, sparsity_report
        from qa.corrections.deberta import use_plain_dropout
        from qa.models.passes import Batches
        from qa.training.batches import FeatureCollator, steps_per_epoch
        from qa.training.callbacks import log_saved_model
        from trainer_qa import QuestionAnsweringINCTrainer

    parameters = sum(weights.numel() for weights in model.parameters())
    configs = {}
    if quantizing:
        use_plain_dropout(model)
        configs["quantization_config"] = training_quantization_config(settings["quantization"], model)
    if pruning:
        epoch_steps = steps_per_epoch(training_args, len(features))
        last_step = math.ceil(training_args.num_train_epochs * epoch_steps)
        if training_args.max_steps > 0:
            last_step = training_args.max_steps
        settings["pruning"] = settings_for_pruning(optimization_args, epoch_steps, last_step)
        configs["pruning_config"] = pruning_config(settings["pruning"])
    if distilling:
        teacher.to(training_args.device)
        configs["distillation_config"] = distillation_config(settings["distillation"], teacher)
        if optimization_args.generate_teacher_logits:
            from qa.compression.distillation import add_teacher_logits

            features = add_teacher_logits(
                features, teacher, tokenizer, batch_size, model_args.cache_dir, training_args.device
            )

    calibration = features.shuffle(seed=training_args.seed).select(range(min(len(features), CALIBRATION_FEATURES)))
    evaluated = prepared.get("eval", (None, None))
    trainer = QuestionAnsweringINCTrainer(
        model=model,
        args=training_args,
        data_collator=FeatureCollator(tokenizer, data_args.fixed_width),
        train_dataset=features,
        eval_dataset=evaluated[1],
        eval_examples=evaluated[0],
        processing_class=tokenizer,
        post_process_function=post_processing(data_args, output_dir),
        compute_metrics=lambda predictions: score(*predictions, data_args),
        # One batch: the observers' moving average would hardly look at the second one.
        calibration=Batches(calibration, tokenizer, CALIBRATION_FEATURES, data_args.fixed_width),
        task="question-answering",
        **configs,
    )
    # The first process knows: on another machine its newest files may not be seen yet.
    trained = trainer.train(training_args.resume_from_checkpoint or gather(last_checkpoint(output_dir))[0])
    if is_first_process():
        trainer.save_model(output_dir)
    wait_for_all()

    metrics = {**trained.metrics, "train_samples": len(examples["train"])}
    sparsity = sparsity_report(trainer.model, parameters) if pruning else {}
    if pruning:
        save_sparsity(sparsity, output_dir)
    metrics.update(sparsity)
    save_results(metrics, output_dir, "train")
    show_results("train metrics", metrics)
    # What is verified and evaluated is what its users will load.
    loaded = load_compressed(output_dir)
    if optimization_args.verify_loading and is_first_process():
        batches = next(iter(prepared.values()))[2] if prepared else trainer.calibration
        verify(trainer.model.cpu().eval(), loaded, batches.inputs(next(batches.by_length())), 0.0)
    answers = evaluate_and_report(loaded, prepared, data_args, output_dir)
    part()
    if not is_first_process():
        return
    original = None
    if optimization_args.report:
        run = (config, tokenizer, model_args, data_args, training_args)
        original = report_run(
            prepared["eval"],
            answers["eval"],
            *run,
            kind="compressed",
            history=trainer.state.log_history,
            sparsity=sparsity,
        )
    if "tensorboard" in training_args.report_to:
        log_saved_model(output_dir, training_args.logging_dir, trainer.state.global_step)
    steps = steps_of(settings, training_args, optimization_args)
    write_card(output_dir, data_args, steps, hub and hub.repo_id, original)
    if hub:
        push(hub, output_dir)


if __name__ == "__main__":
    main()
