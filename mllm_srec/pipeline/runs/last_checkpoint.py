"""The latest checkpoint: written wherever training may stop, so that it goes on as if it had not."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mllm_srec.files import signals
from mllm_srec.files.signals import Stopped
from mllm_srec.models.pending_gradients import n_pending
from mllm_srec.pipeline.runs.checkpoints import RunCheckpoint, epoch_is_over

VALIDATION = "epoch_loop.val_loop.batch_progress"
"""Progress of the validation, in the state of Lightning's loops."""


class LastCheckpoint(RunCheckpoint):
    """Keeps the latest weights: after every validation and epoch, and where training ends within an epoch.

    Told to stop by Ctrl-C or SIGTERM, training ends at the next optimizer step. Lightning would save a training that
    `trainer.max_steps` or `trainer.max_time` ends as if its epoch were over, and lose the rest of it.

    Args:
        folder: Folder `checkpoints/` of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last")
        self._validation_waits = False
        self._deferral = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on, signals wait for the next optimizer step."""
        super().on_train_start(trainer, pl_module)
        self._deferral.enter_context(signals.deferred())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if training ends here, within an epoch; before a validation and at an epoch's end that is done there."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        waiting, ends = n_pending(trainer), trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if batch_idx + 1 >= trainer.num_training_batches or (waiting and not trainer.should_stop):
            return
        told = 0 if waiting else _told_to_stop(trainer)
        if (told or ends) and not _validation_due(trainer):
            self._save(trainer)
            if told:
                raise Stopped(told)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and stop if told to; the validation is done when training goes on."""
        if trainer.sanity_checking:
            return
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset()  # may be that of `on_save_checkpoint`
        self._stop_before_validation(trainer, _told_to_stop(trainer))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Save and stop in mid-validation; several processes do not, since their numbers of batches differ."""
        if not trainer.sanity_checking and trainer.world_size == 1:
            self._stop_before_validation(trainer, signals.received())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a validation within an epoch, then stop if told to."""
        super().on_validation_end(trainer, pl_module)
        if not trainer.sanity_checking and self._last_global_step_saved == trainer.global_step:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of every epoch, then stop if told to."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._last_global_step_saved != trainer.global_step and epoch_is_over(trainer):
            self._save(trainer)
        self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All is saved; signals stop the process at once again."""
        super().on_train_end(trainer, pl_module)
        self._deferral.close()
        signals.raise_received()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Signals stop the process at once again."""
        super().on_exception(trainer, pl_module, exception)
        self._deferral.close()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Describe a validation that was not begun in the way in which Lightning begins it when training goes on.

        Its restarting loop runs a validation of which one batch was started and none was done; one of which nothing was
        started counts as done.
        """
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._validation_waits:
            nothing = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
            progress = checkpoint["loops"]["fit_loop"][VALIDATION]
            progress |= {"total": {**nothing, "ready": 1, "started": 1}, "current": nothing, "is_last_batch": False}

    def _stop_before_validation(self, trainer: Trainer, told: int) -> None:
        if told:
            self._validation_waits = True
            self._save(trainer)
            raise Stopped(told)

    def _stop(self, trainer: Trainer) -> None:
        if told := _told_to_stop(trainer):
            raise Stopped(told)

    def _save(self, trainer: Trainer) -> None:
        self._save_checkpoint(trainer, str(Path(str(self.dirpath), f"{self.filename}.ckpt")))


class OwnSignals(Callback):
    """Takes Ctrl-C and SIGTERM back from Lightning, which sets handlers of its own when a Trainer's method begins."""

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them back in `fit`, before its first validation batches."""
        signals.take_over()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them back in `fit`."""
        signals.take_over()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them back in `validate`."""
        signals.take_over()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them back in `test`."""
        signals.take_over()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them back in `predict`."""
        signals.take_over()


def _told_to_stop(trainer: Trainer) -> int:
    """Return the number of the signal that any process got, the same on all; 0 if none did. All must call it."""
    number = signals.received()
    if trainer.world_size == 1:
        return number
    agreed = trainer.strategy.reduce(torch.tensor(number, device=trainer.strategy.root_device), reduce_op="max")
    return int(agreed)


def _validation_due(trainer: Trainer) -> bool:
    """Return True if a validation follows this batch, but for one that comes only because training ends."""
    loop, stopping = trainer.fit_loop, trainer.should_stop
    trainer.should_stop = False
    try:
        return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))  # type: ignore[arg-type]
    finally:
        trainer.should_stop = stopping
