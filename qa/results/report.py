"""What a run did to a model, for people who decide: `--report` of the scripts.

Belongs here: comparing the model of a run with the one that it started from, and writing that down.
Does not belong here: timing, weighing and resampling (`measure.py`), drawing (`plots.py`), and finished runs side by
side (`comparison.py`).
"""

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from qa.results.files import exact_match_of, read_json
from qa.results.page import command_text, context_pieces, write_run_page
from qa.results.tables import markdown_table, paired_change, print_table, with_interval
from qa.start.cpu import processor
from qa.start.output import PLOTS, REPORT_FILES
from qa.start.writing import saving, write_text

# Changed answers that report.md shows; report.json holds all of them.
SHOWN_CHANGES = 50
METRICS = {"f1": "F1 (%)", "exact_match": "exact match (%)"}


def report_run(run, prepared, answers, kind=None, history=(), sparsity=None):
    """Compare what a run saved with the model that it started from, print a table and write the report.

    The original model is loaded once more, because compression uses it up. Metrics of the run are read from its output
    folder, where `report.json`, `report.md`, `report.html` and the plots go as well.

    Args:
        run: `Run`.
        prepared: `Prepared` validation questions.
        answers: `Answers` to them of the model that the run made or evaluated.
        kind: of the model that the run made, as in `measure.measure`; `None` if it evaluated the original.
        history: log entries of the training (`TrainerState.log_history`).
        sparsity: of a pruned model, from `sparsity.sparsity_report`.

    Returns:
        Metrics of the original model by name, or `None` where it has no trained head to be scored.
    """
    import torch
    from safetensors.torch import save_model

    from qa.models.compressed import load_compressed
    from qa.models.loading import called, is_int8, load_model
    from qa.models.passes import Batches
    from qa.results.evaluation import evaluate_model, model_size_mb
    from qa.results.measure import measure, start_measuring, timed_rows

    examples, features, batches = prepared.examples, prepared.features, prepared.batches
    output_dir, data_args, seed = Path(run.output_dir), run.data_args, run.training_args.seed

    def batches_of(size, multiple=1):
        return Batches(features, run.tokenizer, size, data_args.evaluation_width, multiple, data_args.max_seq_length)

    def timed_inputs(multiple):
        inputs = {}
        for size in (1, batches.batch_size):
            sized = batches_of(size, multiple)
            rows = timed_rows(sized)
            inputs[len(rows[0])] = [sized.arrays(some) for some in rows]
        return inputs

    # As at the run's start: an untrained head is drawn the same. (transformers' set_seed imports IPEX.)
    torch.manual_seed(seed)
    metrics, answered = [read_json(output_dir / "eval_results.json")], [answers]
    with tempfile.TemporaryDirectory() as folder:
        if is_int8(run.config):
            saved = ("compressed", run.model_args.model_name_or_path)
            original = load_compressed(saved[1])
        else:
            saved = ("fp32", folder)
            original = load_model(run.model_args, run.config)
            # Not by `save_pretrained`, which imports torch's compiler to see whether the model is a product of it.
            with saving(folder):
                original.config.save_pretrained(folder)
                save_model(original, str(Path(folder) / "model.safetensors"), {"format": "pt"})
        processes = start_measuring([saved, (kind, output_dir)] if kind else [saved], folder)
        models, inputs = {"original": {"size_mb": model_size_mb(original, saved[1])}}, [timed_inputs(1)]
        if kind:
            models["result"] = {"size_mb": read_json(output_dir / "all_results.json")["model_size_mb"]}
            inputs.append(timed_inputs(batches.multiple))
            device, plain = run.training_args.device, prepared._replace(batches=batches_of(batches.batch_size))
            before = evaluate_model(original.to(device), plain, data_args, folder, "eval", device)
            metrics.insert(0, before[0])
            answered.insert(0, before[1])
        for model, measured in zip(models.values(), measure(processes, inputs), strict=True):
            for speed in measured["speed"]:
                speed["questions_per_second"] = speed.pop("features_per_second") * len(examples) / len(features)
            model.update(measured)
    scores = [question_scores(examples, each, data_args) for each in answered]
    for model, entry in zip(models.values(), compare_scores(metrics, scores, seed), strict=True):
        model.update(entry)
    name = run.model_args.model_name_or_path
    name_of_processor, instruction_sets = processor()
    report = {
        "model": called(name),
        "weights": run.made_from["inputs"]["--model_name_or_path"],
        "untrained_head": "QuestionAnswering" not in str(run.config.architectures),
        "questions": len(examples),
        "features": len(features),
        "processor": name_of_processor,
        "instruction_sets": instruction_sets,
        "models": models,
        **(sparsity or {}),
        "loss": [
            {key: value for key, value in entry.items() if key == "step" or key.startswith("loss")}
            for entry in history
            if "loss" in entry
        ],
        "changed_answers": changed_answers(examples, answered[0], answers, scores[-1][:, 0] - scores[0][:, 0]),
        "command": command_text(sys.argv, os.environ),
    }
    write_report(report, output_dir)
    return None if report["untrained_head"] else metrics[0]


