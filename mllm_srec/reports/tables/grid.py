"""Tables of a grid: means over seeds, the best of each column, references, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from mllm_srec.reports.tables.metric_words import higher_is_better
from mllm_srec.reports.tables.tables import DIGITS, Row, Table, TableCell

STAGES = ("prepare", "summarize", "fit", "test")
"""Stages of `run` whose time is shown, in order."""

TOKENS = {
    "test/summaries/tokens": "in summaries, 1000 tokens",
    "fit/tokens": "in an epoch, 1000 tokens",
    "test/tokens": "in test, 1000 tokens",
}
"""Numbers of tokens among the results, and their columns in the table of costs."""

REFERENCE = r"^test/reference/([^/]+)/(.+)$"
"""Keys of references, which models are compared with: chance, popularity, ceilings."""


def summarise(results: pl.DataFrame, metrics: Sequence[str]) -> pl.DataFrame:
    """Compute mean and standard deviation over seeds of every row, data set and metric of the test split.

    Args:
        results: Columns `row`, `data_set`, `seed`, `metric`, `value`; the order of rows is kept.
        metrics: Metrics of the summary, such as `ndcg@10`.

    Returns:
        `data_set`, `row`, `reference` (True for chance, popularity and ceilings), `metric`, `mean`, `sd` (n - 1; null
        for one seed), `n_seeds`, and `place`: 1 for the best model, 2 for the second, null for all other rows, and for
        metrics of which more is not better.

    Raises:
        ValueError: No result has one of the metrics.
    """
    named = results.with_columns(
        metric=pl.col("metric").str.replace(REFERENCE, "test/$2"),
        row=pl.coalesce(pl.col("metric").str.extract(REFERENCE, 1), "row"),
        reference=pl.col("metric").str.contains(REFERENCE),
        value=pl.col("value").fill_nan(None),
    ).filter(pl.col("metric").is_in([f"test/{name}" for name in metrics]) & pl.col("value").is_not_null())
    named = named.with_columns(pl.col("metric").str.strip_prefix("test/"))
    unknown = [name for name in metrics if name not in named["metric"]]
    if unknown:
        there = sorted({key.removeprefix("test/") for key in results["metric"] if key.count("/") == 1})
        raise ValueError(f"metrics: no result has {', '.join(unknown)}; there are {', '.join(there)}.")
    keys = ["data_set", "row", "reference", "metric"]
    # A reference is the same in all cells, so it has neither a deviation nor seeds.
    spread = pl.when(~pl.col("reference").first()).then(pl.col("value").std())
    summary = named.group_by(keys, maintain_order=True).agg(
        mean=pl.col("value").mean(),
        sd=spread,
        n_seeds=pl.when(~pl.col("reference").first()).then(pl.len()),
    )
    # Rounded as tables write them, so that equal texts have equal places; polars rounds halves differently.
    written = pl.Series("written", [float(f"{mean:.{DIGITS}f}") for mean in summary["mean"]], pl.Float64)
    ranked = [name for name in metrics if higher_is_better(name)]
    places = summary.with_columns(written).with_columns(_place(ranked))
    return places.drop("written").sort("reference", maintain_order=True)


def _place(ranked: Sequence[str]) -> pl.Expr:
    """Return 1 and 2 for the best and second of a column's models; a shared first place leaves no second."""
    shown = pl.when(~pl.col("reference") & pl.col("metric").is_in(list(ranked))).then("written")
    over = ["data_set", "metric"]
    place = shown.rank("min", descending=True).over(over)
    several = shown.count().over(over) > 1
    return pl.when(several & (place <= 2)).then(place).cast(pl.Int64).alias("place")


def in_order(summary: pl.DataFrame, rows: Sequence[str]) -> pl.DataFrame:
    """Sort models by a given order, others after them; then references, chance and popularity first.

    Args:
        summary: Rows of `summarise`.
        rows: Labels of the models, in order.
    """
    turns, first = {name: turn for turn, name in enumerate(rows)}, {"chance": 0, "popularity": 1}
    keys = [
        (reference, (first if reference else turns).get(row, len(turns) + 2), row if reference else "")
        for row, reference in summary.select("row", "reference").iter_rows()
    ]
    return summary[sorted(range(len(keys)), key=keys.__getitem__)]  # stable


