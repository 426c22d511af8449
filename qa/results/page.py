"""A report as one page, `report.html`, that a browser opens from the disk: no server, nothing loaded from elsewhere.

Belongs here: the sentence of the verdict, pictures with a text beside them, changed answers in their contexts, and
filling the template (`page.html.j2`, with `page.css` and `page.js` inside).
Does not belong here: measuring and scoring (`measure.py`, `report.py`), the numbers of the tables (`tables.py`) and
drawing (`plots.py`).

Texts of questions, answers and names go through the template, which escapes them; the page tells the browser to run no
script but its own.
"""

import base64
import hashlib
import io
import itertools
import math
import re
import shlex
from pathlib import Path

from qa.start.writing import write_text

# Bytes. What does not fit is left out of the changed answers.
LARGEST_PAGE = 1_000_000
# Characters of a context that are shown before and behind each answer.
AROUND = 160
# Shares of the original's F1, in percent, that MLPerf Inference asks of BERT in its two accuracy classes.
MLPERF_MARKS = (99, 99.9)


def context_pieces(context, spans):
    """Cut a context open at the answers that models gave.

    Args:
        context: text.
        spans: dictionary from what a model is called to the `(begin, end)` characters of its answer, or to `None`
            where it gave none.

    Returns:
        List of `{"text": part of the context, "of": names of those whose answer it belongs to}`: what is within
        `AROUND` characters of an answer, in order, with an ellipsis where something is left out. Empty if there is no
        answer.
    """
    spans = {name: span for name, span in spans.items() if span}
    bounds = [place for begin, end in spans.values() for place in (begin - AROUND, begin, end, end + AROUND)]
    places = sorted({min(max(place, 0), len(context)) for place in bounds})
    pieces = []
    if places and places[0] > 0:
        pieces.append({"text": "\N{HORIZONTAL ELLIPSIS}", "of": []})
    for begin, end in itertools.pairwise(places):
        of = [name for name, span in spans.items() if span[0] <= begin and end <= span[1]]
        near = any(span[0] - AROUND <= begin and end <= span[1] + AROUND for span in spans.values())
        pieces.append({"text": context[begin:end] if near else " \N{HORIZONTAL ELLIPSIS} ", "of": of})
    if places and places[-1] < len(context):
        pieces.append({"text": "\N{HORIZONTAL ELLIPSIS}", "of": []})
    return pieces


def f1_kept(model):
    """Return the share of the original's F1 that a model keeps, in percent, or `None` where there is none to keep."""
    original = model["f1"] - model.get("f1_change", 0.0)
    return 100 * model["f1"] / original if original > 0 else None


def floored(share):
    """Show a share in percent with two digits, not rounded up: 98.997 % does not reach 99."""
    return f"{math.floor(100 * share) / 100:.2f}"


def _marks(kept):
    """Say which of MLPerf's marks a share of the original's F1 reaches."""
    low, high = (f"{mark:g} %" for mark in MLPERF_MARKS)
    if kept >= MLPERF_MARKS[1]:
        return f"both of MLPerf's marks, {low} and {high}, are kept"
    if kept >= MLPERF_MARKS[0]:
        return f"MLPerf's mark of {low} is kept, that of {high} is not"
    return f"neither of MLPerf's marks, {low} and {high}, is kept"


def run_verdict(report):
    """Say in one sentence what the run of a report lost and won.

    Args:
        report: as `report.report_run` makes it.
    """
    *before, model = report["models"].values()
    latency, size = model["speed"][0]["p50_ms"], model["size_mb"]
    if not before or report["untrained_head"]:
        why = "has no trained answer head" if before else "is evaluated as it is"
        return (
            f"Nothing to compare with, because {report['model']} {why}: F1 {model['f1']:.2f}, {latency:.3g} ms for a "
            f"window of text, {size:.3g} MB."
        )
    original, change, kept = before[0], model["f1_change"], f1_kept(model)
    low, high = model["f1_change_interval"]
    moved = f"from {original['f1']:.2f} to {model['f1']:.2f} (95 % interval of the change: {low:+.2f} to {high:+.2f})"
    lost = f"{-change:.2f} points of F1, {moved}" if change <= -0.005 else f"nothing, F1 went {moved}"
    share = "" if kept is None else f", {floored(kept)} % of it: {_marks(kept)}"
    slow, large = original["speed"][0]["p50_ms"], original["size_mb"]
    faster = f"{slow / latency:.2f} times the speed" if slow > 1.01 * latency else "no speed"
    smaller = f"1/{large / size:.1f} of the size" if large > 1.05 * size else "no room"
    return (
        f"Lost: {lost}{share}; won: {faster}, {latency:.3g} ms for a window of text instead of {slow:.3g}, and "
        f"{smaller}, {size:.3g} MB instead of {large:.3g}."
    )


