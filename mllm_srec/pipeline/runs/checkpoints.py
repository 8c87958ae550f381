"""Checkpoints of a run: the callbacks that keep and resume it, and the check of the number of processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from mllm_srec.types import ConfigError

N_PROCESSES = "n_processes"
"""Key of a checkpoint: number of processes that trained; absent in those of earlier versions."""


def check_processes(checkpoint: Mapping[str, Any], n_processes: int) -> None:
    """Refuse to resume on another number of processes: each would skip what others trained, and a step be another.

    Args:
        checkpoint: Content of the checkpoint.
        n_processes: Number of processes of the Trainer.

    Raises:
        ConfigError: The checkpoint was written by another number.
    """
    before = checkpoint.get(N_PROCESSES, n_processes)
    if before != n_processes:
        raise ConfigError(
            f"trainer.devices, trainer.num_nodes: the run was trained by {before} processes, now there are "
            f"{n_processes}, which would train other batches; set them as they were, or start a new run without "
            "--ckpt_path"
        )


class RunCheckpoint(ModelCheckpoint):
    """Keeps one checkpoint under a fixed name, also in a run folder that was moved.

    Lightning forgets the best score when the path of the folder changes; the next epoch would then overwrite the best
    checkpoint, however bad it is.

    Args:
        folder: Folder `checkpoints/` of the run.
        name: File name without its suffix.
        monitor: Metric to be maximised; None keeps the latest weights.
    """

    def __init__(self, folder: Path, name: str, monitor: str | None = None) -> None:
        super().__init__(folder, name, monitor=monitor, mode="max", enable_version_counter=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch; not where training ends within one, without a validation to judge it by."""
        if epoch_is_over(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the number of processes."""
        checkpoint[N_PROCESSES] = trainer.world_size

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; its paths are adapted if the folder was moved with its files."""
        before, now = state_dict["dirpath"], str(self.dirpath)
        if before != now and Path(now, f"{self.filename}.ckpt").exists():
            moved = {key: _moved(value, before, now) for key, value in state_dict.items()}
            state_dict = {**moved, "dirpath": now}
        super().load_state_dict(state_dict)


def epoch_is_over(trainer: Trainer) -> bool:
    """Return True if all batches of the epoch are trained, False where Lightning ends it because training ends."""
    done = int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)  # type: ignore[attr-defined]
    return done >= trainer.num_training_batches


class StayStopped(Callback):
    """Ends a resumed run at once if it had been stopped early; the Trainer would train one more epoch.

    A run may be killed between its last checkpoint and its results; resumed, it must give those of an unbroken run.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if the early stopping that the checkpoint restored has run out of patience."""
        for stopping in trainer.early_stopping_callbacks:
            if isinstance(stopping, EarlyStopping) and stopping.wait_count >= max(1, stopping.patience):
                trainer.should_stop = True


def _moved(value: Any, before: str, now: str) -> Any:
    """Replace the prefix `before` of paths by `now`, in a value or the keys and values of a mapping."""
    if isinstance(value, str):
        return now + value.removeprefix(before) if value.startswith(before) else value
    return {_moved(key, before, now): item for key, item in value.items()} if isinstance(value, dict) else value
