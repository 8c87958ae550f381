"""ItemKNN: items liked by the same users as those of the history; closed form.

Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms", TOIS 2004: cosine similarity of co-likes, of which
each item keeps its k nearest neighbours (`top_k`). Deviations: the row normalisation of the kept similarities is left
out, and Bell and Koren's shrinkage (ICDM 2007) is added to the denominator, so that two items liked together only once
do not count as near-duplicates; `shrinkage=0` is the plain cosine.

Two weightings of likes come from text retrieval, items being the documents and users the terms; they are the item
models of the library `implicit`, and among the strongest of its kind in Ferrari Dacrema et al., RecSys 2019:

- `tfidf`: a like counts ln((N + 1) / (n_u + 1)), where n_u is the number of likes of its user: who likes everything
  says little about what is alike. The cosine is taken of these weights.
- `bm25` (Robertson and Walker, SIGIR 1994): that times (k1 + 1) / (k1 (1 - b + b n_i / mean) + 1), where n_i is the
  number of likes of the item. Since a like happens once, this is one factor per item, which a cosine would cancel:
  similarity is the product of the weights, without normalisation or shrinkage.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from mllm_srec.baselines.base import ItemRecommender
from mllm_srec.baselines.parts.co_likes import co_like_blocks
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_choice, check_share
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import CandidateBatch, ConfigError, ItemBatch

Weighting = Literal["none", "tfidf", "bm25"]

CHUNK = 256
"""Items compared with the catalogue at a time."""


class ItemKNN(ItemRecommender):
    """Scores by the sum of similarities to the items of the history; without a history, all items tie at 0.

    Args:
        top_k: k, number of nearest neighbours that each item keeps.
        shrinkage: Term added to the denominator of the cosine, in units of likes (with `tfidf`, of squared weights).
        last_only: Read the latest item of the history only.
        weighting: What a like counts: `none` is 1 for all, see the head of this file for `tfidf` and `bm25`.
        bm25_k1: k1 of `bm25`, from 0 (the likes of an item have no effect).
        bm25_b: b of `bm25`, from 0 (none either) to 1.
        **kwargs: `max_history` of `ItemRecommender`; its other settings have no effect.

    Raises:
        ConfigError: If a setting is out of range.
    """

    trained: ClassVar[bool] = False
    later_settings: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"weighting": "none", "bm25_k1": 100.0, "bm25_b": 0.8}
    )
    neighbours: Tensor
    similarity: Tensor

    def __init__(
        self,
        top_k: int = 100,
        shrinkage: float = 10.0,
        last_only: bool = False,
        weighting: Weighting = "none",
        bm25_k1: float = 100.0,
        bm25_b: float = 0.8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(1, top_k=top_k)
        check_at_least(0, shrinkage=shrinkage, bm25_k1=bm25_k1)
        check_share(bm25_b=bm25_b)
        check_choice(get_args(Weighting), weighting=weighting)
        if weighting == "bm25" and shrinkage:
            raise ConfigError(f"shrinkage={shrinkage}: has no effect on weighting='bm25'; give shrinkage=0")
        self.weighting, self.bm25_k1, self.bm25_b = weighting, bm25_k1, bm25_b
        self.top_k, self.shrinkage, self.last_only = top_k, shrinkage, last_only

    def build(self, train: TrainData) -> None:
        """Find the nearest neighbours of every item, a block of items at a time."""
        top_k, n = min(self.top_k, train.n_items), train.n_items + 1
        weights = self._weights(train)
        items = torch.from_numpy(train.likes[1])
        norms = torch.zeros(n).index_add(0, items, torch.ones(len(items)) if weights is None else weights.square())
        neighbours, similarity = torch.zeros(n, top_k, dtype=torch.long), torch.zeros(n, top_k)
        for begin, end, alike in co_like_blocks(train, CHUNK, weights):  # (chunk, N + 1)
            if self.weighting != "bm25":
                alike = alike / (torch.outer(norms[begin:end], norms).sqrt() + self.shrinkage).clamp(min=1e-12)
            alike[torch.arange(end - begin), torch.arange(begin, end)] = 0.0  # no item is its own neighbour
            similarity[begin:end], neighbours[begin:end] = alike.topk(top_k, dim=1)
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("similarity", similarity, persistent=False)

    def _weights(self, train: TrainData) -> Tensor | None:
        """Weigh the likes: float32 `(L,)`; None for ones."""
        if self.weighting == "none":
            return None
        users, items = (torch.from_numpy(numbers) for numbers in train.likes)
        weights = ((train.n_items + 1) / (torch.bincount(users, minlength=1) + 1)).log()[users]  # (L,)
        if self.weighting == "bm25":
            likes = torch.from_numpy(train.item_likes).float()  # (N + 1,)
            length = 1 - self.bm25_b + self.bm25_b * likes / (len(items) / train.n_items)
            weights = weights * ((self.bm25_k1 + 1) / (self.bm25_k1 * length + 1))[items]
        return weights

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
