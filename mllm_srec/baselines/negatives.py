"""Negatives for training: uniform over the catalogue, without what the user has interacted with in the train split."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mllm_srec.baselines.train_data import TrainData
from mllm_srec.types import DataError

MAX_ROUNDS = 1000


class NegativeSampler(nn.Module):
    """Draws items that a user has not interacted with in the train split, liked or not.

    Held-out items are drawn like all others: avoiding them would tell the model which they are.

    Args:
        train: The train split.

    Raises:
        DataError: A user has interacted with the whole catalogue.
    """

    seen: Tensor

    def __init__(self, train: TrainData) -> None:
        super().__init__()
        self.n_items = train.n_items
        keys = torch.from_numpy(np.unique(train.user * (train.n_items + 1) + train.item))  # sorted
        users = torch.div(keys, train.n_items + 1, rounding_mode="floor")
        full = (torch.bincount(users) >= train.n_items).nonzero().flatten() if len(keys) else keys
        if len(full):
            raise DataError(f"user number {full[0].item()} knows all {train.n_items} items: no negative can be drawn")
        self.register_buffer("seen", keys, persistent=False)

    def forward(self, users: Tensor, n: int) -> Tensor:
        """Draw from torch's global random state.

        Args:
            users: `(B,)`.
            n: Negatives for each; repeats are possible.

        Returns:
            Item numbers `(B, n)`.
        """
        drawn = torch.randint(1, self.n_items + 1, (len(users), n), device=users.device)  # (B, n)
        for _ in range(MAX_ROUNDS):
            known = self._known(users, drawn)
            if not known.any():
                return drawn
            drawn[known] = torch.randint(1, self.n_items + 1, (int(known.sum()),), device=users.device)
        raise DataError(f"no unseen item was found in {MAX_ROUNDS} draws; some user knows nearly the whole catalogue")

    def _known(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether the user has interacted with the item, `(B, n)`."""
        keys = users[:, None] * (self.n_items + 1) + items  # (B, n)
        place = torch.searchsorted(self.seen, keys)
        found = self.seen[place.clamp(max=max(0, len(self.seen) - 1))] if len(self.seen) else torch.zeros_like(keys)
        return (place < len(self.seen)) & (found == keys)
