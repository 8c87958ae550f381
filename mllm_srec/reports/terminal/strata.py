"""The tables that `analyse` prints: results by stratum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from mllm_srec.reports.safe_text import visible, wide_console
from mllm_srec.reports.terminal.plain_table import plain_table

TITLES = {
    "history_length": "liked items in the context",
    "cold_items": "train likes of the positive's item",
    "popularity_matched": "negatives as drawn, and as popular as the positives",
    "negative_kinds": "pairs by kind of negative",
}
"""Headings of the analyses: what they split by."""

Rows = Sequence[Mapping[str, Any]]


def print_strata(split: str, rows: Rows, notes: Sequence[str]) -> None:
    """Print a table for each analysis and unit: a line for each stratum and run, metrics with their intervals.

    Args:
        split: `test` or `val`.
        rows: Columns `run`, `analysis`, `stratum`, `metric`, `value`, `low`, `high`, `n`, `unit`. Empty strata
            are not shown.
        notes: Lines below the tables.
    """
    console = wide_console()
    for analysis, unit in dict.fromkeys((row["analysis"], row["unit"]) for row in rows):
        of_analysis = [row for row in rows if (row["analysis"], row["unit"]) == (analysis, unit)]
        shown = {row["stratum"] for row in of_analysis if row["n"]}
        of_analysis = [row for row in of_analysis if row["stratum"] in shown]
        console.print(_table(f"{split}, {unit}: {TITLES.get(analysis, analysis)}", of_analysis))
    for note in notes:
        console.print(Text(visible(note)))


def _table(title: str, rows: Rows) -> Table:
    table = plain_table(title)
    several = len({row["run"] for row in rows}) > 1
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    table.add_column("", no_wrap=True)
    if several:
        table.add_column("run", overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    for index, stratum in enumerate(dict.fromkeys(row["stratum"] for row in rows)):
        if several and index:
            table.add_section()
        for run in dict.fromkeys(row["run"] for row in rows):
            own = {row["metric"]: row for row in rows if (row["stratum"], row["run"]) == (stratum, run)}
            if own:
                names = [Text(visible(run))] if several else []
                table.add_row(Text(visible(stratum)), *names, _counts(own), *(_interval(own.get(m)) for m in metrics))
    return table


def _counts(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the number of lists, positives or targets; if metrics differ in it, the smallest and the largest."""
    counts = sorted({int(row["n"]) for row in rows.values()})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,}-{counts[-1]:,}"


def _interval(row: Mapping[str, Any] | None) -> str:
    """Return the value and the ends of its interval."""
    if row is None or row["value"] is None:
        return "-"
    return f"{row['value']:.3f} ({row['low']:.3f} {row['high']:.3f})"
