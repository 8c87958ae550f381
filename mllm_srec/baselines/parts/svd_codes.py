"""Items as short codes: the sub-item tokens of GPTRec, from a truncated SVD of the train split's likes.

Petrov and Macdonald, "Generative Sequential Recommendation with GPTRec" (Gen-IR at SIGIR 2023). Items liked by the same
users lie close in the leading components, so they share tokens. Items with few likes lie near zero in all of them, and
are told apart by noise only: look at `collision_rate`, and expect little of the codes of rare items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import ConfigError

NOISE = 1e-5
"""Standard deviation of the noise that breaks exact ties, in units of a component's range (GPTRec's value)."""

OVERSAMPLING, ITERATIONS = 16, 30
"""Of the randomised SVD; in a sparse 22,000 x 12,000 matrix the first eight components are then right to 1e-8."""


def like_matrix(train: TrainData) -> Tensor:
    """Who liked what in the train split: sparse `(U, N)` float64, ones and zeros; row u - 1 is user number u."""
    users, items = (torch.from_numpy(numbers) - 1 for numbers in train.likes)  # (L,) each
    place, shape = torch.unique(torch.stack([users, items]), dim=1), (train.n_users, train.n_items)  # (2, L)
    ones = torch.ones(place.shape[1], dtype=torch.float64)
    return torch.sparse_coo_tensor(place, ones, shape, check_invariants=True).coalesce()


def item_components(matrix: Tensor, n_components: int) -> Tensor:
    """Leading right singular vectors, by subspace iteration from a random start (torch's global state).

    Args:
        matrix: `(U, N)`, dense or sparse.
        n_components: t.

    Returns:
        `(N, t)`, orthonormal columns; the largest entry of each by magnitude is positive, since signs are arbitrary.

    Raises:
        ConfigError: There are fewer users or items than components.
    """
    rank = min(matrix.shape)
    if n_components > rank:
        raise ConfigError(
            f"n_tokens={n_components}, but {matrix.shape[0]} users x {matrix.shape[1]} items have {rank} components; "
            f"give at most {rank}"
        )
    _, _, vectors = torch.svd_lowrank(matrix, q=min(rank, n_components + OVERSAMPLING), niter=ITERATIONS)  # (N, q)
    vectors = vectors[:, :n_components]  # (N, t)
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))  # (1, t)
    return torch.where(largest < 0, -vectors, vectors)


def quantile_codes(components: Tensor, n_values: int) -> Tensor:
    """Bins of equal size in each dimension, after min-max scaling and a tiny noise (torch's global state).

    Args:
        components: `(N, t)`.
        n_values: v, bins of a dimension.

    Returns:
        `(N, t)` int64, 0..v - 1, ascending with the component; bin sizes differ by at most one.
    """
    low, high = components.min(dim=0).values, components.max(dim=0).values  # (t,) each
    scaled = (components - low) / torch.where(high > low, high - low, 1.0)  # (N, t)
    noisy = scaled + torch.randn_like(scaled) * NOISE
    rank = noisy.argsort(dim=0).argsort(dim=0)  # (N, t), 0..N - 1
    return torch.div(rank * n_values, len(components), rounding_mode="floor")


def item_codes(train: TrainData, n_tokens: int, n_values: int) -> Tensor:
    """Codes of all items.

    Args:
        train: The train split.
        n_tokens: t, codes of an item. With one, every item has a value of its own, whatever `n_values` is.
        n_values: v, values of a code.

    Returns:
        `(N, t)` int64, row i being item row i.
    """
    if n_tokens == 1:
        return torch.arange(train.n_items).unsqueeze(1)
    return quantile_codes(item_components(like_matrix(train), n_tokens), n_values)


def collision_rate(codes: Tensor) -> float:
    """Share of the items `(N, t)` whose codes another item has too: the model cannot tell them apart, and they tie."""
    _, place, counts = torch.unique(codes, dim=0, return_inverse=True, return_counts=True)
    return float((counts[place] > 1).double().mean())
