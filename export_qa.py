"""Export of an extractive question-answering model to ONNX Runtime or OpenVINO, in fp32 or static int8.

    python export_qa.py --model_name_or_path sample/distilbert-qa --export_format onnx --apply_quantization \\
        --train_file sample/train.json --validation_file sample/dev.json --verify_loading --do_eval \\
        --output_dir /tmp/onnx

Starts from an fp32 model, also one that run_qa.py pruned or distilled, and writes a folder that needs neither INC nor
IPEX. Supported: fast tokenizers, SQuAD v1.1 and v2.0 data, CPUs. Refused: models that are quantized already, and an
engine that is not installed (requirements-onnx.txt, requirements-openvino.txt).
"""

from dataclasses import dataclass, field

from qa.results.course import claim, conclude, draw_calibration, load_base_model, read_inputs, seen_batches
from qa.results.hub import hub_of
from qa.results.steps import export_steps
from qa.results.verification import verify, verify_error
from qa.start.arguments import OutcomeArguments, parse_arguments, positive
from qa.start.arguments_checks import check_effects, note_effects
from qa.start.command import command
from qa.start.engines import ENGINES
from qa.start.errors import UsageError
from qa.start.output import saving
from qa.start.process import check_one_process, prepare_process
from qa.start.run import Run
from qa.start.stack import check_extra, check_stack

# Largest difference between the logits of PyTorch and of an fp32 model in another engine, which sums in another order.
# Measured on logits of about 10: 2e-5. Two inputs taken for each other, or a lost mask, move them by 1 and more.
VERIFY_TOLERANCE = 1e-3
# Largest mean difference of int8 to fp32 logits, in standard deviations of these. Measured 0.01 to 0.08; two inputs
# taken for each other: 0.9.
VERIFY_SHARE = 0.2
# A model with this share of zeros in its linear operators was pruned.
PRUNED = 0.01


@dataclass
class OptimizationArguments(OutcomeArguments):
    """What is written."""

    export_format: str = field(
        default="onnx",
        metadata={"help": "onnx: model.onnx. openvino: openvino_model.xml and .bin.", "choices": list(ENGINES)},
    )
    apply_quantization: bool = field(
        default=False, metadata={"help": "Write a static int8 model; without it weights stay in fp32."}
    )
    num_calibration_samples: int = field(
        default=50, metadata={"help": "Training features to calibrate on (with --apply_quantization)."}
    )


def check_optimization(optimization_args, data_args, training_args):
    """Refuse what no engine does."""
    positive("num_calibration_samples", optimization_args.num_calibration_samples)
    if training_args.report_to:
        raise UsageError("--report_to shows a training, and nothing is trained here; leave it out")
    if training_args.use_ipex or training_args.bf16:
        raise UsageError("--use_ipex and --bf16 are for run_qa_post_training.py; leave them out here")
    if optimization_args.apply_quantization and data_args.dataset_name is None and data_args.train_file is None:
        raise UsageError("--apply_quantization calibrates on training questions: give --train_file or --dataset_name")


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
    splits = {"train": quantizing, "validation": training_args.do_eval, "test": training_args.do_predict}
    if optimization_args.verify_loading and not any(splits.values()):
        raise UsageError("--verify_loading compares logits on real questions: give --do_eval or --do_predict as well")
    note_effects(run)
    run.hub = hub_of(training_args)
    read_inputs(run, splits)

    # The heavy libraries are loaded only now that nothing more can be said about the input.
    from qa.compression.sparsity import sparsity_report
    from qa.models.engines import export, exporter_of, load_exported
    from qa.results.evaluation import prepare_evaluation
    from qa.results.files import save_results
    from qa.results.measure import timed_rows

    model = load_base_model(run)
    exporter = exporter_of(model, run.model_args.model_name_or_path)
    evaluated = prepare_evaluation(run)
    # The features that static quantization by INC calibrates on.
    calibration = draw_calibration(run) if quantizing else None
    claim(run)
    export(model, exporter, export_format, run.output_dir, calibration)
    with saving(run.output_dir):
        run.tokenizer.save_pretrained(run.output_dir)
    # What is verified and evaluated is what its users will load.
    loaded = load_exported(run.output_dir)
    if optimization_args.verify_loading:
        batches = seen_batches(evaluated, calibration)
        inputs = [batches.inputs(rows) for rows in timed_rows(batches)]
        if quantizing:
            verify_error(model, loaded, inputs, VERIFY_SHARE)
        else:
            verify(model, loaded, inputs[0], VERIFY_TOLERANCE)
    sparsity = sparsity_report(model, sum(weights.numel() for weights in model.parameters()))
    sparsity = sparsity if sparsity["sparsity"] >= PRUNED else {}
    if sparsity:
        save_results(sparsity, run.output_dir, "export")
    conclude(run, loaded, evaluated, export_steps(run, calibration), export_format, sparsity=sparsity)


if __name__ == "__main__":
    main()
