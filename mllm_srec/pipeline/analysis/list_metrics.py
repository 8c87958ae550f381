"""Metrics of every rank list of a finished run, read and checked, on which paired comparisons are based."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.files.reading import read_table
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import USER_AUC, ConfigError, DataError, Split, did_you_mean, user_auc_name

KEYS = {"group_id": pl.Int64, "user_id": pl.String}
"""Columns that identify a rank list; every other column is a metric."""

COMMANDS: dict[Split, str] = {"test": "test", "val": "validate"}
"""Splits with rank lists -> the command that measures them."""

_TOLERANCE = 1e-5  # results are logged in float32, which rounds a mean in [0, 1] by less than this


def check_split(split: str) -> None:
    """Refuse a split without rank lists.

    Raises:
        ConfigError: `split` is neither `test` nor `val`.
    """
    if split not in COMMANDS:
        raise ConfigError(f"split={split!r}: has no rank lists; accepted are {', '.join(COMMANDS)}")


def as_measured(metrics: Sequence[str], results: Mapping[str, Any]) -> list[str]:
    """Return the names of metrics under the evaluator of a run: that of the AUC within a list depends on it.

    Args:
        metrics: Names, such as `user_auc`.
        results: Results of `read_results`.
    """
    return [user_auc_name(results.get("evaluator")) if name == USER_AUC else name for name in metrics]


def read_results(folder: Path, split: Split) -> dict[str, Any]:
    """Read the results of a split from `metrics.json`, without the split's name in their keys.

    Args:
        folder: Run folder.
        split: `test` or `val`.

    Raises:
        ConfigError: The folder is not a run folder, or holds no results of the split.
        DataError: The file cannot be read.
    """
    run = RunFolder(folder)
    if not run.metrics.is_file():
        reason = "it holds no metrics.json" if folder.is_dir() else "there is no such folder"
        raise ConfigError(
            f"run={str(folder)!r}: is not a finished run ({reason}); give folders that `fit` and `test` wrote, such as "
            "runs/demo/lora, and seeds of one variant as NAME=RUN,RUN,..."
        )
    stored = run.read_metrics()
    results = {key.removeprefix(f"{split}/"): value for key, value in stored.items() if key.startswith(f"{split}/")}
    auc = user_auc_name(results.get("evaluator"))
    if USER_AUC in results:  # in runs of earlier versions, whatever was ranked
        results[auc] = results.pop(USER_AUC)
    if not results:
        raise ConfigError(
            f"run={str(folder)!r}: holds no {split} results; run `python -m mllm_srec {COMMANDS[split]}` with its "
            "checkpoint"
        )
    return results


def read_lists(folder: Path, split: Split, metrics: Sequence[str], results: Mapping[str, Any]) -> pl.DataFrame:
    """Read the metrics of every rank list of a run, sorted by `group_id`.

    Args:
        folder: Run folder.
        split: `test` or `val`.
        metrics: Columns to read, such as `ndcg@10`.
        results: Results of `read_results`. The mean of each column must be the one stated there, else the file belongs
            to another measurement than the protocol beside it.

    Returns:
        `group_id`, `user_id` and a float64 column per metric, null if a list has no value. The AUC within reranked
        lists has its own name also in runs of earlier versions.

    Raises:
        ConfigError: The file or a metric is missing.
        DataError: The file cannot be read, or its content contradicts itself or `results`.
    """
    path = RunFolder(folder).predictions / f"{split}_users.parquet"
    table = _read(path, split)
    if USER_AUC in table.columns:
        table = table.rename({USER_AUC: user_auc_name(results.get("evaluator"))})
    _check_columns(path, table, metrics)
    table = table.select(*KEYS, *(pl.col(name).cast(pl.Float64).fill_nan(None) for name in metrics)).sort("group_id")
    if table.height == 0:
        raise DataError(f"{str(path)!r}: holds no rank lists; measure the run again")
    if table["group_id"].null_count() or table["user_id"].null_count() or table["group_id"].n_unique() < table.height:
        raise DataError(f"{str(path)!r}: group_id or user_id is null, or group_id not unique; measure the run again")
    for name in metrics:
        _check_metric(path, table[name], results)
    return table


def _read(path: Path, split: Split) -> pl.DataFrame:
    if not path.is_file():
        raise ConfigError(
            f"{str(path)!r}: the metrics of every user are missing; measure the run again with "
            f"`python -m mllm_srec {COMMANDS[split]}` (versions before `compare` did not write them)"
        )
    return read_table(path, "the table of every user's metrics", "measure the run again")


def _check_columns(path: Path, table: pl.DataFrame, metrics: Sequence[str]) -> None:
    for name, dtype in KEYS.items():
        if table.schema.get(name) != dtype:
            raise DataError(
                f"{str(path)!r}: column {name} is {table.schema.get(name)}, not {dtype}; measure the run again"
            )
    stored = [name for name in table.columns if name not in KEYS]
    for name in metrics:
        if name not in stored:
            pairs = "auc and auc_disliked are computed over the pairs of all users together, not per user. "
            raise ConfigError(
                f"metrics={name!r}: is not in {str(path)!r}{did_you_mean(name, stored) or '.'} "
                f"{pairs if name.startswith('auc') else ''}Accepted are {', '.join(stored)}"
            )
        if not table.schema[name].is_numeric():
            raise DataError(f"{str(path)!r}: column {name} is {table.schema[name]}, not numbers; measure the run again")


def _check_metric(path: Path, values: pl.Series, results: Mapping[str, Any]) -> None:
    """Refuse infinite values, and a mean that contradicts the run's results."""
    defined = values.drop_nulls()
    if not defined.is_finite().all():
        raise DataError(f"{str(path)!r}: {values.name} holds an infinite value; measure the run again")
    if values.name not in results:
        return
    stated, mean = results[values.name], defined.mean()
    agree = stated is None and mean is None
    if isinstance(stated, int | float) and isinstance(mean, float):
        agree = math.isclose(stated, mean, rel_tol=0, abs_tol=_TOLERANCE)
    if not agree:
        raise DataError(
            f"{str(path)!r}: the mean of {values.name} is {json.dumps(mean)}, but metrics.json of the run says "
            f"{json.dumps(stated)}, so they are of different measurements; measure the run again"
        )


