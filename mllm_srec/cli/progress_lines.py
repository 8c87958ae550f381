"""Lines in a log file every half minute, where no terminal shows a bar: step, loss, speed and time left."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mllm_srec.files.progress import LINE_EVERY, progress_line

LOSS = "train/loss"
"""Logged name of the training loss."""


def on_terminal() -> bool:
    """Return True if a person sees the bars that Lightning writes to stdout."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class ProgressLines(Callback):
    """Prints a line on stderr every half minute, in `fit` as well as in evaluations.

    Args:
        clock: Seconds since any moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said, self._done_then, self._done = clock(), 0, 0

    # --- training -------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the step that training continues from."""
        self._begin(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say how far training is."""
        if not self._due(trainer):
            return
        words = [f"epoch {trainer.current_epoch + 1}" + (f" of {trainer.max_epochs}" if _limited(trainer) else "")]
        loss = trainer.callback_metrics.get(LOSS)
        if loss is not None:
            words.append(f"loss {float(loss):.4f}")
        steps = float(trainer.estimated_stepping_batches)
        self._say("training", trainer.global_step, steps, "steps", ", ".join(words))

    # --- evaluation -----------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the batches of a validation; within training, its lines do not begin anew."""
        if trainer.training or trainer.state.fn == "fit":
            self._done = 0
        else:
            self._begin(0)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dl: int = 0
    ) -> None:
        """Say how far a validation is."""
        if not trainer.sanity_checking:
            self._count(trainer, "validating", trainer.num_val_batches)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count steps again, if training goes on."""
        self._done_then = trainer.global_step

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count batches."""
        self._begin(0)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dl: int = 0
    ) -> None:
        """Say how far the test is."""
        self._count(trainer, "testing", trainer.num_test_batches)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count batches."""
        self._begin(0)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dl: int = 0
    ) -> None:
        """Say how far the scoring is."""
        self._count(trainer, "scoring", trainer.num_predict_batches)

    # --- lines ----------------------------------------------------------------------------------------------------

    def _begin(self, done: int) -> None:
        self._said, self._done_then, self._done = self._clock(), done, 0

    def _due(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and self._clock() - self._said >= LINE_EVERY

    def _count(self, trainer: Trainer, what: str, batches: Any) -> None:
        self._done += 1
        if self._due(trainer):
            self._say(what, self._done, float(sum(batches) if isinstance(batches, list) else batches), "batches", "")

    def _say(self, what: str, done: int, total: float, unit: str, words: str) -> None:
        now = self._clock()
        recent, seconds = max(0, done - min(done, self._done_then)), now - self._said
        if math.isfinite(total):
            line = progress_line(what, done, int(total), recent, seconds, unit=unit)
        else:
            line = f"{what}: {done:,} {unit}"
        print(f"{line}; {words}" if words else line, file=sys.stderr, flush=True)
        self._said, self._done_then = now, done


def _limited(trainer: Trainer) -> bool:
    return trainer.max_epochs is not None and trainer.max_epochs > 0
