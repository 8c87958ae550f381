"""Modality codes: the few clusters that pictures or texts fall into, which stand for them in MMSR's graphs.

Features are no interactions, so the codes are fitted on those of the whole catalogue. The official code reduces them
with an autoencoder; here principal components do, which need no training and no settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mllm_srec.types import ConfigError

N_COMPONENTS = 128
"""Features are reduced to at most so many dimensions before they are clustered (official code of MMSR)."""

TOLERANCE = 1e-4
"""A beginning of k-means ends when a step lowers the sum of squared distances by less than this share."""


@dataclass(frozen=True)
class ModalityCodes:
    """Which clusters each item belongs to in one modality.

    Attributes:
        links: `(N + 1, k)` int64, codes 1..c of the k nearest centroids, nearest first; 0 for items without the
            modality, and for padding (row 0).
        centroids: `(c, P)` float32 in principal components, the most important first; c is 0 where no item has the
            modality. Row i belongs to code i + 1.
    """

    links: Tensor
    centroids: Tensor


def modality_codes(features: np.ndarray, present: np.ndarray, n_clusters: int, n_links: int) -> ModalityCodes:
    """Cluster the features of the items that have them; draws from torch's global random state.

    Args:
        features: `(N + 1, D)`; row 0 is padding's.
        present: `(N + 1,)` bool, which rows say something.
        n_clusters: c, at most the number of items that have the modality.
        n_links: k, centroids to which an item is linked.

    Raises:
        ConfigError: More clusters than items, or more links than clusters.
    """
    if not 1 <= n_links <= n_clusters:
        raise ConfigError(f"n_links={n_links}; give 1 to n_clusters={n_clusters}")
    links = torch.zeros(len(features), n_links, dtype=torch.long)  # (N + 1, k)
    rows = torch.from_numpy(np.flatnonzero(present))
    if not len(rows):
        return ModalityCodes(links, torch.zeros(0, 0))
    if len(rows) < n_clusters:
        raise ConfigError(f"n_clusters={n_clusters}, but only {len(rows)} items have features; give at most that many")
    reduced = principal_components(torch.from_numpy(features)[rows].double(), N_COMPONENTS)  # (M, P)
    centroids, _ = kmeans(reduced, n_clusters)
    links[rows] = _squared_distances(reduced, centroids).topk(n_links, dim=1, largest=False).indices + 1
    return ModalityCodes(links, centroids.float())


def principal_components(x: Tensor, n_components: int) -> Tensor:
    """Centred rows in the directions of largest variance, largest first.

    Args:
        x: `(M, D)` float64.
        n_components: At most so many; there are never more than D.

    Returns:
        `(M, P)`. The sign of a direction is such that its largest weight is positive: equal on all machines.
    """
    centred = x - x.mean(dim=0)
    directions: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :n_components]  # (D, P)
    largest = directions.abs().argmax(dim=0, keepdim=True)  # (1, P)
    return centred @ (directions * directions.gather(0, largest).sign())


def kmeans(x: Tensor, n_clusters: int, n_init: int = 5, max_steps: int = 100) -> tuple[Tensor, float]:
    """Lloyd's k-means from several k-means++ beginnings; draws from torch's global random state.

    Args:
        x: `(M, P)` float64.
        n_clusters: c, at most M.
        n_init: Beginnings; the best of them is kept.
        max_steps: After which a beginning is taken as it is.

    Returns:
        Centroids `(c, P)`, and the sum of squared distances of points to their nearest.
    """
    best, best_inertia = x[:n_clusters], float("inf")
    for _ in range(n_init):
        centroids, inertia = _lloyd(x, _plus_plus(x, n_clusters), max_steps)
        if inertia < best_inertia:
            best, best_inertia = centroids, inertia
    return best, best_inertia


def _plus_plus(x: Tensor, n_clusters: int) -> Tensor:
    """Points far from each other `(c, P)`: each is drawn by its squared distance to those drawn before."""
    chosen = [int(torch.randint(len(x), ()))]
    distance = (x - x[chosen[0]]).square().sum(dim=1)  # (M,)
    while len(chosen) < n_clusters:
        weights = distance if distance.any() else torch.ones_like(distance)  # all points are taken: duplicates
        chosen.append(int(torch.multinomial(weights, 1)))
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(dim=1))
    return x[chosen]


def _lloyd(x: Tensor, centroids: Tensor, max_steps: int) -> tuple[Tensor, float]:
    """Assign points and move centroids until the inertia hardly falls.

    A centroid without points goes to a point that is farthest from its own.
    """
    inertia = float("inf")
    for _ in range(max_steps):
        distance, labels = _squared_distances(x, centroids).min(dim=1)  # (M,)
        before, inertia = inertia, float(distance.sum())
        if inertia >= before * (1 - TOLERANCE):
            break
        counts = labels.bincount(minlength=len(centroids))  # (c,)
        members = functional.one_hot(labels, len(centroids)).to(x.dtype)  # (M, c)
        empty = counts == 0
        centroids = members.T @ x / counts.clamp(min=1)[:, None]
        centroids[empty] = x[distance.topk(int(empty.sum())).indices]
    return centroids, float(_squared_distances(x, centroids).min(dim=1).values.sum())


def _squared_distances(x: Tensor, centroids: Tensor) -> Tensor:
    """Squared Euclidean distances `(M, c)` in one matrix product, which float64 is exact enough for."""
    return (x.square().sum(dim=1, keepdim=True) - 2 * x @ centroids.T + centroids.square().sum(dim=1)).clamp(min=0)


def initial_embeddings(centroids: Tensor, hidden: int) -> Tensor:
    """Where the embeddings of codes begin: centroids, scaled to the range of all other initial weights.

    The smallest coordinate of all centroids becomes -1/sqrt(hidden), the largest +1/sqrt(hidden) (official code).
    Centroids that have more than `hidden` coordinates keep the first, which vary most; missing ones are 0.

    Args:
        centroids: `(c, P)`.
        hidden: D.

    Returns:
        `(c, D)`.
    """
    kept = centroids[:, :hidden]  # (c, min(P, D))
    found = kept.new_zeros(len(kept), hidden)  # (c, D)
    if kept.numel():
        low, high = kept.min(), kept.max()
        unit = (kept - low) / (high - low).clamp(min=1e-12)  # 0..1
        found[:, : kept.shape[1]] = (2 * unit - 1) / hidden**0.5
    return found
