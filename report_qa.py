"""What a run did to a model, for people who decide: `--report` of the scripts, and finished runs side by side.

    python report_qa.py OUT [OUT ...]                       # scores, size and speed, F1 lost against the first run
    python report_qa.py OUT [OUT ...] --output_dir DIR      # from the runs' reports: a table and the Pareto front

Belongs here: comparing the model of a run with the one it started from, laying numbers out as tables, and the command,
which runs no model.
Does not belong here: timing, weighing and resampling (`measure_qa.py`) and drawing (`plots_qa.py`).
"""

import argparse
import html
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

from environment_qa import UsageError, check_output_dir, command, make_output_dir

# Changed answers that report.md shows; report.json holds all of them.
SHOWN_CHANGES = 50
PLOTS = {
    "scores": "report_scores.png",
    "cost": "report_cost.png",
    "sparsity": "report_sparsity.png",
    "loss": "report_loss.png",
    "pareto": "report_pareto.png",
}
METRICS = {"f1": "F1 (%)", "exact_match": "exact match (%)"}
COMPARISON_NOTE = (
    "In brackets: 95 % bootstrap intervals. Latency: median of single features. Peak memory: of the whole process in "
    "batches of the evaluation. A run without a report was made without --report."
)


def report_run(
    prepared, config, tokenizer, model_args, data_args, training_args, kind=None, history=(), sparsity=None
):
    """Compare what a run saved with the model that it started from, print a table and write the report.

    The original model is loaded once more, because compression uses it up. Metrics and answers of the run are read
    from its output folder, where `report.json`, `report.md` and the plots go as well.

    Args:
        prepared: `(examples, features, batches)` of the evaluation, from `inference_qa.prepare_evaluation`.
        config, tokenizer, model_args, data_args, training_args: of the run.
        kind: of the model that the run made, as in `measure_qa.measure`; `None` if it evaluated the original.
        history: log entries of the training (`TrainerState.log_history`).
        sparsity: of a pruned model, from `compression_qa.sparsity_report`.

    Returns:
        Metrics of the original model by name, or `None` where it has no trained head to be scored.
    """
    from transformers import set_seed

    from inference_qa import Batches, evaluate_model, save_results
    from measure_qa import measure, timed_rows
    from model_qa import load_model, name_on_hub

    examples, features, batches = prepared
    output_dir = Path(training_args.output_dir)

    def batches_of(size, multiple=1):
        return Batches(features, tokenizer, size, data_args.fixed_width, multiple)

    def cost(of_kind, folder, multiple=1):
        inputs = {}
        for size in (1, batches.batch_size):
            sized = batches_of(size, multiple)
            rows = timed_rows(sized)
            inputs[len(rows[0])] = [sized.inputs(some) for some in rows]
        measured = measure(of_kind, folder, inputs)
        for speed in measured["speed"]:
            speed["questions_per_second"] = speed.pop("features_per_second") * len(examples) / len(features)
        return measured

    set_seed(training_args.seed)  # as at the run's start: an untrained head is drawn the same
    original = load_model(model_args, config)
    evaluated = [output_dir]
    with tempfile.TemporaryDirectory() as folder:
        original.save_pretrained(folder)
        size_mb = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) / 1e6
        models = {"original": {"size_mb": size_mb, **cost("fp32", folder)}}
        if kind:
            size_mb = _read_json(output_dir / "all_results.json")["model_size_mb"]
            models["result"] = {"size_mb": size_mb, **cost(kind, output_dir, batches.multiple)}
            device, plain = training_args.device, batches_of(batches.batch_size)
            metrics = evaluate_model(original.to(device), examples, features, plain, data_args, folder, "eval", device)
            save_results(metrics, folder, "eval")
            evaluated.insert(0, Path(folder))
        metrics = [_read_json(place / "eval_results.json") for place in evaluated]
        answers = [_read_json(place / "eval_predictions.json") for place in evaluated]
        scores = [question_scores(examples, place, data_args) for place in evaluated]
    for model, entry in zip(models.values(), compare_scores(metrics, scores, training_args.seed), strict=True):
        model.update(entry)
    report = {
        # Reports are shown and sent to others, who need not know the folders of this machine.
        "model": name_on_hub(model_args.model_name_or_path) or Path(model_args.model_name_or_path).resolve().name,
        "untrained_head": "QuestionAnswering" not in str(config.architectures),
        "questions": len(examples),
        "features": len(features),
        "processor": _processor(),
        "models": models,
        **(sparsity or {}),
        "loss": [
            {key: entry[key] for key in ("step", "loss", "loss_student", "loss_distillation") if key in entry}
            for entry in history
            if "loss" in entry
        ],
        "changed_answers": changed_answers(examples, answers[0], answers[-1], scores[-1][:, 0] - scores[0][:, 0]),
    }
    write_report(report, output_dir)
    return None if report["untrained_head"] else metrics[0]


