"""Fine-tune an extractive question-answering model while it is quantized, pruned and distilled, in any mix.

    python run_qa.py --model_name_or_path sample/distilbert-qa --train_file sample/train.json \\
        --validation_file sample/dev.json --apply_quantization --verify_loading --do_train --do_eval \\
        --output_dir /tmp/qat

On several processes with the same words behind `torchrun --nproc_per_node N`, or `accelerate launch`.

Supported: quantization-aware training, nine pruning approaches, heads and feed-forward channels taken out, and
distillation from a live teacher (logits, hidden states) or from its stored logits; all but the first in bf16 as well.
Refused: IPEX (see run_qa_post_training.py), configuration files without the flag that applies them.
"""

import os
from dataclasses import dataclass, field

from qa.compression.operator_settings import note_unmet
from qa.compression.schedule import PRUNING_APPROACHES, fit_schedule
from qa.compression.settings import distillation_settings, find_config, quantization_settings, settings_for_pruning
from qa.corrections.ipex import without_ipex
from qa.corrections.launchers import others_are_missing
from qa.corrections.py_cpuinfo import ask_about_processor
from qa.models.compressed import load_compressed
from qa.models.loading import load_model
from qa.questions.checks import check_for_training
from qa.questions.examples import source_of
from qa.results.card_lines import card_of_training
from qa.results.course import (
    batches_to_compare,
    checkpoint_of,
    claim,
    conclude,
    evaluate_as_it_is,
    is_done,
    load_base_model,
    read_inputs,
    read_training_log,
    train_and_save,
)
from qa.results.hub import hub_of
from qa.results.verification import verify
from qa.start.arguments import DataTrainingArguments, ModelArguments, OutcomeArguments, check_growth, parse_arguments
from qa.start.arguments_checks import check_effects, note_effects
from qa.start.command import command
from qa.start.errors import UsageError
from qa.start.process import is_first_process, prepare_process
from qa.start.run import Run
from qa.start.stack import check_stack

__all__ = ["DataTrainingArguments", "ModelArguments", "OptimizationArguments", "main"]

# Training features by which heads and channels are chosen.
SCORED_FEATURES = 256
# Share of the training between two points of a report's curve of the loss.
LOGGED_SHARE = 0.02


@dataclass
class OptimizationArguments(OutcomeArguments):
    """What is done to the model while it trains."""

    # No argument: what the checks of all commands ask about.
    trains = True

    apply_quantization: bool = field(default=False, metadata={"help": "Train for int8 (quantization-aware)."})
    apply_pruning: bool = field(
        default=False, metadata={"help": "Set weights to zero, or take heads and channels out."}
    )
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
        metadata={
            "help": "How weights are chosen. progressive: blocks go little by little. pattern_lock: the zeros that "
            "are there stay.",
            "choices": list(PRUNING_APPROACHES),
        },
    )
    prune_heads: float | None = field(
        default=None, metadata={"help": "Share of the attention heads to take out before the training (0.5: half)."}
    )
    prune_ffn: float | None = field(
        default=None, metadata={"help": "Share of the feed-forward channels to take out before the training."}
    )
    pruning_config: str | None = field(
        default=None,
        metadata={
            "help": "YAML file with INC's pruning settings (in config/: prune.yml; prune_pattern_lock.yml for that)."
        },
    )
    quantization_config: str | None = field(
        default=None, metadata={"help": "YAML file with INC's quantization settings (config/quantization.yml)."}
    )
    distillation_config: str | None = field(
        default=None, metadata={"help": "YAML file with INC's distillation settings (config/distillation.yml)."}
    )
    teacher_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or hub name of the teacher, with the student's vocabulary."}
    )
    generate_teacher_logits: bool = field(
        default=False, metadata={"help": "Run the teacher once over the training features and store its logits."}
    )


def check_optimization(optimization_args, training_args):
    """Refuse what cannot be done together."""
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
    if optimization_args.apply_distillation and optimization_args.teacher_model_name_or_path is None:
        raise UsageError("--apply_distillation needs a teacher: give --teacher_model_name_or_path")
    halved = next((name for name in ("bf16", "fp16") if getattr(training_args, name)), None)
    if halved and optimization_args.apply_quantization:
        raise UsageError(
            f"--{halved} does not go together with --apply_quantization, whose fake-quant rounds fp32 values; leave "
            "out one"
        )
    check_growth(optimization_args)


