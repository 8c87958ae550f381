"""The table of a comparison for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mllm_srec.metrics.comparison import Compared
from mllm_srec.reports.safe_text import one_line

FINDING = 0.05
"""Rows whose corrected p-value is at most this are bold."""

COLUMNS = ("mean", "sd", "gain", "from", "to", "p", "Holm p")
"""What stands beside metric and run; `sd` (of the seeds' means) only if something has seeds; `from`, `to`: interval."""


def print_comparison(title: str, rows: Sequence[Compared], notes: Sequence[str]) -> None:
    """A row for each metric and run, the base first; fits into a terminal of 80 characters.

    Args:
        title: Heading.
        rows: From `compare_with_first`.
        notes: Lines below the table.
    """
    table = Table(
        title=Text(visible(title)), title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("metric", no_wrap=True)
    table.add_column("run", overflow="fold")
    columns = [name for name in COLUMNS if name != "sd" or any(row.seed_sd is not None for row in rows)]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    metric = None
    for row in rows:
        if metric not in (None, row.metric):
            table.add_section()
        metric = row.metric
        found = row.holm_p is not None and row.holm_p <= FINDING
        cells = _cells(row)
        table.add_row(
            row.metric,
            Text(visible(row.run)),
            *(cells.get(name, "-") for name in columns),
            style="bold" if found else None,
        )
    console = Console(soft_wrap=True, width=None if Console().is_terminal else 200)  # a pipe breaks no line
    console.print(table)
    for note in notes:
        console.print(Text(visible(note)))


def visible(text: str) -> str:
    """A name on one line that a terminal shows literally; `?` where nothing of it can be seen."""
    return one_line(text) or "?"


def _cells(row: Compared) -> dict[str, str]:
    """Numbers by the name of their column, as far as the row has them."""
    cells = {"mean": f"{row.mean:.4f}"}
    if row.seed_sd is not None:
        cells["sd"] = f"{row.seed_sd:.4f}"
    if row.difference is not None and row.holm_p is not None:
        ends = {"gain": row.difference.difference, "from": row.difference.low, "to": row.difference.high}
        cells |= {name: f"{value:+.4f}" for name, value in ends.items()}
        cells |= {"p": _chance(row.difference.p_value), "Holm p": _chance(row.holm_p)}
    return cells


def _chance(p_value: float) -> str:
    """Four digits, or a power of ten for what would be shown as 0."""
    return f"{p_value:.4f}" if p_value >= 1e-4 else f"{p_value:.0e}"
