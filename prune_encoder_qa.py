"""Prune a language model little by little, with its dense self as teacher: what Prune Once For All starts from.

    python prune_encoder_qa.py --model_name_or_path distilbert-base-uncased --train_file text.txt \\
        --target_sparsity 0.9 --num_train_epochs 3 --learning_rate 1e-4 --output_dir sparse

After Zafrir et al. 2021 (arXiv:2111.05754), section 3. The result is for `run_qa.py --apply_pruning --pruning_approach
pattern_lock`. Supported: models with a head that guesses words and without, the approaches and patterns of pruning of
`run_qa.py`, bf16, several processes, checkpoints. Without text, or with `--steps 0`, the smallest weights of each
linear operator go in one blow, and much of what the model knew with them. Refused: whatever is about questions.
"""

import copy
from dataclasses import dataclass, field
from typing import ClassVar

from qa.compression.schedule import PRUNING_APPROACHES, fit_schedule
from qa.compression.settings import CONFIG_DIR, settings_for_pruning
from qa.corrections.ipex import without_ipex
from qa.corrections.py_cpuinfo import ask_about_processor
from qa.models.loading import load_language_model, load_model
from qa.questions.text import load_texts, text_windows
from qa.results.card_lines import card_of_language_model
from qa.results.course import (
    checkpoint_of,
    claim,
    conclude,
    is_done,
    load_base_model,
    read_inputs,
    read_training_log,
    train_and_save,
)
from qa.results.hub import hub_of
from qa.results.verification import verify
from qa.start.arguments import ModelArguments, OutcomeArguments, check_growth, parse_arguments
from qa.start.arguments_checks import check_effects, note_effects
from qa.start.command import command
from qa.start.distributed import wait_for_all
from qa.start.errors import UsageError
from qa.start.process import is_first_process, prepare_process
from qa.start.run import Run
from qa.start.stack import check_stack
from qa.start.writing import saving

# Share of the steps from --start_step on in which sparsity grows, where nothing is said; the rest mends.
GROWTH = 0.5
# Arguments that mean nothing to a language model.
OF_QUESTIONS = (
    *("do_eval", "do_predict", "validation_file", "test_file", "doc_stride", "n_best_size", "max_answer_length"),
    *("version_2_with_negative", "null_score_diff_threshold", "overwrite_cache", "preprocessing_num_workers"),
    *("max_eval_samples", "max_predict_samples", "eval_strategy", "evaluation_strategy", "eval_steps", "report"),
    *("eval_delay", "metric_for_best_model", "per_device_eval_batch_size"),
)
# These need layers in training mode; here all are in evaluation mode.
OF_DROPOUT = ("gradient_checkpointing", "gradient_checkpointing_kwargs", "neftune_noise_alpha")


@dataclass
class OptimizationArguments(OutcomeArguments):
    """How the model gets sparse."""

    target_sparsity: float = field(default=0.9, metadata={"help": "Share of zeros to reach in the linear operators."})
    steps: int | None = field(
        default=None, metadata={"help": "Optimizer steps, in place of epochs; 0: in one blow, without training."}
    )
    start_step: int = field(default=0, metadata={"help": "Optimizer step at which pruning starts."})
    end_step: int | None = field(
        default=None, metadata={"help": "Step at which pruning ends (half of the steps that follow, if left out)."}
    )
    pruning_approach: str = field(
        default="magnitude",
        metadata={"help": "How weights are chosen, as in run_qa.py.", "choices": list(PRUNING_APPROACHES)},
    )
    pruning_config: str | None = field(
        default=str(CONFIG_DIR / "prune_encoder.yml"), metadata={"help": "YAML file with INC's pruning settings."}
    )

    # No arguments: what the checks of all commands ask about.
    takes_questions = False
    trains = True
    refused: ClassVar = {
        **OutcomeArguments.refused,
        **dict.fromkeys(OF_QUESTIONS, "no question is answered; leave it out"),
        **dict.fromkeys(OF_DROPOUT, "the model is trained without dropout; leave it out"),
    }
    apply_pruning = True


def prune(model, sparsity):
    """Set the smallest weights of each linear operator to zero that question answering uses.

    Args:
        model: question-answering model, changed in place; its head is left as it is.
        sparsity: share of zeros in each operator, from 0 to 1.
    """
    from qa.compression.sparsity import prunable_weights

    for weight in prunable_weights(model).values():
        sizes = weight.abs().flatten()
        smallest = sizes.topk(round(sparsity * sizes.numel()), largest=False).indices
        weight.view(-1)[smallest] = 0.0