def question_scores(examples, answers, data_args):
    """Score each question by itself.

    Args:
        examples: `datasets.Dataset` with `id` and `answers`.
        answers: `Answers` to them.
        data_args: `DataTrainingArguments` of the evaluation.

    Returns:
        `(n, 2)` float64, F1 and exact match of each example in percent.
    """
    import numpy as np

    from qa.questions.scores import scores_of

    rows = []
    for identifier, golds in zip(examples["id"], examples["answers"], strict=True):
        text, golds = {identifier: answers.predictions[identifier]}, {identifier: golds["text"]}
        scored = scores_of(text, golds, answers.null_odds, data_args.null_score_diff_threshold)
        rows.append((scored["f1"], scored["exact_match" if answers.null_odds is None else "exact"]))
    return np.array(rows)


def compare_scores(metrics, scores, seed):
    """Add intervals to the scores of models, and what the first of them lost to each of the others.

    Args:
        metrics: one dictionary for each model, with `eval_f1` and `eval_exact_match` or `eval_exact`.
        scores: its `question_scores`, on the same questions for all of them.
        seed: of the resampling.

    Returns:
        One dictionary for each model: `f1` and `exact_match` in percent as in `metrics`, and `f1_interval` and
        `exact_match_interval`, `[low, high]`. Those behind the first also have `f1_change`, `f1_change_interval` and
        the same of `exact_match`: their difference to the first, on the same resampled questions.
    """
    import numpy as np

    from qa.results.measure import bootstrap_means, interval

    means = bootstrap_means(np.hstack(scores), seed)
    entries = []
    for number, metric in enumerate(metrics):
        entry = {}
        found = {"f1": metric["eval_f1"], "exact_match": exact_match_of(metric)}
        for column, (name, value) in enumerate(found.items()):
            own = means[:, 2 * number + column]
            entry |= {name: value, f"{name}_interval": interval(own)}
            if number:
                entry[f"{name}_change"] = value - entries[0][name]
                entry[f"{name}_change_interval"] = interval(own - means[:, column])
        entries.append(entry)
    return entries


def changed_answers(examples, before, after, f1_changes):
    """List the questions that two models answered with another text.

    Args:
        examples: `datasets.Dataset` with `id`, `question`, `context` and `answers`.
        before, after: `Answers` of either model.
        f1_changes: `(n,)` float, what each example's F1 rose by, in points.

    Returns:
        List of `{"id", "question", "before", "after", "answers" (the right ones), "f1_change", "context"}`, losses
        first; the context is cut open as by `page.context_pieces`.
    """
    columns = (examples["id"], examples["question"], examples["context"], examples["answers"], f1_changes)
    changes = [
        {
            "id": identifier,
            "question": question,
            "before": before.predictions[identifier],
            "after": after.predictions[identifier],
            "answers": answers["text"],
            "f1_change": float(f1_change),
            "context": context_pieces(
                context, {"original": before.spans[identifier], "result": after.spans[identifier]}
            ),
        }
        for identifier, question, context, answers, f1_change in zip(*columns, strict=True)
        if before.predictions[identifier] != after.predictions[identifier]
    ]
    return sorted(changes, key=lambda change: change["f1_change"])


def drop_report(folder):
    """Remove the report in a folder, if there is one."""
    for name in REPORT_FILES:
        (Path(folder) / name).unlink(missing_ok=True)


