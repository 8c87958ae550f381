"""MMSR: adaptive fusion of modalities on a graph of the user's history (Hu, Guo, Liu and Kan, CIKM 2023).

A history becomes a small graph of its items and of their picture and text codes. A layer fuses each node with its own
kind (sequence) and with other kinds (interplay of modalities) in both orders; a gate of each node weighs the orders.
Candidates are known by their numbers alone. An item that nobody liked in training therefore helps as history, through
its codes, but as a candidate its score means nothing, as with all models whose items are embeddings.
With one layer, the paper's choice, queries of code nodes are never asked: the read-out sees the item's own row.

What is not as in the paper or in the official code (HoldenHu/MMSR), and why:
- Pictures and texts are reduced by principal components instead of an autoencoder, and come from our feature extractor.
- The official code overwrites keys and values by queries, so their weights are never trained; `kv_bug=True` does so.
- Phase 2 of a fusion order compares what phase 1 fused (paper, "non-invasive fusion"). The official code does so in
  the order BA only, and its AB is one plain heterogeneous attention; `ab_bug=True` does so.
- The gate's last layer has no bias: it would add the same to both orders, which softmax ignores.
- Steps whose item repeats, or whose pair of items is joined both ways already, keep their edges between codes.
- A history longer than `max_history` loses its oldest items; the official code drops the latest.
- An empty history is read out as a learnt vector, trained on the first items of users. The paper has no such case.
- Its learning rate falls to 1e-4 of itself after 40 epochs; here it stays, but `lr_decay_epochs=40` does so.
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
"""Graphs computed together, sorted by length of history; on Amazon-like lengths, a step takes half the time."""


class MMSR(DotProductRecommender):
    """Recommends by the latest item's node of a graph of items and modality codes.

    Args:
        hidden: D.
        n_clusters: Codes of each modality; the paper's best is 20 for most data sets, 30 for Beauty.
        n_links: Codes of an item in each modality; the paper's best is 1 for most data sets, 3 for Beauty.
        n_layers: Layers of the graph network.
        dropout: Of nodes after each layer.
        attention_dropout: Of attention weights.
        leaky: Slope of LeakyReLU where attention logits are negative.
        kv_bug: Take keys and values for queries, as the official code does.
        ab_bug: Leave the first phase out of order AB, as the official code does.
        lr_decay_epochs: Epochs after each of which the learning rate is multiplied by `lr_decay`; None for never.
        lr_decay: Factor of the learning rate.
        lr: See `ItemRecommender`.
        **kwargs: See `ItemRecommender`.

    Raises:
        ConfigError: A setting out of range.
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
            raise ConfigError(f"n_links={n_links}; give 1 to n_clusters={n_clusters}")
        self.hidden, self.n_clusters, self.n_links, self.n_layers = hidden, n_clusters, n_links, n_layers
        self.dropout, self.attention_dropout, self.leaky = dropout, attention_dropout, leaky
        self.kv_bug, self.ab_bug = kv_bug, ab_bug
        self.lr_decay_epochs, self.lr_decay = lr_decay_epochs, lr_decay

    def build(self, train: TrainData) -> None:
        """Cluster the features into codes, and make weights; see `ItemRecommender.build`."""
        features, hidden = self.features, self.hidden
        image = modality_codes(features.image, features.has_image, self.n_clusters, self.n_links)
        text = modality_codes(features.text, features.has_text, self.n_clusters, self.n_links)
        self.n_items, self.n_image_codes = train.n_items, len(image.centroids)
        links = [  # codes as numbers of nodes; 0 stays 0
            torch.where(codes.links > 0, codes.links + offset, 0)
            for codes, offset in ((image, self.n_items), (text, self.n_items + self.n_image_codes))
        ]
        self.register_buffer("links", torch.cat(links, dim=1))  # (N + 1, 2 k)
        n_nodes = 1 + self.n_items + len(image.centroids) + len(text.centroids)
        self.nodes = nn.Embedding(n_nodes, hidden, padding_idx=0)
        self.kinds = nn.Embedding(1 + TEXT, hidden, padding_idx=0)
        self.places = nn.Embedding(self.max_history, hidden)
        self.mix = nn.Linear(3 * hidden, hidden, bias=False)
        self.layers = nn.ModuleList(
            DualAttention(hidden, self.attention_dropout, self.leaky, self.kv_bug, self.ab_bug)
            for _ in range(self.n_layers)
        )
        self.no_history = nn.Parameter(torch.empty(hidden))
        self._initialise(torch.cat([initial_embeddings(codes.centroids, hidden) for codes in (image, text)]))

    def _initialise(self, codes: Tensor) -> None:
        """All weights uniform within 1/sqrt(D) (official code), padding 0, codes at their centroids."""
        with torch.no_grad():
            for weight in self.parameters():
                weight.uniform_(-(self.hidden**-0.5), self.hidden**-0.5)
            self.nodes.weight[0] = 0
            self.kinds.weight[0] = 0
            self.nodes.weight[1 + self.n_items :] = codes

    def loss(self, batch: TrainBatch) -> Tensor:
        """Cross-entropy of the target among all items."""
        return full_cross_entropy(self._read_out(batch["history"]), self.item_vectors()[1:], batch["target"] - 1)

    def query(self, batch: ItemBatch) -> Tensor:
        """The latest item's node, `(B, D)`; without a history, one learnt vector for all."""
        return self._read_out(batch["history"])

    def item_vectors(self) -> Tensor:
        """Embeddings of the items `(N + 1, D)`, the same that go into the graphs."""
        return self.nodes.weight[: 1 + self.n_items]

    def _read_out(self, history: Tensor) -> Tensor:
        """Vectors `(B, D)` of histories `(B, S)`, those of similar length together: most are far from the longest."""
        history = history[:, -self.max_history :]
        order = (history > 0).sum(dim=1).argsort(stable=True)  # (B,)
        vectors = [self._read_out_similar(history[rows]) for rows in torch.split(order, SIMILAR_ROWS)]
        return torch.cat(vectors)[order.argsort()]

    def _read_out_similar(self, history: Tensor) -> Tensor:
        """Vectors `(B, D)` of histories `(B, S)`, computed at the size of the largest graph."""
        history = history[:, -max(1, int((history > 0).any(dim=0).sum())) :]  # no columns that are padding in all rows
        graphs = build_graphs(history, self.links, self.n_items, self.n_image_codes)
        place = ((history > 0).cumsum(dim=1) - 1).clamp(min=0)  # (B, S), 0 is the oldest
        share = graphs.occurs / graphs.occurs.sum(dim=-1, keepdim=True).clamp(min=1)  # (B, n, S)
        parts = [self.nodes(graphs.nodes), self.kinds(graphs.kinds), share @ self.places(place)]
        x = self.mix(torch.cat(parts, dim=-1))  # (B, n, D)
        for layer in self.layers:
            x = functional.dropout(layer(x, graphs.kinds, graphs.edges), self.dropout, self.training)
        latest = x[torch.arange(len(x), device=x.device), graphs.last]  # (B, D)
        return torch.where(history[:, -1:] > 0, latest, self.no_history)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, with steps of the learning rate if asked for."""
        optimizer = super().configure_optimizers()
        if self.lr_decay_epochs is None or not isinstance(optimizer, torch.optim.Optimizer):
            return optimizer
        steps = torch.optim.lr_scheduler.StepLR(optimizer, self.lr_decay_epochs, self.lr_decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": steps, "interval": "epoch"}}


class DualAttention(nn.Module):
    """A layer of MMSR: attention to nodes of the same kind and of other kinds, in both orders, and a gate.

    Args:
        hidden: D.
        attention_dropout: Of attention weights.
        leaky: Slope of LeakyReLU where logits are negative.
        kv_bug: See `MMSR`.
        ab_bug: See `MMSR`.
    """

    def __init__(self, hidden: int, attention_dropout: float, leaky: float, kv_bug: bool, ab_bug: bool) -> None:
        super().__init__()
        self.attention_dropout, self.leaky, self.kv_bug, self.ab_bug = attention_dropout, leaky, kv_bug, ab_bug
        self.query, self.key, self.value = (nn.Parameter(torch.empty(TEXT, hidden, hidden)) for _ in range(3))
        self.relation = nn.Parameter(torch.empty(BOTH, hidden))
        self.gate = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1, bias=False))
        if kv_bug:  # they have no effect; distributed training wants to know
            self.key.requires_grad_(False)
            self.value.requires_grad_(False)

    def forward(self, x: Tensor, kinds: Tensor, edges: Tensor) -> Tensor:
        """New nodes.

        The values that are mixed are never fused ones ("non-invasive"): phase 1 of an order only changes what phase 2
        compares. Nodes of one kind share their projections, so fused queries are the queries of fused nodes.

        Args:
            x: `(B, n, D)`.
            kinds: `(B, n)`, 0 on padding.
            edges: `(B, n, n)`, see `mmsr_graph.Graphs`.

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
        """Queries, keys and values `(B, n, D)`, by weights of the node's kind."""
        weight = self.query if self.kv_bug else torch.cat([self.query, self.key, self.value], dim=2)  # (3, D, 3 D)
        found = x.new_zeros(*x.shape[:2], weight.shape[2])  # (B, n, 3 D)
        for kind in range(1, TEXT + 1):
            rows = kinds == kind
            found[rows] = (x[rows] @ weight[kind - 1]).to(found.dtype)
        q, k, v = (found, found, found) if self.kv_bug else found.chunk(3, dim=-1)
        return q, k, v

    def _same_kind(self, v: Tensor, edges: Tensor) -> Tensor:
        """Attention `(B, n, n)` by a_r of (v_i * v_j), r being the edge's type."""
        logits = (v[:, None] * self.relation[:, None]) @ v[:, None].mT  # (B, 4, n, n)
        chosen = logits.gather(1, (edges.clamp(SELF, BOTH) - SELF)[:, None]).squeeze(1)  # (B, n, n)
        return self._softmax(chosen, (edges >= SELF) & (edges <= BOTH))

    def _other_kinds(self, q: Tensor, k: Tensor, edges: Tensor) -> Tensor:
        """Attention `(B, n, n)` by the product of query and key; a node also sees itself."""
        return self._softmax(q @ k.mT, (edges == SELF) | (edges > BOTH))

    def _softmax(self, logits: Tensor, allowed: Tensor) -> Tensor:
        logits = functional.leaky_relu(logits, self.leaky).masked_fill(~allowed, torch.finfo(logits.dtype).min)
        return functional.dropout(logits.softmax(dim=-1), self.attention_dropout, self.training)
