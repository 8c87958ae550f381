"""FREEDOM: LightGCN beside a frozen graph of similar items. Not among the article's baselines.

Zhou and Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation", MM 2023.
LightGCN runs on the graph of likes, of which a training step keeps edges sampled by degree. Item embeddings are also
smoothed over a frozen graph of items with similar pictures or texts, and added.

Deviations from the official code: edges are sampled for each batch instead of each epoch, reproducibly in a resumed
run; features are frozen (there they are fine-tuned, though the item graph is not); an item without a picture has no
neighbours in the visual graph and no part in its loss; projections have no bias, which would cancel in BPR and never be
trained. As there, an item is among its own nearest neighbours.
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
"""Items compared with the catalogue at a time; with 18,000 items, a block of 74 MB."""


class FREEDOM(LightGCN):
    """LightGCN beside a frozen item graph.

    Args:
        hidden: D, width of embeddings.
        n_layers: Number of layers on the graph of likes.
        n_item_layers: Number of layers on the item graph.
        top_k: k, number of nearest neighbours of an item in each modality.
        image_weight: Weight of the visual item graph; the textual one has the rest.
        edge_dropout: Share of likes that a training step leaves out.
        modality_weight: lambda, weight of the loss of projected features.
        **kwargs: `lr`, `weight_decay`, `max_history` and `patience` of `ItemRecommender`.

    Raises:
        ConfigError: If a setting is out of range.
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
        """Make LightGCN's embeddings and graph, the item graph, and projections of features."""
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
        """Add the vectors of the frozen neighbourhood to LightGCN's item vectors: `(U + N, D)`."""
        items = self.embeddings[self.n_users :]  # (N, D)
        for _ in range(self.n_item_layers):
            items = self.item_graph(items)
        vectors = super().smoothed(graph)
        return torch.cat([vectors[: self.n_users], vectors[self.n_users :] + items])

    def training_nodes(self) -> Tensor:
        """Node vectors on a sample of the likes, drawn with weights 1 / sqrt(d_u d_i) and renormalised."""
        if self.edge_dropout == 0:
            return self.nodes()
        n_kept = max(1, int(len(self.users) * (1 - self.edge_dropout)))
        kept = torch.multinomial(self.keep_weights, n_kept)  # (kept,)
        return self.smoothed(undirected(self.users[kept], self.items[kept], len(self.embeddings), "symmetric"))

    def further_loss(self, user_vectors: Tensor, users: Tensor, liked: Tensor, unseen: Tensor) -> Tensor:
        """Compute the BPR loss of projected features, over pairs in which both items have features."""
        total = super().further_loss(user_vectors, users, liked, unseen)
        for name, projection in self.projections.items():
            values, mask = self.get_buffer(f"{name}_values"), self.get_buffer(f"{name}_mask")
            a, b = liked - self.n_users, unseen - self.n_users  # (B,)
            positive, negative = ((user_vectors * projection(values[rows])).sum(-1) for rows in (a, b))
            total = total + self.modality_weight * bpr_loss(positive, negative, mask[a] * mask[b])
        return total


def nearest_items(values: Tensor, mask: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Connect each item to its nearest neighbours by cosine similarity, itself among them.

    Args:
        values: `(N, F)` L2-normalised features.
        mask: `(N,)`, 0 where an item has no features; such items have no edges.
        top_k: k, edges per item; fewer where fewer items have features.

    Returns:
        Rows and columns of the edges, `(E',)` each, from 0.
    """
    items = mask.nonzero().flatten()  # (M,) items with features
    features, top_k = values[items], min(top_k, len(items))  # (M, F)
    starts = range(0, len(features), CHUNK)
    nearest = torch.cat([(features[i : i + CHUNK] @ features.T).topk(top_k, dim=1).indices for i in starts])  # (M, k)
    return items.repeat_interleave(top_k), items[nearest.flatten()]
