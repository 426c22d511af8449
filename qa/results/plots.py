"""The pictures of a report, as PNG files, or as SVG where `savefig.format` says so.

Belongs here: drawing numbers that are there already. Being the one module that imports matplotlib, it is imported only
when something is drawn. Figures are made without pyplot, so that no display is looked for.
Does not belong here: measuring (`measure.py`) and choosing what is shown (`report.py`).

Colours are those of Okabe and Ito (2008), which differ for colour-blind readers too; what they tell apart is told
apart by labels, line styles or markers as well. Every picture is 8 inches wide.
"""

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
GREY = "#666666"
WIDTH_INCHES, DOTS_PER_INCH = 8, 150
STYLE = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
# Area in points squared of the largest model's point.
LARGEST_AREA = 1200


@rc_context(STYLE)
def plot_scores(models, questions, path):
    """Draw F1 and exact match of each model with their intervals.

    Args:
        models: dictionary from model name to its entry in a report.
        questions: how many there were.
        path: PNG file to write.
    """
    figure, axes = _figure(3.6, columns=2)
    for panel, metric, title in zip(axes, ("f1", "exact_match"), ("F1", "Exact match"), strict=True):
        for place, model in enumerate(models.values()):
            low, high = model[f"{metric}_interval"]
            value, colour = model[metric], OKABE_ITO[place % len(OKABE_ITO)]
            panel.plot([place, place], [low, high], color=colour, linewidth=2, marker="_", markersize=14)
            panel.plot(place, value, color=colour, marker="o", markersize=8)
            panel.annotate(f"{value:.2f}", (place, value), (12, 0), textcoords="offset points", va="center")
        panel.set(title=title, ylabel=f"{title} (%)", xlim=(-0.5, len(models) - 0.3))
        panel.set_xticks(range(len(models)), models)
        panel.grid(axis="y", alpha=0.3)
    figure.supxlabel(f"lines: 95 % bootstrap intervals over {questions} questions", fontsize=10, color=GREY)
    figure.savefig(path)


@rc_context(STYLE)
def plot_cost(models, path):
    """Draw size on disk and latency of each model; parameters as in `plot_scores`."""
    sizes = [entry["batch_size"] for entry in next(iter(models.values()))["speed"]]
    figure, axes = _figure(3.8, columns=1 + len(sizes))
    places = range(len(models))
    colours = [OKABE_ITO[place % len(OKABE_ITO)] for place in places]

    def draw(panel, values, title, unit):
        panel.bar(places, values, color=colours, width=0.6)
        for place, value in zip(places, values, strict=True):
            panel.annotate(f"{value:.3g}", (place, value), (0, 3), textcoords="offset points", ha="center")
        panel.set(title=title, ylabel=unit)
        panel.set_xticks(places, models)
        panel.margins(y=0.12)

    draw(axes[0], [model["size_mb"] for model in models.values()], "Size on disk", "MB")
    for number, (panel, size) in enumerate(zip(axes[1:], sizes, strict=True)):
        speeds = [model["speed"][number] for model in models.values()]
        draw(panel, [speed["p50_ms"] for speed in speeds], f"Latency, batch of {size}", "ms a pass (median)")
        for place, speed in zip(places, speeds, strict=True):
            panel.plot([place - 0.3, place + 0.3], [speed["p95_ms"]] * 2, color="black", linewidth=1.5)
    figure.supxlabel("short lines: 95th percentile of the latency", fontsize=10, color=GREY)
    figure.savefig(path)


@rc_context(STYLE)
def plot_sparsity(sparsity_per_op, overall, path):
    """Draw the share of zeros in each operator.

    Args:
        sparsity_per_op: dictionary from operator name to a share from 0 to 1.
        overall: the share in all of them together.
        path: PNG file to write.
    """
    figure, axes = _figure(1.6 + 0.22 * len(sparsity_per_op), columns=1)
    panel = axes[0]
    places = range(len(sparsity_per_op))
    panel.barh(places, [100 * share for share in sparsity_per_op.values()], color=OKABE_ITO[0], height=0.7)
    panel.axvline(100 * overall, color=OKABE_ITO[1], linestyle="--", label=f"all together: {100 * overall:.1f} %")
    panel.set_yticks(places, sparsity_per_op, fontsize=9)
    panel.set(title="Sparsity of each pruned operator", xlabel="weights that are zero (%)", xlim=(0, 100))
    panel.set_ylim(len(sparsity_per_op) - 0.5, -0.5)
    panel.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower right", frameon=False)
    figure.savefig(path)


