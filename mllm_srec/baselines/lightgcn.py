"""LightGCN: embeddings smoothed over the graph of likes. Not among the article's baselines.

He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation", SIGIR 2020. Layers only
average over neighbours, by 1 / sqrt(d_v d_w); a node's vector is the mean of its layers (equations 3 to 8, with
alpha = 1 / (K + 1)). The only deviation is the fallback for users without likes, see `GraphRecommender`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mllm_srec.baselines.graph_base import GraphRecommender, SparseMatrix, like_edges, undirected
from mllm_srec.baselines.parts.setting_checks import check_at_least
from mllm_srec.baselines.parts.train_data import TrainData


class LightGCN(GraphRecommender):
    """Embeddings smoothed over the graph of likes.

    Args:
        hidden: D, width of embeddings.
        n_layers: K, number of layers; 0 is matrix factorisation.
        reg: lambda, weight of the squared norms of a batch's embeddings.
        **kwargs: `lr`, `weight_decay`, `max_history` and `patience` of `ItemRecommender`.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(self, hidden: int = 64, n_layers: int = 3, reg: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, hidden=hidden)
        check_at_least(0, n_layers=n_layers, reg=reg)
        self.hidden, self.n_layers, self.reg = hidden, n_layers, reg

    def build(self, train: TrainData) -> None:
        """Make embeddings `(U + N, D)` and the graph."""
        super().build(train)
        n = train.n_users + train.n_items
        self.embeddings = nn.Parameter(nn.init.normal_(torch.empty(n, self.hidden), std=0.1))
        self.graph = undirected(*like_edges(train), n, "symmetric")

    def nodes(self) -> Tensor:
        """Average each node over the layers: `(U + N, D)`."""
        return self.smoothed(self.graph)

    def smoothed(self, graph: SparseMatrix) -> Tensor:
        """Average each node over the layers on a given graph: `(U + N, D)`."""
        layer = total = self.embeddings
        for _ in range(self.n_layers):
            layer = graph(layer)
            total = total + layer
        return total / (self.n_layers + 1)

    def further_loss(self, user_vectors: Tensor, users: Tensor, liked: Tensor, unseen: Tensor) -> Tensor:
        """Half the squared norms of the embeddings, summed over a triple and averaged over the batch (equation 15)."""
        return self.reg * self.embeddings[torch.cat([users, liked, unseen])].square().sum() / (2 * len(users))
