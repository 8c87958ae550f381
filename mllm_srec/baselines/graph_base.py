"""Base of the graph models: products with a sparse matrix, the graph of likes, and scores from node vectors.

The nodes of a graph are users, then items: user u is node u - 1, item i is node U + i - 1.
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
"""`row`: mean over neighbours, 1 / d_v; `symmetric`: 1 / sqrt(d_v d_w)."""

PARTS = ("starts", "columns", "values")
"""Buffers of a `SparseMatrix`, for each direction."""


class SparseMatrix(nn.Module):
    """A constant sparse matrix A; calling it computes A x, differentiable in x.

    Rows are bags of weighted embeddings, the fastest product that torch offers on a CPU (three times as fast as CSR at
    600,000 entries); the gradient is the same product with the transpose. The matrix is kept in dense buffers, which
    can be moved, copied and broadcast between processes, unlike sparse tensors.

    Args:
        rows: `(E,)` int64, row of each entry.
        columns: `(E,)` int64, column of each entry.
        values: `(E,)` float32, value of each entry.
        shape: Numbers of rows and of columns of A.
    """

    def __init__(self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        directions = ((rows, columns, shape[0]), (columns, rows, shape[1]))
        for direction, (own, other, n) in zip(("forward", "backward"), directions, strict=True):
            order = own.argsort(stable=True)
            starts = functional.pad(torch.bincount(own, minlength=n).cumsum(0)[:-1], (1, 0))  # (n,)
            for name, part in (("starts", starts), ("columns", other[order]), ("values", values[order])):
                self.register_buffer(f"{direction}_{name}", part, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute A x `(rows, D)` of x `(columns, D)`; rows without entries are zero."""
        parts = (getattr(self, f"{direction}_{name}") for direction in ("forward", "backward") for name in PARTS)
        result: Tensor = _Product.apply(x, *parts)  # type: ignore[no-untyped-call]
        return result


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
    """Weighted sums of rows of x, one sum for every start."""
    return functional.embedding_bag(columns, x, starts, mode="sum", per_sample_weights=values.to(x.dtype))


def undirected(a: Tensor, b: Tensor, n: int, normalisation: Normalisation) -> SparseMatrix:
    """Make the normalised adjacency matrix of an undirected graph.

    Args:
        a: `(E,)` int64, one node of each edge.
        b: `(E,)` int64, the other node of each edge.
        n: Number of nodes.
        normalisation: How degrees scale the edges.

    Returns:
        The matrix `(n, n)`; isolated nodes have empty rows.
    """
    rows, columns = torch.cat([a, b]), torch.cat([b, a])  # (2 E,)
    degree = torch.bincount(rows, minlength=n).float()
    values = 1 / degree[rows] if normalisation == "row" else (degree[rows] * degree[columns]).rsqrt()
    return SparseMatrix(rows, columns, values, (n, n))


def like_edges(train: TrainData) -> tuple[Tensor, Tensor]:
    """List the edges of the graph of likes: nodes of users and of items, `(E,)` each."""
    users, items = (torch.from_numpy(numbers) for numbers in train.likes)
    return users - 1, items + train.n_users - 1


class GraphRecommender(DotProductRecommender):
    """Base of models whose users and items are nodes of the graph of likes, trained by BPR with uniform negatives.

    A subclass implements `nodes` and, where it has one, `further_loss`. A user without likes in the train split has no
    edge and gets the popularity ranking: score = likes / most likes of any item. Node vectors are cached during
    evaluation and computed again as soon as a weight has changed, so they are never stale.
    """

    unit: ClassVar = "targets"
    learns_users: ClassVar[bool] = True
    has_likes: Tensor
    popularity: Tensor

    def build(self, train: TrainData) -> None:
        """Compute statistics of the train split; a subclass adds its weights and graphs."""
        self.n_users, self.n_items = train.n_users, train.n_items
        self.negatives = NegativeSampler(train)
        has_likes = np.isin(np.arange(train.n_users + 1), train.likes[0])
        popularity = train.item_likes / max(1, train.item_likes.max())
        self.register_buffer("has_likes", torch.from_numpy(has_likes).float(), persistent=False)  # (U + 1,)
        self.register_buffer("popularity", torch.from_numpy(popularity).float(), persistent=False)  # (N + 1,)
        self._cached: tuple[Any, Tensor] | None = None

    def nodes(self) -> Tensor:
        """Compute the vectors of all nodes `(U + N, D)`, exact and with gradients."""
        raise NotImplementedError(f"{type(self).__name__} has no nodes() -> (U + N, D)")

    def training_nodes(self) -> Tensor:
        """Compute the node vectors of a training step; differs from `nodes` in models that drop edges in training."""
        return self.nodes()

    def further_loss(self, user_vectors: Tensor, users: Tensor, liked: Tensor, unseen: Tensor) -> Tensor:
        """Compute what is added to the BPR loss, such as a regulariser: a scalar.

        Args:
            user_vectors: `(B, D)` vectors of the users, from `training_nodes`.
            users: `(B,)` nodes of the users.
            liked: `(B,)` nodes of items that they liked.
            unseen: `(B,)` nodes of the sampled negatives.
        """
        return user_vectors.new_zeros(())

    def loss(self, batch: TrainBatch) -> Tensor:
        """Compute the BPR loss of liked against unseen items, plus `further_loss`."""
        users, liked = batch["user"] - 1, batch["target"] + self.n_users - 1  # (B,)
        unseen = self.negatives(batch["user"], 1)[:, 0] + self.n_users - 1  # (B,)
        nodes = self.training_nodes()
        user = nodes[users]  # (B, D)
        pair_loss = bpr_loss((user * nodes[liked]).sum(-1), (user * nodes[unseen]).sum(-1))
        return pair_loss + self.further_loss(user, users, liked, unseen)

    def query(self, batch: ItemBatch) -> Tensor:
        """Compute user vectors `(B, D + 1)`; the last number selects popularity for a user without likes."""
        has_likes = self.has_likes[batch["user"]][:, None]  # (B, 1)
        return torch.cat([self._current_nodes()[batch["user"] - 1] * has_likes, 1 - has_likes], dim=1)

    def item_vectors(self) -> Tensor:
        """Compute item vectors `(N + 1, D + 1)`; the last number is the item's popularity."""
        vectors = functional.pad(self._current_nodes()[self.n_users :], (0, 0, 1, 0))  # (N + 1, D)
        return torch.cat([vectors, self.popularity[:, None]], dim=1)

    def _current_nodes(self) -> Tensor:
        """`nodes` of the current weights, cached where no gradient is needed."""
        if torch.is_grad_enabled():
            return self.nodes()
        state = [_state(weight) for weight in self.parameters()]
        if self._cached is None or self._cached[0] != state:
            self._cached = (state, self.nodes())
        return self._cached[1]


def _state(weight: Tensor) -> tuple[Any, ...]:
    """Values that change with every write to a weight, and with the precision of products.

    They include sums, since writes through `.data` (such as weight averaging) leave no other trace; these cost far less
    than a product with a graph.
    """
    device = weight.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    total, squares = weight.sum(dtype=torch.float64).item(), weight.norm(dtype=torch.float64).item()
    return weight.data_ptr(), None if weight.is_inference() else weight._version, total, squares, precision
