"""Assignment of every interaction to a split: train, val or test."""

from __future__ import annotations

from typing import get_args

import numpy as np
import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.ratings import is_disliked, is_liked, is_rated
from mllm_srec.data.settings import SplitRule
from mllm_srec.data.tables.interactions import KEY, in_time_order
from mllm_srec.data.tables.split_repair import TEST, TRAIN, VAL, Ints, repair
from mllm_srec.types import SPLITS


def assign_splits(interactions: pl.DataFrame, split: SplitRule, seed: int, report: PrepareReport) -> pl.DataFrame:
    """Add the column `split`.

    - `random` (the article's): of a user's n likes max(1, round(0.1 n)) go to test and as many to val; of 2 likes one
      goes to train and one to test; a single like goes to train. Then swaps within users bring every liked item into
      train and every item liked twice or more into test (see `split_repair`). Each dislike is drawn 80/10/10. `round`
      is Python's.
    - `leave_one_out`: a user's last like goes to test, the one before to val; with n < 3 all go to train.
    - `global_time`: likes up to the 80 % quantile of all their keys go to train, up to the 90 % quantile to val.

    With the last two, a dislike gets the split of the period it falls in; a period begins at the first like of its
    split (`leave_one_out`) or after the cut (`global_time`). An interaction without a rating goes to train under every
    rule: nothing is asked about it, and no list of its user may hold its item.

    Args:
        interactions: Interactions with the column `liked`, one row per (user, item), in any order.
        split: Rule of the split.
        seed: Random seed of `random`, >= 0; the other two draw nothing.
        report: Receives shares of the splits, and users and items that repair could not bring into one.

    Returns:
        The rows with `split`, sorted by user and key.

    Raises:
        ValueError: `split` is none of the three.
    """
    rows = in_time_order(interactions)
    if split == "random":
        rows = _random(rows, seed, report)
    elif split == "leave_one_out":
        rows = _leave_one_out(rows)
    elif split == "global_time":
        rows = _global_time(rows)
    else:
        raise ValueError(f"split={split!r}: not one of {', '.join(get_args(SplitRule))}; choose one of these")
    rows = rows.with_columns(split=pl.when(is_rated()).then(pl.col("split")).otherwise(pl.lit("train")))
    _report_shares(rows, report)
    return rows


def _random(rows: pl.DataFrame, seed: int, report: PrepareReport) -> pl.DataFrame:
    """Draw likes per user and dislikes one by one, then repair."""
    draw_likes, draw_dislikes, mend = (np.random.default_rng([seed, stream]) for stream in range(3))
    liked, disliked = (rows.select(mark).to_series().to_numpy() for mark in (is_liked(), is_disliked()))
    user, item = _codes(rows["user_id"])[liked], _codes(rows["item_id"])[liked]
    codes = np.full(rows.height, TRAIN)
    drawn = _draw_likes(user, draw_likes)
    codes[liked] = _repair(user, item, drawn, mend, report)
    codes[disliked] = np.searchsorted([0.8, 0.9], draw_dislikes.random(int(disliked.sum())), side="right")
    return rows.with_columns(split=_names(codes))


def _draw_likes(user: Ints, generator: np.random.Generator) -> Ints:
    """Shuffle each user's likes: the first go to test, the next to val, the rest to train."""
    n = np.bincount(user)[user]
    shuffled = np.lexsort((generator.random(user.size), user))
    begins = np.searchsorted(user[shuffled], user[shuffled])
    position = np.empty(user.size, dtype=np.int64)
    position[shuffled] = np.arange(user.size) - begins
    n_test = np.where(n >= 2, np.maximum(1, np.rint(0.1 * n)), 0)
    n_val = np.where(n >= 3, n_test, 0)
    return np.where(position < n_test, TEST, np.where(position < n_test + n_val, VAL, TRAIN))


