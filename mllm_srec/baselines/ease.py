"""EASE-R: items predicted from all other items by one ridge regression with a zero diagonal; closed form.

Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019: with the Gram matrix G = X^T X of the likes and
P = (G + lambda I)^-1, the weights are B_ij = -P_ij / P_jj off the diagonal (equation 8), and the score of item j is the
sum of B_ij over the items i of the history. Deviations: the history of the context stands for the user's row of X, so
that the model never reads a like after the context; and an empty history is ranked by popularity.

An item that nobody liked in the train split has weights of 0 to and from all others, and the score 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mllm_srec.baselines.history_base import HistoryScorer
from mllm_srec.baselines.parts.co_likes import co_like_blocks
from mllm_srec.baselines.parts.setting_checks import check_positive
from mllm_srec.baselines.parts.train_data import TrainData

CHUNK = 256
"""Rows of the Gram matrix that are computed at a time."""


class EASE(HistoryScorer):
    """Embarrassingly shallow autoencoder.

    It inverts a matrix of the size of the catalogue: about 24 N^2 bytes and N^3 operations, so 8 GB at 18,000 items.

    Args:
        reg: lambda, weight of the squared weights, in units of likes; the more likes there are, the larger its best
            value (200 to 500 on the paper's data of millions of likes).
        **kwargs: `max_history` of `ItemRecommender`; its other settings have no effect.

    Raises:
        ConfigError: If a setting is out of range.
    """

    weights: Tensor

    def __init__(self, reg: float = 500.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(reg=reg)
        self.reg = reg

    def build(self, train: TrainData) -> None:
        """Solve for the weights B, in double precision."""
        super().build(train)
        gram = torch.zeros(train.n_items, train.n_items, dtype=torch.float64)
        for begin, end, block in co_like_blocks(train, CHUNK):
            gram[begin - 1 : end - 1] = block[:, 1:]
        gram.diagonal().add_(self.reg)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))  # P (N, N)
        weights = (-inverse / inverse.diagonal()).fill_diagonal_(0.0)  # B (N, N), from row to column
        self.register_buffer("weights", functional.pad(weights.float(), (1, 0, 1, 0)), persistent=False)

    def history_scores(self, history: Tensor) -> Tensor:
        """Sum the weights from the items of the histories `(B, S)`: float32 `(B, N + 1)`."""
        return functional.embedding_bag(history, self.weights, mode="sum")
