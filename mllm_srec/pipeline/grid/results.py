"""Results of a grid: a JSON file for each cell, a tidy table of all numbers, and a description of the grid."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.files.atomic import write_json, write_table
from mllm_srec.files.reading import read_object
from mllm_srec.pipeline.analysis.run_groups import RunGroup
from mllm_srec.pipeline.grid.plan import Cell
from mllm_srec.pipeline.grid.record import Attempt, read_attempts
from mllm_srec.pipeline.grid.settings import file_name
from mllm_srec.reports.tables.grid_about import AboutGrid
from mllm_srec.types import RERANKED_USER_AUC, USER_AUC, ConfigError, DataError

CELLS = "cells"
"""Folder of the JSON files of the cells."""

RESULTS = "results.parquet"

ABOUT = "grid.json"
"""File with the description of the grid, an `AboutGrid`."""

SCHEMA = {
    "table": pl.String,
    "row": pl.String,
    "data_set": pl.String,
    "seed": pl.Int64,
    "metric": pl.String,
    "value": pl.Float64,
}
"""Columns of `results.parquet`: a row for each number of `metrics.json`; null if it is undefined."""

CELL_KEYS = (
    *("table", "row", "data_set", "seed", "run", "config_hash", "row_hash", "candidates_hash"),
    *("code", "versions", "seconds", "peak_memory", "metrics"),
)
"""Keys that the file of a cell must have."""

CellRecord = dict[str, Any]


def cell_record(table: str, cell: Cell) -> CellRecord:
    """Return the content of the JSON file of a finished cell.

    Args:
        table: Name of the grid.
        cell: Finished cell.
    """
    metrics, attempts = cell.run.read_metrics(), read_attempts(cell)
    seconds: Counter[str] = Counter()
    for attempt in attempts:
        seconds.update(attempt["seconds"])
    peaks = [attempt["peak_memory"] for attempt in attempts if attempt["peak_memory"] is not None]
    last = attempts[-1]
    code = list(dict.fromkeys(_code(attempt) for attempt in attempts))
    return {
        "table": table,
        "row": cell.row,
        "data_set": cell.data_set,
        "seed": cell.seed,
        "run": str(cell.run.path),
        "log": str(cell.log),
        "command": f"python -m mllm_srec run {shlex.join(cell.command)}",
        "config_hash": cell.settings_hash,
        "row_hash": cell.row_hash,
        "candidates_hash": metrics.get("test/candidates_hash"),
        "commit": last["commit"],
        "dirty": last["dirty"],
        "code": code,
        "versions": last["versions"],
        "started": attempts[0]["started"],
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "peak_memory": max(peaks, default=None),
        "attempts": len(attempts),
        "attempts_without_cost": sum(not attempt["seconds"] for attempt in attempts),
        "metrics": metrics,
    }


def _code(attempt: Attempt) -> str:
    """Return the commit of an attempt, and if the code differed from it."""
    commit = attempt["commit"]
    return "outside a repository" if commit is None else commit[:12] + (" with changes" if attempt["dirty"] else "")


def read_records(folder: Path) -> list[CellRecord]:
    """Read the cells of a grid.

    Args:
        folder: Folder that `grid --output` wrote.

    Raises:
        ConfigError: It holds no results of a grid.
        DataError: A file is damaged, or lacks one of `CELL_KEYS`.
    """
    paths = sorted((folder / CELLS).glob("*.json"))
    if not paths:
        raise ConfigError(f"{folder}: holds no results of a grid; give a folder that `grid --output` wrote")
    records = []
    for path in paths:
        record = read_object(path, "a cell of the grid", "run its grid again", CELL_KEYS)
        if not isinstance(record["metrics"], dict):
            raise DataError(f"{path}: a cell of the grid cannot be read (metrics are no object); run its grid again")
        records.append(record)
    return records


def tidy(records: Sequence[CellRecord]) -> pl.DataFrame:
    """Return a table with a row for each number of each cell, see `SCHEMA`."""
    rows = [
        (record["table"], record["row"], record["data_set"], record["seed"], metric, value)
        for record in records
        for metric, value in record["metrics"].items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    ]
    numbers: Mapping[str, Any] = SCHEMA
    table = pl.DataFrame(rows, schema=numbers, orient="row", strict=False)
    known = table.group_by("metric").agg(pl.col("value").is_not_null().any().alias("number"))
    return table.join(known.filter("number"), on="metric", how="semi", maintain_order="left")


def check_output(folder: Path, table: str) -> None:
    """Check that results of a grid may be written into a folder, before anything is run.

    Args:
        folder: Folder, which need not exist.
        table: Name of the grid.

    Raises:
        ConfigError: The folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output={str(folder)!r}: is a file; give a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        there = pl.read_parquet(folder / RESULTS, glob=False)["table"][0]
    except (OSError, pl.exceptions.PolarsError, IndexError) as error:
        raise ConfigError(f"output={str(folder)!r}: holds other files than results of a grid; give another") from error
    if there != table:
        raise ConfigError(f"output={str(folder)!r}: holds results of the grid {there!r}; give another for {table!r}")


