"""FREEDOM-class: Zhou and Shen, A Tale of Two Graphs: Freezing and Denoising Graph Structures, MM 2023.

Beyond the article. LightGCN on the graph of likes, of which training sees only edges drawn by degree; plus a frozen
graph of items that look or read alike, over which item embeddings are smoothed and added.

Deviations from the official code: edges are drawn for each batch, not for each epoch, from random numbers that a
resumed run repeats; features are frozen (there they are fine-tuned, though the item graph is not); an item without a
picture has no neighbours in the visual graph and no part in its loss; projections have no bias, which would cancel in
BPR and never be trained. As there, an item is among its own nearest.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mllm_srec.baselines.graph_base import SparseMatrix, like_edges, undirected
from mllm_srec.baselines.lightgcn import LightGCN
from mllm_srec.baselines.parts.bpr import bpr_loss, feature_tensors
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_share
from mllm_srec.baselines.parts.train_data import TrainData

CHUNK = 1024
"""Items compared with the catalogue at a time: at 18,000 items a block of 74 MB."""


class FREEDOM(LightGCN):
    """LightGCN beside a frozen item graph.

    Args:
        hidden: Width of embeddings.
        n_layers: Layers on the graph of likes.
        n_item_layers: Layers on the item graph.
        top_k: Nearest items, for each modality.
        image_weight: Weight of the visual item graph; the textual one has the rest.
        edge_dropout: Share of likes that a training step does not see.
        modality_weight: lambda, of the loss of projected features.
        **kwargs: Settings of `ItemRecommender`.

    Raises:
        ConfigError: A setting is out of range.
    """

    needs_features: ClassVar[bool] = True
    users: Tensor
    items: Tensor
    keep_weights: Tensor

    def __init__(
        self,
        hidden: int = 64,
        n_layers: int = 2,
        n_item_layers: int = 1,
        top_k: int = 10,
        image_weight: float = 0.1,
        edge_dropout: float = 0.8,
        modality_weight: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden=hidden, n_layers=n_layers, reg=0.0, **kwargs)
        check_at_least(1, top_k=top_k)
        check_at_least(0, n_item_layers=n_item_layers, modality_weight=modality_weight)
        check_share(image_weight=image_weight)
        check_share(edge_dropout=edge_dropout, below_one=True)
        self.n_item_layers, self.top_k, self.image_weight = n_item_layers, top_k, image_weight
        self.edge_dropout, self.modality_weight = edge_dropout, modality_weight

    def build(self, train: TrainData) -> None:
        """As LightGCN, plus the item graph, and projections of features."""
        super().build(train)
        users, items = like_edges(train)
        degree = torch.bincount(torch.cat([users, items]), minlength=len(self.embeddings)).float()
        self.register_buffer("users", users, persistent=False)  # (E,)
        self.register_buffer("items", items, persistent=False)  # (E,)
        self.register_buffer("keep_weights", (degree[users] * degree[items]).rsqrt(), persistent=False)  # (E,)
        entries, self.projections = [], nn.ModuleDict()
        for name, weight in (("image", self.image_weight), ("text", 1 - self.image_weight)):
            values, mask = feature_tensors(self.features, name, type(self).__name__)
            rows, columns = nearest_items(values[1:], mask[1:], self.top_k)  # (E',)
            share = torch.bincount(rows, minlength=train.n_items)[rows].float()
            entries.append((rows, columns, weight / share))
            self.projections[name] = nn.Linear(values.shape[1], self.hidden, bias=False)
            self.register_buffer(f"{name}_values", values[1:], persistent=False)  # (N, F)
            self.register_buffer(f"{name}_mask", mask[1:], persistent=False)  # (N,)
        rows, columns, weights = (torch.cat(parts) for parts in zip(*entries, strict=True))
        self.item_graph = SparseMatrix(rows, columns, weights, (train.n_items, train.n_items))

    def smoothed(self, graph: SparseMatrix) -> Tensor:
        """LightGCN's vectors `(U + N, D)`, items with those of their frozen neighbourhood added."""
        items = self.embeddings[self.n_users :]  # (N, D)
        for _ in range(self.n_item_layers):
            items = self.item_graph(items)
        vectors = super().smoothed(graph)
        return torch.cat([vectors[: self.n_users], vectors[self.n_users :] + items])

    def training_nodes(self) -> Tensor:
        """Vectors on a graph with a share of the likes, drawn with probability 1 / sqrt(d_u d_i), renormalised."""
        if self.edge_dropout == 0:
            return self.nodes()
        n_kept = max(1, int(len(self.users) * (1 - self.edge_dropout)))
        kept = torch.multinomial(self.keep_weights, n_kept)  # (kept,)
        return self.smoothed(undirected(self.users[kept], self.items[kept], len(self.embeddings), "symmetric"))

    def further_loss(self, user_vectors: Tensor, users: Tensor, liked: Tensor, unseen: Tensor) -> Tensor:
        """BPR of projected features, of pairs in which both items have them."""
        total = super().further_loss(user_vectors, users, liked, unseen)
        for name, projection in self.projections.items():
            values, mask = self.get_buffer(f"{name}_values"), self.get_buffer(f"{name}_mask")
            a, b = liked - self.n_users, unseen - self.n_users  # (B,)
            positive, negative = ((user_vectors * projection(values[rows])).sum(-1) for rows in (a, b))
            total = total + self.modality_weight * bpr_loss(positive, negative, mask[a] * mask[b])
        return total


def nearest_items(values: Tensor, mask: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Edges of a graph from each item to those of the largest cosine, itself among them.

    Args:
        values: L2-normalised features `(N, F)`.
        mask: `(N,)`, 0 where an item has none; such items are in no edge.
        top_k: Edges of an item; fewer where fewer items have features.

    Returns:
        Rows and columns `(E',)`, from 0.
    """
    owners = mask.nonzero().flatten()  # (M,)
    known, top_k = values[owners], min(top_k, len(owners))  # (M, F)
    starts = range(0, len(known), CHUNK)
    nearest = torch.cat([(known[i : i + CHUNK] @ known.T).topk(top_k, dim=1).indices for i in starts])  # (M, k)
    return owners.repeat_interleave(top_k), owners[nearest.flatten()]
