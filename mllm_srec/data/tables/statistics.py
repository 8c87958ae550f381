"""What a prepared data set holds, as the article counts it (Table 2)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from mllm_srec.types import DataError


@dataclass(frozen=True)
class DatasetStatistics:
    """Columns of Table 2, and what samples are made of.

    Attributes:
        users: Users with an interaction.
        items: Items with an interaction: the catalogue.
        interactions: Pairs of a user and an item; of repeats only the first was kept.
        samples: Positive and negative samples: all labelled targets of all splits.
        sparsity: 1 - interactions / (users * items), in [0, 1).
        positives: Samples with a rating of at least 4.
        disliked: Negative samples with a lower rating.
        sampled: Negative samples that were drawn, one for each positive.
        pictures: Items with a usable picture.
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
        """The numbers by name."""
        return asdict(self)


def dataset_statistics(items: pl.DataFrame, interactions: pl.DataFrame, samples: pl.DataFrame) -> DatasetStatistics:
    """Statistics of a prepared data set (article, Table 2 and its caption).

    Args:
        items: Columns `item_id` and `image`.
        interactions: Columns `user_id` and `item_id`, one row per pair.
        samples: Columns `label` and `kind`.

    Raises:
        DataError: A pair occurs twice, the catalogue is not that of the interactions, or there is nothing.
    """
    pairs = interactions.select("user_id", "item_id")
    n_double = pairs.height - pairs.n_unique()
    n_unknown = pairs.join(items, on="item_id", how="anti").height
    n_unused = items.join(pairs, on="item_id", how="anti").height
    if not pairs.height or n_double or n_unknown or n_unused:
        raise DataError(
            f"dataset_statistics: of {pairs.height} interactions {n_double} are double and {n_unknown} have an item "
            f"that `items` does not hold, and {n_unused} of {items.height} items have none; pass the tables of one "
            "prepared data set"
        )
    n_users, n_items = pairs["user_id"].n_unique(), pairs["item_id"].n_unique()
    kinds = {kind: samples.filter(pl.col("kind") == kind).height for kind in ("liked", "disliked", "sampled")}
    if sum(kinds.values()) != samples.height or kinds["liked"] != samples.filter(pl.col("label") == 1).height:
        raise DataError(
            f"dataset_statistics: {samples.height} samples are {kinds}, and the labels say otherwise; pass the samples "
            "of a prepared data set"
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
