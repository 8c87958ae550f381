"""Items that users have seen in the train split, and negatives sampled uniformly from all others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import DataError

MAX_ROUNDS = 1000
"""Rounds of rejection sampling before giving up."""


class KnownItems(nn.Module):
    """Items that each user has interacted with in the train split, liked or not ("seen" items).

    Args:
        train: The train split.
    """

    seen: Tensor

    def __init__(self, train: TrainData) -> None:
        super().__init__()
        self.n_items = train.n_items
        keys = torch.from_numpy(np.unique(train.user * (train.n_items + 1) + train.item))  # sorted
        self.register_buffer("seen", keys, persistent=False)

    def mask(self, users: Tensor) -> Tensor:
        """Mark the items that users `(B,)` have seen: bool `(B, N)`, column j for item number j + 1."""
        mask = torch.zeros(len(users), self.n_items, dtype=torch.bool, device=users.device)
        begin = torch.searchsorted(self.seen, users * (self.n_items + 1))  # (B,)
        sizes = torch.searchsorted(self.seen, (users + 1) * (self.n_items + 1)) - begin  # (B,)
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), sizes)  # (E,)
        first = (sizes.cumsum(0) - sizes)[row]  # (E,)
        index = begin[row] + torch.arange(len(row), device=users.device) - first  # (E,)
        mask[row, self.seen[index] % (self.n_items + 1) - 1] = True
        return mask

    def holds(self, users: Tensor, items: Tensor) -> Tensor:
        """Test which of the items `(B, n)` users `(B,)` have seen: bool `(B, n)`."""
        keys = users[:, None] * (self.n_items + 1) + items  # (B, n)
        index = torch.searchsorted(self.seen, keys)
        nearest = self.seen[index.clamp(max=max(0, len(self.seen) - 1))] if len(self.seen) else torch.zeros_like(keys)
        return (index < len(self.seen)) & (nearest == keys)


class NegativeSampler(KnownItems):
    """Samples items that a user has not seen in the train split.

    Held-out items are sampled like all others: avoiding them would leak which items they are.

    Args:
        train: The train split.

    Raises:
        DataError: If a user has interacted with the whole catalogue.
    """

    def __init__(self, train: TrainData) -> None:
        super().__init__(train)
        users = torch.div(self.seen, train.n_items + 1, rounding_mode="floor")
        full = (torch.bincount(users) >= train.n_items).nonzero().flatten() if len(self.seen) else self.seen
        if len(full):
            raise DataError(
                f"user number {full[0].item()} has seen all {train.n_items} items, so that no negative can be sampled; "
                "leave this user out of the train split"
            )

    def forward(self, users: Tensor, n: int) -> Tensor:
        """Sample negatives, using torch's global random state.

        Args:
            users: `(B,)` user numbers.
            n: Number of negatives per user; duplicates are possible.

        Returns:
            Item numbers `(B, n)`.

        Raises:
            DataError: If no unseen item was found in `MAX_ROUNDS` rounds.
        """
        sampled = torch.randint(1, self.n_items + 1, (len(users), n), device=users.device)  # (B, n)
        for _ in range(MAX_ROUNDS):
            seen = self.holds(users, sampled)
            if not seen.any():
                return sampled
            sampled[seen] = torch.randint(1, self.n_items + 1, (int(seen.sum()),), device=users.device)
        raise DataError(
            f"no unseen item was found in {MAX_ROUNDS} rounds; a user has seen nearly the whole catalogue: leave such "
            "users out of the train split"
        )
