"""iALS: matrix factorisation by alternating least squares, where every item that a user did not like counts a little.

Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, with the objective of
Rendle, Krichene, Zhang and Koren, "Revisiting the Performance of iALS on Item Recommendation Benchmarks", RecSys 2022,
with which it reaches newer models where it is tuned:

    sum over likes (1 - w h)^2 + alpha0 * sum over all pairs (w h)^2
        + lambda * (sum over users (n_u + alpha0 N)^nu |w|^2 + sum over items (n_i + alpha0 U)^nu |h|^2)

with n_u likes of a user and n_i of an item; nu = 1 scales the regularisation by frequency, nu = 0 is the constant one
of Hu et al. Each half of an epoch solves for all users, or for all items, exactly.

Deviation: the vector of a user is not kept, but solved for anew from the history of the context ("folding in"), so that
it never knows a like after the context, and a new user has one. U counts the users with likes in the train split.

An item that nobody liked in the train split has the vector 0, and so the score 0; an empty history is ranked by
popularity. The library `implicit` is made for millions of likes, but has no frequency-scaled regularisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllm_srec.baselines.history_base import HistoryScorer
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_positive, check_share
from mllm_srec.baselines.parts.train_data import TrainData

MAX_VALUES = 2**23
"""Values gathered at once while users or items are solved for: 67 MB in double precision."""


class IALS(HistoryScorer):
    """Implicit alternating least squares.

    Args:
        hidden: D, width of the vectors.
        reg: lambda, weight of the squared norms; the default is for thousands of likes, for millions .003 is usual.
        unobserved: alpha0, weight of all pairs of users and items, 1 being that of a like.
        exponent: nu, from 0 (constant regularisation) to 1 (scaled by frequency).
        n_epochs: Number of times that users and items are solved for.
        init_std: Standard deviation of the initial vectors, times sqrt(D).
        **kwargs: `max_history` of `ItemRecommender`; its other settings have no effect.

    Raises:
        ConfigError: If a setting is out of range.
    """

    vectors: Tensor
    gram: Tensor

    def __init__(
        self,
        hidden: int = 64,
        reg: float = 0.03,
        unobserved: float = 0.3,
        exponent: float = 1.0,
        n_epochs: int = 16,
        init_std: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(1, hidden=hidden, n_epochs=n_epochs)
        check_positive(reg=reg, unobserved=unobserved, init_std=init_std)
        check_share(exponent=exponent)
        self.hidden, self.reg, self.unobserved, self.exponent = hidden, reg, unobserved, exponent
        self.n_epochs, self.init_std = n_epochs, init_std

    def build(self, train: TrainData) -> None:
        """Alternate between users and items, in double precision; items are solved for last."""
        super().build(train)
        users, items = train.likes
        self.n_items, n_users = train.n_items, len(np.unique(users))
        vectors = torch.randn(train.n_items + 1, self.hidden, dtype=torch.float64) * self.init_std / self.hidden**0.5
        vectors[0] = 0  # padding
        by_user = _grouped(users, items, self.hidden)
        by_item = _grouped(items, users, self.hidden)
        for _ in range(self.n_epochs):
            user_vectors = self._solved_all(by_user, vectors, train.n_users, self.n_items)
            vectors = self._solved_all(by_item, user_vectors, self.n_items, n_users)
        self.register_buffer("vectors", vectors.float(), persistent=False)  # (N + 1, D)
        self.register_buffer("gram", (vectors.T @ vectors).float(), persistent=False)  # (D, D)

    def history_scores(self, history: Tensor) -> Tensor:
        """Solve for the vectors of the histories `(B, S)` and multiply by those of all items: float32 `(B, N + 1)`."""
        return self._solved(history, self.vectors, self.gram, self.n_items) @ self.vectors.T

    def _solved_all(self, groups: list[tuple[Tensor, Tensor]], others: Tensor, n: int, n_others: int) -> Tensor:
        """Solve for the vectors of one side `(n + 1, D)`, given those of the other; without likes they are 0."""
        gram, vectors = others.T @ others, others.new_zeros(n + 1, self.hidden)
        for rows, liked in groups:
            vectors[rows] = self._solved(liked, others, gram, n_others)
        return vectors

    def _solved(self, liked: Tensor, others: Tensor, gram: Tensor, n_others: int) -> Tensor:
        """Solve one ridge regression per row.

        Args:
            liked: `(R, L)` int64 rows of `others` that like, or are liked; 0 is padding.
            others: `(M + 1, D)` vectors of the other side; row 0 is zero.
            gram: `(D, D)` their Gram matrix.
            n_others: Number of users or items of the other side that are no likes with weight alpha0.

        Returns:
            Vectors `(R, D)`.
        """
        chosen = others[liked]  # (R, L, D)
        scale = ((liked > 0).sum(dim=1) + self.unobserved * n_others) ** self.exponent  # (R,)
        ridge = torch.diag_embed((self.reg * scale).to(gram.dtype)[:, None].expand(-1, self.hidden))  # (R, D, D)
        matrix = chosen.mT @ chosen + self.unobserved * gram + ridge
        solution = torch.cholesky_solve(chosen.sum(dim=1)[..., None], torch.linalg.cholesky(matrix))
        return solution[..., 0]


def _grouped(rows: np.ndarray, columns: np.ndarray, hidden: int) -> list[tuple[Tensor, Tensor]]:
    """Group the pairs by row, and rows of similar numbers of pairs together, so that little padding is multiplied.

    Args:
        rows: `(L,)` int64, numbers from 1.
        columns: `(L,)` int64, numbers from 1.
        hidden: D, which with the longest row decides how many rows make a group.

    Returns:
        For each group its row numbers `(R,)` and their columns `(R, longest)`, 0 being padding.
    """
    order = np.argsort(rows, kind="stable")
    numbers, starts, sizes = np.unique(rows[order], return_index=True, return_counts=True)
    by_size = np.argsort(sizes, kind="stable")[::-1]
    groups, begin = [], 0
    while begin < len(by_size):
        longest = int(sizes[by_size[begin]])
        chosen = by_size[begin : begin + max(1, MAX_VALUES // (max(longest, hidden) * hidden))]
        places = np.arange(longest)[None]  # (1, longest)
        inside = places < sizes[chosen][:, None]  # (R, longest)
        found = columns[order][np.where(inside, starts[chosen][:, None] + places, 0)]
        groups.append((torch.from_numpy(numbers[chosen]), torch.from_numpy(np.where(inside, found, 0))))
        begin += len(chosen)
    return groups
