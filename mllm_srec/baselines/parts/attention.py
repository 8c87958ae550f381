"""Self-attention over histories that are padded on the left; shared by SASRec and BERT4Rec.

As in both papers, the projections have no biases; a bias of the keys would have no effect on the softmax anyway.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def attention_mask(is_item: Tensor, causal: bool) -> Tensor:
    """Make the attention mask: a position attends to items, to no later ones if `causal`, and always to itself.

    Since padding attends to itself, no softmax is over an empty set, and a history without items gives finite numbers.

    Args:
        is_item: Bool `(B, S)`, False on padding.
        causal: True to hide later positions.

    Returns:
        Bool `(B, 1, S, S)`, True where the row's position attends to the column's.
    """
    length = is_item.shape[1]
    itself = torch.eye(length, dtype=torch.bool, device=is_item.device)  # (S, S)
    allowed = is_item[:, None, :].expand(-1, length, -1)  # (B, S, S)
    if causal:
        allowed = allowed & torch.ones_like(itself).tril()
    return (allowed | itself)[:, None]


class MultiHeadAttention(nn.Module):
    """Multi-head scaled dot-product attention.

    Args:
        hidden: D, width of the states.
        n_heads: Number of heads, a divisor of D.
        project: True to mix the heads by an output projection.
    """

    def __init__(self, hidden: int, n_heads: int, project: bool) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.to_query, self.to_key, self.to_value = (nn.Linear(hidden, hidden, bias=False) for _ in range(3))
        self.projection = nn.Linear(hidden, hidden, bias=False) if project else nn.Identity()

    def forward(self, queries: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Attend from queries to states.

        Args:
            queries: `(B, S, D)` input of the queries.
            states: `(B, S, D)` input of the keys and values.
            mask: `(B, 1, S, S)` from `attention_mask`.

        Returns:
            Attended states `(B, S, D)`.
        """
        query, key, value = (
            layer(source).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, heads, S, D / heads)
            for layer, source in ((self.to_query, queries), (self.to_key, states), (self.to_value, states))
        )
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (B, heads, S, D / heads)
        output: Tensor = self.projection(attended.transpose(1, 2).flatten(2))
        return output
