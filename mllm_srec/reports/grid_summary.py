"""`summary.md` and `summary.csv` of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from mllm_srec.metrics.comparison import Compared
from mllm_srec.reports.comparison import FINDING
from mllm_srec.reports.grid import cost_table, markdown_table, wide_table

DAGGER = "†"


@dataclass(frozen=True)
class DataSetReport:
    """What is said of one data set.

    Attributes:
        name: Of the data set.
        about: How it was measured, in a few words.
        compared: Rows against the base, from `compare_with_first`; empty where nothing is compared.
        notes: Lines below the tables.
        records: Its cells: `row`, `seconds`, `peak_memory`.
    """

    name: str
    about: str
    compared: Sequence[Compared]
    notes: Sequence[str]
    records: Sequence[Mapping[str, Any]]


def summary_text(
    title: str, summary: pl.DataFrame, metrics: Sequence[str], reports: Sequence[DataSetReport], notes: Sequence[str]
) -> str:
    """The summary in Markdown.

    Args:
        title: Name of the grid.
        summary: From `summarise`.
        metrics: Columns of the tables.
        reports: One per data set.
        notes: Lines below the title, such as what is missing.
    """
    parts = [f"# {title}", _list(notes)]
    for report in reports:
        findings = {
            (row.run, row.metric): f" {DAGGER}"
            for row in report.compared
            if row.holm_p is not None and row.holm_p <= FINDING
        }
        table = wide_table(summary.filter(pl.col("data_set") == report.name), metrics, findings)
        parts += [f"## {report.name}", report.about, table, _legend(report)]
        if report.compared:
            base = report.compared[0].run
            parts += [f"### {report.name}: differences to {base}", _differences(report.compared)]
        parts += [_list(report.notes)]
        parts += [f"### {report.name}: cost", cost_table(report.records)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _legend(report: DataSetReport) -> str:
    text = "Mean ± standard deviation over seeds; **best**, *second*; rows in brackets are no models of the table."
    if not report.compared:
        return text
    metrics = dict.fromkeys(row.metric for row in report.compared)
    base = report.compared[0].run
    return f"{text} {DAGGER}: differs from {base} (Holm p at most {FINDING}; compared are {', '.join(metrics)})."


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _differences(compared: Sequence[Compared]) -> str:
    lines = [
        [
            row.run,
            row.metric,
            f"{row.difference.difference:+.4f}",
            f"{row.difference.low:+.4f} … {row.difference.high:+.4f}",
            f"{row.difference.p_value:.2g}",
            f"{row.holm_p:.2g}" + (f" {DAGGER}" if row.holm_p <= FINDING else ""),
        ]
        for row in compared
        if row.difference is not None and row.holm_p is not None
    ]
    return markdown_table(["", "metric", "difference", "95 % interval", "p", "Holm p"], lines)


def summary_rows(summary: pl.DataFrame, reports: Sequence[DataSetReport]) -> pl.DataFrame:
    """The summary with the differences to the base beside it, for CSV.

    Returns:
        Columns of `summarise`, and `base`, `difference`, `low`, `high`, `p_value`, `holm_p`, null where nothing was
        compared.
    """
    rows = [
        (report.name, row.run, False, row.metric, report.compared[0].run, d.difference, d.low, d.high, d.p_value, holm)
        for report in reports
        for row in report.compared
        if (d := row.difference) is not None and (holm := row.holm_p) is not None
    ]
    schema: dict[str, Any] = {
        **dict.fromkeys(("data_set", "row"), pl.String),
        **{"reference": pl.Boolean, "metric": pl.String, "base": pl.String},
        **dict.fromkeys(("difference", "low", "high", "p_value", "holm_p"), pl.Float64),
    }
    compared = pl.DataFrame(rows, schema=schema, orient="row")
    keys = ["data_set", "row", "reference", "metric"]
    return summary.join(compared, on=keys, how="left", maintain_order="left")
