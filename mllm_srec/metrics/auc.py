"""Area under the ROC curve by mid-ranks (Mann-Whitney): P(s+ > s-) + P(s+ = s-) / 2, exact under ties.

Two different questions: over all pairs at once (rewards scores that compare across users) and within each list.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mllm_srec.metrics.ties import checked_lists, count_below, relevant_scores


def auc(scores: Tensor, labels: Tensor) -> Tensor:
    """AUC over all pairs of a positive and a negative (the article's AUC is most likely this one).

    Args:
        scores: float `(N,)`, higher is better; minus infinity is below every number and ties with itself.
        labels: `(N,)` of 0 and 1.

    Returns:
        float64 scalar in [0, 1]; NaN, never 0, if either class is absent.

    Raises:
        ValueError: If shapes differ, a score is NaN, or `labels` is not binary.

    >>> auc(torch.tensor([0.9, 0.8, 0.2, 0.1]), torch.tensor([1, 0, 1, 0])).item()
    0.75
    """
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"scores, labels: got shapes {tuple(scores.shape)} and {tuple(labels.shape)}; both must be the same (N,). "
            "For lists of candidates use user_auc."
        )
    return user_auc(scores[None], labels[None])[0]


def user_auc(scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> Tensor:
    """AUC within each list; averaged over lists it is the user AUC (GAUC).

    Args:
        scores: float `(B, C)`, higher is better; minus infinity is below every number and ties with itself.
        relevance: `(B, C)` of 0 and 1.
        mask: bool `(B, C)`, False at padding; None: no padding.

    Returns:
        float64 `(B,)` in [0, 1]; NaN for a list that lacks one of the classes.

    Raises:
        ValueError: If shapes differ, `relevance` is not binary, or a score is NaN.

    >>> user_auc(torch.tensor([[0.9, 0.8], [0.2, 0.1]]), torch.tensor([[1, 0], [1, 0]])).tolist()
    [1.0, 1.0]
    """
    scores, positive, mask = checked_lists(scores, relevance, mask)
    negative = mask & ~positive
    n_positive, n_negative = positive.sum(dim=-1), negative.sum(dim=-1)  # (B,)
    hits, is_hit = relevant_scores(scores, positive)  # (B, R)
    below, up_to = count_below(torch.where(negative, scores, torch.inf), hits)  # (B, R) negatives, padded by +inf
    up_to = up_to.minimum(n_negative[:, None])  # a score of +inf ties with negatives, not with the padding
    twice_wins = torch.where(is_hit, below + up_to, 0).sum(dim=-1)  # (B,) int64: 2 per win, 1 per tie
    return twice_wins.double() / (2 * n_positive * n_negative)  # 0 / 0 = NaN
