"""Questions through a model, from features to metrics. All scripts evaluate through this one door.

Belongs here: preparing what is evaluated, answering it, and scoring the answers.
Does not belong here: forward passes (`qa/models/passes.py`) and how results are kept (`files.py`).
"""

import itertools
import tempfile
import time
from pathlib import Path

from qa.models.passes import Batches, predict_logits
from qa.questions.answers import extract_answers, write_answers
from qa.questions.features import dataset_of, prepare_features
from qa.questions.scores import score
from qa.results.files import save_results, show_results
from qa.start.errors import UsageError
from qa.start.output import MODEL_FILES


def post_processing(data_args, output_dir):
    """Return the function `(examples, features, logits, stage)` that chooses answers and writes them down.

    Args:
        data_args: `DataTrainingArguments`.
        output_dir: folder for the JSON files; `stage` (`eval` or `predict`) is the prefix of their names.
    """

    def post_process(examples, features, logits, stage="eval"):
        try:
            answers = extract_answers(
                examples,
                features,
                logits,
                version_2_with_negative=data_args.version_2_with_negative,
                n_best_size=data_args.n_best_size,
                max_answer_length=data_args.max_answer_length,
                null_score_diff_threshold=data_args.null_score_diff_threshold,
            )
        except ValueError as error:  # logits that are not finite, after a training that diverged
            raise UsageError(f"no answers can be given: {error} Look at --learning_rate and the files") from error
        write_answers(answers, output_dir, stage)
        return examples, answers

    return post_process


def evaluate_model(model, examples, features, batches, data_args, output_dir, split, device="cpu"):
    """Answer the questions of one split with a model, write the answers down and score them.

    Args:
        model, batches, device: as in `forward_passes`.
        examples, features: as in `extract_answers`.
        data_args: `DataTrainingArguments`.
        output_dir: folder for the answers' JSON files.
        split: `eval` or `predict`; prefix of the files and of the metrics.

    Returns:
        `(metrics, answers)`: metrics by name, with the prefix `{split}_`, scores only if every example has its
        answers; and `Answers`.
    """
    begin = time.perf_counter()
    logits = predict_logits(model, batches, device, desc="Evaluating" if split == "eval" else "Predicting")
    examples, answers = post_processing(data_args, output_dir)(examples, features, logits, split)
    seconds = time.perf_counter() - begin
    metrics = {
        **score(examples, answers, data_args),
        "samples": len(examples),
        "features": len(features),
        "runtime": round(seconds, 4),
        "samples_per_second": round(len(examples) / seconds, 3),
    }
    return {f"{split}_{name}": value for name, value in metrics.items()}, answers


def f1_of_trials(prepared, data_args):
    """Return a function that gives the F1 of a model and prints it, numbered, the fp32 model first.

    Args:
        prepared: `(examples, features, batches)` from `prepare_evaluation`.
        data_args: `DataTrainingArguments`.
    """
    examples, features, batches = prepared
    trials = itertools.count()

    def f1_of(model):
        with tempfile.TemporaryDirectory() as answers_dir:
            metrics, _ = evaluate_model(model.eval(), examples, features, batches, data_args, answers_dir, "eval")
        number = next(trials)
        print(f"{f'trial {number}' if number else 'fp32'}: F1 {metrics['eval_f1']:.4f}")
        return metrics["eval_f1"]

    return f1_of


def prepare_evaluation(examples, tokenizer, data_args, model_args, batch_size, multiple=1):
    """Prepare what is to be evaluated and predicted.

    Args:
        examples: dictionary from split to list of examples; `validation` and `test` are looked at.
        tokenizer, data_args, model_args: of the run.
        batch_size, multiple: as in `Batches`.

    Returns:
        Dictionary from `eval` and `predict` to `(examples, features, batches)`.
    """
    prepared = {}
    for split, name in (("validation", "eval"), ("test", "predict")):
        if split in examples:
            dataset = dataset_of(examples[split])
            features = prepare_features(dataset, tokenizer, data_args, model_args.cache_dir, f"{split} features")
            batches = Batches(features, tokenizer, batch_size, data_args.fixed_width, multiple)
            prepared[name] = dataset, features, batches
    return prepared


def evaluate_and_report(model, prepared, data_args, output_dir, device="cpu", saved=True):
    """Evaluate a model on what was prepared, print the metrics as tables and write them to the results files.

    Args:
        model, device: as in `forward_passes`.
        prepared: from `prepare_evaluation`.
        data_args: `DataTrainingArguments`.
        output_dir: folder for results and answers.
        saved: whether the model's weights are in `output_dir`.

    Returns:
        Dictionary from the names in `prepared` to the model's `Answers`.
    """
    answers = {}
    for name, (examples, features, batches) in prepared.items():
        metrics, answers[name] = evaluate_model(
            model, examples, features, batches, data_args, output_dir, name, device
        )
        metrics["model_size_mb"] = model_size_mb(model, output_dir if saved else None)
        save_results(metrics, output_dir, name)
        show_results(f"{name} metrics", metrics)
    return answers


def model_size_mb(model, output_dir=None):
    """Return the size of a model in megabytes: of the saved weights, or of the parameters if it was not saved."""
    if output_dir is not None:
        files = (Path(output_dir) / name for name in MODEL_FILES)
        return sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e6
