"""How often, or how strongly, two items are liked by the same users: blocks of the item-item matrix A^T A."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mllm_srec.baselines.graph_base import SparseMatrix
from mllm_srec.baselines.parts.train_data import TrainData


def co_like_blocks(train: TrainData, size: int, weights: Tensor | None = None) -> Iterator[tuple[int, int, Tensor]]:
    """Multiply the matrix A of users and items with itself, a block of items at a time.

    Args:
        train: The train split.
        size: Number of items of a block; with 35,000 users, 256 items are a dense block of 36 MB.
        weights: `(L,)` float32, entry of A for each like; None for ones, so that the products count common users.

    Yields:
        First item number of the block, number after its last one, and the rows of these items `(block, N + 1)`,
        float32.
    """
    users, items = (torch.from_numpy(numbers) for numbers in train.likes)
    values = torch.ones(len(items)) if weights is None else weights
    n = train.n_items + 1
    by_item = SparseMatrix(items, users, values, (n, train.n_users + 1))
    for begin in range(1, n, size):
        end = min(begin + size, n)
        inside = (items >= begin) & (items < end)
        likers = torch.zeros(train.n_users + 1, end - begin)  # the entry where the user liked the item
        likers[users[inside], items[inside] - begin] = values[inside]
        yield begin, end, by_item(likers).T