def _repair(user: Ints, item: Ints, split: Ints, generator: np.random.Generator, report: PrepareReport) -> Ints:
    """Repair the split of the likes; rows are shuffled, so that no swap is preferred for its time."""
    order = generator.permutation(user.size)
    shuffled, moved = repair(user[order], item[order], split[order], generator)
    report.fact("likes moved to another split by repair", moved)
    repaired = np.empty_like(split)
    repaired[order] = shuffled
    return repaired


def _leave_one_out(rows: pl.DataFrame) -> pl.DataFrame:
    """Cut each user's time at the keys of the second to last and of the last like."""
    likes = rows.filter(is_liked()).with_columns(
        n=pl.len().over("user_id"), left=pl.int_range(pl.len(), 0, -1).over("user_id")
    )
    cuts = likes.filter((pl.col("n") >= 3) & (pl.col("left") <= 2)).select("user_id", *KEY, "left")
    marked = rows
    for left, name in ((2, "val"), (1, "test")):
        begin = cuts.filter(pl.col("left") == left).select("user_id", begin=pl.struct(KEY))
        marked = marked.join(begin, on="user_id", how="left", maintain_order="left")
        marked = marked.with_columns(_not_before("begin").alias(f"in_{name}")).drop("begin")
    split = pl.when("in_test").then(pl.lit("test")).when("in_val").then(pl.lit("val")).otherwise(pl.lit("train"))
    return marked.with_columns(split=split).drop("in_val", "in_test")


def _not_before(begin: str) -> pl.Expr:
    """Return an expression, true where the row's key is at or after the key in the column `begin`, false if null."""
    time, order = (pl.col(begin).struct.field(name) for name in KEY)
    later = (pl.col("timestamp") > time) | ((pl.col("timestamp") == time) & (pl.col("order") >= order))
    return later.fill_null(False)


def _global_time(rows: pl.DataFrame) -> pl.DataFrame:
    """Cut at the keys of likes number ceil(0.8 n) and ceil(0.9 n), which still belong to the earlier period."""
    keys = rows.filter(is_liked()).select(KEY).sort(KEY)
    n = keys.height
    if not n:  # without likes there is nothing to hold out
        return rows.with_columns(split=pl.lit("train"))
    split = pl.lit("train")
    for tenths, name in ((8, "val"), (9, "test")):
        time, order = keys.row((tenths * n + 9) // 10 - 1)
        after = (pl.col("timestamp") > time) | ((pl.col("timestamp") == time) & (pl.col("order") > order))
        split = pl.when(after).then(pl.lit(name)).otherwise(split)
    return rows.with_columns(split=split)


def _codes(names: pl.Series) -> Ints:
    """Number each name by its position among the sorted distinct names."""
    return (names.rank("dense").cast(pl.Int64) - 1).to_numpy()


def _names(codes: Ints) -> pl.Series:
    """Convert the codes of `split_repair` to names of splits."""
    return pl.Series(SPLITS, dtype=pl.String).gather(codes)


def _report_shares(rows: pl.DataFrame, report: PrepareReport) -> None:
    """Report the share of each split and, for any rule, the goals of the random split that are missed."""
    likes = rows.filter(is_liked())
    for name in SPLITS:
        for kind, table in (("interactions", rows), ("likes", likes)):
            share = table.filter(pl.col("split") == name).height / max(1, table.height)
            report.fact(f"share of {kind} in {name}", round(share, 6))
    inside = {name: pl.col("split") == name for name in SPLITS}
    _count_missing(rows, "user_id", ~inside["train"].any(), "user not in train", report)
    _count_missing(likes, "user_id", ~inside["test"].any() & (pl.len() >= 2), "user with 2 likes not in test", report)
    _count_missing(likes, "item_id", ~inside["train"].any(), "liked item not in train", report)
    _count_missing(likes, "item_id", ~inside["test"].any() & (pl.len() >= 2), "item liked twice not in test", report)


def _count_missing(rows: pl.DataFrame, by: str, missing: pl.Expr, reason: str, report: PrepareReport) -> None:
    """Count the users or items for which `missing` holds."""
    ids = rows.group_by(by).agg(missing=missing).filter("missing").sort(by)[by]
    report.count("splits", reason, len(ids), ids[0] if len(ids) else None)
