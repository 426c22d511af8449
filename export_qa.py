"""Export of an extractive question-answering model to ONNX Runtime or OpenVINO, in fp32 or int8.

    python export_qa.py --model_name_or_path sample/distilbert-qa --export_format onnx --apply_quantization \\
        --train_file sample/train.json --validation_file sample/dev.json --verify_loading --do_eval \\
        --output_dir /tmp/onnx

Starts from an fp32 model, also one that run_qa.py pruned or distilled, or from an int8 model that run_qa.py or
run_qa_post_training.py saved, and writes a folder that needs neither INC nor IPEX. The int8 weights, scales and zero
points of such a folder are kept; nothing is calibrated again:

    python export_qa.py --model_name_or_path /tmp/static --export_format openvino \\
        --validation_file sample/dev.json --verify_loading --do_eval --output_dir /tmp/openvino

Supported: fast tokenizers, SQuAD v1.1 and v2.0 data, CPUs. Refused: to quantize a model that is int8 already, models
of IPEX, dynamic int8 in OpenVINO, and an engine that is not installed (requirements-onnx.txt,
requirements-openvino.txt).
"""

from dataclasses import dataclass, field
from typing import ClassVar

from qa.compression.settings import find_config, quantization_settings
from qa.corrections.ipex import without_ipex
from qa.models.compressed import is_dynamic, is_ipex, load_compressed
from qa.models.loading import is_int8, name_on_hub
from qa.results.card_lines import card_of_export
from qa.results.course import (
    batches_to_compare,
    claim,
    conclude,
    draw_calibration,
    is_done,
    load_base_model,
    read_inputs,
)
from qa.results.hub import hub_of
from qa.results.verification import verify, verify_error
from qa.start.arguments import OutcomeArguments, parse_arguments
from qa.start.arguments_checks import check_effects, check_questions, note_effects
from qa.start.command import command
from qa.start.engines import ENGINES
from qa.start.errors import UsageError
from qa.start.paths import kind_of
from qa.start.process import check_one_process, prepare_process
from qa.start.run import Run
from qa.start.stack import check_extra, check_stack
from qa.start.writing import saving

# Largest difference between the logits of PyTorch and of an fp32 model in another engine, which sums in another order.
# Measured on logits of about 10: 2e-5. Two inputs taken for each other, or a lost mask, move them by 1 and more.
VERIFY_TOLERANCE = 1e-3
# Largest mean difference of int8 to fp32 logits, in standard deviations of these. Measured 0.01 to 0.08; two inputs
# taken for each other: 0.9.
VERIFY_SHARE = 0.2
# The same from an int8 folder to its export. Measured 0.026 to 0.064: roundings that are nearly ties fall otherwise
# where an engine sums in another order, and every layer multiplies that. The folder's own logits move by 0.03 to 0.05
# when its embeddings are changed by a millionth.
FOLDER_SHARE = 0.15
# A model with this share of zeros in its linear operators was pruned.
PRUNED = 0.01


@dataclass
class OptimizationArguments(OutcomeArguments):
    """What is written."""

    # No argument: what the checks of all commands ask about.
    refused: ClassVar = dict.fromkeys(("use_ipex", "bf16"), "it is for run_qa_post_training.py; leave it out")

    export_format: str = field(
        default="onnx",
        metadata={"help": "onnx: model.onnx. openvino: openvino_model.xml and .bin.", "choices": list(ENGINES)},
    )
    apply_quantization: bool = field(
        default=False, metadata={"help": "Quantize the model to int8; without it operators are written as they are."}
    )
    quantization_approach: str = field(
        default="static",
        metadata={
            "help": "static: activation scales from calibration on the training questions. dynamic: from each batch "
            "(onnx only).",
            "choices": ["static", "dynamic"],
        },
    )
    quantization_config: str | None = field(
        default=None,
        metadata={"help": "YAML file with settings in a section onnx or openvino (config/quantization.yml)."},
    )
    num_calibration_samples: int = field(
        default=50, metadata={"help": "Training windows to calibrate on (static only)."}
    )


def check_optimization(optimization_args, data_args, training_args):
    """Refuse what no engine does."""
    if not optimization_args.apply_quantization:
        return
    if optimization_args.quantization_approach == "dynamic":
        if not ENGINES[optimization_args.export_format].dynamic:
            raise UsageError(
                f"--quantization_approach dynamic: int8 of --export_format {optimization_args.export_format} is "
                "static; give --export_format onnx"
            )
    elif data_args.dataset_name is None and data_args.train_file is None:
        raise UsageError("--apply_quantization calibrates on training questions: give --train_file or --dataset_name")


