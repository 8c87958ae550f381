"""Base of the metrics with state: a dtype that `module.to(dtype)` cannot change, and list states that concatenate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class StableDtypeMetric(Metric):
    """A metric whose states follow its module to another device but keep their dtype.

    Otherwise `module.to(torch.bfloat16)`, which a Trainer with `bf16-true` calls, would round the sums to three digits.
    It would also give processes without data an empty list of another dtype than the rest, which breaks the
    synchronisation. For the same reason a list state holds float32 only: that is the dtype of such an empty list.
    """

    is_differentiable = False
    full_state_update = False

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        def move(x: Tensor) -> Tensor:
            return x.to(fn(x.new_empty(0)).device)

        return super()._apply(move, exclude_state)

    def joined(self, name: str) -> Tensor:
        """Concatenate a list state, which torchmetrics keeps as a list before synchronisation and as a tensor after it.

        Args:
            name: Name of the state.

        Returns:
            All its values, float32 `(n,)`.
        """
        state = getattr(self, name)
        return torch.zeros(0, device=self.device) if len(state) == 0 else dim_zero_cat(state)
