"""`summary.md` and `summary.csv` of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from mllm_srec.metrics.comparison import Compared
from mllm_srec.reports.tables.grid import cost_table, result_table
from mllm_srec.reports.tables.table_text import markdown, markdown_escaped
from mllm_srec.reports.tables.tables import Row, Table, TableCell
from mllm_srec.reports.terminal.comparison import FINDING

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
    parts = [f"# {markdown_escaped(title)}", _list(notes)]
    for report in reports:
        findings = {
            (row.run, row.metric): f" {DAGGER}"
            for row in report.compared
            if row.holm_p is not None and row.holm_p <= FINDING
        }
        table = result_table(summary.filter(pl.col("data_set") == report.name), metrics, findings)
        name = markdown_escaped(report.name)
        parts += [f"## {name}", markdown_escaped(report.about), markdown(table), _legend(report)]
        if report.compared:
            base = markdown_escaped(report.compared[0].run)
            found = markdown(difference_table(differences(report)))
            parts += [f"### {name}: differences to {base}", found]
        parts += [_list([markdown_escaped(note) for note in report.notes])]
        parts += [f"### {name}: cost", markdown(cost_table(report.records))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _legend(report: DataSetReport) -> str:
    text = "Mean ± standard deviation over seeds; **best**, *second*; rows in brackets are no models of the table."
    if not report.compared:
        return text
    metrics = dict.fromkeys(row.metric for row in report.compared)
    base = markdown_escaped(report.compared[0].run)
    return f"{text} {DAGGER}: differs from {base} (Holm p at most {FINDING}; compared are {', '.join(metrics)})."


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


@dataclass(frozen=True)
class Difference:
    """One row against the base of its table, under one metric; a line of `summary.csv`.

    Attributes:
        data_set: Where both were measured.
        row: The row.
        metric: Such as `ndcg@10`.
        base: The row that it is compared with.
        difference: Mean over users of row - base.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p_value: Of the paired bootstrap.
        holm_p: Corrected over all differences of the data set.
        n_changed: Number of users whose values differ at all.
    """

    data_set: str
    row: str
    metric: str
    base: str
    difference: float
    low: float
    high: float
    p_value: float
    holm_p: float
    n_changed: int

    @property
    def mark(self) -> str:
        """A dagger where the difference is a finding."""
        return f" {DAGGER}" if self.holm_p <= FINDING else ""


def differences(report: DataSetReport) -> list[Difference]:
    """What was compared with the base of a data set."""
    return [
        Difference(
            report.name, row.run, row.metric, report.compared[0].run,
            d.difference, d.low, d.high, d.p_value, holm, d.n_changed,
        )
        for row in report.compared
        if (d := row.difference) is not None and (holm := row.holm_p) is not None
    ]  # fmt: skip


def difference_table(found: Sequence[Difference], means: Mapping[tuple[str, str], float] | None = None) -> Table:
    """Differences with intervals and p-values, in the order in which they are given.

    Args:
        found: The differences.
        means: (row, metric) -> mean; where given, a column has the difference in % of the base's mean.
    """
    rows = [
        Row(
            d.row,
            (
                TableCell(text=d.metric),
                TableCell(d.difference, signed=True),
                *(() if means is None else (relative_difference(d.difference, means.get((d.base, d.metric))),)),
                TableCell(text=f"{d.low:+.4f} … {d.high:+.4f}"),
                TableCell(text=f"{d.p_value:.2g}"),
                TableCell(text=f"{d.holm_p:.2g}", mark=d.mark),
            ),
        )
        for d in found
    ]
    relative = () if means is None else ("%",)
    return Table(("metric", "difference", *relative, "95 % interval", "p", "Holm p"), tuple(rows), texts=1)


def relative_difference(difference: float, over: float | None) -> TableCell:
    """100 difference / over, as a cell in %; empty where that is undefined."""
    return (
        TableCell(text="-") if over is None or over <= 0 else TableCell(100 * difference / over, digits=2, signed=True)
    )


def summary_rows(summary: pl.DataFrame, reports: Sequence[DataSetReport]) -> pl.DataFrame:
    """The summary with the differences to the base beside it, for CSV.

    Returns:
        Columns of `summarise`, and `base`, `difference`, `low`, `high`, `p_value`, `holm_p`, `n_changed`, null where
        nothing was compared.
    """
    rows = [asdict(found) for report in reports for found in differences(report)]
    schema: dict[str, Any] = {
        **dict.fromkeys(("data_set", "row", "metric", "base"), pl.String),
        **dict.fromkeys(("difference", "low", "high", "p_value", "holm_p"), pl.Float64),
        "n_changed": pl.Int64,
    }
    compared = pl.DataFrame(rows, schema=schema, orient="row").with_columns(reference=pl.lit(False))
    keys = ["data_set", "row", "reference", "metric"]
    return summary.join(compared, on=keys, how="left", maintain_order="left")
