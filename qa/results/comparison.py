"""Finished runs side by side.

Belongs here: collecting what is known of each, and which of them no other beats.
Does not belong here: the report of a single run (`report.py`).
"""

import json
import os
import sys
from pathlib import Path

from qa.results.files import exact_match_of, read_json
from qa.results.page import command_text, f1_kept, floored, write_comparison_page
from qa.results.report import METRICS
from qa.results.tables import markdown_table, paired_change, print_table, with_interval
from qa.start.errors import UsageError
from qa.start.output import PLOTS, REPORT_FILES, read_run
from qa.start.paths import check_output_dir, names_of
from qa.start.writing import saving, write_text

COMPARISON_NOTE = (
    "In brackets: 95 % bootstrap intervals. Latency: median of single features. Peak memory: what the model "
    "adds + its libraries, in batches of the evaluation. A run without a report was made without --report."
)


def pareto_front(points):
    """Find the points that no other point beats.

    Args:
        points: list of `(latency, score)`; a low latency and a high score are good.

    Returns:
        Set of numbers of points: no other one is at least as good in both and better in one.
    """
    return {
        number
        for number, (latency, score) in enumerate(points)
        if not any(x <= latency and y >= score and (x, y) != (latency, score) for x, y in points)
    }


def refuse_other_questions(folders):
    """Refuse to set the scores of runs against each other that answered different questions, or by different rules.

    Args:
        folders: output folders; what one of them does not tell is not compared.

    Raises:
        UsageError: two of them cannot be compared; the message says why.
    """
    first = {}
    for folder in folders:
        results, answers = folder / "all_results.json", folder / "eval_predictions.json"
        scored = read_json(results) if results.is_file() else {}
        rules = "SQuAD v2.0" if "eval_exact" in scored else "SQuAD v1.1" if "eval_exact_match" in scored else None
        ids = set(read_json(answers)) if answers.is_file() else None
        questions = read_run(folder).get("scored", {}).get("digest")
        for key, value in (("rules", rules), ("ids", ids), ("questions", questions)):
            if value is None:
                continue
            other, known = first.setdefault(key, (folder, value))
            if value == known:
                continue
            if key == "rules":
                raise UsageError(
                    f"{folder} is scored as {rules} and {other} as {known}, which says nothing about their models; "
                    "name runs with and without --version_2_with_negative apart"
                )
            if key == "ids":
                raise UsageError(
                    f"{folder} answered {len(ids)} questions and {other} {len(known)}, of which "
                    f"{len(ids & known)} are the same; name runs on the same questions"
                )
            raise UsageError(
                f"{folder} and {other} answered questions of the same ids, but other ones, or with other right "
                "answers; name runs on the same questions"
            )


def print_results(folders):
    """Print the scores of finished runs; `F1 lost` is against the first one.

    Args:
        folders: output folders.

    Raises:
        UsageError: one holds no results of an evaluation, or they are of different questions.
    """
    refuse_other_questions(folders)
    runs = [read_json(folder / "all_results.json") for folder in folders]
    rows = [["run", "EM", "F1", "F1 lost", "size (MB)", "evaluated/s"]]
    for name, folder, run in zip(names_of(folders), folders, runs, strict=True):
        if "eval_f1" not in run:
            raise UsageError(f"{folder / 'all_results.json'} holds no eval_f1; run it with --do_eval")
        run["eval_exact_match"] = exact_match_of(run)
        run["lost"] = runs[0]["eval_f1"] - run["eval_f1"]
        numbers = [_or_dash(run, key) for key in ("eval_exact_match", "eval_f1", "lost", "model_size_mb")]
        rows.append([name, *numbers, _or_dash(run, "eval_samples_per_second", 1)])
    print_table(rows)


