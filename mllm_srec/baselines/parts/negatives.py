"""What users know of the train split, and negatives for training: uniform over all that they do not know."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import DataError

MAX_ROUNDS = 1000


class KnownItems(nn.Module):
    """Items that each user has interacted with in the train split, liked or not.

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
        """Bool `(B, N)` for users `(B,)`: column j says whether the user knows item number j + 1."""
        mask = torch.zeros(len(users), self.n_items, dtype=torch.bool, device=users.device)
        begin = torch.searchsorted(self.seen, users * (self.n_items + 1))  # (B,)
        sizes = torch.searchsorted(self.seen, (users + 1) * (self.n_items + 1)) - begin  # (B,)
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), sizes)  # (E,)
        first = (sizes.cumsum(0) - sizes)[row]  # (E,)
        place = begin[row] + torch.arange(len(row), device=users.device) - first  # (E,)
        mask[row, self.seen[place] % (self.n_items + 1) - 1] = True
        return mask

    def holds(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether users `(B,)` know items `(B, n)`: bool `(B, n)`."""
        keys = users[:, None] * (self.n_items + 1) + items  # (B, n)
        place = torch.searchsorted(self.seen, keys)
        found = self.seen[place.clamp(max=max(0, len(self.seen) - 1))] if len(self.seen) else torch.zeros_like(keys)
        return (place < len(self.seen)) & (found == keys)


class NegativeSampler(KnownItems):
    """Draws items that a user does not know from the train split.

    Held-out items are drawn like all others: avoiding them would tell the model which they are.

    Args:
        train: The train split.

    Raises:
        DataError: A user has interacted with the whole catalogue.
    """

    def __init__(self, train: TrainData) -> None:
        super().__init__(train)
        users = torch.div(self.seen, train.n_items + 1, rounding_mode="floor")
        full = (torch.bincount(users) >= train.n_items).nonzero().flatten() if len(self.seen) else self.seen
        if len(full):
            raise DataError(f"user number {full[0].item()} knows all {train.n_items} items: no negative can be drawn")

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
            known = self.holds(users, drawn)
            if not known.any():
                return drawn
            drawn[known] = torch.randint(1, self.n_items + 1, (int(known.sum()),), device=users.device)
        raise DataError(f"no unseen item was found in {MAX_ROUNDS} draws; some user knows nearly the whole catalogue")
