"""What was done to a model, in words for its card.

Belongs here: lines of Markdown, each with the settings behind it as INC takes them.
Does not belong here: the card around them (`card.py`).
"""

from qa.models.loading import called, is_int8
from qa.start.engines import ENGINES


def card_of_training(run):
    """Tell what `run_qa.py` did.

    Args:
        run: `Run` with the merged settings.

    Returns:
        Dictionary from a line of text to the settings behind it.
    """
    training_args, optimization_args = run.training_args, run.optimization_args
    steps = {f"Training: {_how(training_args)}": None}
    if optimization_args.apply_quantization:
        steps["Quantization-aware training for int8"] = run.settings["quantization"]
    if "slimming" in run.settings:
        steps["Heads and feed-forward channels taken out, in shares"] = run.settings["slimming"]
    if "pruning" in run.settings:
        steps[f"Pruning by `{run.settings['pruning']['pruning_type']}`"] = run.settings["pruning"]
    if optimization_args.apply_distillation:
        teacher = called(optimization_args.teacher_model_name_or_path)
        steps[f"Distillation from `{teacher}`"] = run.settings["distillation"]
    return steps


def card_of_language_model(run):
    """Tell what `prune_encoder_qa.py` did; parameters and result as in `card_of_training`."""
    training_args, target = run.training_args, run.optimization_args.target_sparsity
    if not training_args.do_train:
        return {f"Pruning in one blow: the smallest {target:.0%} of the weights of each linear operator": None}
    settings = run.settings["pruning"]
    line = f"Pruning by `{settings['pruning_type']}` with the dense model as teacher: {_how(training_args)}"
    return {line: settings}


def _how(args):
    extent = f"steps {args.max_steps}" if args.max_steps > 0 else f"epochs {args.num_train_epochs:g}"
    precision = ", in bf16 (autocast)" if args.bf16 else ""
    return f"{extent}, learning rate {args.learning_rate:g}, seed {args.seed}{precision}"


def card_of_post_training(run, calibration):
    """Tell what `run_qa_post_training.py` did; `calibration` are the `Batches` it calibrated on, or `None`."""
    approach = run.optimization_args.quantization_approach.capitalize()
    engine = " on IPEX" if run.training_args.use_ipex else ""
    rest = ", and bf16 for the rest" if run.training_args.bf16 else ""
    done = f"{approach} post-training quantization to int8{engine}{rest}{_calibrated(calibration)}"
    return {done: run.settings["quantization"]}


def card_of_export(run, calibration):
    """Tell what `export_qa.py` did; `calibration` as in `card_of_post_training`."""
    engine = ENGINES[run.optimization_args.export_format]
    steps = {f"Export to {engine.format}": None}
    if run.optimization_args.apply_quantization:
        approach = run.optimization_args.quantization_approach.capitalize()
        done = f"{approach} post-training quantization to int8 by {engine.quantizer}{_calibrated(calibration)}"
        steps[done] = run.settings["quantization"]
    elif is_int8(run.config):
        steps["What was int8 before is int8 here, with the same weights, scales and zero points"] = None
    return steps


def _calibrated(calibration):
    return f", calibrated on {len(calibration.lengths)} windows of training questions" if calibration else ""
