"""Tables of a grid: means over seeds, the best of each column, what results are compared with, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

DIGITS = 4
"""Decimals of means and deviations; what is written alike is ranked alike."""

STAGES = ("prepare", "summarize", "fit", "test")
"""Stages of `run` whose cost is shown."""

REFERENCE = r"^test/reference/([^/]+)/(.+)$"
"""Keys of the rows that results are compared with: chance, popularity, ceilings."""


def summarise(results: pl.DataFrame, metrics: Sequence[str]) -> pl.DataFrame:
    """Mean and standard deviation over seeds of every row, data set and metric of the test split.

    Args:
        results: Columns `row`, `data_set`, `seed`, `metric`, `value`; the order of rows is kept.
        metrics: Metrics wanted, such as `ndcg@10`.

    Returns:
        `data_set`, `row`, `reference` (whether the row is one that results are compared with), `metric`, `mean`, `sd`
        (n - 1; null for one seed), `n_seeds`, and `place`: 1 for the best of the rows that are no reference, 2 for the
        second, null for all others.

    Raises:
        ValueError: No result has one of the metrics.
    """
    named = results.with_columns(
        metric=pl.col("metric").str.replace(REFERENCE, "test/$2"),
        row=pl.coalesce(pl.col("metric").str.extract(REFERENCE, 1), "row"),
        reference=pl.col("metric").str.contains(REFERENCE),
    ).filter(pl.col("metric").is_in([f"test/{name}" for name in metrics]) & pl.col("value").is_not_null())
    named = named.with_columns(pl.col("metric").str.strip_prefix("test/"))
    unknown = [name for name in metrics if name not in named["metric"]]
    if unknown:
        known = sorted({key.removeprefix("test/") for key in results["metric"] if key.count("/") == 1})
        raise ValueError(f"metrics: no result has {', '.join(unknown)}; there are {', '.join(known)}.")
    keys = ["data_set", "row", "reference", "metric"]
    # A reference is the same in all cells, so neither spread nor seeds say anything of it.
    spread = pl.when(~pl.col("reference").first()).then(pl.col("value").std())
    summary = named.group_by(keys, maintain_order=True).agg(
        mean=pl.col("value").mean(),
        sd=spread,
        n_seeds=pl.when(~pl.col("reference").first()).then(pl.len()),
    )
    return summary.with_columns(_place()).sort("reference", maintain_order=True)


def _place() -> pl.Expr:
    """1 and 2 for the best and second of a column's models; a shared first place leaves no second."""
    shown = pl.when(~pl.col("reference")).then(pl.col("mean").round(DIGITS))
    over = ["data_set", "metric"]
    place = shown.rank("min", descending=True).over(over)
    several = shown.count().over(over) > 1
    return pl.when(several & (place <= 2)).then(place).cast(pl.Int64).alias("place")


def wide_table(summary: pl.DataFrame, metrics: Sequence[str], findings: Mapping[tuple[str, str], str]) -> str:
    """Rows of one data set as a Markdown table, references last; the best bold, the second in italics.

    Args:
        summary: Rows of `summarise`.
        metrics: Columns, in order.
        findings: (row, metric) -> what is put behind the number, such as a dagger.
    """
    cells = {(r["row"], r["reference"], r["metric"]): r for r in summary.iter_rows(named=True)}
    rows = list(dict.fromkeys((row, reference) for row, reference, _ in cells))
    lines = []
    for row, reference in sorted(rows, key=lambda key: key[1]):  # stable: keeps the order of rows
        shown = [cells.get((row, reference, metric)) for metric in metrics]
        marks = ["" if reference else findings.get((row, metric), "") for metric in metrics]
        name = f"({row.replace('_', ', ')})" if reference else row
        lines.append([name, *(_number(cell) + mark for cell, mark in zip(shown, marks, strict=True))])
    return markdown_table(["", *metrics], lines)


def _number(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "-"
    text = f"{cell['mean']:.{DIGITS}f}" + ("" if cell["sd"] is None else f" ± {cell['sd']:.{DIGITS}f}")
    return {1: f"**{text}**", 2: f"*{text}*"}.get(cell["place"], text)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left, all others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """A text as one cell."""
    return " ".join(text.split()).replace("|", "\\|")


def cost_table(records: Sequence[Mapping[str, Any]]) -> str:
    """What cells cost, as a Markdown table: mean seconds of each stage and the largest process of all.

    Args:
        records: `row`, `seconds` by stage, `peak_memory` in bytes or None.
    """
    stages = [stage for stage in STAGES if any(stage in record["seconds"] for record in records)]
    lines = []
    for row in dict.fromkeys(record["row"] for record in records):
        of_row = [record for record in records if record["row"] == row]
        times = [[r["seconds"][stage] for r in of_row if stage in r["seconds"]] for stage in (*stages, "total")]
        peaks = [record["peak_memory"] for record in of_row if record["peak_memory"] is not None]
        peak = f"{max(peaks) / 2**30:.2f}" if peaks else "-"
        lines.append([row, str(len(of_row)), *map(_mean, times), peak])
    return markdown_table(["", "runs", *(f"{stage}, s" for stage in stages), "total, s", "peak memory, GiB"], lines)


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.1f}" if values else "-"
