"""Self-attention over histories that are padded on the left; shared by SASRec and BERT4Rec.

Both papers write attention without biases, and so is it here: a bias of the keys would have no effect on the softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def attention_mask(real: Tensor, causal: bool) -> Tensor:
    """Which position may look at which: at real ones, not at later ones if `causal`, and always at itself.

    Padding looks at itself alone, so that a softmax never runs over nothing: a history without items gives numbers.

    Args:
        real: Bool `(B, S)`, False on padding.
        causal: Hide later positions.

    Returns:
        Bool `(B, 1, S, S)`: row looks at column.
    """
    length = real.shape[1]
    itself = torch.eye(length, dtype=torch.bool, device=real.device)  # (S, S)
    allowed = real[:, None, :].expand(-1, length, -1)  # (B, S, S)
    if causal:
        allowed = allowed & torch.ones_like(itself).tril()
    return (allowed | itself)[:, None]


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention in heads, each with its own projections of queries, keys and values.

    Args:
        hidden: D.
        n_heads: Heads, which share D equally.
        project: Mix the heads by a last projection.
    """

    def __init__(self, hidden: int, n_heads: int, project: bool) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.to_query, self.to_key, self.to_value = (nn.Linear(hidden, hidden, bias=False) for _ in range(3))
        self.projection = nn.Linear(hidden, hidden, bias=False) if project else nn.Identity()

    def forward(self, queries: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """What each position finds at those it may look at.

        Args:
            queries: What asks `(B, S, D)`.
            states: What is looked at, keys and values in one `(B, S, D)`.
            mask: Of `attention_mask` `(B, 1, S, S)`.

        Returns:
            `(B, S, D)`.
        """
        query, key, value = (
            layer(source).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, heads, S, D / heads)
            for layer, source in ((self.to_query, queries), (self.to_key, states), (self.to_value, states))
        )
        found = scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (B, heads, S, D / heads)
        mixed: Tensor = self.projection(found.transpose(1, 2).flatten(2))
        return mixed
