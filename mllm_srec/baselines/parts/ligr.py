"""The gated layer of eSASRec: what attention and feed-forward add is weighed by a gate that reads their input.

Borisyuk et al., "From Features to Transformers: Redefining Ranking for Scalable Impact" (LiGR), 2025, as the library
RecTools has it for eSASRec (Tikhonovich et al., RecSys 2025). Deviations: the projections of attention have no biases,
and dropout is not on attention weights, as in all models here.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from mllm_srec.baselines.parts.attention import MultiHeadAttention


class SwiGLU(nn.Module):
    """Feed-forward network whose inner states are gated: W3 (silu(W1 x) * W2 x), without biases.

    Args:
        hidden: D, width of input and output.
        inner: Width of the inner states, on which dropout is.
        dropout: Dropout.
    """

    def __init__(self, hidden: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.to_gate, self.to_value = (nn.Linear(hidden, inner, bias=False) for _ in range(2))
        self.output = nn.Linear(inner, hidden, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """Apply the network to states `(B, S, D)`."""
        result: Tensor = self.output(self.dropout(silu(self.to_gate(states)) * self.to_value(states)))
        return result


class LiGRBlock(nn.Module):
    """Causal self-attention, then SwiGLU, each normalised before and added through a gate: x + s(G x) * f(LN(x)).

    Args:
        hidden: D, width of the states.
        n_heads: Number of attention heads, mixed by an output projection.
        inner: Width of the feed-forward network.
        dropout: Dropout of the sublayers.
    """

    def __init__(self, hidden: int, n_heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(hidden, n_heads, project=True)
        self.feed_forward = SwiGLU(hidden, inner, dropout)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.attention_gate, self.feed_forward_gate = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Apply the block to states `(B, S, D)`, with a mask from `attention_mask`."""
        normed = self.attention_norm(states)
        attended = self.dropout(self.attention(normed, normed, mask))
        states = states + self.attention_gate(states).sigmoid() * attended  # (B, S, D)
        added = self.dropout(self.feed_forward(self.feed_forward_norm(states)))
        output: Tensor = states + self.feed_forward_gate(states).sigmoid() * added
        return output
