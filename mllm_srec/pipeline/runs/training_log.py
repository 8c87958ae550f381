"""Training logs of runs: the curves of loss and validation metric, read from run folders that still exist."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mllm_srec.files.reading import read_whole
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.reports.figures.training_charts import Curve, TrainingLog

LOSS = "train/loss"
"""Logged column of the training loss."""

VALIDATION = ("val/auc", "val/ndcg@10")
"""Logged columns of validation metrics; the first that exists is drawn."""


def training_log(run: Path, row: str, seed: int | None) -> TrainingLog | None:
    """Read the loss and validation metric of a run from the logs of all its `fit` commands.

    In a run that was killed and resumed, a step counts once, with the value of the later log.

    Args:
        run: Run folder.
        row: Row of the table, or name of the run.
        seed: Seed of the run.

    Returns:
        The curves; None if nothing was trained or the folder is gone.

    Raises:
        DataError: A log is damaged.
    """
    tables = [_read(path) for path in _logs(run)]
    loss = _merged(tables, LOSS)
    validations = [(curve, name) for name in VALIDATION if (curve := _merged(tables, name)).steps]
    if not loss.steps and not validations:
        return None
    validation, metric = validations[0] if validations else (Curve((), ()), "")
    return TrainingLog(row, seed, loss, validation, metric)


def _logs(run: Path) -> list[Path]:
    """List the logs of `fit`, earliest first."""
    paths = RunFolder(run).logs.glob("*-fit/metrics.csv")
    numbered = [(path.parent.name.partition("-")[0], path) for path in paths]
    return [path for _, path in sorted((int(number), path) for number, path in numbered if number.isdecimal())]


def _read(path: Path) -> pl.DataFrame:
    if not path.stat().st_size:
        return pl.DataFrame({"step": []})  # killed before the first line
    return read_whole(path, _table, "the training log", "delete or repair it: only its curve is lost")


def _table(path: Path) -> pl.DataFrame:
    """Read a log, and try its numbers."""
    table = pl.read_csv(path, infer_schema_length=None, glob=False)
    if "step" not in table.columns:
        raise ValueError("it has no column step")
    known = [name for name in (LOSS, *VALIDATION) if name in table.columns]
    table.select(pl.col("step").cast(pl.Int64), *(pl.col(name).cast(pl.Float64) for name in known))
    return table


def _merged(tables: list[pl.DataFrame], column: str) -> Curve:
    points: dict[int, float] = {}
    for table in tables:
        if column in table.columns:
            logged = table.select(pl.col("step").cast(pl.Int64), pl.col(column).cast(pl.Float64)).drop_nulls()
            points |= dict(logged.iter_rows())
    steps = tuple(sorted(points))
    return Curve(steps, tuple(points[step] for step in steps))
