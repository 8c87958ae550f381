"""Statistics of a prepared data set, as the article counts them (Table 2)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from mllm_srec.types import DataError


@dataclass(frozen=True)
class DatasetStatistics:
    """The columns of Table 2, and the samples by kind.

    Attributes:
        users: Number of users with an interaction.
        items: Number of items with an interaction, which make up the catalogue.
        interactions: Number of (user, item) pairs, duplicates left out.
        samples: Number of positive and negative samples: all labelled targets of all splits.
        sparsity: 1 - interactions / (users * items), in [0, 1).
        positives: Number of samples that are likes (a rating of at least `prepare.liked_from`).
        disliked: Number of negative samples with a lower rating.
        sampled: Number of negative samples that were drawn, one for each positive.
        pictures: Number of items with a usable picture.
    """

    users: int
    items: int
    interactions: int
    samples: int
    sparsity: float
    positives: int
    disliked: int
    sampled: int
    pictures: int

    @property
    def as_row(self) -> dict[str, Any]:
        """The statistics by name."""
        return asdict(self)


def dataset_statistics(items: pl.DataFrame, interactions: pl.DataFrame, samples: pl.DataFrame) -> DatasetStatistics:
    """Compute the statistics of a prepared data set (article, Table 2 and its caption).

    Args:
        items: Columns `item_id` and `image`.
        interactions: Columns `user_id` and `item_id`, one row per pair.
        samples: Columns `label` and `kind`.

    Raises:
        DataError: There is no interaction, a pair occurs twice, or the tables are not of one data set.
    """
    pairs = interactions.select("user_id", "item_id")
    n_duplicates = pairs.height - pairs.n_unique()
    n_unknown = pairs.join(items, on="item_id", how="anti").height
    n_unused = items.join(pairs, on="item_id", how="anti").height
    if not pairs.height or n_duplicates or n_unknown or n_unused:
        raise DataError(
            f"interactions: of {pairs.height}, {n_duplicates} are duplicates and {n_unknown} have an item that "
            f"`items` does not hold, and {n_unused} of {items.height} items have no interaction; pass the tables of "
            "one prepared data set"
        )
    n_users, n_items = pairs["user_id"].n_unique(), pairs["item_id"].n_unique()
    kinds = {kind: samples.filter(pl.col("kind") == kind).height for kind in ("liked", "disliked", "sampled")}
    if sum(kinds.values()) != samples.height or kinds["liked"] != samples.filter(pl.col("label") == 1).height:
        raise DataError(
            f"samples: the kinds of {samples.height} are {kinds}, which contradicts their labels; pass the samples of "
            "a prepared data set"
        )
    return DatasetStatistics(
        users=n_users,
        items=n_items,
        interactions=pairs.height,
        samples=samples.height,
        sparsity=1 - pairs.height / (n_users * n_items),
        positives=kinds["liked"],
        disliked=kinds["disliked"],
        sampled=kinds["sampled"],
        pictures=items.height - items["image"].null_count(),
    )
