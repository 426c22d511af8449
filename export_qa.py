"""Export of an extractive question-answering model to ONNX Runtime or OpenVINO, in fp32 or static int8.

    python export_qa.py --model_name_or_path sample/distilbert-qa --export_format onnx --apply_quantization \\
        --train_file sample/train.json --validation_file sample/dev.json --verify_loading --do_eval \\
        --output_dir /tmp/onnx

Starts from an fp32 model, also one that run_qa.py pruned or distilled, and writes a folder that needs neither INC nor
IPEX. Supported: fast tokenizers, SQuAD v1.1 and v2.0 data, CPUs. Refused: models that are quantized already, and an
engine that is not installed (requirements-onnx.txt, requirements-openvino.txt).
"""

from dataclasses import dataclass, field

from qa.models.loading import load_config_and_tokenizer, load_model
from qa.questions.examples import load_examples
from qa.results.hub import hub_of, push
from qa.results.report import report_run
from qa.results.verification import verify, verify_error
from qa.start.arguments import OutcomeArguments, parse_arguments, positive
from qa.start.command import command
from qa.start.errors import UsageError
from qa.start.output import check_owner, claim_output_dir, decisive_settings, saving
from qa.start.process import check_one_process, prepare_process
from qa.start.stack import EXTRAS, check_extra, check_stack

# Largest difference between the logits of PyTorch and of an fp32 model in another engine, which sums in another order.
# Measured on logits of about 10: 2e-5. Two inputs taken for each other, or a lost mask, move them by 1 and more.
VERIFY_TOLERANCE = 1e-3
# Largest mean difference of int8 to fp32 logits, in standard deviations of these. Measured 0.01 to 0.08; two inputs
# taken for each other: 0.9.
VERIFY_SHARE = 0.2
# A model with this share of zeros in its linear operators was pruned.
PRUNED = 0.01
NAMES = {"onnx": "ONNX", "openvino": "OpenVINO IR"}
QUANTIZERS = {"onnx": "ONNX Runtime", "openvino": "NNCF"}


@dataclass
class OptimizationArguments(OutcomeArguments):
    """What is written."""

    export_format: str = field(
        default="onnx",
        metadata={"help": "onnx: model.onnx. openvino: openvino_model.xml and .bin.", "choices": list(EXTRAS)},
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
    model_args, data_args, training_args, optimization_args = parse_arguments(OptimizationArguments)
    check_optimization(optimization_args, data_args, training_args)
    export_format, quantizing = optimization_args.export_format, optimization_args.apply_quantization
    check_extra(export_format)
    hub = hub_of(training_args)
    splits = {"train": quantizing, "validation": training_args.do_eval, "test": training_args.do_predict}
    if optimization_args.verify_loading and not any(splits.values()):
        raise UsageError("--verify_loading compares logits on real questions: give --do_eval or --do_predict as well")
    decisive = decisive_settings(model_args, data_args, training_args, optimization_args, {})
    check_owner(training_args.output_dir, decisive, training_args.overwrite_output_dir)
    examples = load_examples(data_args, model_args, [split for split, needed in splits.items() if needed])
    config, tokenizer = load_config_and_tokenizer(model_args, data_args, needs_head=True)

    # The heavy libraries are loaded only now that nothing more can be said about the input.
    from qa.models.engines import export, exporter_of, load_exported
    from qa.models.passes import Batches
    from qa.questions.features import dataset_of, draw_features
    from qa.results.card import write_card
    from qa.results.evaluation import evaluate_and_report, prepare_evaluation
    from qa.results.files import save_results
    from qa.results.measure import timed_rows

    batch_size = training_args.per_device_eval_batch_size
    model = load_model(model_args, config, needs_head=True)
    exporter = exporter_of(model, model_args.model_name_or_path)
    prepared = prepare_evaluation(examples, tokenizer, data_args, model_args, batch_size)
    calibration = None
    if quantizing:
        # Those that static quantization by INC calibrates on.
        count, seed = optimization_args.num_calibration_samples, training_args.seed
        drawn = draw_features(dataset_of(examples["train"]), tokenizer, data_args, count, seed)
        calibration = Batches(drawn, tokenizer, batch_size, data_args.fixed_width)
    output_dir = training_args.output_dir
    claim_output_dir(output_dir, decisive, training_args.overwrite_output_dir)

    from qa.compression.pruning import sparsity_report

    export(model, exporter, export_format, output_dir, calibration)
    with saving(output_dir):
        tokenizer.save_pretrained(output_dir)
    # What is verified and evaluated is what its users will load.
    loaded = load_exported(output_dir)
    if optimization_args.verify_loading:
        batches = next(iter(prepared.values()))[2] if prepared else calibration
        inputs = [batches.inputs(rows) for rows in timed_rows(batches)]
        if quantizing:
            verify_error(model, loaded, inputs, VERIFY_SHARE)
        else:
            verify(model, loaded, inputs[0], VERIFY_TOLERANCE)
    sparsity = sparsity_report(model, sum(weights.numel() for weights in model.parameters()))
    sparsity = sparsity if sparsity["sparsity"] >= PRUNED else {}
    if sparsity:
        save_results(sparsity, output_dir, "export")
    answers = evaluate_and_report(loaded, prepared, data_args, output_dir)
    original = None
    if optimization_args.report:
        run = (config, tokenizer, model_args, data_args, training_args)
        original = report_run(prepared["eval"], answers["eval"], *run, kind=export_format, sparsity=sparsity)
    steps = {f"Export to {NAMES[export_format]}": None}
    if quantizing:
        steps[
            f"Static post-training quantization to int8 by {QUANTIZERS[export_format]}, calibrated on "
            f"{len(calibration.lengths)} windows of training questions"
        ] = None
    write_card(output_dir, data_args, steps, hub and hub.repo_id, original, export_format)
    if hub:
        push(hub, output_dir)


if __name__ == "__main__":
    main()