def settle_training(run):
    """Find out whether there is a training, refuse what goes with none, and tell the training's arguments."""
    data_args, training_args, optimization_args = run.data_args, run.training_args, run.optimization_args
    check_growth(optimization_args)
    text = data_args.train_file or data_args.dataset_name
    steps = optimization_args.steps
    if steps and text is None:
        raise UsageError(f"--steps {steps} needs text to learn from: give --train_file or --dataset_name")
    training_args.do_train = bool(text) and steps != 0
    for flag in ("pruning_approach", "pruning_config", "start_step", "end_step"):
        if flag in optimization_args.given and not training_args.do_train:
            raise UsageError(
                f"--{flag} is for a training, and without text, or with --steps 0, the smallest weights go at once; "
                "leave it out"
            )
    if steps is not None and "max_steps" in optimization_args.given:
        raise UsageError("--steps and --max_steps say the same; give one of them")
    if steps:
        training_args.max_steps = steps


def train(run, model, teacher, windows, guesses):
    """Prune and save the model.

    Args:
        run: `Run` with its merged settings.
        model, teacher: language models, the same to begin with.
        windows: from `text_windows`.
        guesses: whether they have a head that guesses words.

    Returns:
        The trainer, with the sparse model.
    """
    with without_ipex():
        from qa.compression.pruning import pruning_config
        from qa.training.batches import FeatureCollator
        from qa.training.language import LanguageINCTrainer

    parameters = model.num_parameters()
    trainer = LanguageINCTrainer(
        model=model,
        args=run.training_args,
        data_collator=FeatureCollator(run.tokenizer, run.data_args.fixed_width),
        train_dataset=windows,
        processing_class=run.tokenizer,
        pruning_config=pruning_config(run.settings["pruning"], model),
        teacher=teacher,
        guesses=guesses,
    )
    train_and_save(run, trainer, checkpoint_of(run), parameters)
    return trainer


def prune_at_once(run, model):
    """Set weights to zero without training, and save the model."""
    from qa.compression.pruning import refuse_fewer_zeros
    from qa.compression.sparsity import sparsity, sparsity_report
    from qa.results.files import save_results

    target = run.optimization_args.target_sparsity
    refuse_fewer_zeros(sparsity(model), target)
    prune(model, target)
    with saving(run.output_dir):
        model.save_pretrained(run.output_dir)
        run.tokenizer.save_pretrained(run.output_dir)
    save_results(sparsity_report(model, model.num_parameters()), run.output_dir, "train")


@command
def main():
    prepare_process()
    check_stack()
    run = Run(*parse_arguments(OptimizationArguments))
    training_args, optimization_args = run.training_args, run.optimization_args
    settle_training(run)
    training = training_args.do_train
    check_effects(run, training)
    note_effects(run, training)
    run.hub = hub_of(training_args)
    if training:
        run.settings = settings_for_pruning(optimization_args)
        if "slimming" in run.settings:
            raise UsageError(
                f"--pruning_config {optimization_args.pruning_config} takes heads or channels out (auto_slim, mha); "
                "give it to run_qa.py, and here one without"
            )
    read_inputs(run, {"train": training}, load=load_texts)

    # The heavy libraries are loaded only now that nothing more can be said about the input.
    ask_about_processor()

    with without_ipex():
        from qa.compression.sparsity import prunable_weights, sparsity_report
        from qa.models.inputs import dummy_inputs, refuse_without_mask
        from qa.training.batches import settle_batches, steps_of_training

    model, guesses = load_language_model(run.model_args, load_base_model(run, needs_head=None), run.tokenizer)
    if not prunable_weights(model):
        name = run.model_args.model_name_or_path
        raise UsageError(f"--model_name_or_path {name} uses no linear operator; there is none to prune")
    if training:
        refuse_without_mask(run.tokenizer, run.model_args.model_name_or_path)
        windows = text_windows(run.examples["train"], run.tokenizer, run.data_args.max_seq_length)
        settle_batches(training_args, len(windows))
        steps = steps_of_training(training_args, len(windows))
        run.settings["pruning"] = fit_schedule(run.settings["pruning"], *steps, growth=GROWTH)
    claim(run)
    done = is_done(run)
    if training and not done:
        model = train(run, model, copy.deepcopy(model), windows, guesses).model.cpu().eval()
    elif not done and is_first_process():
        prune_at_once(run, model)
    wait_for_all()
    # As stage 1 will load it.
    loaded = load_model(ModelArguments(run.output_dir), needs_head=None)
    if optimization_args.verify_loading and is_first_process() and not done:
        verify(model.base_model, loaded.base_model, dummy_inputs(model), 0.0, ("last_hidden_state",))
    history = read_training_log(run)[0] if training else ()
    report = sparsity_report(loaded, loaded.base_model.num_parameters())
    print(f"{run.output_dir}: sparsity {report['sparsity']:.6f} in {len(report['sparsity_per_op'])} linear operators")
    conclude(run, loaded, {}, card_of_language_model(run), "encoder", history, report)


if __name__ == "__main__":
    main()
