"""Batches for baselines, by number: training examples, and the groups of an evaluation.

Users and items are numbered from 1 (`Numbering`), 0 pads. A batch is cut in one go from flat arrays that hold all
histories; how many items of a history are read is in `data/history.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
import polars as pl
import torch
from torch.utils.data import Dataset

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.history import lengths_read
from mllm_srec.data.loading.catalogue_lists import CatalogueLists, Ragged
from mllm_srec.data.loading.examples import GroupExamples
from mllm_srec.data.ratings import is_liked
from mllm_srec.data.tables.interactions import in_time_order
from mllm_srec.types import ItemBatch, TrainBatch


class Numbering:
    """Users and items of a data set by number, in the order of their ids.

    Args:
        data: The prepared data set; users of all splits are numbered.
    """

    def __init__(self, data: PreparedDataset) -> None:
        ids = data.interactions["user_id"].unique().sort()
        self._users = pl.DataFrame({"user_id": ids}).with_row_index("user", offset=1)
        self._items = data.items.select("item_id").with_row_index("item", offset=1)
        self.n_users, self.n_items = self._users.height, self._items.height

    def users(self, user_ids: pl.Series) -> np.ndarray:
        """Return the numbers `(n,)` int64 of users; 0 for one without any interaction."""
        rows = pl.DataFrame({"user_id": user_ids}).join(self._users, on="user_id", how="left", maintain_order="left")
        return rows["user"].fill_null(0).to_numpy().astype(np.int64)

    def items(self, item_ids: pl.Series) -> np.ndarray:
        """Return the numbers `(n,)` int64 of items of the catalogue."""
        rows = pl.DataFrame({"item_id": item_ids}).join(self._items, on="item_id", how="left", maintain_order="left")
        return rows["item"].to_numpy().astype(np.int64)

    def lists(self, item_ids: pl.Series) -> Ragged:
        """Return the numbers of the items in each row of a list column."""
        sizes = item_ids.list.len().to_numpy().astype(np.int64)
        flat = item_ids.filter(pl.Series(sizes > 0)).explode() if sizes.sum() else pl.Series([], dtype=pl.String)
        return Ragged(np.concatenate([[0], sizes.cumsum()]).astype(np.int64), self.items(flat))


@dataclass(frozen=True)
class TrainExamples(Dataset[int]):
    """Training examples: each user's whole sequence of likes, or each like with the likes before it.

    Attributes:
        user: `(n,)` int64 numbers of the users.
        begin: `(n,)` positions in `items` at which the histories begin.
        end: `(n,)` positions behind their last item; the target is there if the unit is `targets`.
        items: `(L,)` likes of the train split, users one after another, each in time order.
        unit: `sequences` or `targets`.
        max_history: S, items read of a history, the latest; a sequence has S + 1: all but the first are predicted.
    """

    user: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    items: np.ndarray
    unit: Literal["sequences", "targets"]
    max_history: int

    @classmethod
    def of(
        cls, interactions: pl.DataFrame, numbering: Numbering, unit: Literal["sequences", "targets"], max_history: int
    ) -> TrainExamples:
        """Make the examples of the train split; other splits are ignored.

        A sequence of a single like has no next item and is left out.
        """
        likes = in_time_order(interactions.filter((pl.col("split") == "train") & is_liked()))
        user = numbering.users(likes["user_id"])
        _, first, counts = np.unique(user, return_index=True, return_counts=True)
        if unit == "targets":
            owner, begin, end = user, np.repeat(first, counts), np.arange(len(user))
        else:
            first, counts = first[counts > 1], counts[counts > 1]
            owner, begin, end = user[first], first, first + counts
        return cls(owner, begin, end, numbering.items(likes["item_id"]), unit, max_history)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.user)

    def __getitem__(self, index: int) -> int:
        """Return the index itself; `collate` looks up a whole batch at once."""
        return index

    @property
    def lengths(self) -> np.ndarray:
        """Ones `(n,)`: batches are drawn from all examples.

        Batches of similar lengths would save padding, but a batch of only short or only long histories is a biased
        sample: on 600 users, where one pool of batches was an epoch, BERT4Rec stayed at the level of popularity.
        """
        return np.ones(len(self), dtype=np.int64)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Items read of each history `(n,)`."""
        return lengths_read(self.end - self.begin, self.max_history, n_predicted=int(self.unit == "sequences"))

    def draw(self, limit: int | None, seed: int) -> TrainExamples:
        """Draw at most `limit` examples; None takes all."""
        if limit is None or limit >= len(self):
            return self
        kept = np.sort(np.random.default_rng(seed).choice(len(self), limit, replace=False))
        return TrainExamples(self.user[kept], self.begin[kept], self.end[kept], self.items, self.unit, self.max_history)

    def collate(self, indices: Sequence[int]) -> TrainBatch:
        """Make the batch of these examples; histories are padded to the longest."""
        chosen = np.asarray(indices, dtype=np.int64)
        sizes, end = self.sizes[chosen], self.end[chosen]
        width = max(1, int(sizes.max(initial=1)))
        position = end[:, None] - width + np.arange(width)  # (B, S)
        inside = np.arange(width) >= width - sizes[:, None]  # (B, S)
        history = np.where(inside, self.items[np.where(inside, position, 0)] if len(self.items) else 0, 0)
        batch: TrainBatch = {"user": torch.from_numpy(self.user[chosen]), "history": torch.from_numpy(history)}
        if self.unit == "targets":
            batch["target"] = torch.from_numpy(self.items[end])
        return batch


