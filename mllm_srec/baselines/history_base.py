"""Base of the references in closed form that read a history: item vectors or weights are solved for, not trained.

What they know of a user is the history of the context, which is read anew for every list: no like after the context can
be seen, whatever the split, and a new user is scored like any other.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor

from mllm_srec.baselines.base import ItemRecommender
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import CandidateBatch, ItemBatch


class HistoryScorer(ItemRecommender):
    """Base of models that are built from the train split at once and score the catalogue for a history.

    A subclass implements `history_scores`. Without a history the ranking is by popularity: score = likes / most likes
    of any item, as in the graph models.
    """

    trained: ClassVar[bool] = False
    popularity: Tensor

    def build(self, train: TrainData) -> None:
        """Compute the popularity of the items; a subclass adds what it scores with."""
        popularity = train.item_likes / max(1, train.item_likes.max())
        self.register_buffer("popularity", torch.from_numpy(popularity).float(), persistent=False)  # (N + 1,)

    def history_scores(self, history: Tensor) -> Tensor:
        """Score the catalogue for histories.

        Args:
            history: `(B, S)` item numbers, padded on the left, S at most `max_history`; may be empty.

        Returns:
            Float32 `(B, N + 1)`; column 0 has no meaning.
        """
        raise NotImplementedError(f"{type(self).__name__} has no history_scores(history) -> (B, N + 1)")

    def score_all(self, batch: ItemBatch) -> Tensor:
        """Score the whole catalogue: float32 `(B, N)`, column j being item row j."""
        return self._scores(batch)[:, 1:]

    def score_candidates(self, batch: CandidateBatch) -> Tensor:
        """Score every candidate of an `ItemBatch`: float32 `(B, C)`."""
        items = cast(ItemBatch, batch)
        if items.get("catalogue"):
            return self.score_all(items)
        return self._scores(items).gather(1, items["item_index"] + 1)

    def _scores(self, batch: ItemBatch) -> Tensor:
        """Score in full precision, as solving equations needs, whatever precision the trainer has: `(B, N + 1)`."""
        history = batch["history"][:, -self.max_history :]  # (B, S)
        with torch.autocast(history.device.type, enabled=False):
            scores = self.history_scores(history)
        has_history = (history > 0).any(dim=1, keepdim=True)  # (B, 1)
        return torch.where(has_history, scores, self.popularity)
