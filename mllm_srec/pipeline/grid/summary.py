"""The summary of a grid: rows of each data set compared user by user, then written as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mllm_srec.files.atomic import write_text
from mllm_srec.pipeline.analysis.comparison import Comparison, compare_runs
from mllm_srec.pipeline.analysis.comparison import notes as comparison_notes
from mllm_srec.pipeline.analysis.run_groups import RunGroup
from mllm_srec.pipeline.grid.results import (
    CellRecord,
    code_names,
    of_generated_shop,
    other_information,
    random_weights,
    shown_metrics,
    tidy,
)
from mllm_srec.reports.tables.grid import result_table, summarise
from mllm_srec.reports.tables.grid_about import Significance
from mllm_srec.reports.tables.grid_summary import DataSetReport, summary_rows, summary_text
from mllm_srec.reports.tables.table_text import markdown, markdown_escaped
from mllm_srec.types import ConfigError, DataError


def write_summary(
    folder: Path,
    title: str,
    records: Sequence[CellRecord],
    metrics: Sequence[str],
    significance: Significance,
    missing: Sequence[str] = (),
) -> None:
    """Write `summary.md` and `summary.csv`.

    Args:
        folder: Folder of the results.
        title: Name of the grid.
        records: Cells, from `merge_records`.
        metrics: Columns of the tables.
        significance: How rows are compared, and with which.
        missing: A line for each cell that failed.

    Raises:
        ConfigError: A metric is unknown, or runs cannot be compared.
        DataError: A run is damaged, or the folder cannot be written.
    """
    metrics, compared = (shown_metrics(records, names) for names in (metrics, significance.metrics))
    beside = [metric for metric in compared if metric not in metrics]  # compared, but not shown
    try:
        summary = summarise(tidy(records), [*metrics, *beside])
    except ValueError as error:
        raise ConfigError(str(error)) from error
    reports = [
        _report(name, [record for record in records if record["data_set"] == name], significance)
        for name in dict.fromkeys(record["data_set"] for record in records)
    ]
    lines = [*_about_code(records), *(f"missing: {markdown_escaped(line)}" for line in missing)]
    try:
        write_text(summary_text(title, summary, metrics, reports, lines), folder / "summary.md")
        summary_rows(summary, reports).write_csv(folder / "summary.csv")
    except OSError as error:
        raise DataError(f"output={str(folder)!r}: cannot be written ({error.strerror}); give another folder") from error


def means_text(records: Sequence[CellRecord], metrics: Sequence[str]) -> str:
    """Return the means of some cells in Markdown, a table for each data set, without any comparison.

    Args:
        records: Cells.
        metrics: Columns of the tables.

    Raises:
        ConfigError: A metric is unknown.
    """
    shown = shown_metrics(records, metrics)
    try:
        summary = summarise(tidy(records), shown)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    tables = {name: result_table(of, shown, {}) for (name,), of in summary.group_by("data_set", maintain_order=True)}
    return "\n\n".join(f"## {markdown_escaped(str(name))}\n\n{markdown(table)}" for name, table in tables.items())


def _report(name: str, records: Sequence[CellRecord], significance: Significance) -> DataSetReport:
    """Compare the rows of a data set, and describe how it was measured."""
    compared = compare_rows(records, significance)
    first = records[0]["metrics"]
    about = (
        f"{first.get('test/evaluator')}, ties {first.get('test/ties')}, {first.get('test/n_users')} users, "
        f"candidates {str(records[0]['candidates_hash'])[:12]}; "
        f"{len(dict.fromkeys(record['row'] for record in records))} rows, seeds {_seeds(records)}"
    )
    lines = comparison_notes(compared) if compared else [f"nothing is compared: base {significance.base!r}"]
    lines += [*random_weights(records), *other_information(records)]
    if of_generated_shop(first):
        lines.append("this is a generated shop: users, items and tastes are invented, and the truth is known")
    return DataSetReport(name, about, compared.rows if compared else (), lines, records)


def _seeds(records: Sequence[CellRecord]) -> str:
    """Return the seeds of all rows, and which rows have fewer."""
    seeds = sorted({record["seed"] for record in records})
    rows = dict.fromkeys(record["row"] for record in records)
    counts = {row: sum(record["row"] == row for record in records) for row in rows}
    fewer = [f"{row!r} only {n} of {len(seeds)}" for row, n in counts.items() if n < len(seeds)]
    return ", ".join(map(str, seeds)) + (f" ({'; '.join(fewer)})" if fewer else "")


def compare_rows(records: Sequence[CellRecord], significance: Significance) -> Comparison | None:
    """Compare the rows of a data set with the base, seeds averaged within each user.

    Args:
        records: Cells of the data set.
        significance: Base and metrics.

    Returns:
        None if there is nothing to compare: one row, no metrics, or no finished cell of the base.

    Raises:
        ConfigError: Runs cannot be compared.
        DataError: A run's file is damaged.
    """
    rows = list(dict.fromkeys(record["row"] for record in records))
    if len(rows) < 2 or not significance.metrics:
        return None
    base = _base(rows, records, significance)
    if base not in rows:
        return None
    groups = [
        RunGroup(row, tuple(Path(record["run"]) for record in records if record["row"] == row))
        for row in sorted(rows, key=lambda row: row != base)  # stable: the base first, then the others in their order
    ]
    return compare_runs(
        groups, significance.metrics, "test", significance.n_resamples, significance.seed, significance.resample
    )


def _base(rows: Sequence[str], records: Sequence[CellRecord], significance: Significance) -> str:
    """Return the label of the row that the others are compared with."""
    if significance.base == "first":
        return rows[0]
    if significance.base != "best":
        return significance.base
    metric = f"test/{significance.metrics[0]}"
    return max(rows, key=lambda row: _mean([r["metrics"].get(metric) for r in records if r["row"] == row]))


def _mean(values: Sequence[float | None]) -> float:
    """Return the mean of the values that exist; minus infinity without any."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else float("-inf")


def _about_code(records: Sequence[CellRecord]) -> list[str]:
    """Return a line with the commits of the cells, which says if they differ."""
    names = code_names(records)
    return [f"code: {', '.join(names)}" + ("; cells were run with different code" if len(names) > 1 else "")]
