"""Items as short codes: the sub-item tokens of GPTRec, from a truncated SVD of the train split's likes.

Petrov and Macdonald, "Generative Sequential Recommendation with GPTRec" (Gen-IR at SIGIR 2023). Items liked by the same
users are close in the leading components, so they share tokens. Items with few likes are near zero in all components,
where noise alone decides on their codes: check `collision_rate`, and expect little of the codes of rare items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import ConfigError

NOISE = 1e-5
"""Standard deviation of the noise that breaks exact ties, in units of a component's range (GPTRec's value)."""

OVERSAMPLING, ITERATIONS = 16, 30
"""Of the randomised SVD; for a sparse 22,000 x 12,000 matrix the first eight components are then exact to 1e-8."""


def like_matrix(train: TrainData) -> Tensor:
    """Make the matrix of likes of the train split: sparse float64 `(U, N)` of 0 and 1; row u - 1 is user number u."""
    users, items = (torch.from_numpy(numbers) - 1 for numbers in train.likes)  # (L,) each
    indices, shape = torch.unique(torch.stack([users, items]), dim=1), (train.n_users, train.n_items)  # (2, L)
    ones = torch.ones(indices.shape[1], dtype=torch.float64)
    return torch.sparse_coo_tensor(indices, ones, shape, check_invariants=True).coalesce()


def item_components(matrix: Tensor, n_components: int) -> Tensor:
    """Compute the leading right singular vectors, by subspace iteration from a random start (torch's global state).

    Args:
        matrix: `(U, N)` likes, dense or sparse.
        n_components: t, number of vectors.

    Returns:
        `(N, t)` orthonormal columns; since signs are arbitrary, the entry of largest magnitude is made positive.

    Raises:
        ConfigError: If there are fewer users or items than components.
    """
    rank = min(matrix.shape)
    if n_components > rank:
        raise ConfigError(
            f"n_tokens={n_components}: {matrix.shape[0]} users x {matrix.shape[1]} items have {rank} components; give "
            f"at most {rank}"
        )
    _, _, vectors = torch.svd_lowrank(matrix, q=min(rank, n_components + OVERSAMPLING), niter=ITERATIONS)  # (N, q)
    vectors = vectors[:, :n_components]  # (N, t)
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))  # (1, t)
    return torch.where(largest < 0, -vectors, vectors)


def quantile_codes(components: Tensor, n_values: int) -> Tensor:
    """Quantise each dimension into bins of equal size, after min-max scaling and tiny noise (torch's global state).

    Args:
        components: `(N, t)` components of the items.
        n_values: v, number of bins per dimension.

    Returns:
        `(N, t)` int64 bins 0..v - 1, ascending with the component; bin sizes differ by at most one.
    """
    low, high = components.min(dim=0).values, components.max(dim=0).values  # (t,) each
    scaled = (components - low) / torch.where(high > low, high - low, 1.0)  # (N, t)
    noisy = scaled + torch.randn_like(scaled) * NOISE
    rank = noisy.argsort(dim=0).argsort(dim=0)  # (N, t), 0..N - 1
    return torch.div(rank * n_values, len(components), rounding_mode="floor")


def item_codes(train: TrainData, n_tokens: int, n_values: int) -> Tensor:
    """Compute the codes of all items.

    Args:
        train: The train split.
        n_tokens: t, length of a code. With 1 every item has a unique value, and `n_values` has no effect.
        n_values: v, number of values of a token.

    Returns:
        `(N, t)` int64, row i being item row i.
    """
    if n_tokens == 1:
        return torch.arange(train.n_items).unsqueeze(1)
    return quantile_codes(item_components(like_matrix(train), n_tokens), n_values)


def collision_rate(codes: Tensor) -> float:
    """Compute the share of items whose code `(N, t)` another item has too, so that their scores tie."""
    _, code_of_item, counts = torch.unique(codes, dim=0, return_inverse=True, return_counts=True)
    return float((counts[code_of_item] > 1).double().mean())
