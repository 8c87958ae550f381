"""Metrics of every rank list of a finished run, read and checked: the material of paired comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import ConfigError, DataError, Split, did_you_mean

KEYS = {"group_id": pl.Int64, "user_id": pl.String}
"""Columns that name a rank list; every other column is a metric."""

COMMANDS: dict[Split, str] = {"test": "test", "val": "validate"}
"""Splits that have rank lists, and what measures them."""

_LOGGED = 1e-5  # what float32, in which results are logged, may take from a mean in [0, 1], and more


def read_results(folder: Path, split: Split) -> dict[str, Any]:
    """What `metrics.json` says of a split, the split's name left out of its keys.

    Args:
        folder: Run folder.
        split: `test` or `val`.

    Raises:
        ConfigError: There is no run folder, or it holds no results of the split.
        DataError: The file cannot be read.
    """
    run = RunFolder(folder)
    if not run.metrics.is_file():
        reason = "it holds no metrics.json" if folder.is_dir() else "there is no such folder"
        raise ConfigError(
            f"RUN: {str(folder)!r} is no finished run ({reason}); give folders that `fit` and `test` wrote, such as "
            "runs/demo/lora, and seeds of one thing as name=run1,run2"
        )
    try:
        stored = run.read_metrics()
    except (ValueError, OSError) as error:  # no JSON, letters that are none, no permission
        raise DataError(f"{str(run.metrics)!r} cannot be read as JSON ({error}); measure the run again") from error
    if not isinstance(stored, dict):
        raise DataError(
            f"{str(run.metrics)!r} holds {type(stored).__name__}, not results by name; measure the run again"
        )
    results = {key.removeprefix(f"{split}/"): value for key, value in stored.items() if key.startswith(f"{split}/")}
    if not results:
        raise ConfigError(
            f"{str(folder)!r} holds no {split} results; run `python -m mllm_srec {COMMANDS[split]}` with its checkpoint"
        )
    return results


def read_lists(folder: Path, split: Split, metrics: Sequence[str], results: Mapping[str, Any]) -> pl.DataFrame:
    """Values of every rank list of a run, one row each, by `group_id`.

    Args:
        folder: Run folder.
        split: `test` or `val`.
        metrics: Columns wanted, such as `ndcg@10`.
        results: From `read_results`: the mean of each column must be what stands there, else the file is of another
            measurement than the protocol beside it.

    Returns:
        `group_id`, `user_id` and a float64 column for each metric, null where a list has no value.

    Raises:
        ConfigError: The file is missing, or has no such metric.
        DataError: The file cannot be read, or its content contradicts itself or `results`.
    """
    path = RunFolder(folder).predictions / f"{split}_users.parquet"
    table = _read(path, split)
    _check_columns(path, table, metrics)
    table = table.select(*KEYS, *(pl.col(name).cast(pl.Float64).fill_nan(None) for name in metrics)).sort("group_id")
    if table.height == 0:
        raise DataError(f"{str(path)!r} holds no rank lists; measure the run again")
    if table["group_id"].null_count() or table["user_id"].null_count() or table["group_id"].n_unique() < table.height:
        raise DataError(f"{str(path)!r}: group_id and user_id must be known and group_id unique; measure the run again")
    for name in metrics:
        _check_metric(path, table[name], results)
    return table


def _read(path: Path, split: Split) -> pl.DataFrame:
    if not path.is_file():
        raise ConfigError(
            f"{str(path)!r} is missing, the values of every user; measure the run again with "
            f"`python -m mllm_srec {COMMANDS[split]}` (versions before `compare` did not write it)"
        )
    try:
        return pl.read_parquet(path, glob=False)  # a run may be called [a]
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{str(path)!r} cannot be read as Parquet ({error}); measure the run again") from error


def _check_columns(path: Path, table: pl.DataFrame, metrics: Sequence[str]) -> None:
    for name, dtype in KEYS.items():
        if table.schema.get(name) != dtype:
            raise DataError(
                f"{str(path)!r}: column {name} is {table.schema.get(name)}, not {dtype}; measure the run again"
            )
    there = [name for name in table.columns if name not in KEYS]
    for name in metrics:
        if name not in there:
            pairs = "auc and auc_disliked are over pairs of all users, so no user has a value of its own. "
            raise ConfigError(
                f"metrics: {name!r} is not in {str(path)!r}{did_you_mean(name, there) or '.'} "
                f"{pairs if name.startswith('auc') else ''}"
                f"Accepted are {', '.join(there)}"
            )
        if not table.schema[name].is_numeric():
            raise DataError(f"{str(path)!r}: column {name} is {table.schema[name]}, not numbers; measure the run again")


def _check_metric(path: Path, values: pl.Series, results: Mapping[str, Any]) -> None:
    """Refuse infinite values, and a mean that is not what the run's results say."""
    known = values.drop_nulls()
    if not known.is_finite().all():
        raise DataError(f"{str(path)!r}: {values.name} holds an infinite value; measure the run again")
    if values.name not in results:
        return
    stated, mean = results[values.name], known.mean()
    agree = stated is None and mean is None
    if isinstance(stated, int | float) and isinstance(mean, float):
        agree = math.isclose(stated, mean, rel_tol=0, abs_tol=_LOGGED)
    if not agree:
        raise DataError(
            f"{str(path)!r}: the mean of {values.name} is {json.dumps(mean)}, but metrics.json of the run says "
            f"{json.dumps(stated)}; they are of different measurements. Measure the run again"
        )


def check_same_lists(first: tuple[Path, pl.DataFrame], other: tuple[Path, pl.DataFrame]) -> None:
    """Refuse runs that did not rank the same lists, or of which only one has a value for a list.

    Args:
        first: Run folder and table of `read_lists`.
        other: Those of another run, with the same metrics.

    Raises:
        ConfigError: With the number of lists and the first of them.
    """
    (name, table), (other_name, other_table) = first, other
    runs = f"{str(name)!r} and {str(other_name)!r}"
    for here, there, lacking in ((table, other_table, other_name), (other_table, table, name)):
        missing = here.join(there, on=list(KEYS), how="anti")
        if missing.height:
            group, user = missing.row(0)[:2]
            raise ConfigError(
                f"{runs} did not rank the same lists: {str(lacking)!r} lacks {missing.height} of {here.height}, the "
                f"first is group {group} of user {user!r}; measure both on the same data and candidates"
            )
    for metric in table.columns[len(KEYS) :]:
        odd = table.filter(table[metric].is_null() != other_table[metric].is_null())
        if odd.height:
            group, user = odd.row(0)[:2]
            lacking = name if odd[metric].is_null()[0] else other_name
            raise ConfigError(
                f"{runs}: {metric} of {odd.height} lists has a value in one of them only, the first is group {group} "
                f"of user {user!r}, without one in {str(lacking)!r}; the labels of the lists must differ. Measure both "
                "on the same data"
            )


def by_user(lists: pl.DataFrame) -> pl.DataFrame:
    """Means of each user's lists, one row a user by `user_id`; null where none of the lists has a value."""
    return lists.group_by("user_id").agg(pl.exclude("group_id").mean()).sort("user_id")
