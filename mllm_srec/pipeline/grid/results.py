"""Results of a grid: a JSON file per cell and one tidy table, in which all numbers were measured alike."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.files.atomic import write_whole, write_whole_text
from mllm_srec.pipeline.analysis.run_groups import RunGroup
from mllm_srec.pipeline.grid.plan import Cell
from mllm_srec.pipeline.grid.record import Attempt, read_attempts
from mllm_srec.pipeline.grid.settings import file_name
from mllm_srec.reports.tables.grid_about import AboutGrid
from mllm_srec.types import ConfigError, DataError

CELLS = "cells"
"""Folder of the JSON files of the cells."""

RESULTS = "results.parquet"

ABOUT = "grid.json"
"""An `AboutGrid`: what the grid was."""

SCHEMA = {
    "table": pl.String,
    "row": pl.String,
    "data_set": pl.String,
    "seed": pl.Int64,
    "metric": pl.String,
    "value": pl.Float64,
}
"""Columns of `results.parquet`: one row per number of `metrics.json`, whose keys are the metrics; null: undefined."""

CELL_KEYS = (
    *("table", "row", "data_set", "seed", "run", "config_hash", "row_hash", "candidates_hash"),
    *("code", "versions", "seconds", "peak_memory", "metrics"),
)
"""Keys that the file of a cell must have."""

CellRecord = dict[str, Any]


def cell_record(table: str, cell: Cell) -> CellRecord:
    """All that is known of a finished cell, as its JSON file holds it.

    Args:
        table: Name of the grid.
        cell: The cell.
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
    """What an attempt was run with: a commit, and whether the code differed from it."""
    commit = attempt["commit"]
    return "outside a repository" if commit is None else commit[:12] + (" with changes" if attempt["dirty"] else "")


def read_records(folder: Path) -> list[CellRecord]:
    """Cells of an earlier grid.

    Args:
        folder: Its `--output`.

    Raises:
        ConfigError: It holds no results of a grid.
        DataError: A file is damaged.
    """
    paths = sorted((folder / CELLS).glob("*.json"))
    if not paths:
        raise ConfigError(f"{folder} holds no results of a grid; give a folder that `grid --output` wrote")
    records = []
    for path in paths:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            records.append({**record, **{key: record[key] for key in CELL_KEYS}})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no cell of a grid ({error!r}); run its grid again") from error
    return records


def tidy(records: Sequence[CellRecord]) -> pl.DataFrame:
    """One row per cell and number, see `SCHEMA`."""
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
    """Look whether results of this grid may be written into a folder, before anything is run.

    Raises:
        ConfigError: It holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output: {folder} is a file; give a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        known = pl.read_parquet(folder / RESULTS, glob=False)["table"][0]
    except (OSError, pl.exceptions.PolarsError, IndexError) as error:
        raise ConfigError(f"output: {folder} holds something else than results of a grid; give another") from error
    if known != table:
        raise ConfigError(f"output: {folder} holds results of the grid {known!r}; give another for {table!r}")


def write_results(folder: Path, records: Sequence[CellRecord], about: AboutGrid) -> None:
    """Write the cells of a grid, each as JSON, the tidy table and `grid.json`; what was there before is replaced.

    Args:
        folder: From `check_output`.
        records: Cells of this grid and of merged ones, from `merge_records`; the first is one of this grid.
        about: The grid; rows, data sets and seeds of merged cells join it.

    Raises:
        DataError: The folder cannot be written.
    """
    names = {f"{'--'.join(file_name(part) for part in map(str, place(record)))}.json": record for record in records}
    about = about.joined(*([record[key] for record in records] for key in ("row", "data_set", "seed")))
    try:
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
        write_whole(tidy(records), folder / RESULTS)
        for name, record in names.items():
            write_whole_text(json.dumps(record, indent=2) + "\n", folder / CELLS / name)
        write_whole_text(json.dumps(asdict(about), indent=2) + "\n", folder / ABOUT)
        for path in (folder / CELLS).glob("*.json"):
            if path.name not in names:
                path.unlink()  # of a row, seed or data set that the grid has no longer
    except OSError as error:
        raise DataError(f"output: {folder} cannot be written ({error.strerror})") from error


def code_names(records: Sequence[CellRecord]) -> list[str]:
    """Return all code that cells were run with, each once."""
    return list(dict.fromkeys(name for record in records for name in record["code"]))


def random_weights(records: Sequence[CellRecord]) -> list[str]:
    """Lines that name rows whose model, or whose item features, come from weights that nobody pretrained."""
    models = [record["row"] for record in records if record["metrics"].get("test/random_backbone")]
    features = [r["row"] for r in records if "(random weights" in str(r["metrics"].get("test/item_features"))]
    named = (("models begun with", models), ("pictures and texts as vectors of", features))
    return [f"{what} random weights, so that nothing is known of their quality: {', '.join(dict.fromkeys(rows))}"
            for what, rows in named if rows]  # fmt: skip


def of_generated_shop(metrics: Mapping[str, Any]) -> bool:
    """Whether results are of a generated shop, whose truth is known: ceilings stand beside them, as nowhere else."""
    return any(re.match(r"test/reference/(oracle|reader)_", key) for key in metrics)


def place(record: CellRecord) -> tuple[str, str, int]:
    """Where a cell stands: data set, row and seed."""
    return record["data_set"], record["row"], record["seed"]


def grid_run_groups(folder: Path, data_set: str | None = None) -> tuple[list[RunGroup], list[str]]:
    """Rows of a grid on one data set as groups of run folders.

    Args:
        folder: Results of a grid, such as `experiments/results/table3`.
        data_set: Which of its data sets; None: the only one.

    Returns:
        A group per row with the seeds whose run folder is there, and a line for each one that is not: results travel
        with the repository, run folders do not.

    Raises:
        ConfigError: The folder holds no results, or not those of such a data set.
    """
    records = read_records(folder)
    names = sorted({str(record["data_set"]) for record in records})
    if (data_set is None and len(names) > 1) or (data_set is not None and data_set not in names):
        raise ConfigError(f"data_set: got {data_set!r}; {str(folder)!r} holds results of {', '.join(names)}; name one")
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
