"""The train split of a prepared data set, by number: what baselines learn from."""

from __future__ import annotations

import polars as pl

from mllm_srec.baselines.train_data import ItemFeatures, TrainData
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.item_batches import Numbering
from mllm_srec.data.tables.interactions import in_time_order, is_liked


def train_data(data: PreparedDataset, numbering: Numbering, features: ItemFeatures | None = None) -> TrainData:
    """Interactions of the train split; rows of other splits are not looked at, but for the number of users.

    Args:
        data: The prepared data set.
        numbering: Its users and items by number.
        features: Of its items, for models that ask for them.
    """
    rows = in_time_order(data.interactions.filter(pl.col("split") == "train"))
    return TrainData(
        user=numbering.users(rows["user_id"]),
        item=numbering.items(rows["item_id"]),
        liked=rows.select(is_liked()).to_series().to_numpy(),
        timestamp=rows["timestamp"].to_numpy(),
        n_users=numbering.n_users,
        n_items=numbering.n_items,
        features=features,
    )
