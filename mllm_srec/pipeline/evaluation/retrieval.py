"""Frozen lists of a retriever for `rerank@N`: popularity, or a finished run that ranked the whole catalogue."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.candidate_lists import KEYS, RankLists
from mllm_srec.data.tables.popularity import POPULARITY, by_popularity
from mllm_srec.files.reading import read_table
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import ConfigError, Split


def retrieved_lists(retriever: str, data: PreparedDataset, split: Split, n: int) -> pl.DataFrame:
    """Return the first `n` items of a retriever for every list of a split.

    Args:
        retriever: `popularity`, or the folder of a run.
        data: Prepared data set.
        split: `val` or `test`.
        n: Most items per list, at least 1; a list is shorter if fewer items may be recommended.

    Returns:
        `group_id`, `item_id` and `rank` (from 1).

    Raises:
        ConfigError: `n` is below 1, or the run has no lists of this data set that are long enough.
    """
    if n < 1:
        raise ConfigError(f"data.n_retrieved={n}: must be at least 1; give the length of the retrieved lists")
    if retriever == POPULARITY:
        return popular_lists(data, split, n)
    return lists_of_run(RunFolder(Path(retriever)), data, split, n)


def hard_lists(retriever: str, data: PreparedDataset, n: int) -> pl.DataFrame | None:
    """Return the items from which hard negatives are drawn in training, by user.

    They are the retriever's lists of the val split, whose contexts hold train interactions only, as training does.

    Args:
        retriever: `popularity`, or the folder of a run that was validated with `full`.
        data: Prepared data set.
        n: Most items per list, at least 1.

    Returns:
        `user_id`, `item_id` and `rank` (from 1); None for `popularity`, which needs no lists.

    Raises:
        ConfigError: As for `retrieved_lists`.
    """
    if retriever == POPULARITY:
        return None
    lists = retrieved_lists(retriever, data, "val", n)
    users = data.groups.select("group_id", "user_id")
    by_user = lists.join(users, on="group_id").group_by("user_id", "item_id").agg(pl.col("rank").min())
    return by_user.sort("user_id", "rank", "item_id")


def popular_lists(data: PreparedDataset, split: Split, n: int) -> pl.DataFrame:
    """Return for each list the allowed items with most train likes; columns as in `retrieved_lists`."""
    groups = data.groups.filter((pl.col("purpose") == "rank") & (pl.col("split") == split))
    lists = RankLists(data, split, groups["group_id"].to_numpy())
    excluded = lists.excluded
    n_most = int(excluded.group_by("group_id").len()["len"].max() or 0)  # type: ignore[arg-type]
    popular = by_popularity(data.interactions, data.items).head(n + n_most).to_frame()
    rows = lists.lists.select("group_id").join(popular, how="cross", maintain_order="left_right")
    allowed = rows.join(excluded, on=KEYS, how="anti", maintain_order="left")
    ranked = allowed.with_columns(rank=pl.int_range(1, pl.len() + 1).over("group_id"))
    return ranked.filter(pl.col("rank") <= n)


def lists_of_run(run: RunFolder, data: PreparedDataset, split: Split, n: int) -> pl.DataFrame:
    """Read the top items of a run that was evaluated with `full`; columns as in `retrieved_lists`.

    Raises:
        ConfigError: The run was not evaluated so, is of another data set, or kept fewer than `n` items of a list.
    """
    path, metrics = run.predictions / f"{split}.parquet", run.read_metrics()
    advice = f"evaluate it with data.evaluator=full on the {split} split first, or set data.retriever to popularity"
    if not path.is_file() or metrics.get(f"{split}/evaluator") != "full":
        raise ConfigError(
            f"data.retriever={str(run.path)!r}: has no ranking of the whole catalogue, since its {split} results are "
            f"of evaluator {metrics.get(f'{split}/evaluator')!r}; {advice}"
        )
    ranked = metrics.get(f"{split}/candidates_hash")
    if ranked != data.candidates_hash:
        raise ConfigError(
            f"data.retriever={str(run.path)!r}: ranked lists with candidates_hash {ranked}, but {data.folder} has "
            f"{data.candidates_hash}, so users, histories or held-out items differ; {advice}"
        )
    table = read_table(path, "the ranking of the catalogue", advice, columns=[*KEYS, "rank", "n_candidates"])
    rows = table.filter(pl.col("rank") <= n)
    kept = rows.group_by("group_id").agg(pl.len(), pl.col("n_candidates").first())
    short = kept.filter(pl.col("len") < pl.min_horizontal("n_candidates", n))
    if short.height:
        n_kept = int(short["len"].to_numpy().min())
        raise ConfigError(f"data.n_retrieved={n}: {path} keeps only the first {n_kept} of a list; give at most that")
    return rows.select(*KEYS, "rank").sort("group_id", "rank")
