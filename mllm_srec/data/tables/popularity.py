"""Popularity of items: the reference of every ranking, and the simplest retriever."""

from __future__ import annotations

import numpy as np
import polars as pl

from mllm_srec.data.ratings import is_liked
from mllm_srec.types import DataError

POPULARITY = "popularity"
"""Name of the retriever of the most liked items."""

TIES_SEED = 20_011
"""Random seed of the order of equally popular items."""


def item_popularity(interactions: pl.DataFrame, items: pl.DataFrame) -> np.ndarray:
    """Count the likes of each item in the train split; held-out likes and dislikes do not count.

    Args:
        interactions: Columns `item_id`, `rating` and `split`, in any order.
        items: Column `item_id`; N rows, each id once.

    Returns:
        `(N,)` int64 in the order of `items`, 0 for items without such a like.

    Raises:
        DataError: A liked item is not in `items`, or an id occurs in it twice.
    """
    likes = interactions.filter((pl.col("split") == "train") & is_liked()).group_by("item_id").len("likes")
    catalogue = items.select("item_id")
    unknown = likes.join(catalogue, on="item_id", how="anti").sort("item_id")
    n_duplicates = catalogue.height - catalogue["item_id"].n_unique()
    if unknown.height or n_duplicates:
        example = f", for example {unknown.item(0, 'item_id')!r}" if unknown.height else ""
        raise DataError(
            f"items: {unknown.height} liked items are not among the {catalogue.height} items{example}, and "
            f"{n_duplicates} ids occur twice; pass interactions and items of the same prepared data set"
        )
    counted = catalogue.join(likes, on="item_id", how="left", maintain_order="left")
    return counted["likes"].fill_null(0).cast(pl.Int64).to_numpy().copy()  # (N,)


def by_popularity(interactions: pl.DataFrame, items: pl.DataFrame) -> pl.Series:
    """Sort the catalogue's ids by train likes, most first; ties are in a fixed random order, not in that of ids.

    Args:
        interactions: See `item_popularity`.
        items: See `item_popularity`.

    Returns:
        `(N,)` ids, the same at every call.

    Raises:
        DataError: See `item_popularity`.
    """
    likes = item_popularity(interactions, items)  # (N,)
    shuffled = np.random.default_rng(TIES_SEED).permutation(len(likes))  # (N,)
    return items["item_id"].gather(shuffled[np.argsort(-likes[shuffled], kind="stable")])
