"""Modality codes: clusters of image or text features, which represent the modality in MMSR's graphs.

Features contain no interactions, so the clusters are fitted on the whole catalogue without a leak. The official code
reduces features by an autoencoder; here it is principal components, which need no training and no settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mllm_srec.types import ConfigError

N_COMPONENTS = 128
"""Dimensions to which features are reduced, at most, before clustering (official code of MMSR)."""

TOLERANCE = 1e-4
"""A run of k-means ends when a step lowers the sum of squared distances by less than this share."""


@dataclass(frozen=True)
class ModalityCodes:
    """Codes of the items in one modality.

    Attributes:
        links: `(N + 1, k)` int64, codes 1..c of the k nearest centroids, nearest first; 0 for items without the
            modality, and for padding (row 0).
        centroids: `(c, P)` float32 in principal components, by decreasing variance; row i belongs to code i + 1, and c
            is 0 if no item has the modality.
    """

    links: Tensor
    centroids: Tensor


def modality_codes(features: np.ndarray, present: np.ndarray, n_clusters: int, n_links: int) -> ModalityCodes:
    """Cluster the features of the items that have them, using torch's global random state.

    Args:
        features: `(N + 1, D)` features of the items; row 0 is padding.
        present: Bool `(N + 1,)`, True for items with features.
        n_clusters: c, at most the number of items with features.
        n_links: k, number of nearest centroids that an item is linked to.

    Returns:
        Codes of all items.

    Raises:
        ConfigError: If there are more clusters than items with features, or more links than clusters.
    """
    if not 1 <= n_links <= n_clusters:
        raise ConfigError(f"n_links={n_links}: out of range; give 1 to n_clusters={n_clusters}")
    links = torch.zeros(len(features), n_links, dtype=torch.long)  # (N + 1, k)
    rows = torch.from_numpy(np.flatnonzero(present))
    if not len(rows):
        return ModalityCodes(links, torch.zeros(0, 0))
    if len(rows) < n_clusters:
        raise ConfigError(f"n_clusters={n_clusters}: only {len(rows)} items have features; give at most that many")
    reduced = principal_components(torch.from_numpy(features)[rows].double(), N_COMPONENTS)  # (M, P)
    centroids, _ = kmeans(reduced, n_clusters)
    links[rows] = _squared_distances(reduced, centroids).topk(n_links, dim=1, largest=False).indices + 1
    return ModalityCodes(links, centroids.float())


def principal_components(x: Tensor, n_components: int) -> Tensor:
    """Project centred rows on the directions of largest variance.

    Args:
        x: Float64 `(M, D)`.
        n_components: Number of directions, at most; there are never more than D.

    Returns:
        `(M, P)`, by decreasing variance. Signs make the largest weight of a direction positive, on every machine.
    """
    centred = x - x.mean(dim=0)
    directions: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :n_components]  # (D, P)
    largest = directions.abs().argmax(dim=0, keepdim=True)  # (1, P)
    return centred @ (directions * directions.gather(0, largest).sign())


def kmeans(x: Tensor, n_clusters: int, n_init: int = 5, max_steps: int = 100) -> tuple[Tensor, float]:
    """Run Lloyd's k-means from several k-means++ initialisations, using torch's global random state.

    Args:
        x: Float64 `(M, P)` points.
        n_clusters: c, number of clusters, at most M.
        n_init: Number of initialisations, of which the best is kept.
        max_steps: Limit of the steps from one initialisation.

    Returns:
        Centroids `(c, P)`, and the sum of squared distances of the points to their nearest centroid (the inertia).
    """
    best, best_inertia = x[:n_clusters], float("inf")
    for _ in range(n_init):
        centroids, inertia = _lloyd(x, _plus_plus(x, n_clusters), max_steps)
        if inertia < best_inertia:
            best, best_inertia = centroids, inertia
    return best, best_inertia


def _plus_plus(x: Tensor, n_clusters: int) -> Tensor:
    """Draw points far from each other `(c, P)`: each by its squared distance to the nearest point drawn before."""
    chosen = [int(torch.randint(len(x), ()))]
    distance = (x - x[chosen[0]]).square().sum(dim=1)  # (M,)
    while len(chosen) < n_clusters:
        weights = distance if distance.any() else torch.ones_like(distance)  # only duplicates are left
        chosen.append(int(torch.multinomial(weights, 1)))
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(dim=1))
    return x[chosen]


def _lloyd(x: Tensor, centroids: Tensor, max_steps: int) -> tuple[Tensor, float]:
    """Assign points and move centroids until the inertia hardly falls.

    A centroid without points is moved to one of the points farthest from their centroid.
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
    """Squared Euclidean distances `(M, c)` by one matrix product, for which float64 is exact enough."""
    return (x.square().sum(dim=1, keepdim=True) - 2 * x @ centroids.T + centroids.square().sum(dim=1)).clamp(min=0)


def initial_embeddings(centroids: Tensor, hidden: int) -> Tensor:
    """Initialise the embeddings of codes by their centroids, scaled to the range of all other initial weights.

    The smallest coordinate of all centroids becomes -1/sqrt(hidden), the largest +1/sqrt(hidden) (official code).
    Of more than `hidden` coordinates the first are kept, which vary most; missing ones are 0.

    Args:
        centroids: `(c, P)` centroids of the codes.
        hidden: D, width of the embeddings.

    Returns:
        `(c, D)` initial embeddings.
    """
    kept = centroids[:, :hidden]  # (c, min(P, D))
    embeddings = kept.new_zeros(len(kept), hidden)  # (c, D)
    if kept.numel():
        low, high = kept.min(), kept.max()
        unit = (kept - low) / (high - low).clamp(min=1e-12)  # 0..1
        embeddings[:, : kept.shape[1]] = (2 * unit - 1) / hidden**0.5
    return embeddings