def check_same_lists(first: tuple[Path, pl.DataFrame], other: tuple[Path, pl.DataFrame]) -> None:
    """Refuse runs that ranked different lists, or of which only one has a value for some list.

    Args:
        first: Run folder and its table of `read_lists`.
        other: Run folder and table of another run, with the same metrics.

    Raises:
        ConfigError: The lists differ; their number and the first one are named.
    """
    (name, table), (other_name, other_table) = first, other
    runs = f"{str(name)!r} and {str(other_name)!r}"
    for here, there, lacking in ((table, other_table, other_name), (other_table, table, name)):
        missing = here.join(there, on=list(KEYS), how="anti")
        if missing.height:
            group, user = missing.row(0)[:2]
            raise ConfigError(
                f"{runs}: did not rank the same lists, {str(lacking)!r} lacks {missing.height} of {here.height}, the "
                f"first is group {group} of user {user!r}; measure both on the same data and candidates"
            )
    for metric in table.columns[len(KEYS) :]:
        odd = table.filter(table[metric].is_null() != other_table[metric].is_null())
        if odd.height:
            group, user = odd.row(0)[:2]
            lacking = name if odd[metric].is_null()[0] else other_name
            raise ConfigError(
                f"{runs}: {metric} of {odd.height} lists has a value in only one of them, the first is group {group} "
                f"of user {user!r}, without one in {str(lacking)!r}, so their labels must differ; measure both on the "
                "same data"
            )


def by_user(lists: pl.DataFrame) -> pl.DataFrame:
    """Average the lists of each user, sorted by `user_id`; null if none of the lists has a value."""
    return lists.group_by("user_id").agg(pl.exclude("group_id").mean()).sort("user_id")
