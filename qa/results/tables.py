"""Numbers as tables, for the terminal and in Markdown.

Belongs here: how cells are written and aligned.
Does not belong here: which numbers they hold (`report.py`, `comparison.py`).
"""

import html
import sys

from rich.console import Console
from rich.table import Column, Table


def with_interval(value, bounds, sign=""):
    return f"{value:{sign}.2f} [{bounds[0]:{sign}.2f}, {bounds[1]:{sign}.2f}]"


def paired_change(model, key):
    """The paired difference to the original, empty for the original itself."""
    change = model.get(f"{key}_change")
    return "" if change is None else with_interval(change, model[f"{key}_change_interval"], "+")


def print_table(rows):
    """Print rows of cells, the first on the left, the others on the right; a narrow terminal has them folded."""
    if sys.stdout is None:  # closed, as `print` knows
        return
    sides = [Column(justify="right" if index else "left") for index in range(len(rows[0]))]
    table = Table.grid(*sides, padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False, emoji=False)
    if not sys.stdout.isatty():  # whatever FORCE_COLOR makes of it
        console.width = sys.maxsize  # a file has no edge
    console.print(table)


def markdown_table(rows):
    """Format rows of cells as a Markdown table; what the cells hold is shown as it is."""

    def line(cells):
        escaped = (" ".join(html.escape(cell, quote=False).replace("|", "\\|").split()) for cell in cells)
        return f"| {' | '.join(escaped)} |"

    return "\n".join([line(rows[0]), "|---" * len(rows[0]) + "|", *map(line, rows[1:])])