def write_results(folder: Path, records: Sequence[CellRecord], about: AboutGrid) -> None:
    """Write the JSON files of the cells, the tidy table and `grid.json`, in place of earlier results.

    Args:
        folder: Folder that passed `check_output`.
        records: Cells of this grid, then those of merged ones, from `merge_records`.
        about: Description of the grid; rows, data sets and seeds of merged cells join it.

    Raises:
        DataError: The folder cannot be written.
    """
    names = {f"{'--'.join(file_name(part) for part in map(str, place(record)))}.json": record for record in records}
    about = about.joined(*([record[key] for record in records] for key in ("row", "data_set", "seed")))
    try:
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
        write_table(tidy(records), folder / RESULTS)
        for name, record in names.items():
            write_json(record, folder / CELLS / name)
        write_json(asdict(about), folder / ABOUT)
        for path in (folder / CELLS).glob("*.json"):
            if path.name not in names:
                path.unlink()  # a row, seed or data set that is no longer in the grid
    except OSError as error:
        raise DataError(f"output={str(folder)!r}: cannot be written ({error.strerror}); give another folder") from error


def shown_metrics(records: Sequence[CellRecord], metrics: Sequence[str]) -> list[str]:
    """Return the columns of a table: the AUC within a list has another name in cells whose lists were reranked.

    Args:
        records: Cells of the table.
        metrics: Columns that were asked for.
    """
    there = [name for name in (USER_AUC, RERANKED_USER_AUC) if any(f"test/{name}" in r["metrics"] for r in records)]
    expanded = [name for metric in metrics for name in (there if metric == USER_AUC and there else [metric])]
    return list(dict.fromkeys(expanded))


def code_names(records: Sequence[CellRecord]) -> list[str]:
    """Return all code that cells were run with, each once."""
    return list(dict.fromkeys(name for record in records for name in record["code"]))


def random_weights(records: Sequence[CellRecord]) -> list[str]:
    """Return lines that name the rows whose model or item features come from weights without pretraining."""
    models = [record["row"] for record in records if record["metrics"].get("test/random_backbone")]
    features = [r["row"] for r in records if "(random weights" in str(r["metrics"].get("test/item_features"))]
    foreign = [record["row"] for record in records if record["metrics"].get("test/foreign_backbone")]
    named = (("models that start from", models), ("item features from", features))
    lines = [f"{what} random weights, whose quality is unknown: {', '.join(dict.fromkeys(rows))}"
             for what, rows in named if rows]  # fmt: skip
    if foreign:
        strangers = ", ".join(dict.fromkeys(foreign))
        lines.append(f"backbones that were made for other data and cannot know these: {strangers}")
    return lines


def other_information(records: Sequence[CellRecord]) -> list[str]:
    """Return lines that name the rows whose numbers rest on other information than those of the others."""
    lines = []
    later = [record["row"] for record in records if record["metrics"].get("test/learns_later_likes")]
    if later:
        lines.append(
            "rows that learned about each user from train likes after the test context, too, since the split is "
            f"random: {', '.join(dict.fromkeys(later))}; their ceiling, where the truth is known, is (hindsight, "
            "both), and not (reader, both)"
        )
    single: dict[str, list[str]] = {}
    for record in records:
        if why := record["metrics"].get("test/no_pairs"):
            single.setdefault(why, []).append(record["row"])
    lines += [f"{', '.join(dict.fromkeys(rows))}: {why}" for why, rows in single.items()]
    alike = max((record["metrics"].get("test/n_without_negatives") or 0 for record in records), default=0)
    if alike:
        lines.append(f"{alike} lists without negatives, in which every model scores 1, are left out")
    return lines


def of_generated_shop(metrics: Mapping[str, Any]) -> bool:
    """Return True if results are of a generated shop: only there the truth is known, so only there are ceilings."""
    return any(re.match(r"test/reference/(oracle|hindsight|reader|averaging|shuffled|recent)_", key) for key in metrics)


def place(record: CellRecord) -> tuple[str, str, int]:
    """Return data set, row and seed of a cell."""
    return record["data_set"], record["row"], record["seed"]


def grid_run_groups(folder: Path, data_set: str | None = None) -> tuple[list[RunGroup], list[str]]:
    """Return the rows of a grid on one data set as groups of run folders.

    Args:
        folder: Results of a grid, such as `experiments/results/table3`.
        data_set: Name of one of its data sets; None if there is only one.

    Returns:
        A group for each row with the seeds whose run folder exists, and a line for each missing one: results are part
        of the repository, run folders are not.

    Raises:
        ConfigError: The folder holds no results, or not those of such a data set.
    """
    records = read_records(folder)
    names = sorted({str(record["data_set"]) for record in records})
    if (data_set is None and len(names) > 1) or (data_set is not None and data_set not in names):
        raise ConfigError(f"data_set={data_set!r}: {str(folder)!r} holds results of {', '.join(names)}; name one")
    rows: dict[str, list[Path]] = {}
    missing = []
    for record in sorted(records, key=lambda record: (str(record["row"]), int(record["seed"]))):
        if record["data_set"] != (data_set or names[0]):
            continue
        run = Path(record["run"])
        if run.is_dir():
            rows.setdefault(str(record["row"]), []).append(run)
        else:
            missing.append(f"{record['row']}, seed {record['seed']}: its run folder {record['run']} is not here")
    return [RunGroup(row, tuple(runs)) for row, runs in rows.items()], missing
