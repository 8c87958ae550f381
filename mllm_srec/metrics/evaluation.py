"""Everything that is measured of a model in one stage: pairs (AUC, calibration) and lists (HR, Recall, NDCG, MRR)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mllm_srec.metrics.calibration import CalibrationMetrics
from mllm_srec.metrics.ranking import PairAUC, RankingMetrics

CALIBRATION = ("ece", "temperature", "mean_probability", "share_liked", "yes_no_mass", "n_mass")
"""Values of `CalibrationMetrics` that are reported; its other count is that of the pairs."""


class EvaluationMetrics(nn.Module):
    """The metrics of one stage, fed batch by batch; the same whatever the batches, their order and the processes.

    Args:
        probabilities: The model states probabilities, whose calibration is measured too.
        **kwargs: Passed to each `torchmetrics.Metric`.
    """

    def __init__(self, probabilities: bool = False, **kwargs: Any) -> None:
        super().__init__()
        self.auc, self.ranking = PairAUC(**kwargs), RankingMetrics(**kwargs)
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
            kind: `(B, C)`, see `PairAUC`.
            mask: bool `(B, C)`, False at padding.
            logits: `(B, C)`, `z_yes - z_no`; needed, and read, where probabilities are stated.
            mass: `(B, C)` from `yes_no_mass`; None for a model that has no vocabulary.

        Raises:
            ValueError: Probabilities are stated, and the logits behind them are missing.
        """
        self.auc.update(scores, relevance, kind, mask)
        if self.calibration is not None:
            if logits is None:
                raise ValueError("logits: got None, but this model states probabilities; give z_yes - z_no (B, C)")
            self.calibration.update(logits, relevance, mask, mass)

    def add_lists(self, scores: Tensor, relevance: Tensor, mask: Tensor, n_missed: Tensor | None = None) -> None:
        """Add B candidate lists.

        Args:
            scores: `(B, C)`, higher is better.
            relevance: `(B, C)` of 0 and 1.
            mask: bool `(B, C)`, False at padding.
            n_missed: int `(B,)`, relevant items that a retriever left out of the list; None: there was no retriever.
        """
        self.ranking.update(*with_missed(scores, relevance, mask, n_missed))

    def compute(self) -> dict[str, Tensor]:
        """All values over everything seen by all processes; keys as in `metrics.json`, without the stage."""
        calibration = {} if self.calibration is None else self.calibration.compute()
        reported = {name: value for name, value in calibration.items() if name in CALIBRATION}
        return {**self.auc.compute(), **self.ranking.compute(), **reported}

    def reset(self) -> None:
        """Forget what was seen."""
        for metric in (self.auc, self.ranking, self.calibration):
            if metric is not None:
                metric.reset()


def with_missed(
    scores: Tensor, relevance: Tensor, mask: Tensor, n_missed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists with the relevant items that a retriever missed appended: below everything, and counted in |R|.

    Args:
        scores: `(B, C)`.
        relevance: `(B, C)`.
        mask: bool `(B, C)`.
        n_missed: int `(B,)`, or None.

    Returns:
        Scores, relevance and mask `(B, C + M)`, M being the largest number of missed items.
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
