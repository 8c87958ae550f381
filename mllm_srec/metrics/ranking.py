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
from mllm_srec.types import EVAL_TOP_K, USER_AUC


class RankingMetrics(StableDtypeMetric):
    """Means over lists of HR, Recall, NDCG and MRR at several cut-offs, and of the AUC within a list.

    What is measured are `n_users` lists. Left out and counted are lists without a relevant candidate (`n_skipped`),
    and lists without any other (`n_without_negatives`), in which every model would have the best value.

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
    n_users: Tensor
    n_skipped: Tensor
    n_without_negatives: Tensor

    def __init__(self, top_k: Sequence[int] = EVAL_TOP_K, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top_k = tuple(top_k)
        no_lists = torch.zeros(0, 1)
        self.keys = tuple(list_values(no_lists, no_lists, None, self.top_k))
        self.add_state("sums", torch.zeros(len(self.keys), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("n_users", "n_skipped", "n_without_negatives"):
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
        per_list = torch.stack(list(list_values(scores, relevance, mask, self.top_k).values()), dim=-1)  # (B, keys)
        counted = ~per_list[:, 0].isnan()  # (B,)
        has_relevant = (relevance == 1 if mask is None else (relevance == 1) & mask).any(dim=-1)  # (B,)
        self.sums += per_list[counted].sum(dim=0)
        self.n_users += counted.sum()
        self.n_skipped += (~has_relevant).sum()
        self.n_without_negatives += (has_relevant & ~counted).sum()

    def compute(self) -> dict[str, Tensor]:
        """Compute the means over everything seen by all processes.

        Returns:
            `hr@5`, `recall@5`, `ndcg@5`, `mrr@5`, `hr@10`, ..., the same with ties ordered against the model
            (`hr_worst@5`, ...), and `user_auc`: in [0, 1], NaN over no lists. `n_users`, `n_skipped` and
            `n_without_negatives`: numbers of lists. All float64, since Lightning logs no integers.
        """
        counts = {name: getattr(self, name).double() for name in ("n_users", "n_skipped", "n_without_negatives")}
        return {**dict(zip(self.keys, self.sums / self.n_users, strict=True)), **counts}


def list_values(
    scores: Tensor, relevance: Tensor, mask: Tensor | None = None, top_k: Sequence[int] = EVAL_TOP_K
) -> dict[str, Tensor]:
    """Compute every metric of each list, with expected and with worst ties, and its AUC.

    Args:
        scores: Float `(B, C)`, higher is better; minus infinity for items that the retriever missed.
        relevance: `(B, C)`, 1 for relevant candidates and 0 for others.
        mask: Bool `(B, C)`, False at padding; None if there is no padding.
        top_k: Cut-offs, each at least 1.

    Returns:
        The values of `ranking_metrics`, and `user_auc`; each float64 `(B,)`. A list that lacks relevant or other
        candidates has no value (NaN) of any of them: it says nothing about a model.

    Raises:
        ValueError: If shapes differ, `mask` is not bool, `relevance` is not binary, or an unmasked score is NaN.

    Example:
        >>> from torch import tensor
        >>> list_values(tensor([[0.9, 0.1], [0.9, 0.1]]), tensor([[0, 1], [1, 1]]), top_k=[1])["hr@1"]
        tensor([0., nan], dtype=torch.float64)
    """
    values = ranking_metrics(scores, relevance, mask, top_k, policies=("expected", "worst"))
    values[USER_AUC] = user_auc(scores, relevance, mask)
    undefined = values[USER_AUC].isnan()  # (B,) one of the classes is absent
    return {name: value.masked_fill(undefined, torch.nan) for name, value in values.items()}
