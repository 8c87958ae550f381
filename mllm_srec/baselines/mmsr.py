"""MMSR: adaptive fusion of modalities on a graph of the user's history.

Hu, Guo, Liu and Kan, "Adaptive Multi-Modalities Fusion in Sequential Recommendation Systems", CIKM 2023. A history
becomes a small graph of its items and of their image and text codes. A layer fuses each node with nodes of the same
kind (sequence) and with nodes of other kinds (interplay of modalities), in both orders; a gate per node weighs the two.
Candidates are represented by their id embedding alone. An item without likes in training therefore helps in a history,
through its codes, but its score as a candidate is meaningless, as in all models with id embeddings.
With one layer, the paper's choice, queries of code nodes are not used: the read-out takes the row of an item.

Deviations from the paper or the official code (HoldenHu/MMSR), with reasons:

- Image and text features come from our feature extractor and are reduced by principal components instead of an
  autoencoder.
- The official code overwrites keys and values with queries, so their weights are never trained: `kv_bug=True`.
- Phase 2 of a fusion order compares the nodes that phase 1 fused (paper, "non-invasive fusion"). The official code does
  so in the order BA only, and its AB is one plain heterogeneous attention: `ab_bug=True`.
- The gate's last layer has no bias: it would add the same to both orders, which softmax ignores.
- A step to the same item, or between items with edges in both directions already, still joins the items' codes.
- A history longer than `max_history` loses its oldest items; the official code drops the latest.
- An empty history is read out as a learnt vector, trained on the first items of users. The paper has no such case.
- The official learning rate falls by a factor of 1e-4 after 40 epochs; here it is constant unless `lr_decay_epochs=40`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional

from mllm_srec.baselines.base import DotProductRecommender, Unit
from mllm_srec.baselines.parts.losses import full_cross_entropy
from mllm_srec.baselines.parts.mmsr_graph import BOTH, SELF, TEXT, build_graphs
from mllm_srec.baselines.parts.modality_codes import initial_embeddings, modality_codes
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_share
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import ConfigError, ItemBatch, TrainBatch

SIMILAR_ROWS = 32
"""Histories per chunk of similar length; with lengths as in Amazon's data, a step then takes half the time."""


