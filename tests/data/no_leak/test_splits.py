"""Which interaction falls into which split."""

from __future__ import annotations

import math
from collections import Counter

import pandas as pd
import polars as pl
import pytest

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.ratings import RatingRule
from mllm_srec.data.tables.splits import assign_splits
from tests.data.no_leak.oracle import liked_by_user
from tests.data.no_leak.sources import only


@only("random", "leave_one_out")
def test_shares_of_each_user(data):
    for user, likes in liked_by_user(data).items():
        n, counts = len(likes), Counter(split for _, _, split in likes)
        if data.settings.split == "leave_one_out":
            held = 1 if n >= 3 else 0
            expected = {"train": n - 2 * held, "val": held, "test": held}
        else:
            held = max(1, round(0.1 * n))
            expected = {"train": n - 2 * held, "val": held, "test": held}
            if n < 3:
                expected = {"train": min(n, 1), "val": 0, "test": 1 if n == 2 else 0}
        assert {split: counts[split] for split in ("train", "val", "test")} == expected, (user, n)


@only("random")
def test_random_split_covers_users_and_items(data):
    likes = data.interactions[data.interactions["rating"] >= 4]
    in_train = set(likes.loc[likes["split"] == "train", "item_id"])
    assert set(likes.loc[likes["split"] == "train", "user_id"]) == set(likes["user_id"])
    n_likes = likes["user_id"].value_counts()
    assert set(likes.loc[likes["split"] == "test", "user_id"]) == set(n_likes[n_likes >= 2].index)
    assert improving_swap(likes, "train", set(likes["item_id"]), protected=set()) is None
    often = likes["item_id"].value_counts()
    twice = set(often[often >= 2].index)
    assert improving_swap(likes, "test", twice, protected=in_train) is None


def improving_swap(likes: pd.DataFrame, split: str, wanted: set[str], protected: set[str]) -> tuple[str, ...] | None:
    """A swap within a user that brings a wanted item into the split and takes none out, of it or of train; None: none.

    `protected`: items that have to stay in train.
    """
    counts = Counter(zip(likes["split"], likes["item_id"], strict=True))
    missing = {item for item in wanted if counts[split, item] == 0}
    for user, rows in likes[likes["user_id"].isin(likes[likes["item_id"].isin(missing)]["user_id"])].groupby("user_id"):
        inside = rows.loc[rows["split"] == split, "item_id"]
        for item, home in rows.loc[rows["item_id"].isin(missing), ["item_id", "split"]].itertuples(index=False):
            if home == "train" and item in protected and counts["train", item] == 1:
                continue
            for other in inside:
                if counts[split, other] > 1 or other not in wanted:
                    return str(user), item, home, other
    return None


@only("leave_one_out")
def test_leave_one_out_and_periods_of_dislikes(data):
    for rows in data.by_user().values():
        keys = [key for key, _, is_liked, _ in rows if is_liked]
        val, test = (keys[-2], keys[-1]) if len(keys) >= 3 else ((math.inf, 0), (math.inf, 0))
        for key, item, _, split in rows:
            assert split == ("train" if key < val else "val" if key < test else "test"), (key, item)


@only("global_time")
def test_global_time_cuts_at_quantiles(data):
    rows = data.interactions.sort_values(["timestamp", "order"])
    assert rows["split"].tolist() == sorted(rows["split"], key=["train", "val", "test"].index)
    likes = rows.loc[rows["rating"] >= 4, "split"].value_counts()
    assert abs(likes["train"] - 0.8 * likes.sum()) <= 1
    assert abs(likes["val"] - 0.1 * likes.sum()) <= 2


def assert_80_10_10(splits: pd.Series) -> None:
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        spread = math.sqrt(len(splits) * share * (1 - share))
        assert abs((splits == split).sum() - share * len(splits)) < 4.5 * spread, split


@only("random")
def test_dislikes_of_the_random_split_are_drawn_80_10_10(data):
    assert_80_10_10(data.interactions.loc[data.interactions["rating"] < 4, "split"])


@pytest.mark.parametrize("data", [pytest.param(("movielens", "random"), id="movielens-random")], indirect=True)
def test_dislikes_of_a_slice_are_drawn_80_10_10_over_many_seeds(data):
    """A slice has few dislikes: with 60 seeds they are as many as in the whole set."""
    rows = RatingRule().mark(pl.from_pandas(data.interactions.drop(columns="split")))
    drawn = [assign_splits(rows, "random", seed, PrepareReport()).filter(pl.col("rating") < 4) for seed in range(60)]
    splits = pl.concat(drawn)["split"].to_pandas()
    assert len(splits) > 10_000
    assert_80_10_10(splits)
