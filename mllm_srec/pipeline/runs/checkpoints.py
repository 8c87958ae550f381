"""Checkpoints of a run: the check that settings agree with one, and the callbacks that keep and resume it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from mllm_srec.pipeline.runs.changes import SAME_RESULTS, below, flat, same_value
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.settings import read_settings
from mllm_srec.types import ConfigError

Settings = Mapping[str, Any]

RESUMED = ("seed_everything", "model", "data", "baseline")
"""Sections that decide what a resumed run trains, besides the `summaries` that the recommender reads."""

MAY_CHANGE = (
    "data.max_test_groups",
    "data.cut_offs",
    "model.backbone",  # compared by its weights when the checkpoint is loaded; its folder may move
)
"""Settings that a resumed run may change besides `SAME_RESULTS`, since they do not affect training."""


def check_resume(checkpoint: Settings, settings: Settings, origin: RunFolder | None) -> None:
    """Refuse to resume training with settings that the checkpoint would silently override or contradict.

    Optimizer states hold the learning rate and weight decay; the settings of `data` decide the order of the examples.

    Args:
        checkpoint: Content of the checkpoint.
        settings: Nested settings of the command.
        origin: Run folder of the checkpoint; None for a checkpoint outside of one.

    Raises:
        ConfigError: Settings differ; each is named with both values.
    """
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    section = "baseline.init_args" if settings.get("baseline") else "model"
    rate = group.get("initial_lr", group["lr"])  # a learning-rate schedule changes `lr` and keeps the first value
    before = {f"{section}.lr": rate, f"{section}.weight_decay": group["weight_decay"]}
    if origin is not None:
        stored = read_settings(origin.path)
        sections = RESUMED if settings.get("baseline") else (*RESUMED, "summaries")
        before = flat({key: stored.get(key) for key in sections})
    now = flat(settings)
    differing = [
        f"  {key}: run {value!r}, now {now[key]!r}"
        for key, value in before.items()
        if key in now
        and not below(key, (*MAY_CHANGE, *SAME_RESULTS))
        and not same_value(key, value, now[key], settings)
    ]
    if differing:
        source = f"--config {origin.config}" if origin is not None else "the settings of its run"
        raise ConfigError(
            "ckpt_path: a run resumes with the settings that it began with, but these differ:\n"
            + "\n".join(differing)
            + f"\nSet them back ({source}), or start a new run without --ckpt_path"
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