def comparison_verdict(runs):
    """Say in one sentence which of several runs reach MLPerf's marks, and which of these is the fastest.

    Args:
        runs: as `comparison.side_by_side` returns them.
    """
    compared = [run for run in runs if "times_as_fast" in run and f1_kept(run) is not None]
    if not compared:
        return "None of these runs was compared with its original: that takes a compressed model and --report."
    said = []
    for mark in MLPERF_MARKS:
        keeping = [run for run in compared if f1_kept(run) >= mark]
        if not keeping:
            said.append(f"none keeps {mark:g} %")
            continue
        best = max(keeping, key=lambda run: run["times_as_fast"])
        verb = "keeps" if len(keeping) == 1 else "keep"
        said.append(
            f"{len(keeping)} {verb} {mark:g} %, the fastest of them {best['name']} with {best['times_as_fast']:.2f} "
            f"times the speed and {floored(f1_kept(best))} % of F1"
        )
    count = "the one compressed run" if len(compared) == 1 else f"the {len(compared)} compressed runs"
    return f"MLPerf's marks are 99 % and 99.9 % of the original's F1; of {count} {'; '.join(said)}."


def write_run_page(report, table, notes, folder):
    """Write `report.html` for one run.

    Args:
        report: as `report.report_run` makes it.
        table, notes: its `report.report_table` and `report.report_notes`.
        folder: existing folder.
    """
    from qa.results import plots

    models = report["models"]
    scores = ", ".join(
        f"{name}: F1 {_ranged(model, 'f1')}, exact match {_ranged(model, 'exact_match')}"
        for name, model in models.items()
    )
    costs = "; ".join(
        f"{name}: {model['size_mb']:.3g} MB, "
        + ", ".join(f"{speed['p50_ms']:.3g} ms in batches of {speed['batch_size']}" for speed in model["speed"])
        for name, model in models.items()
    )
    pictures = [
        _picture("Scores", scores, plots.plot_scores, models, report["questions"]),
        _picture("Size and latency", costs, plots.plot_cost, models),
    ]
    if "sparsity_per_op" in report:
        each = ", ".join(f"{name} {100 * share:.0f} %" for name, share in report["sparsity_per_op"].items())
        text = f"{100 * report['sparsity']:.1f} % of all together. {each}"
        pictures.append(_picture("Zeros", text, plots.plot_sparsity, report["sparsity_per_op"], report["sparsity"]))
    if report["loss"]:
        first, last = report["loss"][0], report["loss"][-1]
        text = f"from {first['loss']:.3g} at step {first['step']} to {last['loss']:.3g} at step {last['step']}"
        pictures.append(_picture("Training loss", text, plots.plot_loss, report["loss"]))
    compared = len(models) > 1
    _write_page(
        Path(folder),
        report["changed_answers"],
        title=f"{Path(folder).resolve().name}: what became of {report['model']}",
        verdict=run_verdict(report),
        caption="Scores and cost of each model",
        table=table,
        notes=notes,
        pictures=pictures,
        no_changes="No answer changed." if compared else "Only one model was evaluated.",
        commands=[{"name": "", "text": report["command"]}],
    )


