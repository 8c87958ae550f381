"""What every model shares: candidates are scored, and all numbers come from the same metrics."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

import lightning.pytorch as pl
import numpy as np
import torch

from mllm_srec.metrics.evaluation import EvaluationMetrics
from mllm_srec.types import CandidateBatch, DataError, Split

PAIRS = 0
"""Place of the loader of labelled pairs; the next one serves candidate lists."""


class Scored(TypedDict):
    """What a model says of the candidates of a batch."""

    scores: torch.Tensor  # (B, C) float32, higher is better; arbitrary where masked
    logits: NotRequired[torch.Tensor]  # (B, C, 2) float32 of Yes and No, of a model that states probabilities
    mass: NotRequired[torch.Tensor]  # (B, C) share of the vocabulary's probability on Yes and No, where asked for


class RankingModule(pl.LightningModule):
    """Base of all models: evaluation steps, metrics, and results in double precision.

    A subclass implements `score_candidates`, or `scored` where it states probabilities.

    Args:
        probabilities: The scores are logits of probabilities, whose calibration is measured too.

    Attributes:
        seed: Of every draw in training, set by the subclass.
        results: Of the last validation or test, keys such as `test/ndcg@10`.
    """

    def __init__(self, probabilities: bool = False) -> None:
        super().__init__()
        self.stage_metrics = torch.nn.ModuleDict({split: EvaluationMetrics(probabilities) for split in ("val", "test")})
        self.seed = 0
        self.results: dict[str, float] = {}  # Lightning would round to float32

    def score_candidates(self, batch: CandidateBatch) -> torch.Tensor:
        """Float32 score of every candidate `(B, C)`: the one method that all models share.

        Raises:
            NotImplementedError: The subclass lacks it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no score_candidates(batch) -> (B, C)")

    def scored(self, batch: CandidateBatch, with_mass: bool = False) -> Scored:
        """Scores, and what else is known of the candidates.

        Args:
            batch: At least one group.
            with_mass: Ask for `mass` too, which costs a product with the whole vocabulary.
        """
        return {"scores": self.score_candidates(batch)}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout and draws by (seed, epoch, batch, rank): only so does a resumed run repeat an unbroken one."""
        sequence = np.random.SeedSequence([self.seed, self.current_epoch, batch_idx, self.global_rank])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def metrics_of(self, split: Split) -> EvaluationMetrics:
        """Return the metrics of `val` or `test`, to which a continued evaluation adds what was scored before."""
        metrics = self.stage_metrics[split]
        if not isinstance(metrics, EvaluationMetrics):
            raise TypeError(f"stage_metrics[{split!r}] is {type(metrics).__name__}, not EvaluationMetrics")
        return metrics

    def validation_step(self, batch: CandidateBatch, batch_idx: int, dataloader_idx: int = 0) -> Scored | None:
        """Pairs (loader 0) go to AUC and calibration, lists (loader 1) to the ranking metrics."""
        return self._evaluate("val", batch, dataloader_idx)

    def test_step(self, batch: CandidateBatch, batch_idx: int, dataloader_idx: int = 0) -> Scored | None:
        """As `validation_step`."""
        return self._evaluate("test", batch, dataloader_idx)

    def predict_step(self, batch: CandidateBatch, batch_idx: int, dataloader_idx: int = 0) -> Scored | None:
        """Scores of lists; None for the batch of a process that got no group."""
        return self._checked(batch, with_mass=False) if len(batch["group_id"]) else None

    def _checked(self, batch: CandidateBatch, with_mass: bool) -> Scored:
        """Scores that are numbers: an overflow would stand first in every list, or last, and pass as a rank.

        Raises:
            DataError: A score is infinite or NaN.
        """
        found = self.scored(batch, with_mass)
        odd = batch["candidate_mask"] & ~found["scores"].isfinite()  # (B, C)
        if odd.any():
            group, item = (batch["group_id"][odd.any(dim=1)][0].item(), batch["item_index"][odd][0].item())
            raise DataError(
                f"{int(odd.sum())} of {int(batch['candidate_mask'].sum())} scores of a batch are infinite or NaN, the "
                f"first of item number {item} in group {group}; look for an overflow: train with bf16-mixed or "
                "32-true, a lower model.lr, or trainer.gradient_clip_val"
            )
        return found

    def _evaluate(self, split: Split, batch: CandidateBatch, dataloader_idx: int) -> Scored | None:
        """Scores of a batch, entered in the split's metrics; no collective operation, since batches are uneven."""
        if not len(batch["group_id"]):  # of a process that got no group
            return None
        pairs, metrics = dataloader_idx == PAIRS, self.metrics_of(split)
        found = self._checked(batch, with_mass=pairs)
        mask, relevance = batch["candidate_mask"], batch["relevance"]
        if pairs:
            pair = found.get("logits")  # (B, C, 2)
            logits = None if pair is None else pair[..., 0] - pair[..., 1]  # (B, C)
            metrics.add_pairs(found["scores"], relevance, batch["kind"], mask, logits, found.get("mass"))
        else:
            metrics.add_lists(found["scores"], relevance, mask, batch["n_missed"])
        return found

    def on_validation_epoch_end(self) -> None:
        """Log `val/auc`, `val/hr@5` and the like."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log `test/auc`, `test/hr@5` and the like."""
        self._log_metrics("test")

    def _log_metrics(self, split: Split) -> None:
        metrics = self.metrics_of(split)
        shown = {"auc", "ndcg@10"}
        trying = self._trainer is not None and self.trainer.sanity_checking  # a few batches of what is not trained yet
        for name, value in metrics.compute().items():  # equal on all processes already: each can watch them
            if not trying:
                self.results[f"{split}/{name}"] = float(value)
            self.log(f"{split}/{name}", value.float(), prog_bar=name in shown)
        metrics.reset()
