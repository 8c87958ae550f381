"""AUC of labelled pairs, accumulated over batches and processes, one for each kind of negative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mllm_srec.metrics.auc import auc
from mllm_srec.metrics.base import StableDtypeMetric
from mllm_srec.metrics.ties import check_bool_mask, check_no_nan
from mllm_srec.types import KINDS


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
