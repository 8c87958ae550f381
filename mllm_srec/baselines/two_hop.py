"""Two hops in the graph of what was liked next, from the last one or two likes; nothing is trained.

Han et al., "An Embarrassingly Simple Graph Heuristic Reveals Shortcut-Solvable Benchmarks for Sequential
Recommendation", arXiv 2605.07125, 2026: it retrieves what a few hops in the graph of item transitions reach from the
last one or two items, ranks that by the similarity of item features, and beats trained models on most of their data
sets. Where it does, a data set says little about what longer histories are good for.

The paper's abstract is all that was at hand, so what it leaves open is decided here:

- An edge leads from a like to the user's next like in the train split; its weight is the share of that next like
  among all that followed the first. `TwoHop` ranks by the sum of these shares, a hop counting `hop_weight` of the one
  before, and the k-th last like 1 / k; `TwoHopFeatures` ranks what was reached by features, as the paper does.
- Features are the vectors that all models with pictures and texts get here; similarity is the cosine, averaged over
  picture and text and weighted over the last likes; what has neither counts as 0.

What no hop reaches has the score 0 and ties: on sparse data most of the catalogue. An empty history is ranked by
popularity.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mllm_srec.baselines.graph_base import SparseMatrix
from mllm_srec.baselines.history_base import HistoryScorer
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_positive
from mllm_srec.baselines.parts.train_data import TrainData


class TwoHop(HistoryScorer):
    """Shares of transitions within a few hops from the last likes.

    Args:
        n_last: Number of latest likes from which the hops begin.
        n_hops: Number of hops.
        hop_weight: What a hop counts of the one before.
        **kwargs: `max_history` of `ItemRecommender`; its other settings have no effect.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(self, n_last: int = 2, n_hops: int = 2, hop_weight: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, n_last=n_last, n_hops=n_hops)
        check_positive(hop_weight=hop_weight)
        self.n_last, self.n_hops, self.hop_weight = n_last, n_hops, hop_weight

    def build(self, train: TrainData) -> None:
        """Make the matrix of transitions `(N + 1, N + 1)`, from columns to rows; columns sum to 1 or are 0."""
        super().build(train)
        self.n_items = train.n_items
        users, items = train.likes
        follows = users[1:] == users[:-1]
        before, after = (torch.from_numpy(numbers[follows]) for numbers in (items[:-1], items[1:]))
        share = 1 / torch.from_numpy(np.bincount(before, minlength=train.n_items + 1)).float()[before]
        self.transitions = SparseMatrix(after, before, share, (train.n_items + 1, train.n_items + 1))

    def history_scores(self, history: Tensor) -> Tensor:
        """Sum the shares over hops: float32 `(B, N + 1)`."""
        here, weight = self._last_likes(history).T.contiguous(), 1.0  # (N + 1, B)
        scores = torch.zeros_like(here)
        for _ in range(self.n_hops):
            here = self.transitions(here)
            scores, weight = scores + weight * here, weight * self.hop_weight
        return scores.T

    def _last_likes(self, history: Tensor) -> Tensor:
        """Weights of the items from which the hops begin: float32 `(B, N + 1)`, 1 / k for the k-th last."""
        latest = history[:, -self.n_last :]  # (B, K)
        weights = 1 / torch.arange(latest.shape[1], 0, -1, device=history.device).float()  # (K,)
        begin = torch.zeros(len(history), self.n_items + 1, device=history.device)
        return begin.scatter_add(1, latest, weights * (latest > 0))


class TwoHopFeatures(TwoHop):
    """What a few hops reach, ranked by the similarity of features to the last likes; see `TwoHop`.

    The score of what is reached is 2 plus the similarity, so that it stands above all that is not.
    """

    needs_features: ClassVar[bool] = True
    vectors: Tensor

    def build(self, train: TrainData) -> None:
        """Join the normalised vectors of picture and text, so that a product is the mean of both cosines."""
        super().build(train)
        both = np.concatenate([self.features.image, self.features.text], axis=1) / 2**0.5
        self.register_buffer("vectors", torch.from_numpy(both).float(), persistent=False)  # (N + 1, F)

    def history_scores(self, history: Tensor) -> Tensor:
        """Rank what is reached: float32 `(B, N + 1)`."""
        weights = functional.normalize(self._last_likes(history), p=1, dim=1)  # (B, N + 1)
        similarity = weights @ self.vectors @ self.vectors.T  # (B, N + 1)
        return (2 + similarity) * (super().history_scores(history) > 0)
