"""MMSR's graph of a user's history: items, picture codes and text codes as nodes, ten types of directed edges.

All graphs of a batch are built at once from one table: which node occurs at which place of the history.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ITEM, IMAGE, TEXT = 1, 2, 3
"""Kinds of nodes; 0 is padding."""

SELF, FORWARD, BACKWARD, BOTH = 1, 2, 3, 4
"""Types of edges between nodes of one kind; `BOTH`: each followed the other somewhere. 0 is no edge."""

ACROSS = ((0, 0, 0, 0), (0, 0, 5, 7), (0, 6, 0, 9), (0, 8, 10, 0))
"""Types of edges between kinds: item to image 5 and back 6, item to text 7 and back 8, image to text 9 and back 10."""


class Graphs(NamedTuple):
    """The graphs of B histories, padded to the n nodes of the largest."""

    nodes: Tensor  # (B, n) int64 numbers of nodes, each once; 0 is padding
    kinds: Tensor  # (B, n) int64, ITEM, IMAGE, TEXT; 0 is padding
    occurs: Tensor  # (B, n, S) float32, 1 where the node stands at a place of the history
    edges: Tensor  # (B, n, n) int64, type of the edge from row to column; 0 is none
    last: Tensor  # (B,) int64, place among the nodes of the latest item; arbitrary where there is none


def build_graphs(history: Tensor, links: Tensor, n_items: int, n_image_codes: int) -> Graphs:
    """Graphs of histories.

    Node numbers: items 1..N, then codes of pictures, then codes of texts.

    Args:
        history: `(B, S)` items, oldest first, padded on the left with 0.
        links: `(N + 1, L)` numbers of the code nodes of each item, 0 where there is none.
        n_items: N.
        n_image_codes: Codes of pictures.
    """
    tokens = torch.cat([history[..., None], links[history]], dim=-1)  # (B, S, 1 + L) nodes at each place
    nodes = distinct(tokens.flatten(1))  # (B, n)
    bounds = torch.tensor([0, n_items, n_items + n_image_codes], device=nodes.device)
    kinds = torch.bucketize(nodes, bounds)  # (B, n)
    here = (nodes[:, :, None, None] == tokens[:, None]).any(dim=-1)  # (B, n, S)
    occurs = (here & (nodes > 0)[..., None]).float()
    last = (nodes == history[:, -1:]).int().argmax(dim=1)  # (B,)
    return Graphs(nodes, kinds, occurs, edge_types(kinds, occurs), last)


def distinct(numbers: Tensor) -> Tensor:
    """The distinct positive numbers of each row, filled up with 0.

    Args:
        numbers: `(B, M)`.

    Returns:
        `(B, n)`, descending; n is what the richest row needs, at least 1.
    """
    ordered = numbers.sort(dim=1, descending=True).values  # (B, M)
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    kept = ordered.masked_fill(repeated, 0).sort(dim=1, descending=True).values
    n = int((kept > 0).sum(dim=1).max()) if kept.numel() else 0
    return kept[:, : max(1, n)].contiguous()


def edge_types(kinds: Tensor, occurs: Tensor) -> Tensor:
    """Types of the edges between all nodes.

    Nodes of one kind are joined where one occurs at the place after the other's, nodes of different kinds where they
    occur at the same place, and every node with itself.

    Args:
        kinds: `(B, n)`.
        occurs: `(B, n, S)` float32.

    Returns:
        `(B, n, n)` int64.
    """
    follows = (occurs[..., :-1] @ occurs[..., 1:].mT) > 0  # (B, n, n) column right after row
    same_kind = kinds[:, :, None] == kinds[:, None]
    homogeneous = FORWARD * follows + BACKWARD * follows.mT - (follows & follows.mT).long()  # 2 + 3 - 1 = BOTH
    table = torch.tensor(ACROSS, device=kinds.device)
    across = table[kinds[:, :, None], kinds[:, None]] * ((occurs @ occurs.mT) > 0)
    edges = torch.where(same_kind, homogeneous, across)
    itself = torch.eye(kinds.shape[1], dtype=torch.bool, device=kinds.device)
    return torch.where(itself, SELF * (kinds > 0)[:, None].long(), edges)
