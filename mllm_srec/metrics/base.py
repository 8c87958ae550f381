"""What metrics with states share: a dtype that their module cannot change, and lists that are joined when read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class StableDtypeMetric(Metric):
    """A metric whose states move between devices with its module but keep their dtype.

    `module.to(torch.bfloat16)`, which a Trainer's `bf16-true` does, would otherwise round the sums to three digits, and
    give processes without data an empty list of another dtype than the rest, which breaks the synchronisation. For the
    same reason a list state holds float32 only: that is the dtype of the empty list of a process without data.
    """

    is_differentiable = False
    full_state_update = False

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        def move(x: Tensor) -> Tensor:
            return x.to(fn(x.new_empty(0)).device)

        return super()._apply(move, exclude_state)

    def joined(self, name: str) -> Tensor:
        """All of a list state, `(n,)` float32; torchmetrics makes it a list before synchronisation, a tensor after."""
        state = getattr(self, name)
        return torch.zeros(0, device=self.device) if len(state) == 0 else dim_zero_cat(state)
