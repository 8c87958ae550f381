"""The two kinds of groups, and their contexts.

A context is what a model may see of a user at a key: the visible interactions before it, and nothing of the target. How
many of them it keeps is in `data/history.py`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from mllm_srec.data.history import Ints, latest_rows
from mllm_srec.data.ratings import is_disliked, is_liked, is_rated
from mllm_srec.data.tables.interactions import KEY, in_time_order
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
    """Make one pair group per rated interaction of a split, at its own key.

    Args:
        interactions: Interactions with the columns `split` and `liked`.
        split: Split of the groups.

    Returns:
        Columns `user_id`, `split`, `timestamp`, `order`, `item_id`, `label` (1 liked) and `kind` of the target, sorted
        by user and key.
    """
    liked = is_liked()
    return in_time_order(interactions.filter((pl.col("split") == split) & is_rated())).select(
        "user_id",
        "split",
        *KEY,
        "item_id",
        label=liked.cast(pl.Int8),
        kind=pl.when(liked).then(pl.lit("liked")).otherwise(pl.lit("disliked")),
    )


def rank_groups(interactions: pl.DataFrame, split: Split, unit: Literal["user", "instance"]) -> pl.DataFrame:
    """Make the rank groups of a split with their positives.

    Args:
        interactions: Interactions with the columns `split` and `liked`.
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
        raise ValueError(f"candidates.unit={unit!r}: not a unit of rank groups; choose user or instance")
    return (
        likes.group_by("user_id", maintain_order=True)
        .agg(pl.col("split", *KEY).first(), positives=pl.col("item_id"))
        .select("user_id", "split", *KEY, "positives")
    )


def add_contexts(targets: pl.DataFrame, interactions: pl.DataFrame, split: Split, max_history: int) -> pl.DataFrame:
    """Add each target's context: the latest visible interactions of its user with a smaller key.

    Args:
        targets: Rows with `user_id`, `timestamp` and `order`, all of one split, in any order.
        interactions: Interactions with the columns `split` and `liked`; those that the split may not see, and those
            without a rating, are ignored.
        split: Split of the targets; its contexts see the splits in `VISIBLE[split]`.
        max_history: Items kept of each of the two lists, the latest, at least 0 (`prepare.max_history`).

    Returns:
        `targets` with `history` (liked) and `disliked`, list[str], oldest first; possibly empty lists.
    """
    visible = in_time_order(interactions.filter(pl.col("split").is_in(VISIBLE[split])))
    columns = ["user_id", *KEY]
    at, seen_at = _positions(targets.select(columns), visible.select(columns))
    marks = visible.select(history=is_liked(), disliked=is_disliked())
    lists = {}
    for name in marks.columns:
        chosen = marks[name].to_numpy()
        pool, pool_at = visible["item_id"].filter(pl.Series(chosen)), seen_at[chosen]
        end = np.searchsorted(pool_at[:, 1], at[:, 1], side="left")
        begin = np.searchsorted(pool_at[:, 0], at[:, 0], side="left")  # the user's first row
        lists[name] = _slices(pool, latest_rows(begin, end, max_history), np.maximum(begin, end))
    return targets.with_columns(**lists)


def _positions(targets: pl.DataFrame, visible: pl.DataFrame) -> tuple[Ints, Ints]:
    """Return the user code and the position of (user, key) in time order, `(n, 2)` for each of the two tables.

    Rows of the same user and key share a position.
    """
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
    """Return a list column whose row r holds `values[begin[r]:end[r]]`."""
    lengths = end - begin
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], lengths)
    arrow = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values.gather(flat).to_arrow())
    return pl.Series(pl.from_arrow(arrow), dtype=pl.List(pl.String))