def write_report(report, folder):
    """Print the table of a report; write `report.json`, `report.md`, `report.html` and the plots.

    Args:
        report: as `report_run` makes it.
        folder: existing folder.
    """
    from qa.results import plots

    folder = Path(folder)
    drop_report(folder)  # a run without training has no curve of an earlier one
    models = report["models"]
    plots.plot_scores(models, report["questions"], folder / PLOTS["scores"])
    plots.plot_cost(models, folder / PLOTS["cost"])
    if "sparsity_per_op" in report:
        plots.plot_sparsity(report["sparsity_per_op"], report["sparsity"], folder / PLOTS["sparsity"])
    if report["loss"]:
        plots.plot_loss(report["loss"], folder / PLOTS["loss"])
    write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")

    table, notes = report_table(report), report_notes(report)
    print("***** report *****")
    print_table(table)
    print("\n".join(notes))
    drawn = [f"![{title}]({name})" for title, name in PLOTS.items() if (folder / name).is_file()]
    sections = [
        f"# {folder.resolve().name}: what became of {report['model']}",
        markdown_table(table),
        "\n".join(f"- {note}" for note in notes),
        *drawn,
    ]
    if changes := report["changed_answers"]:
        rows = [["question", "right", "original", "result", "F1"]]
        for change in changes[:SHOWN_CHANGES]:
            right = " / ".join(dict.fromkeys(change["answers"])) or "(none)"
            texts = (change["question"], right, change["before"] or "(none)", change["after"] or "(none)")
            rows.append([*texts, f"{change['f1_change']:+.1f}"])
        sections += ["## Changed answers", markdown_table(rows)]
        if len(changes) > SHOWN_CHANGES:
            sections.append(f"The other {len(changes) - SHOWN_CHANGES} are in report.json.")
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")
    write_run_page(report, table, notes, folder)
    print(f"open {folder / 'report.html'}")


def report_table(report):
    """Lay a report out: rows of cells, one column for each model, the header first."""
    models = list(report["models"].values())
    rows = [["", *report["models"]]]
    for key, label in METRICS.items():
        rows.append([label, *(with_interval(model[key], model[f"{key}_interval"]) for model in models)])
        if len(models) > 1:
            rows.append(["  against the original", *(paired_change(model, key) for model in models)])

    def add(label, values):
        first, *others = values
        rows.append([label, f"{first:.4g}", *(f"{each:.4g} ({100 * (each / first - 1):+.0f} %)" for each in others)])

    add("size on disk (MB)", [model["size_mb"] for model in models])
    for number, entry in enumerate(models[0]["speed"]):
        speeds = [model["speed"][number] for model in models]
        batch = f"batch of {entry['batch_size']}"
        add(f"{batch}: latency, median (ms)", [speed["p50_ms"] for speed in speeds])
        add(f"{batch}: latency, 95th percentile (ms)", [speed["p95_ms"] for speed in speeds])
        add(f"{batch}: questions/s", [speed["questions_per_second"] for speed in speeds])
        added = [
            speed["peak_memory_mb"] - model["libraries_memory_mb"] for model, speed in zip(models, speeds, strict=True)
        ]
        add(f"{batch}: peak memory, of the model (MB)", added)
    add("memory of the libraries (MB)", [model["libraries_memory_mb"] for model in models])
    add("peak memory, both together (MB)", [model["speed"][-1]["peak_memory_mb"] for model in models])
    return rows


def report_notes(report):
    """Say in a few sentences how the numbers of a report are to be read."""
    first = next(iter(report["models"].values()))
    notes = []
    if report["untrained_head"]:
        notes.append(f"{report['model']} has no trained answer head: the scores of the original are those of chance.")
    notes.append(
        f"Scores: {report['questions']} questions; in brackets 95 % bootstrap intervals, of differences on the same "
        "questions."
    )
    notes.append(
        f"Cost: on the CPU ({report['processor']} with {', '.join(report['instruction_sets']) or 'plain instructions'}"
        f", {first['threads']} threads), each model in a process of its own. Memory: first what the model adds to its "
        "libraries at most, then the libraries, the same for models of any size. The original is weighed as it runs, "
        "in fp32."
    )
    if len(report["models"]) > 1:
        changes = Counter(
            (change["f1_change"] > 0) - (change["f1_change"] < 0) for change in report["changed_answers"]
        )
        notes.append(
            f"Answers: {changes.total()} of {report['questions']} changed: {changes[1]} for the better, {changes[-1]} "
            f"for the worse, {changes[0]} of equal F1."
        )
    return notes