def _processor():
    named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return named[1] if named else "unknown"


def question_scores(examples, folder, data_args):
    """Score each question by itself.

    Args:
        examples: `datasets.Dataset` with `id` and `answers`.
        folder: where an evaluation left `eval_predictions.json`, and for SQuAD 2.0 `eval_null_odds.json`.
        data_args: `DataTrainingArguments` of the evaluation.

    Returns:
        `(n, 2)` float64, F1 and exact match of each example in percent.
    """
    import numpy as np

    from metric_qa import squad_scores, squad_v2_scores

    texts = _read_json(folder / "eval_predictions.json")
    null_odds = _read_json(folder / "eval_null_odds.json") if data_args.version_2_with_negative else None
    rows = []
    for identifier, answers in zip(examples["id"], examples["answers"], strict=True):
        text, golds = {identifier: texts[identifier]}, {identifier: answers["text"]}
        if null_odds is None:
            scored = squad_scores(text, golds)
            rows.append((scored["f1"], scored["exact_match"]))
        else:
            scored = squad_v2_scores(text, golds, null_odds, data_args.null_score_diff_threshold)
            rows.append((scored["f1"], scored["exact"]))
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

    from measure_qa import bootstrap_means, interval

    means = bootstrap_means(np.hstack(scores), seed)
    entries = []
    for number, metric in enumerate(metrics):
        exact = metric.get("eval_exact_match", metric.get("eval_exact"))
        entry = {}
        for column, (name, value) in enumerate((("f1", metric["eval_f1"]), ("exact_match", exact))):
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
        examples: `datasets.Dataset` with `id`, `question` and `answers`.
        before, after: id -> answer, of either model.
        f1_changes: `(n,)` float, what each example's F1 rose by, in points.

    Returns:
        List of `{"id", "question", "before", "after", "answers" (the right ones), "f1_change"}`, losses first.
    """
    columns = (examples["id"], examples["question"], examples["answers"], f1_changes)
    changes = [
        {
            "id": identifier,
            "question": question,
            "before": before[identifier],
            "after": after[identifier],
            "answers": answers["text"],
            "f1_change": float(f1_change),
        }
        for identifier, question, answers, f1_change in zip(*columns, strict=True)
        if before[identifier] != after[identifier]
    ]
    return sorted(changes, key=lambda change: change["f1_change"])


def write_report(report, folder):
    """Print the table of a report; write `report.json`, `report.md` and the plots.

    Args:
        report: as `report_run` makes it.
        folder: existing folder.
    """
    import plots_qa

    folder = Path(folder)
    for name in PLOTS.values():
        (folder / name).unlink(missing_ok=True)  # a run without training has no curve of an earlier one
    models = report["models"]
    plots_qa.plot_scores(models, report["questions"], folder / PLOTS["scores"])
    plots_qa.plot_cost(models, folder / PLOTS["cost"])
    if "sparsity_per_op" in report:
        plots_qa.plot_sparsity(report["sparsity_per_op"], report["sparsity"], folder / PLOTS["sparsity"])
    if report["loss"]:
        plots_qa.plot_loss(report["loss"], folder / PLOTS["loss"])
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    table, notes = report_table(report), report_notes(report)
    print("***** report *****")
    print(text_table(table))
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
    (folder / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    print(f"open {folder / 'report.md'}")


def report_table(report):
    """Lay a report out: rows of cells, one column for each model, the header first."""
    models = list(report["models"].values())
    rows = [["", *report["models"]]]
    for key, label in METRICS.items():
        rows.append([label, *(_with_interval(model[key], model[f"{key}_interval"]) for model in models)])
        if len(models) > 1:
            rows.append(["  against the original", *(_change(model, key) for model in models)])

    def add(label, values):
        rows.append([label, *(_with_percent(value, values[0]) for value in values)])

    add("size on disk (MB)", [model["size_mb"] for model in models])
    for number, entry in enumerate(models[0]["speed"]):
        speeds = [model["speed"][number] for model in models]
        batch = f"batch of {entry['batch_size']}"
        add(f"{batch}: latency, median (ms)", [speed["p50_ms"] for speed in speeds])
        add(f"{batch}: latency, 95th percentile (ms)", [speed["p95_ms"] for speed in speeds])
        add(f"{batch}: questions/s", [speed["questions_per_second"] for speed in speeds])
        add(f"{batch}: peak memory (MB)", [speed["peak_memory_mb"] for speed in speeds])
    add("libraries alone: memory (MB)", [model["libraries_memory_mb"] for model in models])
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
        f"Cost: on the CPU ({report['processor']}, {first['threads']} threads), each model in a process of its own, "
        "whose memory includes its libraries. The original is weighed as it runs, in fp32."
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


def _with_interval(value, bounds, sign=""):
    return f"{value:{sign}.2f} [{bounds[0]:{sign}.2f}, {bounds[1]:{sign}.2f}]"


def _change(model, key):
    """The paired difference to the original, empty for the original itself."""
    change = model.get(f"{key}_change")
    return "" if change is None else _with_interval(change, model[f"{key}_change_interval"], "+")


def _with_percent(value, first):
    return f"{value:.4g}" if value is first else f"{value:.4g} ({100 * (value / first - 1):+.0f} %)"


def text_table(rows):
    """Align rows of cells for the terminal: the first column on the left, the others on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(first)), *others]).rstrip())
    return "\n".join(lines)


