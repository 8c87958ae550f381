"""Contexts and the two kinds of groups made of them.

A context is what a model may know about a user at a key: the visible interactions before it, and nothing of the target.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from mllm_srec.data.tables.interactions import KEY, in_time_order, is_liked
from mllm_srec.data.tables.split_repair import Ints
from mllm_srec.types import VISIBLE, Split

CONTEXT_SCHEMA: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "split": pl.String(),
    "timestamp": pl.Int64(),
    "order": pl.Int64(),
    "history": pl.List(pl.String()),
    "disliked": pl.List(pl.String()),
}


def pair_groups(interactions: pl.DataFrame, split: Split) -> pl.DataFrame:
    """One pair group per interaction of the split, at its own key.

    Args:
        interactions: Rows with `split`.
        split: Which one.

    Returns:
        Columns `user_id`, `split`, `timestamp`, `order`, `item_id`, `label` (1 liked) and `kind` of the target, sorted
        by user and key.
    """
    liked = is_liked()
    return in_time_order(interactions.filter(pl.col("split") == split)).select(
        "user_id",
        "split",
        *KEY,
        "item_id",
        label=liked.cast(pl.Int8),
        kind=pl.when(liked).then(pl.lit("liked")).otherwise(pl.lit("disliked")),
    )


def rank_groups(interactions: pl.DataFrame, split: Split, unit: Literal["user", "instance"]) -> pl.DataFrame:
    """The rank groups of a split with their positives.

    Args:
        interactions: Rows with `split`.
        split: `val` or `test`.
        unit: `user`: one group per user, at the key of the earliest held-out like, with all held-out likes of the
            split as positives. `instance`: one group per held-out like, at its own key.

    Returns:
        Columns `user_id`, `split`, `timestamp`, `order` and `positives` (list[str], oldest first), sorted by user, key.

    Raises:
        ValueError: `unit` is neither.
    """
    likes = in_time_order(interactions.filter((pl.col("split") == split) & is_liked()))
    if unit == "instance":
        return likes.select("user_id", "split", *KEY, positives=pl.concat_list("item_id"))
    if unit != "user":
        raise ValueError(f"candidates.unit: got {unit!r}; choose user or instance.")
    return (
        likes.group_by("user_id", maintain_order=True)
        .agg(pl.col("split", *KEY).first(), positives=pl.col("item_id"))
        .select("user_id", "split", *KEY, "positives")
    )


def add_contexts(targets: pl.DataFrame, interactions: pl.DataFrame, split: Split, max_history: int) -> pl.DataFrame:
    """What each target's context holds: visible interactions of the user with a smaller key, the latest ones.

    Args:
        targets: Rows with `user_id`, `timestamp` and `order`, all of one split, in any order.
        interactions: Rows with `split`; those that the split may not see are not looked at.
        split: Split of the targets; `VISIBLE[split]` says what it sees.
        max_history: Keep this many of the latest items of each list, >= 0.

    Returns:
        `targets` with `history` (liked) and `disliked`, list[str], oldest first; possibly empty lists.
    """
    visible = in_time_order(interactions.filter(pl.col("split").is_in(VISIBLE[split])))
    columns = ["user_id", *KEY]
    place, known = _places(targets.select(columns), visible.select(columns))
    liked = visible.select(is_liked()).to_series().to_numpy()
    lists = {}
    for name, chosen in (("history", liked), ("disliked", ~liked)):
        pool, pool_place = visible["item_id"].filter(pl.Series(chosen)), known[chosen]
        end = np.searchsorted(pool_place[:, 1], place[:, 1], side="left")
        begin = np.searchsorted(pool_place[:, 0], place[:, 0], side="left")  # the user's first row
        lists[name] = _slices(pool, np.maximum(begin, end - max_history), np.maximum(begin, end))
    return targets.with_columns(**lists)


def _places(targets: pl.DataFrame, visible: pl.DataFrame) -> tuple[Ints, Ints]:
    """(user code, position of (user, key) in time order) of both tables: (n, 2) each; equal keys share a position."""
    rows = pl.concat([targets, visible]).with_columns(user=pl.col("user_id").rank("dense").cast(pl.Int64))
    user, time, order = (rows[name].to_numpy() for name in ("user", *KEY))
    sorting = np.lexsort((order, time, user))
    new = np.zeros(rows.height, dtype=np.int64)
    for column in (user, time, order):
        new[1:] |= np.diff(column[sorting]) != 0
    position = np.empty(rows.height, dtype=np.int64)
    position[sorting] = np.cumsum(new)
    both = np.stack([user, position], axis=1)
    return both[: targets.height], both[targets.height :]


def _slices(values: pl.Series, begin: Ints, end: Ints) -> pl.Series:
    """List column whose row r holds `values[begin[r]:end[r]]`."""
    lengths = end - begin
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], lengths)
    arrow = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values.gather(flat).to_arrow())
    return pl.Series(pl.from_arrow(arrow), dtype=pl.List(pl.String))
