"""MMSR's graph of a user's history: items, image codes and text codes as nodes, and ten types of directed edges.

All graphs of a batch are built at once, from a table of the positions of the history at which each node occurs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ITEM, IMAGE, TEXT = 1, 2, 3
"""Kinds of nodes; 0 is padding."""

SELF, FORWARD, BACKWARD, BOTH = 1, 2, 3, 4
"""Types of edges between nodes of one kind; `BOTH`: each follows the other somewhere. 0 is no edge."""

ACROSS = ((0, 0, 0, 0), (0, 0, 5, 7), (0, 6, 0, 9), (0, 8, 10, 0))
"""Types of edges between kinds: item to image 5 and back 6, item to text 7 and back 8, image to text 9 and back 10."""


class Graphs(NamedTuple):
    """The graphs of B histories, padded to the n nodes of the largest."""

    nodes: Tensor  # (B, n) int64 node numbers, each once; 0 is padding
    kinds: Tensor  # (B, n) int64, ITEM, IMAGE or TEXT; 0 is padding
    occurs: Tensor  # (B, n, S) float32, 1 where the node occurs at a position of the history
    edges: Tensor  # (B, n, n) int64, type of the edge from row to column; 0 is none
    last: Tensor  # (B,) int64, index of the latest item's node; arbitrary for an empty history


def build_graphs(history: Tensor, links: Tensor, n_items: int, n_image_codes: int) -> Graphs:
    """Build the graphs of histories; nodes are numbered: items 1..N, then image codes, then text codes.

    Args:
        history: `(B, S)` items, oldest first, padded on the left with 0.
        links: `(N + 1, L)` code nodes of each item, 0 where there is none.
        n_items: N, size of the catalogue.
        n_image_codes: Number of image codes.

    Returns:
        The graphs, padded to the largest.
    """
    tokens = torch.cat([history[..., None], links[history]], dim=-1)  # (B, S, 1 + L) nodes at each position
    nodes = distinct(tokens.flatten(1))  # (B, n)
    bounds = torch.tensor([0, n_items, n_items + n_image_codes], device=nodes.device)
    kinds = torch.bucketize(nodes, bounds)  # (B, n)
    here = (nodes[:, :, None, None] == tokens[:, None]).any(dim=-1)  # (B, n, S)
    occurs = (here & (nodes > 0)[..., None]).float()
    last = (nodes == history[:, -1:]).int().argmax(dim=1)  # (B,)
    return Graphs(nodes, kinds, occurs, edge_types(kinds, occurs), last)


def distinct(numbers: Tensor) -> Tensor:
    """Keep each positive number of a row once, and pad with 0.

    Args:
        numbers: `(B, M)` integers of at least 0.

    Returns:
        `(B, n)`, descending; n is the largest number of distinct values in a row, at least 1.
    """
    ordered = numbers.sort(dim=1, descending=True).values  # (B, M)
    duplicate = torch.zeros_like(ordered, dtype=torch.bool)
    duplicate[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    kept = ordered.masked_fill(duplicate, 0).sort(dim=1, descending=True).values
    n = int((kept > 0).sum(dim=1).max()) if kept.numel() else 0
    return kept[:, : max(1, n)].contiguous()


def edge_types(kinds: Tensor, occurs: Tensor) -> Tensor:
    """Compute the type of the edge between every two nodes.

    Nodes of one kind are joined if one occurs right after the other, nodes of different kinds if they occur at the same
    position, and every node with itself.

    Args:
        kinds: `(B, n)` kinds of the nodes.
        occurs: `(B, n, S)` float32, 1 where a node occurs.

    Returns:
        `(B, n, n)` int64 types of the edges from row to column; 0 is none.
    """
    follows = (occurs[..., :-1] @ occurs[..., 1:].mT) > 0  # (B, n, n) column right after row
    same_kind = kinds[:, :, None] == kinds[:, None]
    homogeneous = FORWARD * follows + BACKWARD * follows.mT - (follows & follows.mT).long()  # 2 + 3 - 1 = BOTH
    table = torch.tensor(ACROSS, device=kinds.device)
    across = table[kinds[:, :, None], kinds[:, None]] * ((occurs @ occurs.mT) > 0)
    edges = torch.where(same_kind, homogeneous, across)
    itself = torch.eye(kinds.shape[1], dtype=torch.bool, device=kinds.device)
    return torch.where(itself, SELF * (kinds > 0)[:, None].long(), edges)
