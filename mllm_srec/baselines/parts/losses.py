"""Losses of next-item models as pure functions: P positions, each with one item to predict, and K negatives.

All are means over positions, and 0, with gradients that are 0, where there is no position: a batch of users with a
single like has none, and a mean of nothing would be NaN and end the training.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from torch.utils.checkpoint import checkpoint

MAX_LOGITS = 2**25
"""Logits held at once by `full_cross_entropy`: 134 MB in float32."""


def bce(positive: Tensor, negatives: Tensor) -> Tensor:
    """Binary cross-entropy, of negatives the sum: -log s(x) - sum of log(1 - s(y)), s the logistic function.

    SASRec, section 3.5 (Kang and McAuley, ICDM 2018), with K = 1.

    Args:
        positive: Scores of the items to predict `(P,)`.
        negatives: Scores of the negatives `(P, K)`.
    """
    terms = logsigmoid(positive) + logsigmoid(-negatives).sum(dim=1)  # (P,)
    return -terms.sum() / max(1, len(positive))


def gbce(positive: Tensor, negatives: Tensor, n_items: int, t: float) -> Tensor:
    """Binary cross-entropy whose positive probability is raised to a power that undoes the sampling of negatives.

    gSASRec, section 5 (Petrov and Macdonald, RecSys 2023): with the sampling rate a = K / (N - 1), the power is
    a (t (1 - 1/a) + 1/a), which is 1 - t (1 - a); the sum over positive and negatives is divided by K + 1.

    Args:
        positive: Scores of the items to predict `(P,)`.
        negatives: Scores of the negatives `(P, K)`.
        n_items: N, the size of the catalogue.
        t: Calibration: 0 is plain binary cross-entropy, 1 makes the scores logits of calibrated probabilities.
    """
    n_negatives = negatives.shape[1]
    power = 1 - t * (1 - n_negatives / (n_items - 1))
    terms = power * logsigmoid(positive) + logsigmoid(-negatives).sum(dim=1)  # (P,)
    return -terms.sum() / ((n_negatives + 1) * max(1, len(positive)))


def sampled_softmax(positive: Tensor, negatives: Tensor, hits: Tensor, n_items: int) -> Tensor:
    """Cross-entropy whose normaliser is estimated from negatives drawn uniformly, with repeats, from all items.

    Each negative stands for N / K items, which the log-Q correction (Bengio and Senecal, 2008) adds to its score:
    log N / K, a constant since the draw is uniform. The positive is always there, stands for itself, and is not
    corrected; where it was drawn as well it does not count twice. So the estimated normaliser is right on average.

    Args:
        positive: Scores of the items to predict `(P,)`.
        negatives: Scores of the negatives `(P, K)`.
        hits: Bool `(P, K)`: the negative is the item to predict.
        n_items: N, the size of the catalogue.
    """
    weighed = negatives + math.log(n_items / negatives.shape[1])  # (P, K)
    scores = torch.cat([positive[:, None], weighed.masked_fill(hits, -torch.inf)], dim=1)  # (P, 1 + K)
    return (scores.logsumexp(dim=1) - positive).sum() / max(1, len(positive))


def full_cross_entropy(
    queries: Tensor,
    items: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    left_out: Tensor | None = None,
    max_logits: int = MAX_LOGITS,
) -> Tensor:
    """Softmax cross-entropy over the whole catalogue, or over each position's part of it.

    Above `max_logits` the positions are taken in chunks whose logits are computed again in the backward pass, so that
    memory stays bounded: equal result, about a third more time.

    Args:
        queries: Vectors of the positions `(P, D)`.
        items: Vectors of the items `(N, D)`, without padding.
        targets: `(P,)` int64, 0..N-1, rows of `items`.
        bias: `(N,)`, added to the scores.
        left_out: Bool `(P, N)`: items that do not compete at a position; its target always does.
        max_logits: Logits held at once.
    """
    rows = max(1, max_logits // max(1, len(items)))
    if len(queries) <= rows:
        return _summed_cross_entropy(queries, items, targets, bias, left_out) / max(1, len(queries))
    parts = [torch.split(queries, rows), torch.split(targets, rows)]
    masks = [None] * len(parts[0]) if left_out is None else torch.split(left_out, rows)
    summed = partial(checkpoint, _summed_cross_entropy, use_reentrant=False, preserve_rng_state=False)
    sums = [summed(some, items, wanted, bias, mask) for some, wanted, mask in zip(*parts, masks, strict=True)]
    return torch.stack(sums).sum() / len(queries)


def _summed_cross_entropy(
    queries: Tensor, items: Tensor, targets: Tensor, bias: Tensor | None, left_out: Tensor | None
) -> Tensor:
    logits = queries @ items.T  # (P, N)
    if bias is not None:
        logits = logits + bias
    if left_out is not None:
        logits = logits.masked_fill(left_out.scatter(1, targets[:, None], False), -torch.inf)
    return cross_entropy(logits, targets, reduction="sum")