def result_table(summary: pl.DataFrame, metrics: Sequence[str], findings: Mapping[tuple[str, str], str]) -> Table:
    """Make the table of one data set: a row for each model, then references, a column for each metric.

    Args:
        summary: Rows of `summarise`, all of one data set.
        metrics: Columns, in order.
        findings: (row, metric) -> mark behind the number, such as a dagger.
    """
    return _pivoted(summary, "metric", metrics, findings)


def data_set_table(summary: pl.DataFrame, data_sets: Sequence[str], findings: Mapping[tuple[str, str], str]) -> Table:
    """Make the table of one metric: a row for each model, then references, a column for each data set.

    Args:
        summary: Rows of `summarise`, all of one metric.
        data_sets: Columns, in order.
        findings: (row, data set) -> mark behind the number.
    """
    return _pivoted(summary, "data_set", data_sets, findings)


def _pivoted(
    summary: pl.DataFrame, column: str, columns: Sequence[str], findings: Mapping[tuple[str, str], str]
) -> Table:
    """Make a table of `summary` with the values of a column as columns."""
    values = {(r["row"], r["reference"], r[column]): r for r in summary.iter_rows(named=True)}
    names = list(dict.fromkeys((row, reference) for row, reference, _ in values))
    rows = []
    for row, reference in sorted(names, key=lambda key: key[1]):  # stable: keeps the order of rows
        marks = ["" if reference else findings.get((row, name), "") for name in columns]
        of_row = [values.get((row, reference, name)) for name in columns]
        numbers = tuple(_table_cell(value, mark) for value, mark in zip(of_row, marks, strict=True))
        rows.append(Row(reference_label(row), numbers, "reference") if reference else Row(row, numbers))
    return Table(tuple(columns), tuple(rows))


def reference_label(name: str) -> str:
    """Return the label of a reference.

    >>> reference_label("oracle_both")
    '(oracle, both)'
    """
    return f"({name.replace('_', ', ')})"


def _table_cell(value: Mapping[str, Any] | None, mark: str) -> TableCell:
    """Make a table cell of a row of `summarise`."""
    if value is None:
        return TableCell(mark=mark)
    return TableCell(value["mean"], value["sd"], value["n_seeds"], value["place"], mark)


def cost_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Make the table of costs: mean seconds of each stage, peak memory of the largest process, and tokens.

    Args:
        records: Cells: `row`, `seconds` by stage, `peak_memory` in bytes or None, `metrics`.
    """
    counts = {key: words for key, words in TOKENS.items() if any(key in record["metrics"] for record in records)}
    stages = [stage for stage in STAGES if any(stage in record["seconds"] for record in records)]
    rows = []
    for row in dict.fromkeys(record["row"] for record in records):
        of_row = [record for record in records if record["row"] == row]
        times = [[r["seconds"][stage] for r in of_row if stage in r["seconds"]] for stage in (*stages, "total")]
        peaks = [record["peak_memory"] / 2**30 for record in of_row if record["peak_memory"] is not None]
        tokens = [[r["metrics"][key] / 1000 for r in of_row if key in r["metrics"]] for key in counts]
        peak = TableCell(max(peaks, default=None), digits=2)
        rows.append(Row(row, (TableCell(len(of_row), digits=0), *map(_mean, times), peak, *map(_mean, tokens))))
    columns = ("runs", *(f"{stage}, s" for stage in stages), "total, s", "peak memory, GiB", *counts.values())
    return Table(columns, tuple(rows))


def _mean(values: Sequence[float]) -> TableCell:
    """Make a table cell of the mean, without a number if there are no values."""
    return TableCell(sum(values) / len(values) if values else None, digits=1)
