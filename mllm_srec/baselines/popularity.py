"""References that every model must beat: chance, popularity and recent popularity; nothing is trained.

`Popularity` counts all likes of the train split; under a random split some of them are later than the context.
`RecencyPopularity` counts only likes before the context.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from mllm_srec.baselines.base import ItemRecommender
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import CandidateBatch, ConfigError, ItemBatch

DAY = 86_400_000
"""A day in milliseconds."""

LOW_32 = 0xFFFF_FFFF


class ClosedForm(ItemRecommender):
    """Base of references without weights: a subclass implements `item_scores`."""

    trained: ClassVar[bool] = False

    def item_scores(self, batch: ItemBatch, items: Tensor) -> Tensor:
        """Score item numbers `(B, C)`, 0 where masked: float32 `(B, C)`."""
        raise NotImplementedError(f"{type(self).__name__} has no item_scores(batch, items) -> (B, C)")

    def build(self, train: TrainData) -> None:
        """Store the size of the catalogue."""
        self.n_items = train.n_items

    def score_all(self, batch: ItemBatch) -> Tensor:
        """Score the whole catalogue: float32 `(B, N)`, column j being item row j."""
        user = batch["user"]
        return self.item_scores(batch, torch.arange(1, self.n_items + 1, device=user.device).expand(len(user), -1))

    def score_candidates(self, batch: CandidateBatch) -> Tensor:
        """Score every candidate of an `ItemBatch`: float32 `(B, C)`."""
        items = cast(ItemBatch, batch)
        return self.score_all(items) if items.get("catalogue") else self.item_scores(items, items["item_index"] + 1)


class Random(ClosedForm):
    """Chance: a number uniform in [0, 1) that depends on seed, user and item only."""

    def item_scores(self, batch: ItemBatch, items: Tensor) -> Tensor:
        """Hash seed, user and item to 24 bits, so that few items tie: float32 `(B, C)`."""
        hashed = mixed(mixed(torch.full_like(batch["user"], self.seed)) ^ batch["user"])  # (B,)
        return (mixed(hashed[:, None] ^ items) >> 8).float() / 2**24  # (B, C)


class Popularity(ClosedForm):
    """Likes of the item in the train split; integers, so many items tie."""

    likes: Tensor

    def build(self, train: TrainData) -> None:
        """Count the likes of every item."""
        super().build(train)
        self.register_buffer("likes", torch.from_numpy(train.item_likes).float(), persistent=False)  # (N + 1,)

    def item_scores(self, batch: ItemBatch, items: Tensor) -> Tensor:
        """Look up the likes of the items: float32 `(B, C)`."""
        return self.likes[items]


class RecencyPopularity(ClosedForm):
    """Likes of the item in the train split, within the last `days` before the context.

    Args:
        days: Length of the window, which ends right before the context's timestamp.
        **kwargs: Settings of `ItemRecommender`, without effect.

    Raises:
        ConfigError: If `days` is not positive.
    """

    needs_times: ClassVar[bool] = True

    liked: Tensor
    liked_at: Tensor
    times: Tensor
    keys: Tensor

    def __init__(self, days: float = 30.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not days > 0:
            raise ConfigError(f"days={days}: not positive; give a number of days above 0")
        self.days = days

    def build(self, train: TrainData) -> None:
        """Sort likes by item, then by time; one integer holds the item and the rank of the time."""
        super().build(train)
        times, rank = np.unique(train.timestamp[train.liked], return_inverse=True)
        keys = np.sort(train.likes[1] * (len(times) + 1) + rank)
        parts = {"liked": train.likes[1], "liked_at": train.timestamp[train.liked], "times": times, "keys": keys}
        for name, values in parts.items():  # (L,) each, but `times` is (T,)
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def _window(self, batch: ItemBatch) -> tuple[Tensor, Tensor]:
        """Begin and end `(B,)` of the window [timestamp - days, timestamp)."""
        end = batch["timestamp"]
        return end - round(self.days * DAY), end

    def item_scores(self, batch: ItemBatch, items: Tensor) -> Tensor:
        """Count the likes of the items within the window: float32 `(B, C)`."""
        begin, end = (self._before(items, moments) for moments in self._window(batch))
        return (end - begin).float()

    def _before(self, items: Tensor, moments: Tensor) -> Tensor:
        """Find the index `(B, C)` into the sorted likes of each item's first like at or after a moment `(B,)`."""
        rank = torch.searchsorted(self.times, moments)  # (B,)
        return torch.searchsorted(self.keys, items * (len(self.times) + 1) + rank[:, None])

    def score_all(self, batch: ItemBatch) -> Tensor:
        """Count for the whole catalogue: float32 `(B, N)`, in one pass over all likes and without a search per item."""
        bounds = torch.cat(self._window(batch))  # (2 B,)
        moments = bounds.sort().values
        moment_of_bound = torch.searchsorted(moments, bounds)  # (2 B,)
        first = torch.searchsorted(moments, self.liked_at, right=True)  # (L,) first moment after the like
        shape = (len(moments) + 1, self.n_items + 1)
        new = torch.bincount(first * shape[1] + self.liked, minlength=shape[0] * shape[1]).view(shape)
        before = new.cumsum(0)[moment_of_bound, 1:]  # (2 B, N) likes before each bound
        begin, end = before.chunk(2)
        return (end - begin).float()


def mixed(x: Tensor) -> Tensor:
    """Mix the low 32 bits of int64 numbers, one to one (the finaliser of Appleby's MurmurHash3).

    Products may overflow 64 bits, which does not affect the low 32 bits that are kept.

    Args:
        x: Int64 numbers, any shape.

    Returns:
        Int64 numbers of 32 bits, same shape.
    """
    x = x & LOW_32
    x = ((x ^ (x >> 16)) * 0x85EB_CA6B) & LOW_32
    x = ((x ^ (x >> 13)) * 0xC2B2_AE35) & LOW_32
    return x ^ (x >> 16)
