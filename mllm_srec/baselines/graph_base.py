"""What graph models share: products with a sparse matrix, graphs of likes, and a base that scores by node vectors.

A graph's nodes are users, then items: user u is node u - 1, item i is node U + i - 1.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mllm_srec.baselines.base import DotProductRecommender
from mllm_srec.baselines.parts.bpr import bpr_loss
from mllm_srec.baselines.parts.negatives import NegativeSampler
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import ItemBatch, TrainBatch

Normalisation = Literal["row", "symmetric"]
"""Mean over neighbours, 1 / d_v; or 1 / sqrt(d_v d_w)."""


class SparseMatrix(nn.Module):
    """A constant sparse matrix A; calling it gives A x, differentiable in x.

    Rows are bags of weighted embeddings: of what torch offers this was the fastest on a CPU (three times a CSR product
    at 600,000 entries), and the gradient is the same product with the transpose. Its parts are dense buffers, which
    move, copy and broadcast between processes, as sparse tensors do not.

    Args:
        rows: `(E,)` int64 row of each entry.
        columns: `(E,)` int64 its column.
        values: `(E,)` float32.
        shape: Rows and columns of A.
    """

    def __init__(self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        sides = ((rows, columns, shape[0]), (columns, rows, shape[1]))
        for side, (own, other, n) in zip(("forward", "backward"), sides, strict=True):
            order = own.argsort(stable=True)
            starts = functional.pad(torch.bincount(own, minlength=n).cumsum(0)[:-1], (1, 0))  # (n,)
            for name, part in (("starts", starts), ("columns", other[order]), ("values", values[order])):
                self.register_buffer(f"{side}_{name}", part, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """A x `(rows, D)` of x `(columns, D)`; rows without entries are zero."""
        parts = (getattr(self, f"{side}_{name}") for side in ("forward", "backward") for name in PARTS)
        result: Tensor = _Product.apply(x, *parts)  # type: ignore[no-untyped-call]
        return result


PARTS = ("starts", "columns", "values")


class _Product(torch.autograd.Function):
    """A x, with gradient A^T g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*parts[3:])
        return _bags(x, *parts[:3])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (_bags(gradients[0].contiguous(), *ctx.saved_tensors), *[None] * 6)


def _bags(x: Tensor, starts: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Weighted sums of rows of x, one for every start."""
    return functional.embedding_bag(columns, x, starts, mode="sum", per_sample_weights=values.to(x.dtype))


def undirected(a: Tensor, b: Tensor, n: int, normalisation: Normalisation) -> SparseMatrix:
    """Normalised adjacency `(n, n)` of edges between nodes a and b `(E,)`; isolated nodes have empty rows."""
    rows, columns = torch.cat([a, b]), torch.cat([b, a])  # (2 E,)
    degree = torch.bincount(rows, minlength=n).float()
    values = 1 / degree[rows] if normalisation == "row" else (degree[rows] * degree[columns]).rsqrt()
    return SparseMatrix(rows, columns, values, (n, n))


def like_edges(train: TrainData) -> tuple[Tensor, Tensor]:
    """Nodes of users and of items `(E,)` each, of the likes of the train split."""
    users, items = (torch.from_numpy(numbers) for numbers in train.likes)
    return users - 1, items + train.n_users - 1


class GraphRecommender(DotProductRecommender):
    """Base of models whose users and items are nodes of the graph of likes, trained by BPR with uniform negatives.

    A subclass implements `nodes`, and `further_loss` where it has one. A user without likes in the train split has no
    edge, and is ranked by popularity: score = likes / most likes, so that ranks are popularity's. Node vectors are
    computed once in an evaluation and again as soon as a weight has changed, so never from before the last step.
    """

    unit: ClassVar = "targets"
    known: Tensor
    popularity: Tensor

    def build(self, train: TrainData) -> None:
        """Statistics of the train split; a subclass adds its weights and graphs."""
        self.n_users, self.n_items = train.n_users, train.n_items
        self.negatives = NegativeSampler(train)
        known = np.isin(np.arange(train.n_users + 1), train.likes[0])
        popularity = train.item_likes / max(1, train.item_likes.max())
        self.register_buffer("known", torch.from_numpy(known).float(), persistent=False)  # (U + 1,)
        self.register_buffer("popularity", torch.from_numpy(popularity).float(), persistent=False)  # (N + 1,)
        self._cached: tuple[Any, Tensor] | None = None

    def nodes(self) -> Tensor:
        """Vectors of all nodes `(U + N, D)`, exact, with gradients."""
        raise NotImplementedError(f"{type(self).__name__} has no nodes() -> (U + N, D)")

    def training_nodes(self) -> Tensor:
        """As `nodes`, of a model that drops parts of itself in training."""
        return self.nodes()

    def further_loss(self, user_vectors: Tensor, users: Tensor, liked: Tensor, unseen: Tensor) -> Tensor:
        """Scalar added to the loss: regularisers and the like.

        Args:
            user_vectors: `(B, D)` of the training nodes.
            users: Nodes `(B,)` of users.
            liked: Nodes `(B,)` of items that they liked.
            unseen: Nodes `(B,)` of items that were drawn.
        """
        return user_vectors.new_zeros(())

    def loss(self, batch: TrainBatch) -> Tensor:
        """BPR of liked against unseen items, plus `further_loss`."""
        users, liked = batch["user"] - 1, batch["target"] + self.n_users - 1  # (B,)
        unseen = self.negatives(batch["user"], 1)[:, 0] + self.n_users - 1  # (B,)
        nodes = self.training_nodes()
        user = nodes[users]  # (B, D)
        pair_loss = bpr_loss((user * nodes[liked]).sum(-1), (user * nodes[unseen]).sum(-1))
        return pair_loss + self.further_loss(user, users, liked, unseen)

    def query(self, batch: ItemBatch) -> Tensor:
        """User vectors `(B, D + 1)`; the last number asks for popularity, where a user is in no edge."""
        known = self.known[batch["user"]][:, None]  # (B, 1)
        return torch.cat([self._current_nodes()[batch["user"] - 1] * known, 1 - known], dim=1)

    def item_vectors(self) -> Tensor:
        """Item vectors `(N + 1, D + 1)`, the last number being the item's popularity."""
        vectors = functional.pad(self._current_nodes()[self.n_users :], (0, 0, 1, 0))  # (N + 1, D)
        return torch.cat([vectors, self.popularity[:, None]], dim=1)

    def _current_nodes(self) -> Tensor:
        """`nodes` of the weights as they are now."""
        if torch.is_grad_enabled():
            return self.nodes()
        state = [_state(weight) for weight in self.parameters()]
        if self._cached is None or self._cached[0] != state:
            self._cached = (state, self.nodes())
        return self._cached[1]


def _state(weight: Tensor) -> tuple[Any, ...]:
    """What changes with every write to a weight, and with the precision that products are computed in.

    Sums, since writes through `.data` (averaging of weights, for one) leave no other trace; they cost far less than a
    product with a graph.
    """
    device = weight.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    total, squares = weight.sum(dtype=torch.float64).item(), weight.norm(dtype=torch.float64).item()
    return weight.data_ptr(), None if weight.is_inference() else weight._version, total, squares, precision
