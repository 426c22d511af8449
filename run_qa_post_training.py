"""Post-training quantization of an extractive question-answering model: dynamic, static, or static on IPEX.

    python run_qa_post_training.py --model_name_or_path sample/distilbert-qa \\
        --train_file sample/train.json --validation_file sample/dev.json \\
        --apply_quantization --quantization_approach static --verify_loading --do_eval --output_dir /tmp/static

The same command without --apply_quantization evaluates the model as it is. Supported: fast tokenizers, SQuAD v1.1 and
v2.0 data, CPUs. Refused: IPEX with the dynamic approach or a DeBERTa model, and bf16 without IPEX.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from qa.compression.operator_settings import note_unmet
from qa.compression.settings import find_config, quantization_settings
from qa.corrections.ipex import without_ipex
from qa.corrections.py_cpuinfo import ask_about_processor
from qa.models.compressed import IPEX_WIDTH_STEP, load_compressed, operators_of
from qa.results.card_lines import card_of_post_training
from qa.results.course import (
    batches_to_compare,
    claim,
    conclude,
    draw_calibration,
    evaluate_as_it_is,
    is_done,
    load_base_model,
    read_inputs,
)
from qa.results.hub import hub_of
from qa.results.verification import verify
from qa.start.arguments import DataTrainingArguments, ModelArguments, OutcomeArguments, parse_arguments
from qa.start.arguments_checks import check_effects, check_questions, note_effects
from qa.start.command import command
from qa.start.errors import UsageError
from qa.start.process import check_one_process, prepare_process
from qa.start.run import Run
from qa.start.stack import check_stack
from qa.start.writing import saving

__all__ = ["DataTrainingArguments", "ModelArguments", "OptimizationArguments", "main"]


@dataclass
class OptimizationArguments(OutcomeArguments):
    """What is done to the model."""

    # No argument: what the checks of all commands ask about.
    refused: ClassVar = {}

    apply_quantization: bool = field(
        default=False, metadata={"help": "Quantize the model; without it the model is evaluated as it is."}
    )
    quantization_approach: str = field(
        default="dynamic",
        metadata={
            "help": "dynamic: activation scales from each batch. static: from calibration on the training questions.",
            "choices": ["dynamic", "static"],
        },
    )
    quantization_config: str | None = field(
        default=None, metadata={"help": "YAML file with INC's quantization settings (config/quantization.yml)."}
    )
    num_calibration_samples: int = field(
        default=50, metadata={"help": "Training windows to calibrate on (static only)."}
    )


def check_optimization(optimization_args, data_args, training_args):
    """Refuse mixes that no engine runs; arguments of a quantization that is not asked for are left alone."""
    if training_args.push_to_hub and not optimization_args.apply_quantization:
        raise UsageError("--push_to_hub sends the quantized model: give --apply_quantization as well")
    if not optimization_args.apply_quantization:
        if not (training_args.do_eval or training_args.do_predict):
            raise UsageError("there is nothing to do: give --apply_quantization, --do_eval or --do_predict")
        return
    static = optimization_args.quantization_approach == "static"
    if training_args.use_ipex and not static:
        raise UsageError(
            "--use_ipex goes with --quantization_approach static only: INC has no dynamic quantization on IPEX"
        )
    if training_args.bf16 and not training_args.use_ipex:
        raise UsageError("--bf16 goes with --use_ipex only: the default backend's int8 operators take fp32 inputs")
    if static and data_args.dataset_name is None and data_args.train_file is None:
        raise UsageError(
            "--quantization_approach static calibrates on training questions: give --train_file or --dataset_name"
        )


@command
def main():
    prepare_process()
    check_one_process("run_qa_post_training.py")
    check_stack()
    run = Run(*parse_arguments(OptimizationArguments))
    data_args, training_args, optimization_args = run.data_args, run.training_args, run.optimization_args
    check_optimization(optimization_args, data_args, training_args)
    check_effects(run)
    quantizing, approach = optimization_args.apply_quantization, optimization_args.quantization_approach
    use_ipex = quantizing and training_args.use_ipex
    static = quantizing and approach == "static"
    path = find_config(optimization_args, "quantization_config", "quantization.yml")
    if quantizing:
        run.settings["quantization"] = quantization_settings("ipex" if use_ipex else approach, path)
    splits = {"train": static, "validation": training_args.do_eval, "test": training_args.do_predict}
    check_questions(run, path, splits)
    note_effects(run)
    run.hub = hub_of(training_args)
    read_inputs(run, splits)
    if use_ipex and run.config.model_type in ("deberta", "deberta-v2"):
        raise UsageError(
            f"--use_ipex: {run.model_args.model_name_or_path} is a {run.config.model_type} model, and IPEX fails on "
            "its attention; leave the flag out"
        )

    # The heavy libraries are loaded only now that nothing more can be said about the input.
    ask_about_processor()
    from qa.results.evaluation import f1_of_trials, prepare_evaluation

    # IPEX compiles the graph anew for every input shape, so it gets few of them.
    multiple = IPEX_WIDTH_STEP if use_ipex and data_args.pad_to_max_length is None else 1
    model = load_base_model(run)
    evaluated = prepare_evaluation(run, multiple)
    claim(run)
    if not quantizing:
        evaluate_as_it_is(run, model, evaluated)
        return

    with without_ipex(not use_ipex):
        from qa.compression.post_training import VERIFY_TOLERANCE, quantization_config, quantize

    calibration = draw_calibration(run, multiple) if static else None
    settings = run.settings["quantization"]
    config = quantization_config(settings, approach, use_ipex, training_args.bf16)
    score = f1_of_trials(evaluated["eval"], data_args) if "accuracy_criterion" in settings else None
    if not (done := is_done(run)):
        ranges = settings.get("minmax_ranges", "whole")
        quantized = quantize(model, config, run.output_dir, calibration, score, ranges)
        if not use_ipex:  # which knows operators by numbers
            note_unmet(settings, operators_of(run.output_dir), quantization_settings(approach))
        with saving(run.output_dir):
            run.tokenizer.save_pretrained(run.output_dir)
    # What is verified and evaluated is what its users will load.
    loaded = load_compressed(run.output_dir)
    if optimization_args.verify_loading and not done:
        batches = batches_to_compare(evaluated, calibration)
        tolerance = VERIFY_TOLERANCE["bf16" if training_args.bf16 else "ipex" if use_ipex else "default"]
        verify(quantized, loaded, batches.inputs(next(batches.by_length())), tolerance)
    conclude(run, loaded, evaluated, card_of_post_training(run, calibration))


if __name__ == "__main__":
    main()
