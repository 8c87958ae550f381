"""ItemKNN: items liked by the same users as those of the history; closed form.

Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms", TOIS 2004: cosine similarity of co-likes, of which
each item keeps its k nearest neighbours (`top_k`). Deviations: the row normalisation of the kept similarities is left
out, and Bell and Koren's shrinkage (ICDM 2007) is added to the denominator, so that two items liked together only once
do not count as near-duplicates; `shrinkage=0` is the plain cosine.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from mllm_srec.baselines.base import ItemRecommender
from mllm_srec.baselines.graph_base import SparseMatrix
from mllm_srec.baselines.parts.setting_checks import check_at_least
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import CandidateBatch, ItemBatch

CHUNK = 256
"""Items compared with the catalogue at a time; with 35,000 users, a dense block of 36 MB."""


class ItemKNN(ItemRecommender):
    """Scores by the sum of similarities to the items of the history; without a history, all items tie at 0.

    Args:
        top_k: k, number of nearest neighbours that each item keeps.
        shrinkage: Term added to the denominator of the cosine, in units of likes.
        last_only: Read the latest item of the history only.
        **kwargs: `max_history` of `ItemRecommender`; its other settings have no effect.

    Raises:
        ConfigError: If a setting is out of range.
    """

    trained: ClassVar[bool] = False
    neighbours: Tensor
    similarity: Tensor

    def __init__(self, top_k: int = 100, shrinkage: float = 10.0, last_only: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, top_k=top_k)
        check_at_least(0, shrinkage=shrinkage)
        self.top_k, self.shrinkage, self.last_only = top_k, shrinkage, last_only

    def build(self, train: TrainData) -> None:
        """Find the nearest neighbours of every item, a block of items at a time."""
        top_k, n = min(self.top_k, train.n_items), train.n_items + 1
        users, items = (torch.from_numpy(numbers) for numbers in train.likes)
        likes = torch.from_numpy(train.item_likes).float()  # (N + 1,)
        by_item = SparseMatrix(items, users, torch.ones(len(items)), (n, train.n_users + 1))
        neighbours, similarity = torch.zeros(n, top_k, dtype=torch.long), torch.zeros(n, top_k)
        for begin in range(1, n, CHUNK):
            end = min(begin + CHUNK, n)
            inside = (items >= begin) & (items < end)
            likers = torch.zeros(train.n_users + 1, end - begin)  # 1 where the user liked the item
            likers[users[inside], items[inside] - begin] = 1.0
            co_likes = by_item(likers).T  # (chunk, N + 1) number of users who liked both
            cosine = co_likes / (torch.outer(likes[begin:end], likes).sqrt() + self.shrinkage).clamp(min=1e-12)
            cosine[torch.arange(end - begin), torch.arange(begin, end)] = 0.0  # no item is its own neighbour
            similarity[begin:end], neighbours[begin:end] = cosine.topk(top_k, dim=1)
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("similarity", similarity, persistent=False)

    def score_all(self, batch: ItemBatch) -> Tensor:
        """Score the whole catalogue: float32 `(B, N)`, column j being item row j."""
        return self._sums(batch)[:, 1:]

    def score_candidates(self, batch: CandidateBatch) -> Tensor:
        """Score every candidate of an `ItemBatch`: float32 `(B, C)`."""
        items = cast(ItemBatch, batch)
        return self.score_all(items) if items.get("catalogue") else self._sums(items).gather(1, items["item_index"] + 1)

    def _sums(self, batch: ItemBatch) -> Tensor:
        """Sum the similarities to the history: `(B, N + 1)`; those of padding are 0."""
        history = batch["history"][:, -1:] if self.last_only else batch["history"][:, -self.max_history :]  # (B, S)
        columns, values = self.neighbours[history].flatten(1), self.similarity[history].flatten(1)  # (B, S k)
        return values.new_zeros(len(history), len(self.neighbours)).scatter_add(1, columns, values)
