"""Relative gains: of the row in question over the best of the others, and the article's beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from mllm_srec.reports.tables.article import TABLE5, TABLE5_BASE, TABLE5_METRICS, TABLE5_ROWS
from mllm_srec.reports.tables.grid_about import AboutGrid
from mllm_srec.reports.tables.grid_summary import relative_difference
from mllm_srec.reports.tables.metric_words import higher_is_better
from mllm_srec.reports.tables.tables import Row, Table, TableCell

SHOWN_NAMES = 3
"""Of rows that a gain is stated over; more of them are counted."""

Means = Mapping[tuple[str, str], float]
"""(row, metric) -> mean over seeds."""


def means_of(summary: pl.DataFrame) -> dict[tuple[str, str], float]:
    """Means of the models of one data set.

    Args:
        summary: Rows of `summarise`, all of one data set.
    """
    models = summary.filter(~pl.col("reference"))
    return {(row, metric): mean for row, metric, mean in models.select("row", "metric", "mean").iter_rows()}


def relative_gain(value: float | None, over: float | None) -> TableCell:
    """100 (value - over) / over, as a cell in %; empty where that is undefined."""
    return TableCell(text="-") if value is None or over is None else relative_difference(value - over, over)


def gain_row(about: AboutGrid, means: Means) -> Row | None:
    """The improvement in %, a cell for each metric of the grid.

    In question is the base of the comparison where it is a row of its own, else the best of each metric. It is set
    against the best of `baseline_rows`; where none are named, against the first row if all are compared with that, else
    against the best of all other rows.

    Args:
        about: The grid.
        means: Of one data set.

    Returns:
        None where there is nothing to set it against.
    """
    rows = list(dict.fromkeys(row for row, _ in means))
    baselines = about.report.baseline_rows or (rows[:1] if about.significance.base == "first" else [])
    named = [row for row in baselines if row in rows]
    asked = [row for row in rows if row not in named]
    if about.significance.base in asked:
        asked = [about.significance.base]
    if not asked or len(rows) < 2:
        return None
    cells = [_gain(metric, asked, named or rows, means) for metric in about.shown_metrics]
    who = asked[0] if len(asked) == 1 else "best"
    shown = ", ".join(named) if len(named) <= SHOWN_NAMES else f"{len(named)} rows that the grid names"
    against = "best other" if not named else named[0] if len(named) == 1 else f"best of {shown}"
    return Row(f"{who} over {against if who != 'best' or named else 'second'}, %", tuple(cells), "gain")


def _gain(metric: str, asked: Sequence[str], others: Sequence[str], means: Means) -> TableCell:
    values = {row: means[row, metric] for row in asked if (row, metric) in means}
    if not values or not higher_is_better(metric):
        return TableCell(text="-")
    best = max(values, key=values.__getitem__)
    against = [means[row, metric] for row in others if row != best and (row, metric) in means]
    return relative_gain(values[best], max(against, default=None))


def article_table(means: Means) -> Table | None:
    """Table 5 of the article, and our rows of the same variants with their gains over Base.

    Args:
        means: Of one data set.

    Returns:
        None where no row of ours is one of its variants.
    """
    ours = {TABLE5_ROWS[row.lower()]: row for row, _ in means if row.lower() in TABLE5_ROWS}
    if not ours:
        return None
    rows = []
    for variant, published in TABLE5.items():
        rows.append(Row(f"{variant}: article", tuple(TableCell(value) for value in published), "article"))
        row = ours.get(variant)
        found = tuple(TableCell(means.get((row, metric))) for metric in TABLE5_METRICS) if row is not None else ()
        missing = tuple(TableCell(text="not run") for _ in TABLE5_METRICS)
        rows.append(Row(f"{variant}: ours", found or missing, "model"))
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
