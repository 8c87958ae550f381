"""The table that `compare` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from mllm_srec.metrics.comparison import FINDING, Compared
from mllm_srec.reports.safe_text import visible, wide_console
from mllm_srec.reports.terminal.plain_table import plain_table

COLUMNS = ("mean", "sd", "gain", "from", "to", "p", "Holm p")
"""Columns after metric and run; `sd` (of the seeds' means) only if a run has seeds; `from`, `to`: the interval."""


def print_comparison(title: str, rows: Sequence[Compared], notes: Sequence[str]) -> None:
    """Print a row for each metric and run, the base first; fits into a terminal of 80 characters.

    Args:
        title: Heading.
        rows: From `compare_with_first`.
        notes: Lines below the table.
    """
    table = plain_table(title)
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
        is_finding = row.holm_p is not None and row.holm_p <= FINDING
        texts = _texts(row)
        table.add_row(
            row.metric,
            Text(visible(row.run)),
            *(texts.get(name, "-") for name in columns),
            style="bold" if is_finding else None,
        )
    console = wide_console()
    console.print(table)
    for note in notes:
        console.print(Text(visible(note)))


def _texts(row: Compared) -> dict[str, str]:
    """Return the numbers that a row has, by the name of their column."""
    texts = {"mean": f"{row.mean:.4f}"}
    if row.seed_sd is not None:
        texts["sd"] = f"{row.seed_sd:.4f}"
    if row.difference is not None and row.holm_p is not None:
        ends = {"gain": row.difference.difference, "from": row.difference.low, "to": row.difference.high}
        texts |= {name: f"{value:+.4f}" for name, value in ends.items()}
        texts |= {"p": _p_value(row.difference.p_value), "Holm p": _p_value(row.holm_p)}
    return texts


def _p_value(p_value: float) -> str:
    """Return a p-value with four decimals, or as a power of ten where that would show 0."""
    return f"{p_value:.4f}" if p_value >= 1e-4 else f"{p_value:.0e}"