@dataclass(frozen=True)
class Contexts:
    """All contexts of a data set by number, in the order of the groups table.

    Attributes:
        user: `(n,)` int64 numbers of the users.
        timestamp: `(n,)` int64 time of each context's key.
        history: Numbers of the items liked before each key, as `groups.parquet` lists them.
    """

    user: np.ndarray
    timestamp: np.ndarray
    history: Ragged

    @classmethod
    def of(cls, groups: pl.DataFrame, numbering: Numbering) -> Contexts:
        """Number the contexts of `groups.parquet`."""
        history = numbering.lists(groups["history"])
        return cls(numbering.users(groups["user_id"]), groups["timestamp"].to_numpy(), history)


@dataclass(frozen=True)
class ItemGroups(Dataset[int]):
    """The groups of an evaluation.

    Attributes:
        examples: Groups and their targets.
        contexts: All contexts of the data set.
        max_history: S, items read of a history, the latest.
    """

    examples: GroupExamples | CatalogueLists
    contexts: Contexts
    max_history: int

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.examples)

    def __getitem__(self, index: int) -> int:
        """Return the index itself; `collate` looks up a whole batch at once."""
        return index

    @property
    def lengths(self) -> np.ndarray:
        """Ones `(G,)`: groups stay in their order."""
        return np.ones(len(self), dtype=np.int64)

    def collate(self, indices: Sequence[int]) -> ItemBatch:
        """Make the batch of these groups; histories are padded to the longest."""
        part = self.examples.take(np.asarray(indices, dtype=np.int64))
        targets = catalogue_targets(part) if isinstance(part, CatalogueLists) else padded_targets(part)
        history = self.contexts.history.take(part.context)
        width = int(lengths_read(history.sizes, self.max_history).max(initial=1))
        context = {
            "group_id": part.group_id,
            "n_missed": part.n_missed,
            "user": self.contexts.user[part.context],
            "timestamp": self.contexts.timestamp[part.context],
            "history": history.left_padded(width),
        }
        batch: dict[str, object] = {name: torch.from_numpy(values) for name, values in (targets | context).items()}
        if isinstance(part, CatalogueLists):
            batch["catalogue"] = True
        return cast(ItemBatch, batch)


def padded_targets(examples: GroupExamples) -> dict[str, np.ndarray]:
    """Return `candidate_mask`, `relevance`, `kind` and `item_index` of B groups `(B, C)`, as in `CandidateBatch`."""
    fills = (("relevance", 0), ("kind", -1), ("item_index", -1))
    return {"candidate_mask": examples.mask()} | {
        name: examples.padded(getattr(examples, name), fill) for name, fill in fills
    }


def catalogue_targets(lists: CatalogueLists) -> dict[str, np.ndarray]:
    """Return the targets of catalogue lists `(B, N)` as `padded_targets` does; column j is row j of the items table."""
    mask = lists.mask()  # (B, N)
    index = np.where(mask, np.arange(lists.n_items), -1)  # (B, N)
    return {"candidate_mask": mask, "relevance": lists.relevance(), "kind": lists.kind(), "item_index": index}