def settings_of(optimization_args):
    """Read the settings of what is applied from configuration files, as a dictionary."""
    settings = {}
    if optimization_args.apply_quantization:
        path = find_config(optimization_args, "quantization_config", "quantization.yml")
        settings["quantization"] = quantization_settings("qat", path)
    if optimization_args.apply_distillation:
        path = find_config(optimization_args, "distillation_config", "distillation.yml")
        settings["distillation"] = distillation_settings(path)
        for flag in ("apply_quantization", "generate_teacher_logits"):
            if "intermediate" in settings["distillation"] and getattr(optimization_args, flag):
                raise UsageError(
                    f"--{flag} does not go together with the section intermediate of {path}, which needs the hidden "
                    "states of student and teacher in every step; leave out one of them"
                )
    if optimization_args.apply_pruning:
        settings |= settings_for_pruning(optimization_args)
    return settings


def check_models(run):
    """Refuse a model that cannot be cut, or a teacher whose layers cannot be compared with it."""
    if "slimming" in run.settings:
        from qa.compression.slimming import check_can_be_slimmed

        check_can_be_slimmed(run.config, run.settings["slimming"]["heads"], run.model_args.model_name_or_path)
    if intermediate := run.settings.get("distillation", {}).get("intermediate"):
        from qa.compression.intermediate import comparison

        comparison(intermediate, run.config, run.teacher_config)


def slim_first(run, model, features, collator, checkpoint):
    """Take heads and channels out of the model, and print what that leaves.

    Args:
        run, model: as in `compression_of`.
        features: training features.
        collator: `FeatureCollator`.
        checkpoint: folder of the one that the training goes on from, or `None`.
    """
    from torch.utils.data import DataLoader

    from qa.compression.slimming import show_costs, slim

    chosen = features.shuffle(seed=run.training_args.seed).select(range(min(len(features), SCORED_FEATURES)))
    by_length = sorted(chosen, key=lambda feature: len(feature["input_ids"]))
    batches = list(DataLoader(by_length, run.training_args.per_device_eval_batch_size, collate_fn=collator))
    model.to(run.training_args.device)
    before, after = slim(model, **run.settings["slimming"], batches=batches, checkpoint=checkpoint)
    if is_first_process():
        show_costs(before, after)


def compression_of(run, model, teacher):
    """Build what INC is to do in the training.

    Args:
        run: `Run` with its merged settings.
        model: the model to be trained; its dropout may be replaced.
        teacher: the teacher, or `None`.

    Returns:
        Dictionary of the trainer's keywords for compression.
    """
    from qa.compression.distillation import distillation_config
    from qa.compression.fake_quant import names_of_operators, training_quantization_config
    from qa.compression.intermediate import comparison
    from qa.compression.pruning import pruning_config
    from qa.corrections.deberta import use_plain_dropout

    configs = {}
    if "quantization" in run.settings:
        use_plain_dropout(model)
        configs["quantization_config"] = training_quantization_config(run.settings["quantization"], model)
        note_unmet(run.settings["quantization"], names_of_operators(model), quantization_settings("qat"))
    if "pruning" in run.settings:
        configs["pruning_config"] = pruning_config(run.settings["pruning"], model)
    if teacher is not None:
        teacher.to(run.training_args.device)
        configs["distillation_config"] = distillation_config(run.settings["distillation"], teacher)
        if intermediate := run.settings["distillation"].get("intermediate"):
            compare = comparison(intermediate, model.config, teacher.config)
            configs["intermediate"] = (compare, intermediate["weight"])
    return configs


