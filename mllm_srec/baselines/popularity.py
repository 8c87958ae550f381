"""References that every model must beat: chance, popularity, and popularity of late; nothing is trained.

Specification 3.1: on sparse data they are embarrassing to lose to. Popularity counts all likes of the train split;
under a random split some of them are later than the context. `RecencyPopularity` looks at earlier ones only.
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
"""Milliseconds."""

LOW_32 = 0xFFFF_FFFF


class ClosedForm(ItemRecommender):
    """Base of references without weights: a subclass says what items score in contexts."""

    trained: ClassVar[bool] = False

    def item_scores(self, batch: ItemBatch, items: Tensor) -> Tensor:
        """Float32 scores `(B, C)` of item numbers `(B, C)`, 0 where masked."""
        raise NotImplementedError(f"{type(self).__name__} has no item_scores(batch, items) -> (B, C)")

    def build(self, train: TrainData) -> None:
        """Know the size of the catalogue."""
        self.n_items = train.n_items

    def score_all(self, batch: ItemBatch) -> Tensor:
        """Float32 score of the whole catalogue `(B, N)`, column j being item row j."""
        user = batch["user"]
        return self.item_scores(batch, torch.arange(1, self.n_items + 1, device=user.device).expand(len(user), -1))

    def score_candidates(self, batch: CandidateBatch) -> Tensor:
        """Float32 score of every candidate `(B, C)` of an `ItemBatch`."""
        items = cast(ItemBatch, batch)
        return self.score_all(items) if items.get("catalogue") else self.item_scores(items, items["item_index"] + 1)


class Random(ClosedForm):
    """Chance: a number that depends on nothing but seed, user and item, uniform in [0, 1)."""

    def item_scores(self, batch: ItemBatch, items: Tensor) -> Tensor:
        """Float32 scores `(B, C)`: 24 bits of a hash, so that few items of a catalogue tie."""
        hashed = mixed(mixed(torch.full_like(batch["user"], self.seed)) ^ batch["user"])  # (B,)
        return (mixed(hashed[:, None] ^ items) >> 8).float() / 2**24  # (B, C)


class Popularity(ClosedForm):
    """Likes of the item in the train split; integers, so many items tie."""

    likes: Tensor

    def build(self, train: TrainData) -> None:
        """Count."""
        super().build(train)
        self.register_buffer("likes", torch.from_numpy(train.item_likes).float(), persistent=False)  # (N + 1,)

    def item_scores(self, batch: ItemBatch, items: Tensor) -> Tensor:
        """Float32 counts `(B, C)`."""
        return self.likes[items]


class RecencyPopularity(ClosedForm):
    """Likes of the item in the last `days` before the context, in the train split.

    Args:
        days: Length of the window; it ends right before the context's timestamp.
        **kwargs: Settings of `ItemRecommender`.

    Raises:
        ConfigError: `days` is not positive.
    """

    liked: Tensor
    liked_at: Tensor
    times: Tensor
    keys: Tensor

    def __init__(self, days: float = 30.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not days > 0:
            raise ConfigError(f"days={days}; give a positive number of days")
        self.days = days

    def build(self, train: TrainData) -> None:
        """Sort likes by item, then by time; times are replaced by ranks, so that one integer holds both."""
        super().build(train)
        times, rank = np.unique(train.timestamp[train.liked], return_inverse=True)
        keys = np.sort(train.likes[1] * (len(times) + 1) + rank)
        parts = {"liked": train.likes[1], "liked_at": train.timestamp[train.liked], "times": times, "keys": keys}
        for name, values in parts.items():  # (L,), but times: (T,)
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def _window(self, batch: ItemBatch) -> tuple[Tensor, Tensor]:
        """Beginning and end `(B,)` of what is counted: likes in [timestamp - days, timestamp)."""
        end = batch["timestamp"]
        return end - round(self.days * DAY), end

    def item_scores(self, batch: ItemBatch, items: Tensor) -> Tensor:
        """Float32 counts `(B, C)`."""
        begin, end = (self._before(items, moments) for moments in self._window(batch))
        return (end - begin).float()

    def _before(self, items: Tensor, moments: Tensor) -> Tensor:
        """Place `(B, C)`, among all sorted likes, of the item's first like at or after the moment `(B,)`."""
        rank = torch.searchsorted(self.times, moments)  # (B,)
        return torch.searchsorted(self.keys, items * (len(self.times) + 1) + rank[:, None])

    def score_all(self, batch: ItemBatch) -> Tensor:
        """Float32 counts `(B, N)`, by one pass over all likes, not a search for each item and context."""
        bounds = torch.cat(self._window(batch))  # (2 B,)
        moments = bounds.sort().values
        place = torch.searchsorted(moments, bounds)
        first = torch.searchsorted(moments, self.liked_at, right=True)  # (L,) first moment after the like
        shape = (len(moments) + 1, self.n_items + 1)
        new = torch.bincount(first * shape[1] + self.liked, minlength=shape[0] * shape[1]).view(shape)
        before = new.cumsum(0)[place, 1:]  # (2 B, N) likes before each moment
        begin, end = before.chunk(2)
        return (end - begin).float()


def mixed(x: Tensor) -> Tensor:
    """Scramble the low 32 bits of int64 numbers, one to one (the finaliser of Appleby's MurmurHash3).

    Products may overflow 64 bits; the low 32 bits, which are kept, are right all the same.
    """
    x = x & LOW_32
    x = ((x ^ (x >> 16)) * 0x85EB_CA6B) & LOW_32
    x = ((x ^ (x >> 13)) * 0xC2B2_AE35) & LOW_32
    return x ^ (x >> 16)
