"""Losses of next-item models as pure functions: P positions, each with one item to predict and K negatives.

All are means over positions. Without positions they are 0, with zero gradients: a batch of users with a single like has
none, and an empty mean would be NaN and break the training.
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
    """Binary cross-entropy, summed over negatives: -log s(x) - sum of log(1 - s(y)), where s is the logistic function.

    SASRec, section 3.5 (Kang and McAuley, ICDM 2018), has K = 1.

    Args:
        positive: `(P,)` scores of the items to predict.
        negatives: `(P, K)` scores of the negatives.

    Returns:
        A scalar.
    """
    terms = logsigmoid(positive) + logsigmoid(-negatives).sum(dim=1)  # (P,)
    return -terms.sum() / max(1, len(positive))


def gbce(positive: Tensor, negatives: Tensor, n_items: int, t: float) -> Tensor:
    """Binary cross-entropy in which a power of the positive probability corrects for the sampling of negatives.

    gSASRec, section 5 (Petrov and Macdonald, RecSys 2023): with the sampling rate a = K / (N - 1), the power is
    a (t (1 - 1/a) + 1/a), which is 1 - t (1 - a); the sum over positive and negatives is divided by K + 1.

    Args:
        positive: `(P,)` scores of the items to predict.
        negatives: `(P, K)` scores of the negatives.
        n_items: N, size of the catalogue.
        t: Calibration: 0 is plain binary cross-entropy; with 1, scores are logits of calibrated probabilities.

    Returns:
        A scalar.
    """
    n_negatives = negatives.shape[1]
    power = 1 - t * (1 - n_negatives / (n_items - 1))
    terms = power * logsigmoid(positive) + logsigmoid(-negatives).sum(dim=1)  # (P,)
    return -terms.sum() / ((n_negatives + 1) * max(1, len(positive)))


def sampled_softmax(positive: Tensor, negatives: Tensor, hits: Tensor, n_items: int) -> Tensor:
    """Cross-entropy whose normaliser is estimated from negatives sampled uniformly, with replacement, from all items.

    Each negative represents N / K items, so the log-Q correction (Bengio and Senecal, 2008) adds log(N / K) to its
    score, a constant since sampling is uniform. The positive is always included and not corrected; if it was sampled
    too, it does not count twice. So the estimate of the normaliser is unbiased.

    Args:
        positive: `(P,)` scores of the items to predict.
        negatives: `(P, K)` scores of the negatives.
        hits: Bool `(P, K)`, True where a negative is the item to predict.
        n_items: N, size of the catalogue.

    Returns:
        A scalar.
    """
    corrected = negatives + math.log(n_items / negatives.shape[1])  # (P, K)
    scores = torch.cat([positive[:, None], corrected.masked_fill(hits, -torch.inf)], dim=1)  # (P, 1 + K)
    return (scores.logsumexp(dim=1) - positive).sum() / max(1, len(positive))


def full_cross_entropy(
    queries: Tensor,
    items: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    left_out: Tensor | None = None,
    max_logits: int = MAX_LOGITS,
) -> Tensor:
    """Softmax cross-entropy over the whole catalogue, or over the part of it that competes at a position.

    Above `max_logits` the positions are processed in chunks whose logits are computed again in the backward pass. This
    bounds the memory, with the same result and about a third more time.

    Args:
        queries: `(P, D)` vectors of the positions.
        items: `(N, D)` vectors of the items, without padding.
        targets: `(P,)` int64 rows of `items` to predict.
        bias: `(N,)` biases of the items; None for none.
        left_out: Bool `(P, N)`, True for items that do not compete at a position; its target always does.
        max_logits: Number of logits held at once.

    Returns:
        A scalar.
    """
    rows = max(1, max_logits // max(1, len(items)))
    if len(queries) <= rows:
        return _summed_cross_entropy(queries, items, targets, bias, left_out) / max(1, len(queries))
    parts = [torch.split(queries, rows), torch.split(targets, rows)]
    masks = [None] * len(parts[0]) if left_out is None else torch.split(left_out, rows)
    summed = partial(checkpoint, _summed_cross_entropy, use_reentrant=False, preserve_rng_state=False)
    sums = [summed(chunk, items, wanted, bias, mask) for chunk, wanted, mask in zip(*parts, masks, strict=True)]
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
