"""Area under the ROC curve by mid-ranks (Mann-Whitney): P(s+ > s-) + P(s+ = s-) / 2, exact under ties.

There are two different questions: `auc` compares all positives with all negatives, and so rewards scores that are
comparable across users; `user_auc` compares them within each list. `PairAUC` accumulates the first over batches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mllm_srec.metrics.base import StableDtypeMetric
from mllm_srec.metrics.ties import check_bool_mask, check_no_nan, checked_lists, count_below, relevant_scores
from mllm_srec.types import KINDS


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


class PairAUC(StableDtypeMetric):
    """Exact AUC of liked targets against all others seen by all processes, one for each kind of negative.

    The two kinds answer different questions (uniformly drawn items are easy; disliked ones were chosen by the user), so
    they are never pooled. All scores are kept as float32, 4 bytes each.

    Args:
        **kwargs: Settings of `torchmetrics.Metric`.

    Example:
        >>> metric = PairAUC()
        >>> metric.update(torch.tensor([[0.9, 0.1]]), torch.tensor([[1, 0]]), kind=torch.tensor([[0, 2]]))
        >>> metric.compute()["auc"]  # liked against sampled
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True
    liked: list[Tensor]
    disliked: list[Tensor]
    sampled: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in KINDS:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, relevance: Tensor, kind: Tensor, mask: Tensor | None = None) -> None:
        """Add the targets of B pair groups; give every target once, on one process.

        Args:
            scores: Float, any shape, usually `(B, C)`; higher is better.
            relevance: Same shape, 1 exactly where `kind` is liked.
            kind: Same shape, index into `types.KINDS`; anything where masked.
            mask: Bool, same shape, False at padding; None if there is no padding.

        Raises:
            ValueError: If shapes differ, `mask` is not bool, an unmasked score is NaN or too large for float32, a kind
                is unknown, or `relevance` contradicts it.
        """
        mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
        shapes = [tuple(x.shape) for x in (scores, relevance, kind, mask)]
        if len(set(shapes)) > 1:
            raise ValueError(f"scores, relevance, kind, mask: shapes {shapes} differ; give all four the same shape")
        check_bool_mask(mask)
        check_no_nan(scores, mask)
        _check_fits_float32(scores[mask])
        _check_kinds(relevance[mask], kind[mask])
        for index, name in enumerate(KINDS):
            getattr(self, name).append(scores[mask & (kind == index)].detach().float())

    def compute(self) -> dict[str, Tensor]:
        """Compute the AUC over everything seen by all processes.

        Returns:
            `auc` (liked against sampled) and `auc_disliked` (liked against disliked): in [0, 1], NaN if either side is
            empty. `n_liked`, `n_disliked`, `n_sampled` and their sum `n_pairs`: numbers of targets. All float64.
        """
        scores = {name: self.joined(name) for name in KINDS}
        counts = {f"n_{name}": x.new_tensor(len(x), dtype=torch.float64) for name, x in scores.items()}
        return {
            "auc": _auc_between(scores["liked"], scores["sampled"]),
            "auc_disliked": _auc_between(scores["liked"], scores["disliked"]),
            "n_pairs": torch.stack(list(counts.values())).sum(),
            **counts,
        }


def _auc_between(positives: Tensor, negatives: Tensor) -> Tensor:
    """AUC of the scores of positives `(P,)` against those of negatives `(N,)`."""
    labels = torch.cat([torch.ones_like(positives), torch.zeros_like(negatives)])
    return auc(torch.cat([positives, negatives]), labels)


def _check_fits_float32(scores: Tensor) -> None:
    """Refuse finite scores that would be infinite in float32, and so tie with each other."""
    lost = scores.isfinite() & ~scores.float().isfinite()
    if lost.any():
        raise ValueError(
            f"scores={scores[lost][0].item():g}: too large for float32, in which {int(lost.sum())} of {scores.numel()} "
            "scores would tie at infinity; divide all scores by the same number, or give their logarithm"
        )


def _check_kinds(relevance: Tensor, kind: Tensor) -> None:
    """Refuse unknown kinds, and labels that contradict their kind: they would silently turn a ranking upside down."""
    unknown = ~torch.isin(kind, torch.arange(len(KINDS), device=kind.device))
    if unknown.any():
        raise ValueError(
            f"kind={kind[unknown][0].item()}: unknown; give 0 to {len(KINDS) - 1} for {', '.join(KINDS)}, and mark "
            "padding False in mask"
        )
    contradicts = relevance != (kind == KINDS.index("liked")).to(relevance.dtype)
    if contradicts.any():
        index = int(contradicts.nonzero()[0])
        raise ValueError(
            f"relevance={relevance[index].item()}: contradicts kind {KINDS[int(kind[index])]!r}; give 1 for liked and 0"
            " for all others, and check that labels and kinds are in the same order"
        )
