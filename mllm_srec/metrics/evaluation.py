"""All metrics of one stage of evaluation: of pairs (AUC, calibration) and of lists (HR, Recall, NDCG, MRR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mllm_srec.metrics.calibration import CalibrationMetrics
from mllm_srec.metrics.pair_auc import PairAUC
from mllm_srec.metrics.ranking import RankingMetrics
from mllm_srec.types import EVAL_TOP_K

CALIBRATION = ("ece", "temperature", "mean_probability", "share_liked", "yes_no_mass", "n_mass")
"""Values of `CalibrationMetrics` that are reported; `n_targets` is left out, since it equals `n_pairs`."""


class EvaluationMetrics(nn.Module):
    """All metrics of one stage; values do not depend on the split into batches, their order or the processes.

    Args:
        probabilities: True if the model predicts probabilities; their calibration is then measured too.
        top_k: Cut-offs of the metrics of lists.
        **kwargs: Settings of every `torchmetrics.Metric`.

    Example:
        >>> metrics = EvaluationMetrics()
        >>> metrics.add_lists(torch.tensor([[0.9, 0.1]]), torch.tensor([[1, 0]]), torch.tensor([[True, True]]))
        >>> metrics.compute()["ndcg@5"]
        tensor(1., dtype=torch.float64)
    """

    def __init__(self, probabilities: bool = False, top_k: Sequence[int] = EVAL_TOP_K, **kwargs: Any) -> None:
        super().__init__()
        self.auc, self.ranking = PairAUC(**kwargs), RankingMetrics(top_k, **kwargs)
        self.calibration = CalibrationMetrics(**kwargs) if probabilities else None

    def add_pairs(
        self,
        scores: Tensor,
        relevance: Tensor,
        kind: Tensor,
        mask: Tensor,
        logits: Tensor | None = None,
        mass: Tensor | None = None,
    ) -> None:
        """Add B pair groups.

        Args:
            scores: `(B, C)`, higher is better.
            relevance: `(B, C)` of 0 and 1.
            kind: `(B, C)` index into `types.KINDS`.
            mask: Bool `(B, C)`, False at padding.
            logits: `(B, C)`, `z_yes - z_no`; required, and used, only for a model that predicts probabilities.
            mass: `(B, C)` from `yes_no_mass`; None for a model without a vocabulary.

        Raises:
            ValueError: If the model predicts probabilities and `logits` is None, or a metric refuses its input.
        """
        self.auc.update(scores, relevance, kind, mask)
        if self.calibration is not None:
            if logits is None:
                raise ValueError("logits=None: this model predicts probabilities; give z_yes - z_no (B, C)")
            self.calibration.update(logits, relevance, mask, mass)

    def add_lists(self, scores: Tensor, relevance: Tensor, mask: Tensor, n_missed: Tensor | None = None) -> None:
        """Add B candidate lists.

        Args:
            scores: `(B, C)`, higher is better.
            relevance: `(B, C)`, 1 for relevant candidates and 0 for others.
            mask: Bool `(B, C)`, False at padding.
            n_missed: Int `(B,)`, number of relevant items that a retriever left out of the list; None without one.
        """
        self.ranking.update(*with_missed(scores, relevance, mask, n_missed))

    def compute(self) -> dict[str, Tensor]:
        """Compute all values over everything seen by all processes; keys as in `metrics.json`, without the stage."""
        calibration = {} if self.calibration is None else self.calibration.compute()
        reported = {name: value for name, value in calibration.items() if name in CALIBRATION}
        return {**self.auc.compute(), **self.ranking.compute(), **reported}

    def reset(self) -> None:
        """Reset all metrics."""
        for metric in (self.auc, self.ranking, self.calibration):
            if metric is not None:
                metric.reset()


def with_missed(
    scores: Tensor, relevance: Tensor, mask: Tensor, n_missed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Append the relevant items that a retriever missed: they rank below everything and count in |R|.

    Args:
        scores: `(B, C)`, higher is better.
        relevance: `(B, C)`, 1 for relevant candidates and 0 for others.
        mask: Bool `(B, C)`, False at padding.
        n_missed: Int `(B,)`, number of missed items of each list; None without a retriever.

    Returns:
        Scores, relevance and mask `(B, C + M)`, M being the largest number of missed items.

    Example:
        >>> from torch import tensor
        >>> with_missed(tensor([[0.5, 0.25]]), tensor([[1, 0]]), tensor([[True, True]]), n_missed=tensor([1]))[0]
        tensor([[0.5000, 0.2500,   -inf]])
    """
    if n_missed is None or not n_missed.any():
        return scores, relevance, mask
    missed = torch.arange(int(n_missed.max()), device=scores.device) < n_missed[:, None]  # (B, M)
    below = scores.new_full(missed.shape, -torch.inf)  # (B, M)
    return (
        torch.cat([scores, below], dim=1),
        torch.cat([relevance, missed.to(relevance.dtype)], dim=1),
        torch.cat([mask, missed], dim=1),
    )
