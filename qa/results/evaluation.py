"""Questions through a model, from features to metrics.

Belongs here: preparing what is evaluated, answering it, and scoring the answers.
Does not belong here: forward passes (`qa/models/passes.py`) and how results are kept (`files.py`).
"""

import itertools
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from qa.models.passes import Batches, predict_logits
from qa.questions.answers import extract_answers, write_answers
from qa.questions.features import dataset_of, prepare_features
from qa.questions.scores import score
from qa.results.files import save_results, show_results
from qa.start.errors import UsageError
from qa.start.writing import MODEL_FILES


def choose_answers(examples, features, logits, data_args):
    """Choose answers as the arguments say; see `extract_answers`.

    Raises:
        UsageError: the logits are not finite, after a training that diverged.
    """
    try:
        return extract_answers(
            examples,
            features,
            logits,
            version_2_with_negative=data_args.version_2_with_negative,
            n_best_size=data_args.n_best_size,
            max_answer_length=data_args.max_answer_length,
            null_score_diff_threshold=data_args.null_score_diff_threshold,
        )
    except ValueError as error:
        raise UsageError(f"no answers can be given: {error} Look at --learning_rate and the files") from error


class Prepared(NamedTuple):
    """The questions of one split, ready for a model."""

    examples: object  # `datasets.Dataset` from `features.dataset_of`
    features: object  # `datasets.Dataset` from `prepare_features`
    batches: object  # `Batches` of the features


def evaluate_model(model, prepared, data_args, output_dir, split, device="cpu"):
    """Answer the questions of one split with a model, write the answers down and score them.

    Args:
        model, device: as in `forward_passes`.
        prepared: `Prepared`.
        data_args: `DataTrainingArguments`.
        output_dir: folder for the answers' JSON files.
        split: `eval` or `predict`; prefix of the files and of the metrics.

    Returns:
        `(metrics, answers)`: metrics by name, with the prefix `{split}_`, but `test_` for scores and speed of
        `predict`, as the transformers example has it; scores only if every example has its answers. And `Answers`.
    """
    from transformers.trainer_utils import speed_metrics

    begin = time.time()
    description = "Evaluating" if split == "eval" else "Predicting"
    logits = predict_logits(model, prepared.batches, device, description)
    answers = choose_answers(prepared.examples, prepared.features, logits, data_args)
    write_answers(answers, output_dir, split)
    steps = len(list(prepared.batches.by_length()))
    prefix = "test" if split == "predict" else split
    speed = speed_metrics(prefix, begin, num_samples=len(prepared.examples), num_steps=steps)
    counts = {"samples": len(prepared.examples), "features": len(prepared.features)}
    scored = {f"{prefix}_{name}": value for name, value in score(prepared.examples, answers, data_args).items()}
    return {**scored, **{f"{split}_{name}": count for name, count in counts.items()}, **speed}, answers


def f1_of_trials(prepared, data_args):
    """Return a function that gives the F1 of a model and prints it, numbered, the fp32 model first.

    Args:
        prepared: `Prepared` validation questions.
        data_args: `DataTrainingArguments`.
    """
    trials = itertools.count()

    def f1_of(model):
        with tempfile.TemporaryDirectory() as answers_dir:
            model = model.eval() if hasattr(model, "eval") else model  # another engine's model has no modes
            metrics, _ = evaluate_model(model, prepared, data_args, answers_dir, "eval")
        number = next(trials)
        print(f"{f'trial {number}' if number else 'fp32'}: F1 {metrics['eval_f1']:.4f}")
        return metrics["eval_f1"]

    return f1_of


def prepare_split(run, examples, split, multiple=1):
    """Prepare examples for a model.

    Args:
        run: `Run`, whose tokenizer, lengths and cache are used.
        examples: list of examples.
        split: its name, for the progress bar.
        multiple: as in `Batches`.

    Returns:
        `Prepared`.
    """
    dataset, size = dataset_of(examples), run.training_args.per_device_eval_batch_size
    features = prepare_features(dataset, run.tokenizer, run.data_args, run.model_args.cache_dir, f"{split} features")
    width, longest = run.data_args.evaluation_width, run.data_args.max_seq_length
    return Prepared(dataset, features, Batches(features, run.tokenizer, size, width, multiple, longest))


def prepare_evaluation(run, multiple=1):
    """Prepare what a run evaluates and predicts.

    Args:
        run: `Run` with its examples, of which `validation` and `test` are looked at.
        multiple: as in `Batches`.

    Returns:
        Dictionary from `eval` and `predict` to `Prepared`, as far as there are examples.
    """
    return {
        name: prepare_split(run, run.examples[split], split, multiple)
        for split, name in (("validation", "eval"), ("test", "predict"))
        if split in run.examples
    }


def evaluate_and_save(run, model, evaluated, device="cpu", saved=True):
    """Evaluate a model on what was prepared, print the metrics as tables and write them to the results files.

    Args:
        run: `Run`; results and answers go to its output folder.
        model, device: as in `forward_passes`.
        evaluated: from `prepare_evaluation`.
        saved: whether the model's weights are in that folder.

    Returns:
        Dictionary from the names in `evaluated` to the model's `Answers`.
    """
    answers = {}
    for name, prepared in evaluated.items():
        metrics, answers[name] = evaluate_model(model, prepared, run.data_args, run.output_dir, name, device)
        metrics["model_size_mb"] = model_size_mb(model, run.output_dir if saved else None)
        save_results(metrics, run.output_dir, name)
        show_results(f"{name} metrics", metrics)
    return answers


def model_size_mb(model, output_dir=None):
    """Return the size of a model in megabytes: of the saved weights, or of the parameters if it was not saved."""
    if output_dir is not None:
        files = (Path(output_dir) / name for name in MODEL_FILES)
        return sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e6
