"""Relative gains of the method over the best of the other rows, and those of the article beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from mllm_srec.reports.tables.article import TABLE5, TABLE5_BASE, TABLE5_METRICS, TABLE5_ROWS
from mllm_srec.reports.tables.grid_about import AboutGrid
from mllm_srec.reports.tables.grid_summary import relative_difference
from mllm_srec.reports.tables.metric_words import higher_is_better
from mllm_srec.reports.tables.tables import Row, Table, TableCell

SHOWN_NAMES = 3
"""Number of baseline rows that a label names; more of them are only counted."""

Means = Mapping[tuple[str, str], float]
"""(row, metric) -> mean over seeds."""


def means_of(summary: pl.DataFrame) -> dict[tuple[str, str], float]:
    """Return the means of the models of one data set.

    Args:
        summary: Rows of `summarise`, all of one data set.
    """
    models = summary.filter(~pl.col("reference"))
    return {(row, metric): mean for row, metric, mean in models.select("row", "metric", "mean").iter_rows()}


def relative_gain(value: float | None, over: float | None) -> TableCell:
    """Return 100 (value - over) / over, in %; `-` if it is undefined."""
    return TableCell(text="-") if value is None or over is None else relative_difference(value - over, over)


def gain_row(about: AboutGrid, means: Means) -> Row | None:
    """Make the row of improvements in %, for each metric of the grid.

    It is the improvement of the base of the comparison if that is a row, else of the best row of each metric, over the
    best of `baseline_rows`; without those, over the first row if all are compared with it, else over the best of all
    other rows.

    Args:
        about: Description of the grid.
        means: Means of one data set.

    Returns:
        None if there are no other rows.
    """
    rows = list(dict.fromkeys(row for row, _ in means))
    baselines = about.report.baseline_rows or (rows[:1] if about.significance.base == "first" else [])
    named = [row for row in baselines if row in rows]
    candidates = [row for row in rows if row not in named]
    if about.significance.base in candidates:
        candidates = [about.significance.base]
    if not candidates or len(rows) < 2:
        return None
    cells = [_gain(metric, candidates, named or rows, means) for metric in about.shown_metrics]
    who = candidates[0] if len(candidates) == 1 else "best"
    shown = ", ".join(named) if len(named) <= SHOWN_NAMES else f"{len(named)} rows that the grid names"
    against = "best other" if not named else named[0] if len(named) == 1 else f"best of {shown}"
    return Row(f"{who} over {against if who != 'best' or named else 'second'}, %", tuple(cells), "gain")


def _gain(metric: str, candidates: Sequence[str], others: Sequence[str], means: Means) -> TableCell:
    """Return the gain of the best candidate row over the best of the others."""
    values = {row: means[row, metric] for row in candidates if (row, metric) in means}
    if not values or not higher_is_better(metric):
        return TableCell(text="-")
    best = max(values, key=values.__getitem__)
    against = [means[row, metric] for row in others if row != best and (row, metric) in means]
    return relative_gain(values[best], max(against, default=None))


def article_table(means: Means) -> Table | None:
    """Make a table of the article's Table 5 and our rows of the same variants, with gains over Base.

    Args:
        means: Means of one data set.

    Returns:
        None if no row of ours is one of its variants.
    """
    ours = {TABLE5_ROWS[row.lower()]: row for row, _ in means if row.lower() in TABLE5_ROWS}
    if not ours:
        return None
    rows = []
    for variant, published in TABLE5.items():
        rows.append(Row(f"{variant}: article", tuple(TableCell(value) for value in published), "article"))
        row = ours.get(variant)
        numbers = tuple(TableCell(means.get((row, metric))) for metric in TABLE5_METRICS) if row is not None else ()
        missing = tuple(TableCell(text="not run") for _ in TABLE5_METRICS)
        rows.append(Row(f"{variant}: ours", numbers or missing, "model"))
    base = ours.get(TABLE5_BASE)
    for variant, published in TABLE5.items():
        if variant == TABLE5_BASE:
            continue
        pairs = zip(published, TABLE5[TABLE5_BASE], strict=True)
        rows.append(Row(f"{variant} over Base, %: article", tuple(relative_gain(*pair) for pair in pairs), "gain"))
        row = ours.get(variant)
        cells = [
            relative_gain(means.get((str(row), metric)), means.get((str(base), metric))) for metric in TABLE5_METRICS
        ]
        rows.append(Row(f"{variant} over Base, %: ours", tuple(cells), "gain"))
    return Table(TABLE5_METRICS, tuple(rows))
