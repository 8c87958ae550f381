"""Batches of contexts and of training examples by number, each made in one go from flat arrays."""

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
from mllm_srec.data.loading.catalogue_lists import CatalogueLists, Ragged
from mllm_srec.data.loading.examples import GroupExamples
from mllm_srec.data.tables.interactions import in_time_order, is_liked
from mllm_srec.types import ItemBatch, TrainBatch


@dataclass(frozen=True)
class Contexts:
    """Every context of a data set by number, in the order of the groups table.

    Attributes:
        user: `(n,)` int64.
        timestamp: `(n,)` int64.
        history: Items liked before each context's key.
    """

    user: np.ndarray
    timestamp: np.ndarray
    history: Ragged

    @classmethod
    def of(cls, groups: pl.DataFrame, numbering: Numbering) -> Contexts:
        """The contexts of `groups.parquet`."""
        history = numbering.lists(groups["history"])
        return cls(numbering.users(groups["user_id"]), groups["timestamp"].to_numpy(), history)


@dataclass(frozen=True)
class ItemGroups(Dataset[int]):
    """Groups in evaluation.

    Attributes:
        examples: Groups and their targets.
        contexts: Of the data set.
        max_history: S, latest items of a history.
    """

    examples: GroupExamples | CatalogueLists
    contexts: Contexts
    max_history: int

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.examples)

    def __getitem__(self, index: int) -> int:
        """The group's place; `collate` looks up a whole batch at once."""
        return index

    @property
    def lengths(self) -> np.ndarray:
        """Ones `(G,)`: groups stay in their order."""
        return np.ones(len(self), dtype=np.int64)

    def collate(self, indices: Sequence[int]) -> ItemBatch:
        """The batch of these groups; histories are padded to the longest."""
        part = self.examples.take(np.asarray(indices, dtype=np.int64))
        targets = catalogue_targets(part) if isinstance(part, CatalogueLists) else padded_targets(part)
        history = self.contexts.history.take(part.context)
        length = int(min(history.sizes.max(initial=1), self.max_history))
        context = {
            "group_id": part.group_id,
            "n_missed": part.n_missed,
            "user": self.contexts.user[part.context],
            "timestamp": self.contexts.timestamp[part.context],
            "history": history.left_padded(max(1, length)),
        }
        batch: dict[str, object] = {name: torch.from_numpy(values) for name, values in (targets | context).items()}
        if isinstance(part, CatalogueLists):
            batch["catalogue"] = True
        return cast(ItemBatch, batch)


def padded_targets(examples: GroupExamples) -> dict[str, np.ndarray]:
    """Targets of B groups `(B, C)`: `candidate_mask`, `relevance`, `kind`, `item_index`, as in `CandidateBatch`."""
    fills = (("relevance", 0), ("kind", -1), ("item_index", -1))
    return {"candidate_mask": examples.mask()} | {
        name: examples.padded(getattr(examples, name), fill) for name, fill in fills
    }


def catalogue_targets(lists: CatalogueLists) -> dict[str, np.ndarray]:
    """As `padded_targets`, of lists of the whole catalogue `(B, N)`: column j is row j of the items table."""
    mask = lists.mask()  # (B, N)
    index = np.where(mask, np.arange(lists.n_items), -1)  # (B, N)
    return {"candidate_mask": mask, "relevance": lists.relevance(), "kind": lists.kind(), "item_index": index}


@dataclass(frozen=True)
class TrainExamples(Dataset[int]):
    """Training examples: users with their whole sequence, or likes with what was liked before them.

    Attributes:
        user: `(n,)` int64.
        begin: `(n,)` where the example's history begins in `items`.
        end: `(n,)` where it ends; for targets, where the target is.
        items: `(L,)` likes of the train split, users one after another, each in time order.
        unit: `sequences` or `targets`.
        max_history: S; a sequence has S + 1 items, since each but the first is predicted.
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
        """Examples of the train split; nothing of another split is looked at.

        A sequence of a single like has no next item, and is left out.
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
        """The example's place; `collate` looks up a whole batch at once."""
        return index

    @property
    def lengths(self) -> np.ndarray:
        """Ones `(n,)`: batches are drawn from all examples.

        Batches of similar length save padding, but a batch of short or of long histories only is no fair sample: on 600
        users with one epoch as a single pool BERT4Rec stayed at the level of popularity.
        """
        return np.ones(len(self), dtype=np.int64)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Items of each history `(n,)` that are looked at."""
        longest = self.max_history + (self.unit == "sequences")
        return np.asarray(np.minimum(self.end - self.begin, longest))

    def draw(self, limit: int | None, seed: int) -> TrainExamples:
        """At most `limit` examples, drawn with the seed; None takes all."""
        if limit is None or limit >= len(self):
            return self
        kept = np.sort(np.random.default_rng(seed).choice(len(self), limit, replace=False))
        return TrainExamples(self.user[kept], self.begin[kept], self.end[kept], self.items, self.unit, self.max_history)

    def collate(self, indices: Sequence[int]) -> TrainBatch:
        """The batch of these examples; histories are padded to the longest."""
        chosen = np.asarray(indices, dtype=np.int64)
        sizes, end = self.sizes[chosen], self.end[chosen]
        width = max(1, int(sizes.max(initial=1)))
        place = end[:, None] - width + np.arange(width)  # (B, S)
        inside = np.arange(width) >= width - sizes[:, None]  # (B, S)
        history = np.where(inside, self.items[np.where(inside, place, 0)] if len(self.items) else 0, 0)
        batch: TrainBatch = {"user": torch.from_numpy(self.user[chosen]), "history": torch.from_numpy(history)}
        if self.unit == "targets":
            batch["target"] = torch.from_numpy(self.items[end])
        return batch


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
