"""GRU encoder + cross-entropy: the usual recurrent baseline.

It is not the official GRU4Rec; publish it as "GRU encoder + cross-entropy". The idea is that of Hidasi et al.,
"Session-based Recommendations with Recurrent Neural Networks" (ICLR 2016). The official model trains on
session-parallel mini-batches with ranking losses (TOP1, BPR-max) over in-batch and sampled negatives (Hidasi and
Karatzoglou, CIKM 2018). Here, as in most comparisons of sequential models:

- it is trained on whole sequences, by cross-entropy over all items at every position;
- it reads item embeddings (the original reads one-hot items), and a linear layer maps the state back to their width;
  the product with the same embeddings is the score.

The GRU has no biases: padding, a zero vector, then keeps its zero state at exactly zero, so left padding changes
nothing. An empty history is encoded as the bias of the linear layer, which all contexts share and which orders items
nearly by popularity.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mllm_srec.baselines.base import SequenceEncoder
from mllm_srec.baselines.parts.losses import full_cross_entropy
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_share
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import TrainBatch


class GRU4Rec(SequenceEncoder):
    """GRU encoder + cross-entropy over all items.

    Args:
        hidden: D, width of item embeddings.
        gru_hidden: Width of the recurrent state.
        n_layers: Number of stacked GRU layers.
        dropout: Dropout of the embeddings that enter the GRU.
        **kwargs: `lr`, `weight_decay`, `max_history` and `patience` of `ItemRecommender`.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(
        self, hidden: int = 64, gru_hidden: int = 128, n_layers: int = 1, dropout: float = 0.3, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(1, hidden=hidden, gru_hidden=gru_hidden, n_layers=n_layers)
        check_share(dropout=dropout, below_one=True)
        self.hidden, self.gru_hidden, self.n_layers = hidden, gru_hidden, n_layers
        self.dropout = nn.Dropout(dropout)

    def build(self, train: TrainData) -> None:
        """Make embeddings, GRU and linear layer, with Xavier initialisation."""
        self.items = nn.Embedding(train.n_items + 1, self.hidden, padding_idx=0)
        self.gru = nn.GRU(self.hidden, self.gru_hidden, self.n_layers, bias=False, batch_first=True)
        self.linear = nn.Linear(self.gru_hidden, self.hidden)
        nn.init.zeros_(self.linear.bias)
        for weight in (self.items.weight, self.linear.weight, *self.gru.parameters()):
            nn.init.xavier_normal_(weight)
        with torch.no_grad():
            self.items.weight[0] = 0  # padding

    def encode(self, history: Tensor) -> Tensor:
        """Encode every prefix of histories `(B, S)`: `(B, S, D)`, see `SequenceEncoder`."""
        states, _ = self.gru(self.dropout(self.items(history)))  # (B, S, gru_hidden)
        encoded: Tensor = self.linear(states)
        return encoded

    def loss(self, batch: TrainBatch) -> Tensor:
        """Compute the cross-entropy of the next item at every position of the sequences."""
        inputs, next_items = self.steps(batch)  # (B, S)
        valid = inputs > 0
        return full_cross_entropy(self.encode(inputs)[valid], self.items.weight[1:], next_items[valid] - 1)