def markdown_table(rows):
    """Format rows of cells as a Markdown table; what the cells hold is shown as it is."""

    def line(cells):
        escaped = (" ".join(html.escape(cell, quote=False).replace("|", "\\|").split()) for cell in cells)
        return f"| {' | '.join(escaped)} |"

    return "\n".join([line(rows[0]), "|---" * len(rows[0]) + "|", *map(line, rows[1:])])


def pareto_front(points):
    """Find the points that no other point beats.

    Args:
        points: list of `(latency, score)`; a low latency and a high score are good.

    Returns:
        Set of numbers of points: no other one is at least as good in both and better in one.
    """
    front, best, latency_of_best = set(), float("-inf"), None
    for number in sorted(range(len(points)), key=lambda number: (points[number][0], -points[number][1])):
        latency, score = points[number]
        if score > best or (score, latency) == (best, latency_of_best):
            front.add(number)
            best, latency_of_best = score, latency
    return front


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", metavar="OUT", nargs="+", type=Path, help="output folder of a finished run")
    parser.add_argument(
        "--output_dir", metavar="DIR", type=Path, help="write report.md, report.json and a plot of their reports there"
    )
    args = parser.parse_args()
    if args.output_dir is None:
        print_results(args.folders)
    else:
        compare_runs(args.folders, args.output_dir)


def print_results(folders):
    """Print the scores of finished runs; `F1 lost` is against the first one.

    Args:
        folders: output folders.

    Raises:
        UsageError: one holds no results of an evaluation.
    """
    runs = [_read_json(folder / "all_results.json") for folder in folders]
    rows = [["run", "EM", "F1", "F1 lost", "size (MB)", "questions/s"]]
    for folder, run in zip(folders, runs, strict=True):
        if "eval_f1" not in run:
            raise UsageError(f"{folder / 'all_results.json'} holds no eval_f1; run it with --do_eval")
        exact = run.get("eval_exact_match", run.get("eval_exact"))
        numbers = (exact, run["eval_f1"], runs[0]["eval_f1"] - run["eval_f1"], run["model_size_mb"])
        rows.append([folder.name, *(f"{number:.2f}" for number in numbers), f"{run['eval_samples_per_second']:.1f}"])
    print(text_table(rows))