class MMSR(DotProductRecommender):
    """Scores by the node of the latest item in a graph of items and modality codes.

    Args:
        hidden: D, width of node vectors.
        n_clusters: Number of codes per modality; the paper's best is 20 for most data sets, 30 for Beauty.
        n_links: Codes per item in each modality; the paper's best is 1 for most data sets, 3 for Beauty.
        n_layers: Number of layers of the graph network.
        dropout: Dropout of nodes after each layer.
        attention_dropout: Dropout of attention weights.
        leaky: Slope of LeakyReLU for negative attention logits.
        kv_bug: True to use queries as keys and values, like the official code.
        ab_bug: True to leave out the first phase of order AB, like the official code.
        lr_decay_epochs: Interval in epochs at which the learning rate is multiplied by `lr_decay`; None for a constant
            rate.
        lr_decay: Factor of the learning rate.
        lr: Initial learning rate of Adam.
        **kwargs: `weight_decay`, `max_history` and `patience` of `ItemRecommender`.

    Raises:
        ConfigError: If a setting is out of range.
    """

    unit: ClassVar[Unit] = "targets"
    needs_features: ClassVar[bool] = True
    links: Tensor

    def __init__(
        self,
        *,
        hidden: int = 128,
        n_clusters: int = 20,
        n_links: int = 1,
        n_layers: int = 1,
        dropout: float = 0.4,
        attention_dropout: float = 0.2,
        leaky: float = 0.1,
        kv_bug: bool = False,
        ab_bug: bool = False,
        lr_decay_epochs: int | None = None,
        lr_decay: float = 1e-4,
        lr: float = 2e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, **kwargs)
        check_at_least(1, hidden=hidden, n_layers=n_layers)
        if lr_decay_epochs is not None:
            check_at_least(1, lr_decay_epochs=lr_decay_epochs)
        check_at_least(0, leaky=leaky, lr_decay=lr_decay)
        check_share(dropout=dropout, attention_dropout=attention_dropout, below_one=True)
        if not 1 <= n_links <= n_clusters:
            raise ConfigError(f"n_links={n_links}: out of range; give 1 to n_clusters={n_clusters}")
        self.hidden, self.n_clusters, self.n_links, self.n_layers = hidden, n_clusters, n_links, n_layers
        self.dropout, self.attention_dropout, self.leaky = dropout, attention_dropout, leaky
        self.kv_bug, self.ab_bug = kv_bug, ab_bug
        self.lr_decay_epochs, self.lr_decay = lr_decay_epochs, lr_decay

    def build(self, train: TrainData) -> None:
        """Cluster the features into codes, and make the weights."""
        features, hidden = self.features, self.hidden
        image = modality_codes(features.image, features.has_image, self.n_clusters, self.n_links)
        text = modality_codes(features.text, features.has_text, self.n_clusters, self.n_links)
        self.n_items, self.n_image_codes = train.n_items, len(image.centroids)
        links = [  # codes as node numbers; 0 stays 0
            torch.where(codes.links > 0, codes.links + offset, 0)
            for codes, offset in ((image, self.n_items), (text, self.n_items + self.n_image_codes))
        ]
        self.register_buffer("links", torch.cat(links, dim=1))  # (N + 1, 2 k)
        n_nodes = 1 + self.n_items + len(image.centroids) + len(text.centroids)
        self.nodes = nn.Embedding(n_nodes, hidden, padding_idx=0)
        self.kinds = nn.Embedding(1 + TEXT, hidden, padding_idx=0)
        self.places = nn.Embedding(self.max_history, hidden)  # positional embedding
        self.mix = nn.Linear(3 * hidden, hidden, bias=False)
        self.layers = nn.ModuleList(
            DualAttention(hidden, self.attention_dropout, self.leaky, self.kv_bug, self.ab_bug)
            for _ in range(self.n_layers)
        )
        self.no_history = nn.Parameter(torch.empty(hidden))
        self._initialise(torch.cat([initial_embeddings(codes.centroids, hidden) for codes in (image, text)]))

    def _initialise(self, codes: Tensor) -> None:
        """Draw all weights uniformly within 1/sqrt(D) (official code); padding is 0, codes start at their centroids."""
        with torch.no_grad():
            for weight in self.parameters():
                weight.uniform_(-(self.hidden**-0.5), self.hidden**-0.5)
            self.nodes.weight[0] = 0
            self.kinds.weight[0] = 0
            self.nodes.weight[1 + self.n_items :] = codes

    def loss(self, batch: TrainBatch) -> Tensor:
        """Compute the cross-entropy of the target among all items."""
        return full_cross_entropy(self._read_out(batch["history"]), self.item_vectors()[1:], batch["target"] - 1)

    def query(self, batch: ItemBatch) -> Tensor:
        """Compute the node of the latest item `(B, D)`; an empty history has a learnt vector instead."""
        return self._read_out(batch["history"])

    def item_vectors(self) -> Tensor:
        """Return the item embeddings `(N + 1, D)`, which the graphs read too."""
        return self.nodes.weight[: 1 + self.n_items]

    def _read_out(self, history: Tensor) -> Tensor:
        """Encode histories `(B, S)` as `(B, D)`, in chunks of similar length, since most are far from the longest."""
        history = history[:, -self.max_history :]
        order = (history > 0).sum(dim=1).argsort(stable=True)  # (B,)
        vectors = [self._read_out_similar(history[rows]) for rows in torch.split(order, SIMILAR_ROWS)]
        return torch.cat(vectors)[order.argsort()]

    def _read_out_similar(self, history: Tensor) -> Tensor:
        """Encode histories `(B, S)` as `(B, D)`, padded to the largest graph."""
        history = history[:, -max(1, int((history > 0).any(dim=0).sum())) :]  # drop columns that are all padding
        graphs = build_graphs(history, self.links, self.n_items, self.n_image_codes)
        positions = ((history > 0).cumsum(dim=1) - 1).clamp(min=0)  # (B, S), 0 is the oldest
        share = graphs.occurs / graphs.occurs.sum(dim=-1, keepdim=True).clamp(min=1)  # (B, n, S)
        parts = [self.nodes(graphs.nodes), self.kinds(graphs.kinds), share @ self.places(positions)]
        x = self.mix(torch.cat(parts, dim=-1))  # (B, n, D)
        for layer in self.layers:
            x = functional.dropout(layer(x, graphs.kinds, graphs.edges), self.dropout, self.training)
        latest = x[torch.arange(len(x), device=x.device), graphs.last]  # (B, D)
        return torch.where(history[:, -1:] > 0, latest, self.no_history)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make Adam, with a stepwise decay of the learning rate if `lr_decay_epochs` is set."""
        optimizer = super().configure_optimizers()
        if self.lr_decay_epochs is None or not isinstance(optimizer, torch.optim.Optimizer):
            return optimizer
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, self.lr_decay_epochs, self.lr_decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


class DualAttention(nn.Module):
    """A layer of MMSR: attention to nodes of the same kind and of other kinds, in both orders, and a gate.

    Args:
        hidden: D, width of node vectors.
        attention_dropout: Dropout of attention weights.
        leaky: Slope of LeakyReLU for negative attention logits.
        kv_bug: True to use queries as keys and values.
        ab_bug: True to leave out the first phase of order AB.
    """

    def __init__(self, hidden: int, attention_dropout: float, leaky: float, kv_bug: bool, ab_bug: bool) -> None:
        super().__init__()
        self.attention_dropout, self.leaky, self.kv_bug, self.ab_bug = attention_dropout, leaky, kv_bug, ab_bug
        self.query, self.key, self.value = (nn.Parameter(torch.empty(TEXT, hidden, hidden)) for _ in range(3))
        self.relation = nn.Parameter(torch.empty(BOTH, hidden))
        self.gate = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1, bias=False))
        if kv_bug:  # unused weights must not require gradients, or distributed training fails
            self.key.requires_grad_(False)
            self.value.requires_grad_(False)

    def forward(self, x: Tensor, kinds: Tensor, edges: Tensor) -> Tensor:
        """Update the nodes.

        Values are mixed unfused ("non-invasive"): phase 1 of an order only changes what phase 2 compares. Nodes of one
        kind share their projections, so fused queries are the queries of fused nodes.

        Args:
            x: `(B, n, D)` node vectors.
            kinds: `(B, n)` kinds of the nodes, 0 on padding.
            edges: `(B, n, n)` types of the edges, see `mmsr_graph.Graphs`.

        Returns:
            `(B, n, D)`; arbitrary on padding.
        """
        q, k, v = self._project(x, kinds)  # (B, n, D) each
        alpha, gamma = self._same_kind(v, edges), self._other_kinds(q, k, edges)  # (B, n, n)
        ba = self._same_kind(gamma @ v, edges) @ v  # (B, n, D) across modalities first, then sequence
        ab = (gamma if self.ab_bug else self._other_kinds(alpha @ q, alpha @ k, edges)) @ v  # (B, n, D)
        orders = torch.stack([ab, ba], dim=2)  # (B, n, 2, D)
        shares: Tensor = self.gate(orders).softmax(dim=2)  # (B, n, 2, 1)
        return (shares * orders).sum(dim=2)

    def _project(self, x: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project nodes to queries, keys and values `(B, n, D)`, with separate weights for each kind."""
        weight = self.query if self.kv_bug else torch.cat([self.query, self.key, self.value], dim=2)  # (3, D, 3 D)
        projected = x.new_zeros(*x.shape[:2], weight.shape[2])  # (B, n, 3 D)
        for kind in range(1, TEXT + 1):
            rows = kinds == kind
            projected[rows] = (x[rows] @ weight[kind - 1]).to(projected.dtype)
        q, k, v = (projected, projected, projected) if self.kv_bug else projected.chunk(3, dim=-1)
        return q, k, v

    def _same_kind(self, v: Tensor, edges: Tensor) -> Tensor:
        """Attention weights `(B, n, n)` from a_r (v_i * v_j), where r is the type of the edge."""
        logits = (v[:, None] * self.relation[:, None]) @ v[:, None].mT  # (B, 4, n, n)
        chosen = logits.gather(1, (edges.clamp(SELF, BOTH) - SELF)[:, None]).squeeze(1)  # (B, n, n)
        return self._softmax(chosen, (edges >= SELF) & (edges <= BOTH))

    def _other_kinds(self, q: Tensor, k: Tensor, edges: Tensor) -> Tensor:
        """Attention weights `(B, n, n)` from products of query and key; a node also attends to itself."""
        return self._softmax(q @ k.mT, (edges == SELF) | (edges > BOTH))

    def _softmax(self, logits: Tensor, allowed: Tensor) -> Tensor:
        logits = functional.leaky_relu(logits, self.leaky).masked_fill(~allowed, torch.finfo(logits.dtype).min)
        return functional.dropout(logits.softmax(dim=-1), self.attention_dropout, self.training)
