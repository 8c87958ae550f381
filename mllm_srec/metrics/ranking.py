"""Metrics that accumulate over batches and processes: ranking of candidate lists, and AUC over labelled pairs.

`compute` returns a plain dict of scalars with the keys of `metrics.json`, to be logged with `self.log_dict`. A value
that is not defined is NaN, never 0, and the counts that explain it stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mllm_srec.metrics.base import StableDtypeMetric
from mllm_srec.metrics.functional import auc, ranking_metrics, user_auc
from mllm_srec.metrics.ties import check_bool_mask, check_no_nan

PAIR_KINDS = ("liked", "disliked", "sampled")
"""What the numbers in `kind` mean; the same as `types.KINDS`."""


class RankingMetrics(StableDtypeMetric):
    """Means over lists of HR, Recall, NDCG and MRR at several cut-offs, and of the AUC within a list.

    A list without a relevant candidate is left out of the first four and counted in `n_skipped`; one without any other
    candidate has no AUC either, so that `user_auc` is the mean over `n_user_auc` lists.

    Args:
        top_k: Cut-offs, each at least 1 (default: those of the article's Table 5).
        **kwargs: Passed to `torchmetrics.Metric`.
    """

    higher_is_better = True
    sums: Tensor
    user_auc_sum: Tensor
    n_users: Tensor
    n_skipped: Tensor
    n_user_auc: Tensor

    def __init__(self, top_k: Sequence[int] = (5, 10, 20), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top_k = tuple(top_k)
        no_lists = torch.zeros(0, 1)
        self.keys = tuple(self._per_list(no_lists, no_lists, None))
        self.add_state("sums", torch.zeros(len(self.keys), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("user_auc_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("n_users", "n_skipped", "n_user_auc"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> None:
        """Add B lists; every list must be whole and given once, on one process.

        Args:
            scores: float `(B, C)`, higher is better; minus infinity: missed by the retriever.
            relevance: `(B, C)` of 0 and 1.
            mask: bool `(B, C)`, False at padding; None: no padding.

        Raises:
            ValueError: If shapes differ, `relevance` is not binary, or an unmasked score is NaN.
        """
        per_list = torch.stack(list(self._per_list(scores, relevance, mask).values()), dim=-1)  # (B, keys)
        counted = ~per_list[:, 0].isnan()  # (B,) lists with a relevant candidate
        self.sums += per_list[counted].sum(dim=0)
        self.n_users += counted.sum()
        self.n_skipped += (~counted).sum()
        within = user_auc(scores, relevance, mask)  # (B,)
        self.user_auc_sum += within.nansum()
        self.n_user_auc += (~within.isnan()).sum()

    def compute(self) -> dict[str, Tensor]:
        """Means over everything seen by all processes.

        Returns:
            `hr@5`, `recall@5`, `ndcg@5`, `mrr@5`, `hr@10`, ..., the same with equal scores ordered against the model
            (`hr_worst@5`, ...), and `user_auc`: in [0, 1], NaN over no lists. `n_users`, `n_skipped` and `n_user_auc`:
            numbers of lists. All float64, since Lightning logs no integers.
        """
        values = dict(zip(self.keys, self.sums / self.n_users, strict=True))
        return {
            **values,
            "user_auc": self.user_auc_sum / self.n_user_auc,
            "n_users": self.n_users.double(),
            "n_skipped": self.n_skipped.double(),
            "n_user_auc": self.n_user_auc.double(),
        }

    def _per_list(self, scores: Tensor, relevance: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Values of each list, `(B,)`, expected and worst."""
        return ranking_metrics(scores, relevance, mask, self.top_k, policies=("expected", "worst"))


class PairAUC(StableDtypeMetric):
    """Exact AUC over all pairs of a liked target and another, by kind of the other.

    The two kinds answer different questions (uniformly drawn items are easy, disliked ones were chosen by the user), so
    they never share a number. All scores are kept, 4 bytes each, as float32.
    """

    higher_is_better = True
    liked: list[Tensor]
    disliked: list[Tensor]
    sampled: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in PAIR_KINDS:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, relevance: Tensor, kind: Tensor, mask: Tensor | None = None) -> None:
        """Add the targets of B pair groups; every target must be given once, on one process.

        Args:
            scores: float, any shape, usually `(B, C)`; higher is better.
            relevance: Same shape, 1 exactly where `kind` is liked.
            kind: Same shape, index into `PAIR_KINDS`; anything where masked.
            mask: bool, same shape, False at padding; None: no padding.

        Raises:
            ValueError: If shapes differ, `mask` is not bool, an unmasked score is NaN or too large for float32, a kind
                is unknown, or `relevance` contradicts it.
        """
        mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
        shapes = [tuple(x.shape) for x in (scores, relevance, kind, mask)]
        if len(set(shapes)) > 1:
            raise ValueError(f"scores, relevance, kind, mask: got shapes {shapes}; all four must be the same.")
        check_bool_mask(mask)
        check_no_nan(scores, mask)
        _check_fits_float32(scores[mask])
        _check_kinds(relevance[mask], kind[mask])
        for index, name in enumerate(PAIR_KINDS):
            getattr(self, name).append(scores[mask & (kind == index)].detach().float())

    def compute(self) -> dict[str, Tensor]:
        """AUC over everything seen by all processes.

        Returns:
            `auc` (liked against sampled) and `auc_disliked` (liked against disliked): in [0, 1], NaN if either side is
            empty. `n_liked`, `n_disliked`, `n_sampled` and their sum `n_pairs`: numbers of targets. All float64.
        """
        scores = {name: self.joined(name) for name in PAIR_KINDS}
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
    """Refuse numbers that would become infinite, and so be tied with each other, when they are kept."""
    lost = scores.isfinite() & ~scores.float().isfinite()
    if lost.any():
        raise ValueError(
            f"scores: got {scores[lost][0].item():g}, which float32 cannot hold; {int(lost.sum())} of {scores.numel()} "
            "scores would be tied at infinity. Divide all scores by the same number, or give their logarithm."
        )


def _check_kinds(relevance: Tensor, kind: Tensor) -> None:
    """Refuse unknown kinds and labels that contradict their kind, which would turn a ranking upside down unseen."""
    unknown = ~torch.isin(kind, torch.arange(len(PAIR_KINDS), device=kind.device))
    if unknown.any():
        raise ValueError(
            f"kind: got {kind[unknown][0].item()}; accepted are 0 to {len(PAIR_KINDS) - 1} for {', '.join(PAIR_KINDS)}."
            " Mark padding False in mask."
        )
    contradicts = relevance != (kind == PAIR_KINDS.index("liked")).to(relevance.dtype)
    if contradicts.any():
        where = int(contradicts.nonzero()[0])
        raise ValueError(
            f"relevance: got {relevance[where].item()} for a target of kind {PAIR_KINDS[int(kind[where])]!r}; "
            "it must be 1 for liked and 0 for all others. Look for labels and kinds in a different order."
        )
