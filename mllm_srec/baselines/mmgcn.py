"""MMGCN: graph convolution over the graph of likes, once for each modality.

Wei et al., "MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of Micro-video", MM 2019.
Initially, item nodes hold features and user nodes hold learnt preferences. A layer computes
  h  = LeakyReLU(mean over neighbours of W1 x)            (aggregation, equation 1)
  x^ = LeakyReLU(W2 x) + e                                (combination with the id embedding, equation 5)
  x' = LeakyReLU(W3 [h, x^]) or LeakyReLU(W3 h + x^)      (concatenation or element-wise)
and a node's vector is the mean over modalities.

Deviations from the official code: id embeddings and preferences are trained (there, and in the toolbox MMRec, they are
plain tensors that no optimiser updates; `freeze_id=True` reproduces that); `n_layers` has an effect (there: always 3);
`concat` is a bool (there the string 'False' counts as true); preferences of every modality are regularised (there: the
visual ones only); W2 and W3 have no bias, as in the paper; scores come from the current weights, not from the last
training batch. The acoustic modality has no counterpart here. An item without a picture enters the visual graph as a
zero vector, with only its neighbours and its id embedding. Users without likes: see `GraphRecommender`.

The weight of the regulariser, 1e-4, is ours (official code: .1 and 1e-4; MMRec searches 0 to .1); `patience` of 20 and
the 1,000 epochs of the configuration are MMRec's.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mllm_srec.baselines.graph_base import GraphRecommender, SparseMatrix, like_edges, undirected
from mllm_srec.baselines.parts.bpr import feature_tensors
from mllm_srec.baselines.parts.setting_checks import check_at_least
from mllm_srec.baselines.parts.train_data import TrainData


class MMGCNLayer(nn.Module):
    """One layer of aggregation and combination.

    Args:
        width: Width of the input x.
        hidden: d, width of the output.
        concat: True for concatenation, False for the element-wise combination.
    """

    def __init__(self, width: int, hidden: int, concat: bool) -> None:
        super().__init__()
        self.concat = concat
        self.neighbours = nn.Linear(width, width, bias=False)  # W1
        self.own = nn.Linear(width, hidden, bias=False)  # W2
        self.combined = nn.Linear(width + hidden if concat else width, hidden, bias=False)  # W3
        for linear in (self.neighbours, self.own, self.combined):
            nn.init.xavier_normal_(linear.weight)

    def forward(self, x: Tensor, ids: Tensor, graph: SparseMatrix) -> Tensor:
        """Compute new node vectors `(U + N, d)` from x `(U + N, width)` and id embeddings `(U + N, d)`."""
        h = functional.leaky_relu(graph(self.neighbours(x)))  # (U + N, width)
        own = functional.leaky_relu(self.own(x)) + ids  # (U + N, d)
        combined = self.combined(torch.cat([h, own], dim=1)) if self.concat else self.combined(h) + own
        return functional.leaky_relu(combined)


class ModalityGraph(nn.Module):
    """All layers of one modality.

    Args:
        features: `(N, F)` float32 item features.
        mask: `(N,)` float32, 0 where an item has no feature.
        n_users: U, number of users.
        hidden: d, width of node vectors.
        n_layers: Number of layers.
        concat: True for concatenation, False for the element-wise combination.
        width: Width that features are projected to; None to leave them as they are.
    """

    features: Tensor
    mask: Tensor

    def __init__(
        self, features: Tensor, mask: Tensor, n_users: int, hidden: int, n_layers: int, concat: bool, width: int | None
    ) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("mask", mask[:, None], persistent=False)
        self.mlp = None if width is None else nn.Linear(features.shape[1], width)
        first = features.shape[1] if width is None else width
        self.preference = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_users, first)))  # P
        widths = [first] + [hidden] * (n_layers - 1)
        self.layers = nn.ModuleList(MMGCNLayer(width, hidden, concat) for width in widths)

    def forward(self, ids: Tensor, graph: SparseMatrix) -> Tensor:
        """Compute node vectors `(U + N, d)` from id embeddings `(U + N, d)`."""
        items = self.features if self.mlp is None else self.mlp(self.features) * self.mask  # (N, width)
        x = functional.normalize(torch.cat([self.preference, items]))  # (U + N, width)
        for layer in self.layers:
            x = layer(x, ids, graph)
        return x


class MMGCN(GraphRecommender):
    """Graph convolution with image and with text features.

    Args:
        hidden: d, width of node vectors.
        visual_hidden: Width that image features are projected to; text features keep theirs.
        n_layers: Number of layers of each modality's graph.
        concat: True to combine by concatenation (as the official code does in effect), False for element-wise.
        freeze_id: Keep id embeddings and preferences at their random initial values, as the official code does.
        reg: lambda, weight of the mean squares of the batch's id embeddings and of the preferences.
        lr: Learning rate of Adam.
        **kwargs: `weight_decay`, `max_history` and `patience` of `ItemRecommender`.

    Raises:
        ConfigError: If a setting is out of range.
    """

    needs_features: ClassVar[bool] = True

    def __init__(
        self,
        hidden: int = 64,
        visual_hidden: int = 256,
        n_layers: int = 3,
        concat: bool = True,
        freeze_id: bool = False,
        reg: float = 1e-4,
        lr: float = 5e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, **kwargs)
        check_at_least(1, hidden=hidden, visual_hidden=visual_hidden, n_layers=n_layers)
        check_at_least(0, reg=reg)
        self.hidden, self.visual_hidden, self.n_layers = hidden, visual_hidden, n_layers
        self.concat, self.freeze_id, self.reg = concat, freeze_id, reg

    def build(self, train: TrainData) -> None:
        """Make id embeddings, the layers of each modality, and the graph that they share."""
        super().build(train)
        n = train.n_users + train.n_items
        self.ids = nn.Parameter(nn.init.xavier_normal_(torch.empty(n, self.hidden)))  # e
        modalities = nn.ModuleDict()
        for name, width in (("image", self.visual_hidden), ("text", None)):
            features, mask = feature_tensors(self.features, name, type(self).__name__)
            modalities[name] = ModalityGraph(
                features[1:], mask[1:], train.n_users, self.hidden, self.n_layers, self.concat, width
            )
        self.modalities = modalities
        self.graph = undirected(*like_edges(train), n, "row")
        for weight in (self.ids, *self._preferences()):
            weight.requires_grad = not self.freeze_id

    def nodes(self) -> Tensor:
        """Average the node vectors over modalities: `(U + N, d)`."""
        return torch.stack([modality(self.ids, self.graph) for modality in self.modalities.values()]).mean(0)

    def further_loss(self, user_vectors: Tensor, users: Tensor, liked: Tensor, unseen: Tensor) -> Tensor:
        """Compute the mean square of the batch's id embeddings, plus that of each modality's preferences."""
        preferences = sum(preference.square().mean() for preference in self._preferences())
        return self.reg * (self.ids[torch.cat([users, liked, unseen])].square().mean() + preferences)

    def _preferences(self) -> list[nn.Parameter]:
        """P `(U, width)` of each modality."""
        return [modality.preference for modality in self.modalities.values() if isinstance(modality, ModalityGraph)]