def compare_runs(folders, output_dir):
    """Put the reports of finished runs side by side; print the table and write it, as JSON too, with the plot.

    Args:
        folders: output folders. A run without a report is listed with what its `all_results.json` tells.
        output_dir: folder for `report.json`, `report.md` and the plot.

    Raises:
        UsageError: there is no such folder, a report is broken, or `output_dir` is one of the runs.
    """
    check_output_dir(output_dir)
    if output_dir.resolve() in [folder.resolve() for folder in folders]:
        raise UsageError(f"--output_dir {output_dir} is one of the runs, whose report would be lost; name another one")
    runs = side_by_side(folders)
    timed = [run for run in runs if "latency_ms" in run]
    front = pareto_front([(run["latency_ms"], run["f1"]) for run in timed])
    for number, run in enumerate(timed):
        run["on_pareto_front"] = number in front
    table = comparison_table(runs)
    make_output_dir(output_dir)
    (output_dir / "report.json").write_text(json.dumps({"runs": runs}, indent=2) + "\n", encoding="utf-8")
    sections = ["# Runs side by side", markdown_table(table), COMPARISON_NOTE]
    if timed:
        import plots_qa

        plots_qa.plot_pareto(timed, front, output_dir / PLOTS["pareto"])
        sections.append(f"![F1 against latency]({PLOTS['pareto']})")
    (output_dir / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    print(text_table(table))
    print(COMPARISON_NOTE)
    print(f"open {output_dir / 'report.md'}")


def side_by_side(folders):
    """Collect what is known of finished runs.

    Args:
        folders: output folders.

    Returns:
        List of dictionaries with `name` and what there is of `questions`, `f1`, `f1_interval`, `f1_change`,
        `f1_change_interval`, `exact_match`, `size_mb`, `latency_ms` (median, batch of 1), `batch_size`,
        `questions_per_second` and `peak_memory_mb` (both in batches of that size). The models that reports compare
        with come first, unless a run that only evaluated one of them is there as well.

    Raises:
        UsageError: there is no such folder, or its report is broken.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    originals, runs, evaluated = {}, [], set()
    for name, folder in zip(names, folders, strict=True):
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder; name the output folders of finished runs")
        if not (folder / "report.json").is_file():
            runs.append({"name": name, **_known_without_report(folder)})
            continue
        report = _read_json(folder / "report.json")
        try:
            key = report["model"], report["questions"]
            *before, result = (_key_numbers(model) | {"questions": key[1]} for model in report["models"].values())
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UsageError(f"{folder / 'report.json'} is no report of a run; run it again with --report") from error
        runs.append({"name": name, **result})
        if before:
            originals.setdefault(key, {"name": f"original ({Path(key[0]).name})", **before[0]})
        else:
            evaluated.add(key)
    return [original for key, original in originals.items() if key not in evaluated] + runs


def _key_numbers(model):
    """Return what a report says of one model, as `side_by_side` lists it."""
    single, batch = model["speed"][0], model["speed"][-1]
    copied = ("f1", "f1_interval", "f1_change", "f1_change_interval", "exact_match", "size_mb")
    return {
        **{key: model[key] for key in copied if key in model},
        "latency_ms": single["p50_ms"],
        **{key: batch[key] for key in ("batch_size", "questions_per_second", "peak_memory_mb")},
    }


def _known_without_report(folder):
    path = folder / "all_results.json"
    results = _read_json(path) if path.is_file() else {}
    known = {
        "questions": results.get("eval_samples"),
        "f1": results.get("eval_f1"),
        "exact_match": results.get("eval_exact_match", results.get("eval_exact")),
        "size_mb": results.get("model_size_mb"),
    }
    return {key: value for key, value in known.items() if value is not None}


def comparison_table(runs):
    """Lay runs out, one row each, the header first.

    Args:
        runs: as `side_by_side` returns them, those with a latency with `on_pareto_front`.
    """
    rows = [["run", "questions", *METRICS.values(), "F1 against the original", "size (MB)"]]
    rows[0] += ["latency (ms)", "questions/s (batch)", "peak memory (MB)", "Pareto front"]
    for run in runs:
        cells = [run["name"], str(run.get("questions", "-"))]
        cells.append(_with_interval(run["f1"], run["f1_interval"]) if "f1_interval" in run else _or_dash(run, "f1"))
        cells += [_or_dash(run, "exact_match"), _change(run, "f1") or "-", _or_dash(run, "size_mb")]
        if "latency_ms" in run:
            cells += [_or_dash(run, "latency_ms"), f"{run['questions_per_second']:.1f} ({run['batch_size']})"]
            cells += [f"{run['peak_memory_mb']:.0f}", "yes" if run["on_pareto_front"] else "no"]
        else:
            cells += ["no report", "-", "-", "-"]
        rows.append(cells)
    return rows


def _or_dash(run, key):
    return f"{run[key]:.2f}" if key in run else "-"


def _read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); name the output folders of finished runs") from error


if __name__ == "__main__":
    main()