def check_int8_folder(run):
    """Refuse an int8 model that cannot be written for the engine."""
    name, export_format = run.model_args.model_name_or_path, run.optimization_args.export_format
    if kind_of(name) != "folder":
        raise UsageError(f"--model_name_or_path {name} is quantized already; download it and give its local folder")
    if is_ipex(run.config) or run.config.torchscript:
        raise UsageError(
            f"--model_name_or_path {name} is a TorchScript program of IPEX, which cannot be taken apart; export the "
            "folder of the static recipe, the same command without --use_ipex"
        )
    if is_dynamic(name) and not ENGINES[export_format].dynamic:
        raise UsageError(
            f"--model_name_or_path {name} is dynamic int8, and that of --export_format {export_format} is static; "
            "give --export_format onnx"
        )


def load_both(run):
    """Load the model that a run starts from.

    Returns:
        `(model, exported, parameters)`: as it runs in PyTorch, as it is written down, and how many parameters it has.
    """
    if not is_int8(run.config):
        model = load_base_model(run)
        return model, model, model.num_parameters()

    from transformers import AutoModelForQuestionAnswering
    from transformers.modeling_utils import no_init_weights

    from qa.models.inputs import settle_inputs
    from qa.models.int8_operators import spell_out

    name = run.model_args.model_name_or_path
    with without_ipex():
        model, exported = (load_compressed(name).model.eval() for _ in range(2))
    with no_init_weights():
        parameters = AutoModelForQuestionAnswering.from_config(run.config).num_parameters()
    exported.config.name_or_path = name_on_hub(name)
    settle_inputs(model, run.tokenizer, run.data_args, name)
    return model, spell_out(exported, name), parameters


@command
def main():
    prepare_process()
    check_one_process("export_qa.py")
    check_stack()
    run = Run(*parse_arguments(OptimizationArguments))
    training_args, optimization_args = run.training_args, run.optimization_args
    check_optimization(optimization_args, run.data_args, training_args)
    check_effects(run)
    export_format, quantizing = optimization_args.export_format, optimization_args.apply_quantization
    check_extra(export_format)
    path = find_config(optimization_args, "quantization_config", "quantization.yml")
    settings = quantization_settings(export_format, path) if quantizing else {}
    run.settings["quantization"] = settings
    static = quantizing and optimization_args.quantization_approach == "static"
    splits = {"train": static, "validation": training_args.do_eval, "test": training_args.do_predict}
    check_questions(run, path, splits)
    note_effects(run)
    run.hub = hub_of(training_args)
    read_inputs(run, splits, int8_too=not quantizing)
    if int8 := is_int8(run.config):
        check_int8_folder(run)

    # The heavy libraries are loaded only now that nothing more can be said about the input.
    from qa.compression.sparsity import sparsity_report
    from qa.models.export import export, exporter_of, load_exported
    from qa.results.evaluation import f1_of_trials, prepare_evaluation
    from qa.results.files import save_results
    from qa.results.measure import timed_rows

    model, exported, parameters = load_both(run)
    exporter = exporter_of(exported, run.model_args.model_name_or_path, run.tokenizer.model_input_names)
    evaluated = prepare_evaluation(run)
    # The features that static quantization by INC calibrates on.
    calibration = draw_calibration(run) if static else None
    claim(run)
    done = is_done(run)
    tuning = None
    if "accuracy_criterion" in settings:
        tuning = f1_of_trials(evaluated["eval"], run.data_args), evaluated["eval"].batches
    if not done:
        export(run, exported, exporter, calibration, tuning)
        with saving(run.output_dir):
            run.tokenizer.save_pretrained(run.output_dir)
    # What is verified and evaluated is what its users will load.
    loaded = load_exported(run.output_dir)
    if optimization_args.verify_loading and not done:
        batches = batches_to_compare(evaluated, calibration)
        inputs = [batches.inputs(rows) for rows in timed_rows(batches)]
        if quantizing:
            verify_error(model, loaded, inputs, VERIFY_SHARE)
        elif int8:
            verify_error(model, loaded, inputs, FOLDER_SHARE, "those of the folder")
        else:
            verify(model, loaded, inputs[0], VERIFY_TOLERANCE)
    sparsity = sparsity_report(model, parameters)
    sparsity = sparsity if sparsity["sparsity"] >= PRUNED else {}
    if sparsity:
        save_results(sparsity, run.output_dir, "export")
    conclude(run, loaded, evaluated, card_of_export(run, calibration), export_format, sparsity=sparsity)


if __name__ == "__main__":
    main()
