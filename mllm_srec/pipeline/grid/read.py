"""Read and check a folder of grid results: numbers, comparisons, cells, and the description of the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import polars as pl

from mllm_srec.files.reading import read_json, read_table, read_whole
from mllm_srec.pipeline.grid.merge import check_measured_alike
from mllm_srec.pipeline.grid.results import ABOUT, RESULTS, SCHEMA, CellRecord, read_records, shown_metrics, tidy
from mllm_srec.pipeline.grid.settings import QUICK_SUFFIX
from mllm_srec.reports.tables.grid import in_order, summarise
from mllm_srec.reports.tables.grid_about import AboutGrid, parse_about
from mllm_srec.reports.tables.grid_summary import Difference
from mllm_srec.types import ConfigError, DataError

SUMMARY = "summary.csv"


@dataclass(frozen=True)
class GridFolder:
    """Results of a grid.

    Attributes:
        folder: The folder.
        about: Description of the grid.
        summary: Result of `summarise` for the shown metrics.
        differences: Comparisons of rows with their base, as the grid computed them from the values of every user.
        records: Cells, those of merged grids included.
        missing: A line for each row and data set that lacks results of a planned seed.
    """

    folder: Path
    about: AboutGrid
    summary: pl.DataFrame
    differences: tuple[Difference, ...]
    records: tuple[CellRecord, ...]
    missing: tuple[str, ...]


def read_grid(folder: Path) -> GridFolder:
    """Read a folder that `grid` wrote.

    Args:
        folder: Folder that `grid --output` wrote.

    Raises:
        ConfigError: It holds no results of a grid, or they were not measured alike.
        DataError: A file is damaged, contradicts another, or is of an earlier version.
    """
    results = _read_results(folder)
    records = read_records(folder)
    check_measured_alike(records)
    _check_cells(folder, results, records)
    written = _read_summary(folder, str(results["table"][0]))
    about = _read_about(folder, results)
    shown = shown_metrics(records, about.shown_metrics)
    if shown != about.shown_metrics:
        about = replace(about, report=replace(about.report, metrics=shown))
    try:
        summary = summarise(results, shown)
    except ValueError as error:
        raise DataError(f"{folder}: {error} Set `report.metrics` of the grid to some of these") from error
    summary = in_order(summary, about.rows)
    differences = _differences(folder, written, summary)
    return GridFolder(folder, about, summary, differences, tuple(records), _missing(about, results))


def _read_results(folder: Path) -> pl.DataFrame:
    """Read `results.parquet`."""
    path = folder / RESULTS
    if not path.is_file():
        raise ConfigError(
            f"RESULTS={str(folder)!r}: holds no {RESULTS}; give folders that `grid` wrote, such as "
            "experiments/results/table3, and finished runs with --runs"
        )
    table = read_table(path, "the table of results", "run the grid again")
    odd = [name for name, kind in SCHEMA.items() if table.schema.get(name) != kind]
    if odd or table.height == 0:
        what = f"lacks or mistypes {', '.join(odd)}" if odd else "is empty"
        raise DataError(f"{path}: {what}; run the grid again")
    return table


def _check_cells(folder: Path, results: pl.DataFrame, records: Sequence[CellRecord]) -> None:
    """Check that the files of the cells hold the numbers of `results.parquet`."""
    keys = ["data_set", "row", "seed", "metric"]
    both = results.join(tidy(records), on=keys, how="full", suffix="_cell", coalesce=True, nulls_equal=True)
    odd = both.filter(~pl.col("value").eq_missing(pl.col("value_cell")))
    if odd.height:
        place = ", ".join(map(str, odd.select("row", "data_set", "seed", "metric").row(0)))
        raise DataError(
            f"{folder}: {RESULTS} and the files of the cells contradict each other ({place}); run the grid again"
        )


def _read_about(folder: Path, results: pl.DataFrame) -> AboutGrid:
    """Read `grid.json`; rows, data sets and seeds that only the results have join its plan."""
    path = folder / ABOUT
    again = _again(str(results["table"][0]))
    if not path.is_file():
        raise DataError(f"{path}: missing, so the results are of an earlier version; {again}")
    content = read_json(path, "the description of the grid", again)
    about = read_whole(path, lambda file: parse_about(content), "the description of the grid", again)
    columns = (results[name].unique(maintain_order=True).to_list() for name in ("row", "data_set", "seed"))
    return about.joined(*columns)


def _again(table: str) -> str:
    """Return how to make results again."""
    name, quick = table.removesuffix(QUICK_SUFFIX), " --quick" if table.endswith(QUICK_SUFFIX) else ""
    return f"make them again with `python -m mllm_srec grid --config experiments/{name}.yaml{quick}`"


def _read_summary(folder: Path, table: str) -> pl.DataFrame:
    """Read `summary.csv`."""
    path = folder / SUMMARY
    if not path.is_file():
        raise DataError(f"{path}: missing; {_again(table)}")
    texts = dict.fromkeys(("data_set", "row", "metric", "base"), pl.String)  # a label may look like a number
    written = read_whole(
        path,
        lambda file: pl.read_csv(file, infer_schema_length=None, schema_overrides=texts, glob=False),
        "the summary of the grid",
        _again(table),
    )
    wanted = ("data_set", "row", "reference", "metric", "mean", *(field.name for field in fields(Difference)))
    if lacking := set(wanted) - set(written.columns):
        raise DataError(f"{path}: lacks the columns {', '.join(sorted(lacking))}; {_again(table)}")
    return written


def _missing(about: AboutGrid, results: pl.DataFrame) -> tuple[str, ...]:
    """Return a line for each planned row and data set that lacks results of a seed."""
    there = set(results.select("row", "data_set", "seed").unique().iter_rows())
    lines = []
    for data_set in about.data_sets:
        for row in about.rows:
            lacking = [seed for seed in about.seeds if (row, data_set.name, seed) not in there]
            if lacking:
                lines.append(f"{row} on {data_set.name}: no result of seed {', '.join(map(str, lacking))}")
    return tuple(lines)


# --- comparisons ------------------------------------------------------------------------------------------------------


def _differences(folder: Path, written: pl.DataFrame, summary: pl.DataFrame) -> tuple[Difference, ...]:
    """Return the comparisons of `summary.csv`, whose means must be those of `results.parquet`."""
    _check_means(folder, written, summary)
    compared = written.filter(pl.col("base").is_not_null()).select(field.name for field in fields(Difference))
    return tuple(Difference(*line) for line in compared.iter_rows())


def _check_means(folder: Path, written: pl.DataFrame, summary: pl.DataFrame) -> None:
    """Check that the means of `summary.csv` are those of `results.parquet`."""
    keys: Sequence[str] = ("data_set", "row", "reference", "metric")
    both = summary.join(written.select(*keys, "mean"), on=list(keys), how="inner")
    for line in both.iter_rows(named=True):
        if not math.isclose(line["mean"], line["mean_right"], rel_tol=0, abs_tol=1e-9):
            raise DataError(
                f"{folder / SUMMARY}: says {line['mean_right']} for {line['metric']} of {line['row']!r} on "
                f"{line['data_set']!r}, but {RESULTS} says {line['mean']}; they are of different grids. "
                "Run the grid again"
            )
