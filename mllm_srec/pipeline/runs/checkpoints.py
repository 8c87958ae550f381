"""Keeps checkpoints, reads them before anything is built, and refuses settings that one would silently override."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.settings import read_settings
from mllm_srec.types import ConfigError

Settings = Mapping[str, Any]

MAY_CHANGE = (
    "data.root",
    "data.num_workers",
    "data.eval_batch_size",
    "data.max_test_groups",
    "data.pictures.serve",
    "model.activation_checkpointing",
    "model.backbone",  # compared by its weights when the checkpoint is loaded; its folder may move
)
"""Settings of `model` and `data` that do not change what is trained."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint, its tensors mapped from disk.

    Raises:
        ConfigError: There is no such file, it cannot be read, or it is not one of ours.
    """
    if not Path(path).is_file():
        raise ConfigError(f"ckpt_path={str(path)!r} is no file; give one of a run's checkpoints/")
    try:
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # torch raises nearly everything here, depending on what the bytes look like
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"ckpt_path={str(path)!r} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "mllm_srec" not in checkpoint or "hyper_parameters" in checkpoint:
        raise ConfigError(f"ckpt_path={str(path)!r} was not written by mllm_srec: nothing says what it belongs to")
    return checkpoint


def check_resume(checkpoint: Settings, settings: Settings, origin: RunFolder | None) -> None:
    """Refuse to continue training with settings that the checkpoint would silently override or contradict.

    Optimizer states hold learning rate and weight decay; the order of the data follows from the settings of `data`.

    Args:
        checkpoint: What is continued.
        settings: Nested settings of now.
        origin: The run that is continued, where the checkpoint lies in one.

    Raises:
        ConfigError: Naming each setting with both values.
    """
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    section = "baseline.init_args" if settings.get("baseline") else "model"
    rate = group.get("initial_lr", group["lr"])  # the first is there where a schedule changes the second
    before = {f"{section}.lr": rate, f"{section}.weight_decay": group["weight_decay"]}
    if origin is not None:
        stored = read_settings(origin.path)
        before = _flat({key: stored.get(key) for key in ("seed_everything", "model", "data", "baseline")})
    now = _flat(settings)
    differing = [
        f"  {key}: run {value!r}, now {now[key]!r}"
        for key, value in before.items()
        if key in now and key not in MAY_CHANGE and now[key] != value
    ]
    if differing:
        source = f"--config {origin.config}" if origin is not None else "the settings of its run"
        raise ConfigError(
            "a run is continued with the settings that it began with, but these differ:\n"
            + "\n".join(differing)
            + f"\nSet them back ({source}), or start a new run without --ckpt_path"
        )


class RunCheckpoint(ModelCheckpoint):
    """Keeps one checkpoint under a fixed name; a run that was moved still knows its best one.

    Lightning forgets the best score when the folder has another path, and the next epoch would then overwrite the best
    checkpoint, however bad it is.

    Args:
        folder: `checkpoints/` of the run folder.
        name: Name of the file without its ending.
        monitor: Metric to be maximised; None keeps the latest.
    """

    def __init__(self, folder: Path, name: str, monitor: str | None = None) -> None:
        super().__init__(folder, name, monitor=monitor, mode="max", enable_version_counter=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the latest weights where training ended between two validations, or before the first."""
        super().on_train_end(trainer, pl_module)
        if self.monitor is None and self._last_global_step_saved != trainer.global_step:
            trainer.save_checkpoint(Path(str(self.dirpath), f"{self.filename}.ckpt"))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a checkpoint; paths in it follow the folder if the file moved along."""
        before, now = state_dict["dirpath"], str(self.dirpath)
        if before != now and Path(now, f"{self.filename}.ckpt").exists():
            moved = {key: _moved(value, before, now) for key, value in state_dict.items()}
            state_dict = {**moved, "dirpath": now}
        super().load_state_dict(state_dict)


class StayStopped(Callback):
    """Ends a continued run at once if it had been stopped early; the Trainer would train one more epoch.

    A run can be killed between its last checkpoint and its results, and would not repeat an unbroken one then.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the early stopping that the checkpoint restored."""
        for stopping in trainer.early_stopping_callbacks:
            if isinstance(stopping, EarlyStopping) and stopping.wait_count >= max(1, stopping.patience):
                trainer.should_stop = True


def _moved(value: Any, before: str, now: str) -> Any:
    """Paths below `before`, and mappings keyed by such paths, brought below `now`."""
    if isinstance(value, str):
        return now + value.removeprefix(before) if value.startswith(before) else value
    return {_moved(key, before, now): item for key, item in value.items()} if isinstance(value, dict) else value


def _flat(content: Settings, prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys, as the command line writes them."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
