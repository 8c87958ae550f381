"""Base of all models: candidates are scored, and every number comes from the same metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NotRequired, TypedDict

import lightning.pytorch as pl
import numpy as np
import torch

from mllm_srec.metrics.evaluation import EvaluationMetrics
from mllm_srec.models import pending_gradients
from mllm_srec.types import EVAL_TOP_K, USER_AUC, CandidateBatch, DataError, Split, user_auc_name

PAIRS = 0
"""Index of the loader of labelled pairs; the next one serves candidate lists."""


class Scored(TypedDict):
    """A model's output for the candidates of a batch."""

    scores: torch.Tensor  # (B, C) float32, higher is better; arbitrary where masked
    logits: NotRequired[torch.Tensor]  # (B, C, 2) float32 of Yes and No, where the model states probabilities
    mass: NotRequired[torch.Tensor]  # (B, C) share of the vocabulary's probability on Yes and No, on request


class RankingModule(pl.LightningModule):
    """Base of all models: evaluation steps, metrics, and results in double precision.

    A subclass implements `score_candidates`, or `scored` where it states probabilities.

    Args:
        probabilities: True if scores are logits of probabilities, whose calibration is then measured too.

    Attributes:
        seed: Seed of every draw in training, set by the subclass.
        results: Metrics of the last validation or test, with keys such as `test/ndcg@10`.
        lr_setting: Name of the setting of its learning rate, for messages.
    """

    lr_setting: ClassVar[str] = "model.lr"

    def __init__(self, probabilities: bool = False) -> None:
        super().__init__()
        self.probabilities = probabilities
        self.measure_at(EVAL_TOP_K)
        self.seed = 0
        self.results: dict[str, float] = {}  # Lightning would round to float32
        self._continued: dict[str, Any] | None = None  # parts of a loaded checkpoint, until training begins

    def measure_at(self, cut_offs: Sequence[int]) -> None:
        """Measure HR, Recall, NDCG and MRR at these cut-offs; call it before anything is measured."""
        splits: tuple[Split, ...] = ("val", "test")
        self.stage_metrics = torch.nn.ModuleDict(
            {split: EvaluationMetrics(self.probabilities, cut_offs) for split in splits}
        )

    def score_candidates(self, batch: CandidateBatch) -> torch.Tensor:
        """Score every candidate: `(B, C)` float32, by the one method that all models share.

        Raises:
            NotImplementedError: The subclass lacks the method.
        """
        raise NotImplementedError(f"{type(self).__name__}: has no score_candidates(batch) -> (B, C); write it")

    def scored(self, batch: CandidateBatch, with_mass: bool = False) -> Scored:
        """Score every candidate, with logits and mass where the model has them.

        Args:
            batch: Batch of at least one group.
            with_mass: Add `mass`, which costs a product with the whole vocabulary.
        """
        return {"scores": self.score_candidates(batch)}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout and draws by (seed, epoch, batch, rank), so that a resumed run repeats an uninterrupted one."""
        sequence = np.random.SeedSequence([self.seed, self.current_epoch, batch_idx, self.global_rank])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the results, and gradients that wait for the next optimizer step; a subclass adds what it is."""
        checkpoint["results"] = dict(self.results)
        pending_gradients.add_pending(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what training continues with, until it begins; a subclass refuses what does not fit before."""
        self._continued = {key: checkpoint.get(key) for key in ("results", pending_gradients.KEY)}

    def on_train_start(self) -> None:
        """Go on with the results and the waiting gradients of the checkpoint that training continues from."""
        continued, self._continued = self._continued, None
        if continued is None:
            return
        self.results = dict(continued["results"] or {})
        if continued[pending_gradients.KEY] is not None:
            pending_gradients.restore_pending(continued[pending_gradients.KEY], self)
        elif pending_gradients.n_pending(self.trainer):
            self.print(pending_gradients.LOST)

    def metrics_of(self, split: Split) -> EvaluationMetrics:
        """Return the metrics of a split, to which a resumed evaluation adds the rows scored earlier."""
        metrics = self.stage_metrics[split]
        if not isinstance(metrics, EvaluationMetrics):
            raise TypeError(f"stage_metrics[{split!r}] is {type(metrics).__name__}, not EvaluationMetrics")
        return metrics

    def validation_step(self, batch: CandidateBatch, batch_idx: int, dataloader_idx: int = 0) -> Scored | None:
        """Add pairs (loader 0) to AUC and calibration, lists (loader 1) to the ranking metrics."""
        return self._evaluate("val", batch, dataloader_idx)

    def test_step(self, batch: CandidateBatch, batch_idx: int, dataloader_idx: int = 0) -> Scored | None:
        """Add pairs and lists to the metrics, as `validation_step` does."""
        return self._evaluate("test", batch, dataloader_idx)

    def predict_step(self, batch: CandidateBatch, batch_idx: int, dataloader_idx: int = 0) -> Scored | None:
        """Score lists; None for the empty batch of a process without groups."""
        return self._checked(batch, with_mass=False) if len(batch["group_id"]) else None

    def _checked(self, batch: CandidateBatch, with_mass: bool) -> Scored:
        """Score candidates and refuse infinite scores and NaN, which would pass as the first or last rank.

        Raises:
            DataError: A score is infinite or NaN.
        """
        scored = self.scored(batch, with_mass)
        odd = batch["candidate_mask"] & ~scored["scores"].isfinite()  # (B, C)
        if odd.any():
            group, item = (batch["group_id"][odd.any(dim=1)][0].item(), batch["item_index"][odd][0].item())
            raise DataError(
                f"{int(odd.sum())} of {int(batch['candidate_mask'].sum())} scores of a batch are infinite or NaN, the "
                f"first of item number {item} in group {group}; look for an overflow: train with bf16-mixed or "
                f"32-true, a lower {self.lr_setting}, or trainer.gradient_clip_val"
            )
        return scored

    def _evaluate(self, split: Split, batch: CandidateBatch, dataloader_idx: int) -> Scored | None:
        """Score a batch and add it to the metrics; without collective operations, since batches are uneven."""
        if not len(batch["group_id"]):  # the batch of a process without groups
            return None
        pairs, metrics = dataloader_idx == PAIRS, self.metrics_of(split)
        scored = self._checked(batch, with_mass=pairs)
        mask, relevance = batch["candidate_mask"], batch["relevance"]
        if pairs:
            pair = scored.get("logits")  # (B, C, 2)
            logits = None if pair is None else pair[..., 0] - pair[..., 1]  # (B, C)
            metrics.add_pairs(scored["scores"], relevance, batch["kind"], mask, logits, scored.get("mass"))
        else:
            metrics.add_lists(scored["scores"], relevance, mask, batch["n_missed"])
        return scored

    def on_validation_epoch_end(self) -> None:
        """Log `val/auc`, `val/hr@5` and the like."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log `test/auc`, `test/hr@5` and the like."""
        self._log_metrics("test")

    def _log_metrics(self, split: Split) -> None:
        metrics = self.metrics_of(split)
        shown = {"auc", "ndcg@10"}
        served = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        names = {USER_AUC: user_auc_name(getattr(served, "running_evaluator", None))}
        trying = self._trainer is not None and self.trainer.sanity_checking  # a few batches, before any training
        if not trying:  # another evaluator has other names
            self.results = {key: value for key, value in self.results.items() if not key.startswith(f"{split}/")}
        for key, value in metrics.compute().items():  # equal on all processes
            name = names.get(key, key)
            if not trying:
                self.results[f"{split}/{name}"] = float(value)
            self.log(f"{split}/{name}", value.float(), prog_bar=name in shown)
        metrics.reset()
