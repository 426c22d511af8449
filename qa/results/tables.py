"""Numbers as tables, for the terminal and in Markdown.

Belongs here: how cells are written and aligned.
Does not belong here: which numbers they hold (`report.py`, `comparison.py`).
"""

import html


def with_interval(value, bounds, sign=""):
    return f"{value:{sign}.2f} [{bounds[0]:{sign}.2f}, {bounds[1]:{sign}.2f}]"


def paired_change(model, key):
    """The paired difference to the original, empty for the original itself."""
    change = model.get(f"{key}_change")
    return "" if change is None else with_interval(change, model[f"{key}_change_interval"], "+")


def with_percent(value, first):
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
