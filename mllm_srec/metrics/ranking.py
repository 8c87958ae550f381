"""Ranking metrics of candidate lists, accumulated over batches and processes.

`compute` returns a plain dict of scalars with the keys of `metrics.json`, ready for `self.log_dict`. A value that is
not defined is NaN, never 0, and comes with the counts that explain it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mllm_srec.metrics.auc import user_auc
from mllm_srec.metrics.base import StableDtypeMetric
from mllm_srec.metrics.functional import ranking_metrics
from mllm_srec.types import EVAL_TOP_K


class RankingMetrics(StableDtypeMetric):
    """Means over lists of HR, Recall, NDCG and MRR at several cut-offs, and of the AUC within a list.

    A list without a relevant candidate is left out of the first four and counted in `n_skipped`. A list without an
    irrelevant candidate has no AUC either, so `user_auc` is the mean over `n_user_auc` lists.

    Args:
        top_k: Cut-offs, each at least 1; by default those of the article's Table 5.
        **kwargs: Settings of `torchmetrics.Metric`.

    Example:
        >>> metric = RankingMetrics(top_k=(2,))
        >>> metric.update(torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([[0, 1, 0]]))
        >>> metric.compute()["ndcg@2"]
        tensor(0.6309, dtype=torch.float64)
    """

    higher_is_better = True
    sums: Tensor
    user_auc_sum: Tensor
    n_users: Tensor
    n_skipped: Tensor
    n_user_auc: Tensor

    def __init__(self, top_k: Sequence[int] = EVAL_TOP_K, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top_k = tuple(top_k)
        no_lists = torch.zeros(0, 1)
        self.keys = tuple(self._per_list(no_lists, no_lists, None))
        self.add_state("sums", torch.zeros(len(self.keys), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("user_auc_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("n_users", "n_skipped", "n_user_auc"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> None:
        """Add B complete lists; give every list once, on one process.

        Args:
            scores: Float `(B, C)`, higher is better; minus infinity for items that the retriever missed.
            relevance: `(B, C)`, 1 for relevant candidates and 0 for others.
            mask: Bool `(B, C)`, False at padding; None if there is no padding.

        Raises:
            ValueError: If shapes differ, `mask` is not bool, `relevance` is not binary, or an unmasked score is NaN.
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
        """Compute the means over everything seen by all processes.

        Returns:
            `hr@5`, `recall@5`, `ndcg@5`, `mrr@5`, `hr@10`, ..., the same with ties ordered against the model
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
        """Values of each list, `(B,)`, with expected and with worst ties."""
        return ranking_metrics(scores, relevance, mask, self.top_k, policies=("expected", "worst"))
