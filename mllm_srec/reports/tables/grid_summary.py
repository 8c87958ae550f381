"""The content of `summary.md` and `summary.csv` of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from mllm_srec.metrics.comparison import FINDING, Compared
from mllm_srec.reports.tables.difference_words import one_family
from mllm_srec.reports.tables.grid import cost_table, result_table
from mllm_srec.reports.tables.table_text import markdown, markdown_escaped
from mllm_srec.reports.tables.tables import Row, Table, TableCell

DAGGER = "†"


@dataclass(frozen=True)
class DataSetReport:
    """The part of the summary about one data set.

    Attributes:
        name: Name of the data set.
        about: Short description of how it was measured.
        compared: Comparisons with the base, from `compare_with_first`; empty if nothing is compared.
        notes: Lines below the tables.
        records: Cells of the data set: `row`, `seconds`, `peak_memory`.
    """

    name: str
    about: str
    compared: Sequence[Compared]
    notes: Sequence[str]
    records: Sequence[Mapping[str, Any]]


def summary_text(
    title: str, summary: pl.DataFrame, metrics: Sequence[str], reports: Sequence[DataSetReport], notes: Sequence[str]
) -> str:
    """Write the summary in Markdown.

    Args:
        title: Name of the grid.
        summary: Result of `summarise`.
        metrics: Columns of the tables.
        reports: One report for each data set.
        notes: Lines below the title, such as missing cells.
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
            parts += [f"### {name}: differences to {base}", markdown(difference_table(differences(report)))]
        parts += [_list([markdown_escaped(note) for note in report.notes])]
        parts += [f"### {name}: cost", markdown(cost_table(report.records))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _legend(report: DataSetReport) -> str:
    """Return the line below a table that explains its marks."""
    text = "Mean ± standard deviation over seeds; **best**, *second*; rows in brackets are references, not models."
    if not report.compared:
        return text
    metrics = dict.fromkeys(row.metric for row in report.compared)
    base = markdown_escaped(report.compared[0].run)
    family = one_family(len({row.run for row in report.compared}) - 1, len(metrics))
    return (
        f"{text} {DAGGER}: differs from {base} (Holm p at most {FINDING}, {family}; compared are "
        f"{', '.join(metrics)}); what p does not account for is said below."
    )


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


@dataclass(frozen=True)
class Difference:
    """Difference of a row to the base of its table in one metric; a line of `summary.csv`.

    Attributes:
        data_set: Name of the data set.
        row: Label of the row.
        metric: Name of the metric, such as `ndcg@10`.
        base: Label of the row that it is compared with.
        difference: Mean over users of row - base.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p_value: P-value, see `metrics.significance.paired_bootstrap`.
        holm_p: P-value after Holm's correction over all differences of the data set.
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
        """Dagger if the difference is a finding, else empty."""
        return f" {DAGGER}" if self.holm_p <= FINDING else ""


def differences(report: DataSetReport) -> list[Difference]:
    """Return all differences to the base of a data set."""
    return [
        Difference(
            report.name, row.run, row.metric, report.compared[0].run,
            d.difference, d.low, d.high, d.p_value, holm, d.n_changed,
        )
        for row in report.compared
        if (d := row.difference) is not None and (holm := row.holm_p) is not None
    ]  # fmt: skip


def difference_table(shown: Sequence[Difference], means: Mapping[tuple[str, str], float] | None = None) -> Table:
    """Make a table of differences with intervals and p-values, in their order.

    Args:
        shown: Differences.
        means: (row, metric) -> mean; if given, a column shows the difference in % of the base's mean.
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
        for d in shown
    ]
    relative = () if means is None else ("%",)
    return Table(("metric", "difference", *relative, "95 % interval", "p", "Holm p"), tuple(rows), texts=1)


def relative_difference(difference: float, over: float | None) -> TableCell:
    """Return 100 difference / over, in %; `-` if `over` is not positive."""
    return (
        TableCell(text="-") if over is None or over <= 0 else TableCell(100 * difference / over, digits=2, signed=True)
    )


def summary_rows(summary: pl.DataFrame, reports: Sequence[DataSetReport]) -> pl.DataFrame:
    """Join the differences to the base to the summary, for CSV.

    Returns:
        Columns of `summarise`, and `base`, `difference`, `low`, `high`, `p_value`, `holm_p`, `n_changed`, null if
        nothing was compared.
    """
    rows = [asdict(difference) for report in reports for difference in differences(report)]
    schema: dict[str, Any] = {
        **dict.fromkeys(("data_set", "row", "metric", "base"), pl.String),
        **dict.fromkeys(("difference", "low", "high", "p_value", "holm_p"), pl.Float64),
        "n_changed": pl.Int64,
    }
    compared = pl.DataFrame(rows, schema=schema, orient="row").with_columns(reference=pl.lit(False))
    keys = ["data_set", "row", "reference", "metric"]
    return summary.join(compared, on=keys, how="left", maintain_order="left")