@rc_context(STYLE)
def plot_loss(history, path):
    """Draw the loss over the training, and its parts where there are any.

    Args:
        history: list of dictionaries with `step`, `loss`, and with distillation its parts, as `trainer_qa.py` logs
            them.
        path: PNG file to write.
    """
    figure, axes = _figure(3.8, columns=1)
    panel = axes[0]
    curves = (
        ("loss", "total", "-", "o"),
        ("loss_student", "student (labels)", "--", "s"),
        ("loss_distillation", "distillation (teacher)", ":", "^"),
        ("loss_intermediate", "hidden states (teacher)", "-.", "v"),
    )
    for (key, label, line, marker), colour in zip(curves, OKABE_ITO, strict=False):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            panel.plot(*zip(*points, strict=True), line, marker=marker, markersize=4, color=colour, label=label)
    panel.set(
        title="Training loss", xlabel="optimizer step", ylabel="loss (mean since the last point)", ylim=(0, None)
    )
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)


@rc_context(STYLE)
def plot_pareto(points, path):
    """Draw F1 against latency, the size of a model as the area of its point.

    Args:
        points: list of dictionaries: `name`, `latency_ms` (median, batch of 1), `f1`, `f1_interval`, `size_mb` and
            `on_pareto_front`.
        path: PNG file to write.
    """
    # Room for the labels of many runs.
    figure, axes = _figure(5.4 + 0.25 * max(0, len(points) - 10), columns=1)
    panel = axes[0]
    front = sorted((point for point in points if point["on_pareto_front"]), key=lambda point: point["latency_ms"])
    panel.plot(
        [point["latency_ms"] for point in front],
        [point["f1"] for point in front],
        color=OKABE_ITO[0],
        linestyle="--",
        label="Pareto front: no other run is both faster and better",
    )
    largest = max(point["size_mb"] for point in points)
    for point in points:
        place = (point["latency_ms"], point["f1"])
        panel.plot([place[0]] * 2, point["f1_interval"], color=GREY, linewidth=1)
        colour = OKABE_ITO[0] if point["on_pareto_front"] else OKABE_ITO[4]
        panel.scatter(*place, s=LARGEST_AREA * point["size_mb"] / largest, color=colour, alpha=0.75, edgecolor="black")
    panel.set(
        title="F1 against latency, area of a point: size on disk",
        xlabel="latency of one feature (ms, median, batch of 1)",
        ylabel="F1 (%)",
    )
    panel.margins(x=0.15, y=0.15)
    panel.grid(alpha=0.3)
    figure.legend(loc="outside lower center", frameon=False)
    label_points(figure, panel, points)
    figure.savefig(path)


def label_points(figure, panel, points):
    """Write names and sizes beside the points so that no two labels overlap, and lines to those that are moved far.

    Args:
        figure, panel: complete but for the labels; their layout is final after that.
        points: as in `plot_pareto`.

    Returns:
        List of the labels, `matplotlib.text.Text`.
    """
    from adjustText import adjust_text

    figure.canvas.draw()
    figure.set_layout_engine("none")
    labels = [
        panel.text(
            point["latency_ms"],
            point["f1"],
            f"{point['name']}\n{point['size_mb']:.3g} MB",
            ha="center",
            va="center",
            fontsize=10,
            # A name stays readable where it lies over points and lines.
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=5,
        )
        for point in points
    ]
    # Stronger than the defaults, with which labels of ten points in one place go on overlapping.
    forces = {"force_text": (0.2, 0.4), "force_static": (0.1, 0.3), "expand": (1.1, 1.3)}
    adjust_text(labels, ax=panel, iter_lim=500, arrowprops={"arrowstyle": "-", "color": GREY}, **forces)
    return labels


def _figure(height, columns):
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]