def compare_runs(folders, output_dir):
    """Put the reports of finished runs side by side; print the table and write it, as JSON and a page too.

    Args:
        folders: output folders. A run without a report is listed with what its `all_results.json` tells.
        output_dir: folder for `report.json`, `report.md`, `report.html` and the plot.

    Raises:
        UsageError: there is no such folder, a report is broken, or `output_dir` is one of the runs.
    """
    check_output_dir(output_dir)
    if output_dir.resolve() in [folder.resolve() for folder in folders] or read_run(output_dir):
        raise UsageError(f"--output_dir {output_dir} holds a run, whose report would be lost; name another one")
    there = [name for name in REPORT_FILES if (output_dir / name).exists()]
    if there and not ("report.json" in there and "runs" in read_json(output_dir / "report.json")):
        raise UsageError(f"--output_dir {output_dir}: {there[0]} is in the way; move it, or name another folder")
    refuse_other_questions(folders)
    runs = side_by_side(folders)
    reports = {}
    for run, folder in zip(runs[-len(folders) :], folders, strict=True):
        reports[run["name"]] = read_json(folder / "report.json") if "latency_ms" in run else None
    timed = [run for run in runs if "latency_ms" in run]
    front = pareto_front([(run["latency_ms"], run["f1"]) for run in timed])
    for number, run in enumerate(timed):
        run["on_pareto_front"] = number in front
    table = comparison_table(runs)
    with saving(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
    write_text(output_dir / "report.json", json.dumps({"runs": runs}, indent=2) + "\n")
    sections = ["# Runs side by side", markdown_table(table), COMPARISON_NOTE]
    if timed:
        from qa.results import plots

        plots.plot_pareto(timed, output_dir / PLOTS["pareto"])
        sections.append(f"![F1 against latency]({PLOTS['pareto']})")
    write_text(output_dir / "report.md", "\n\n".join(sections) + "\n")
    print_table(table)
    print(COMPARISON_NOTE)
    command = command_text(sys.argv, os.environ)
    write_comparison_page(runs, reports, table, [COMPARISON_NOTE], command, output_dir)
    print(f"open {output_dir / 'report.html'}")


def side_by_side(folders):
    """Collect what is known of finished runs.

    Args:
        folders: output folders.

    Returns:
        List of dictionaries with `name` and what there is of `questions`, `f1`, `f1_interval`, `f1_change`,
        `f1_change_interval`, `exact_match`, `size_mb`, `latency_ms` (median, batch of 1), `times_as_fast` (as the
        original, in the same report), `batch_size`, `questions_per_second` and `peak_memory_mb` (both in batches of
        that size), and `libraries_memory_mb`, the part of the latter that is there before the model. The models that
        reports compare with come first, unless a run that only evaluated one of them is there as well.

    Raises:
        UsageError: there is no such folder, or its report is broken.
    """
    originals, runs, evaluated = {}, [], set()
    for name, folder in zip(names_of(folders), folders, strict=True):
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder; name the output folders of finished runs")
        if not (folder / "report.json").is_file():
            runs.append({"name": name, **_known_without_report(folder)})
            continue
        report = read_json(folder / "report.json")
        try:
            key = report["model"], report["questions"], report.get("weights")
            *before, result = (_key_numbers(model) | {"questions": key[1]} for model in report["models"].values())
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UsageError(f"{folder / 'report.json'} is no report of a run; run it again with --report") from error
        if before:
            result["times_as_fast"] = before[0]["latency_ms"] / result["latency_ms"]
        runs.append({"name": name, **result})
        if before:
            originals.setdefault(key, {"name": f"original ({Path(key[0]).name})", **before[0]})
        else:
            evaluated.add(key)
    known = [key for key in originals if key not in evaluated]
    for key in known:
        if sum(each[0] == key[0] for each in known) > 1:  # two folders of one name: their weights tell them apart
            originals[key]["name"] = f"original ({key[0]} {str(key[2])[:6]})"
    return [originals[key] for key in known] + runs


def _key_numbers(model):
    """Return what a report says of one model, as `side_by_side` lists it."""
    single, batch = model["speed"][0], model["speed"][-1]
    copied = ("f1", "f1_interval", "f1_change", "f1_change_interval", "exact_match", "size_mb", "libraries_memory_mb")
    return {
        **{key: model[key] for key in copied if key in model},
        "latency_ms": single["p50_ms"],
        **{key: batch[key] for key in ("batch_size", "questions_per_second", "peak_memory_mb")},
    }


def _known_without_report(folder):
    path = folder / "all_results.json"
    results = read_json(path) if path.is_file() else {}
    known = {
        "questions": results.get("eval_samples"),
        "f1": results.get("eval_f1"),
        "exact_match": exact_match_of(results),
        "size_mb": results.get("model_size_mb"),
    }
    return {key: value for key, value in known.items() if value is not None}


def comparison_table(runs):
    """Lay runs out, one row each, the header first.

    Args:
        runs: as `side_by_side` returns them, those with a latency with `on_pareto_front`.
    """
    rows = [["run", "questions", *METRICS.values(), "F1 against the original", "F1 kept (%)", "size (MB)"]]
    rows[0] += ["latency (ms)", "questions/s (batch)", "peak memory (MB)", "Pareto front"]
    for run in runs:
        cells = [run["name"], str(run.get("questions", "-"))]
        cells.append(with_interval(run["f1"], run["f1_interval"]) if "f1_interval" in run else _or_dash(run, "f1"))
        cells += [_or_dash(run, "exact_match"), paired_change(run, "f1") or "-"]
        kept = f1_kept(run) if "f1_change" in run else None
        cells += ["-" if kept is None else floored(kept), _or_dash(run, "size_mb")]
        if "latency_ms" in run:
            cells += [_or_dash(run, "latency_ms"), f"{run['questions_per_second']:.1f} ({run['batch_size']})"]
            libraries = run["libraries_memory_mb"]
            cells.append(f"{run['peak_memory_mb'] - libraries:.0f} + {libraries:.0f}")
            cells.append("yes" if run["on_pareto_front"] else "no")
        else:
            cells += ["no report", "-", "-", "-"]
        rows.append(cells)
    return rows


def _or_dash(run, key, digits=2):
    return "-" if run.get(key) is None else f"{run[key]:.{digits}f}"
