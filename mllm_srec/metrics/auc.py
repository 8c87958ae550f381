"""Area under the ROC curve by mid-ranks (Mann-Whitney): P(s+ > s-) + P(s+ = s-) / 2, exact under ties.

There are two different questions: `auc` compares all positives with all negatives, and so rewards scores that are
comparable across users; `user_auc` compares them within each list. `pair_auc.py` accumulates the first over batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mllm_srec.metrics.ties import checked_lists, count_below, relevant_scores


def auc(scores: Tensor, labels: Tensor) -> Tensor:
    """AUC over all pairs of a positive and a negative (most likely the AUC that the article reports).

    Args:
        scores: Float `(N,)`, higher is better; minus infinity is below every number and ties with itself.
        labels: `(N,)` of 0 and 1.

    Returns:
        Float64 scalar in [0, 1]; NaN, never 0, if one of the classes is absent.

    Raises:
        ValueError: If shapes differ, a score is NaN, or `labels` is not binary.

    Example:
        >>> from torch import tensor
        >>> auc(tensor([0.9, 0.8, 0.2, 0.1]), tensor([1, 0, 1, 0]))
        tensor(0.7500, dtype=torch.float64)
    """
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"scores, labels: shapes {tuple(scores.shape)} and {tuple(labels.shape)} must be the same (N,); for lists "
            "of candidates use user_auc"
        )
    return user_auc(scores[None], labels[None])[0]


def user_auc(scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> Tensor:
    """AUC within each list; its mean over lists is the user AUC (GAUC).

    Args:
        scores: Float `(B, C)`, higher is better; minus infinity is below every number and ties with itself.
        relevance: `(B, C)`, 1 for relevant candidates and 0 for others.
        mask: Bool `(B, C)`, False at padding; None if there is no padding.

    Returns:
        Float64 `(B,)` in [0, 1]; NaN for a list that lacks one of the classes.

    Raises:
        ValueError: If shapes differ, `mask` is not bool, `relevance` is not binary, or an unmasked score is NaN.

    Example:
        >>> from torch import tensor
        >>> user_auc(tensor([[0.9, 0.8], [0.2, 0.1]]), tensor([[1, 0], [1, 0]]))
        tensor([1., 1.], dtype=torch.float64)
    """
    scores, positive, mask = checked_lists(scores, relevance, mask)
    negative = mask & ~positive
    n_positive, n_negative = positive.sum(dim=-1), negative.sum(dim=-1)  # (B,)
    hits, is_hit = relevant_scores(scores, positive)  # (B, R)
    below, up_to = count_below(torch.where(negative, scores, torch.inf), hits)  # (B, R) negatives, padded by +inf
    up_to = up_to.minimum(n_negative[:, None])  # a score of +inf ties with negatives, not with the padding
    twice_wins = torch.where(is_hit, below + up_to, 0).sum(dim=-1)  # (B,) int64: 2 per win, 1 per tie
    return twice_wins.double() / (2 * n_positive * n_negative)  # 0 / 0 = NaN
