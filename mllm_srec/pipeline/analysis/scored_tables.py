"""Stored predictions of a finished run, checked against its results and joined with the data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.tables.popularity import item_popularity
from mllm_srec.files.reading import read_table
from mllm_srec.metrics.weighted_auc import SortedRows
from mllm_srec.pipeline.analysis.list_metrics import COMMANDS, read_lists
from mllm_srec.pipeline.evaluation.schema import PLACE, TARGETS
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import USER_AUC, ConfigError, DataError, Split, user_auc_name

_TOLERANCE = 1e-5  # results are logged in float32, which rounds an AUC by less than this


@dataclass(frozen=True)
class ScoredTables:
    """Scored rows of one run, with `n_history` (liked items of the context) and `likes` (train likes of the item).

    Attributes:
        lists: Rank lists by group: `group_id`, `user_id`, the chosen metrics (null: undefined) and `n_history`.
        candidates: Rows of the rank lists by group and item: `TARGETS`, `score` (minus infinity: missed by the
            retriever), `likes`, and the columns of `PLACE` if only a part of each list was kept.
        pairs: Labelled targets by group and item: `TARGETS`, `score`, `likes` and `n_history`; none where the model
            scores no single targets.
        auc_name: Name of the AUC within a list under the evaluator of the run.
    """

    lists: pl.DataFrame
    candidates: pl.DataFrame
    pairs: pl.DataFrame
    auc_name: str = USER_AUC

    @property
    def complete(self) -> bool:
        """True if `candidates` holds all candidates of each list."""
        return "rank" not in self.candidates.columns


def read_scored(
    folder: Path, split: Split, metrics: Sequence[str], results: Mapping[str, Any], data: PreparedDataset
) -> ScoredTables:
    """Read and check the predictions of a run.

    Args:
        folder: Run folder.
        split: `test` or `val`.
        metrics: Columns of `predictions/<split>_users.parquet`.
        results: Results of `read_results`.
        data: Data set that was scored.

    Raises:
        ConfigError: A file or a metric is missing.
        DataError: A file is damaged, contradicts the results, or is of another data set.
    """
    lists = read_lists(folder, split, metrics, results)
    candidates, pairs = (_read(folder, name, split) for name in (split, f"{split}_pairs"))
    n_unmatched = lists.join(candidates, on="group_id", how="anti").height
    n_unmatched += candidates.join(lists, on=["group_id", "user_id"], how="anti").height
    if n_unmatched:
        raise DataError(
            f"{str(folder)!r}: {n_unmatched} rows of {split}.parquet and {split}_users.parquet do not match; measure "
            "the run again"
        )
    if pairs["score"].is_infinite().any():
        raise DataError(f"{str(folder)!r}: {split}_pairs.parquet has targets without a score; measure the run again")
    _check_auc(folder, pairs, results.get("auc"))
    history = data.groups.select("group_id", "user_id", n_history=pl.col("history").list.len().cast(pl.Int64))
    likes = data.items.select("item_id", likes=pl.Series(item_popularity(data.interactions, data.items)))
    return ScoredTables(
        _with(lists, history, ["group_id", "user_id"], folder),
        _with(candidates, likes, ["item_id"], folder),
        _with(_with(pairs, likes, ["item_id"], folder), history, ["group_id", "user_id"], folder),
        user_auc_name(results.get("evaluator")),
    )


def _read(folder: Path, name: str, split: Split) -> pl.DataFrame:
    """Read a table of predictions, sorted by group and item; null scores (missed) become minus infinity."""
    path = RunFolder(folder).predictions / f"{name}.parquet"
    if not path.is_file():
        raise ConfigError(
            f"{str(path)!r}: the scored rows are missing; measure the run again with "
            f"`python -m mllm_srec {COMMANDS[split]}`"
        )
    table = read_table(path, "the table of scored rows", "measure the run again")
    for column, dtype in (TARGETS | {"score": pl.Float32}).items():
        if table.schema.get(column) != dtype:
            raise DataError(
                f"{str(path)!r}: column {column} is {table.schema.get(column)}, not {dtype}; measure the run again"
            )
    n_duplicate = table.height - table.n_unique(["group_id", "item_id"])
    n_undefined = table.select(*TARGETS).null_count().sum_horizontal().item() + int(table["score"].is_nan().sum())
    if n_duplicate or n_undefined:
        raise DataError(
            f"{str(path)!r}: {n_duplicate} targets are duplicates, {n_undefined} values are null or NaN; measure the "
            "run again"
        )
    places = [column for column in PLACE if column in table.columns]
    score = pl.col("score").cast(pl.Float64).fill_null(-math.inf)
    return table.select(*TARGETS, score, *places).sort("group_id", "item_id")


def _check_auc(folder: Path, pairs: pl.DataFrame, stated: Any) -> None:
    """Refuse pairs whose AUC contradicts the results."""
    rows = pairs.filter(pl.col("kind") != "disliked")
    auc = SortedRows.of(rows["score"].to_numpy(), rows["label"].to_numpy()).auc(np.ones(rows.height))[0]
    if stated is not None and not math.isclose(float(stated), auc, rel_tol=0, abs_tol=_TOLERANCE):
        raise DataError(
            f"{str(folder)!r}: the AUC of its pairs is {auc:.6f}, but its metrics.json says {stated:.6f}, so they "
            "are of different measurements; measure the run again"
        )


def _with(table: pl.DataFrame, columns: pl.DataFrame, keys: list[str], folder: Path) -> pl.DataFrame:
    """Join columns of the data set to each row, in the order of the rows."""
    unknown = table.join(columns, on=keys, how="anti")
    if unknown.height:
        raise DataError(
            f"{str(folder)!r}: {unknown.height} of {table.height} scored rows are not in the data set by their "
            f"{' and '.join(keys)}, the first is {unknown.select(keys).row(0)}; give the data set of the run"
        )
    return table.join(columns, on=keys, how="left", maintain_order="left")