def write_comparison_page(runs, reports, table, notes, command, folder):
    """Write `report.html` for runs side by side.

    Args:
        runs: as `comparison.side_by_side` returns them.
        reports: dictionary from the name of each run to its report, `None` for those that have none.
        table: `comparison.comparison_table` of the runs.
        notes: list of sentences.
        command: what laid them side by side.
        folder: existing folder.
    """
    from qa.results import plots

    pictures = []
    if timed := [run for run in runs if "latency_ms" in run]:
        text = "; ".join(
            f"{run['name']}: F1 {_ranged(run, 'f1')}, {run['latency_ms']:.3g} ms, {run['size_mb']:.3g} MB"
            + (", on the Pareto front" if run["on_pareto_front"] else "")
            for run in timed
        )
        pictures.append(_picture("F1 against latency", text, plots.plot_pareto, timed))
    changes = [
        {"run": name, **change}
        for name, report in reports.items()
        if report is not None
        for change in report["changed_answers"]
    ]
    commands = [{"name": name, "text": report and report.get("command")} for name, report in reports.items()]
    _write_page(
        Path(folder),
        changes,
        title=f"{Path(folder).resolve().name}: {len(reports)} runs side by side",
        verdict=comparison_verdict(runs),
        caption="Scores and cost of each run",
        table=table,
        notes=notes,
        pictures=pictures,
        several=True,
        no_changes="No run with a report changed an answer.",
        commands=[*commands, {"name": "this page", "text": command}],
    )


def _ranged(model, key):
    low, high = model[f"{key}_interval"]
    return f"{model[key]:.2f} % ({low:.2f} to {high:.2f})"


def _picture(title, text, draw, *numbers):
    """Draw a picture as SVG that stands in a page, takes its colours from it, and tells `text` to who cannot see it.

    Returns:
        Dictionary of `title` and `svg`.
    """
    from markupsafe import Markup, escape
    from matplotlib import rc_context

    drawn = io.BytesIO()
    # Text stays text. The salt gives each picture names of its own for what it refers to inside.
    with rc_context({"savefig.format": "svg", "svg.fonttype": "none", "svg.hashsalt": title}):
        draw(*numbers, drawn)
    svg = drawn.getvalue().decode("utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    view = re.search(r'viewBox="[^"]*"', svg)[0]
    opened = f'<svg {view} role="img" aria-label="{escape(title)}: {escape(text)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opened, svg, count=1)
    for colour, name in (("#000000", "ink"), ("#ffffff", "paper"), ("#666666", "grey")):
        svg = svg.replace(colour, f"var(--{name})")
    return {"title": title, "svg": Markup(svg)}


def _write_page(folder, changes, several=False, **shown):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    here = Path(__file__).parent
    script = (here / "page.js").read_text(encoding="utf-8") if changes or several else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html.j2")
    # What changed most is kept where not all of it has room.
    ranked = sorted(changes, key=lambda change: -abs(change["f1_change"]))
    while True:
        text = template.render(
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            style=Markup((here / "page.css").read_text(encoding="utf-8")),
            changes=sorted(ranked, key=lambda change: change["f1_change"]),
            left_out=len(changes) - len(ranked),
            runs=list(dict.fromkeys(change["run"] for change in ranked)) if several else [],
            sortable=several,
            **shown,
        )
        if len(text.encode()) <= LARGEST_PAGE or not ranked:
            break
        ranked = ranked[: int(0.9 * len(ranked))]
    write_text(folder / "report.html", text)


def command_text(words, environ):
    """Write down the command that a run was started with, for others to read and to type.

    Args:
        words: the script and its arguments (`sys.argv`).
        environ: environment variables of the process; those of torchrun say how many there are.

    Returns:
        Lines of shell, one for each flag. A path that leads out of the working directory is told by its last part, a
        token not at all.
    """
    count, here = (int(environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    launcher = "python"
    if count > 1:
        machines = f"--nnodes {count // here} " if count > here else ""
        launcher = f"torchrun {machines}--nproc_per_node {here}"
    lines = [[launcher, Path(words[0]).name]]
    for word in words[1:]:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if flag:
            lines.append([flag])
        if equals or not flag:
            away = value.startswith(("/", "~")) or ".." in Path(value).parts
            told = shlex.quote(Path(value).name if away else value)
            if equals:
                lines[-1][-1] += f"={told}"
            else:
                lines[-1].append(told)
    # Flags may be cut short.
    lines = [line for line in lines if not re.match(r"--((push_to_)?hub_t|token\b)", line[0])]
    return " \\\n    ".join(map(" ".join, lines))
