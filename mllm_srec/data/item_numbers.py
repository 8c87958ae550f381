"""Numbers of users and items for models that know them by number: from 1, since 0 is padding (`types.ItemBatch`)."""

from __future__ import annotations

import numpy as np
import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.ragged import Ragged


class Numbering:
    """Users and items of a data set by number.

    Args:
        data: The prepared data set. Users of all splits get a number, in the order of their ids.
    """

    def __init__(self, data: PreparedDataset) -> None:
        ids = data.interactions["user_id"].unique().sort()
        self._users = pl.DataFrame({"user_id": ids}).with_row_index("user", offset=1)
        self._items = data.items.select("item_id").with_row_index("item", offset=1)
        self.n_users, self.n_items = self._users.height, self._items.height

    def users(self, user_ids: pl.Series) -> np.ndarray:
        """Numbers `(n,)` int64 of users; 0 for one without any interaction."""
        rows = pl.DataFrame({"user_id": user_ids}).join(self._users, on="user_id", how="left", maintain_order="left")
        return rows["user"].fill_null(0).to_numpy().astype(np.int64)

    def items(self, item_ids: pl.Series) -> np.ndarray:
        """Numbers `(n,)` int64 of items of the catalogue."""
        rows = pl.DataFrame({"item_id": item_ids}).join(self._items, on="item_id", how="left", maintain_order="left")
        return rows["item"].to_numpy().astype(np.int64)

    def lists(self, item_ids: pl.Series) -> Ragged:
        """Numbers of the items in each row of a list column."""
        sizes = item_ids.list.len().to_numpy().astype(np.int64)
        flat = item_ids.filter(pl.Series(sizes > 0)).explode() if sizes.sum() else pl.Series([], dtype=pl.String)
        return Ragged(np.concatenate([[0], sizes.cumsum()]).astype(np.int64), self.items(flat))