def train(run, model, teacher, prepared, evaluated):
    """Train and save the model.

    Args:
        run, model, teacher: as in `compression_of`.
        prepared: `Prepared` training questions.
        evaluated: from `evaluation.prepare_evaluation`.

    Returns:
        The trainer, with the compressed model.
    """
    with without_ipex():
        from qa.compression.distillation import add_teacher_logits, add_teacher_types, features_of_teacher
        from qa.questions.answers import write_answers
        from qa.questions.scores import score
        from qa.results.evaluation import choose_answers
        from qa.training.batches import FeatureCollator, calibration_batches
        from trainer_qa import QuestionAnsweringINCTrainer

    features = prepared.features
    data_args, training_args, tokenizer = run.data_args, run.training_args, run.tokenizer
    collator = FeatureCollator(tokenizer, data_args.fixed_width)
    checkpoint = checkpoint_of(run)
    if "slimming" in run.settings:
        slim_first(run, model, features, collator, checkpoint)
    configs = compression_of(run, model, teacher)
    parameters = model.num_parameters()
    if teacher is not None:
        cache_dir, theirs = run.model_args.cache_dir, run.teacher_tokenizer
        with training_args.main_process_first():
            seen = features_of_teacher(features, prepared.examples, theirs, data_args, cache_dir)
        if run.optimization_args.generate_teacher_logits:
            size, device = training_args.per_device_eval_batch_size, training_args.device
            features = add_teacher_logits(features, teacher, theirs, size, cache_dir, device, seen)
        else:
            features = add_teacher_types(features, seen, teacher)
    questions = evaluated.get("eval")

    def post_process(examples, features, logits, stage):
        answers = choose_answers(examples, features, logits, data_args)
        write_answers(answers, run.output_dir, stage)
        return examples, answers

    trainer = QuestionAnsweringINCTrainer(
        model=model,
        args=training_args,
        data_collator=collator,
        train_dataset=features,
        eval_dataset=questions and questions.features,
        eval_examples=questions and questions.examples,
        processing_class=tokenizer,
        evaluation_width=data_args.evaluation_width,
        post_process_function=post_process,
        compute_metrics=lambda predictions: score(*predictions, data_args),
        calibration=calibration_batches(features, tokenizer, training_args.seed, data_args.fixed_width),
        task="question-answering",
        **configs,
    )
    train_and_save(run, trainer, checkpoint, parameters)
    return trainer


@command
def main():
    prepare_process()
    check_stack()
    run = Run(*parse_arguments(OptimizationArguments))
    model_args, training_args, optimization_args = run.model_args, run.training_args, run.optimization_args
    check_optimization(optimization_args, training_args)
    check_effects(run, training_args.do_train)
    note_effects(run, training_args.do_train)
    if others_are_missing(os.environ):
        print("note: accelerate launch has started one process only; --multi_gpu makes it start more, on CPUs as well")
    run.hub = hub_of(training_args)
    if optimization_args.report and "logging_steps" not in optimization_args.given:
        training_args.logging_steps = LOGGED_SHARE
    run.settings = settings_of(optimization_args)
    training = training_args.do_train
    read_inputs(run, {"train": training, "validation": training_args.do_eval, "test": training_args.do_predict})
    teacher_name = optimization_args.teacher_model_name_or_path
    if training:
        source = source_of(run.data_args, "train")
        check_for_training(run.examples["train"], source, run.data_args.version_2_with_negative)
    check_models(run)

    # The heavy libraries are loaded only now that nothing more can be said about the input.
    ask_about_processor()
    import torch

    from qa.models.inputs import refuse_without_mask, settle_inputs
    from qa.results.evaluation import prepare_evaluation, prepare_split
    from qa.start.distributed import check_same
    from qa.training.batches import settle_batches, steps_of_training

    torch.manual_seed(training_args.seed)  # a head that is not in the checkpoint is drawn at random
    model = load_base_model(run, needs_head=not training)
    teacher = None
    if teacher_name:
        flag = "teacher_model_name_or_path"
        teacher = load_model(model_args, flag=flag, name=teacher_name, needs_head=True)
        settle_inputs(teacher, run.teacher_tokenizer, run.data_args, teacher_name, flag)
        refuse_without_mask(run.tokenizer, model_args.model_name_or_path)
    # The first process of each machine fills the cache, the others read it.
    run.data_args.overwrite_cache &= training_args.local_process_index == 0
    with training_args.main_process_first():
        evaluated = prepare_evaluation(run)
        used = list(evaluated.values())
        if training:
            used.append(prepare_split(run, run.examples["train"], "train"))
            settle_batches(training_args, len(used[-1].features))
        if "pruning" in run.settings:
            steps = steps_of_training(training_args, len(used[-1].features))
            run.settings["pruning"] = fit_schedule(run.settings["pruning"], *steps)
    check_same(tuple(each.features._fingerprint for each in used), "questions, tokenizers or lengths of windows")
    claim(run)
    if not training:
        evaluate_as_it_is(run, model, evaluated)
        return

    done = is_done(run)
    trainer = None if done else train(run, model, teacher, used[-1], evaluated)
    # What is verified and evaluated is what its users will load.
    loaded = load_compressed(run.output_dir)
    if optimization_args.verify_loading and is_first_process() and not done:
        batches = batches_to_compare(evaluated, trainer.calibration)
        verify(trainer.model.cpu().eval(), loaded, batches.inputs(next(batches.by_length())), 0.0)
    history, sparsity = read_training_log(run)
    kind = "compressed" if optimization_args.apply_quantization else "fp32"
    conclude(run, loaded, evaluated, card_of_training(run), kind, history, sparsity)


if __name__ == "__main__":
    main()
