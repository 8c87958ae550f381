"""Checkpoints as files: written whole or not at all, and read only if not one byte was changed since."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO

from mllm_srec.files.atomic import atomic_file
from mllm_srec.files.faults import machine_fault
from mllm_srec.files.reading import read_whole
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import ConfigError, DataError


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and replaces the earlier one when all bytes are on the disk.

    Lightning writes into `$TMPDIR` first; where that is another file system than the run folder's, it then copies over
    the earlier checkpoint, and a kill or a full disk in the middle leaves neither.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            DataError: It cannot be written; an earlier one stays as it was.
        """
        target, buffer = Path(path), io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(target) as file:
                file.write(buffer.getbuffer())
        except OSError as error:
            kept = "the one before it is whole" if target.exists() else "there is none before it"
            raise DataError(
                f"{target}: the checkpoint of {len(buffer.getbuffer()) / 1e6:,.0f} MB cannot be written "
                f"({error.strerror}), {kept}; make room in {target.parent} and give the same command again"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint; code in it is never run."""
        return super().load_checkpoint(path, map_location, weights_only=True)


def whole_checkpoints(current: CheckpointIO) -> CheckpointIO:
    """Return the writer of checkpoints to use in place of a strategy's own; others than Lightning's default stay."""
    return WholeCheckpointIO() if type(current) is TorchCheckpointIO else current


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left of checkpoints; call it where no other process can be writing one."""
    for path in folder.glob(".*.ckpt.partial"):
        path.unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint; its tensors are memory-mapped.

    Raises:
        ConfigError: The file does not exist, or was not written by this package.
        DataError: The file cannot be read, or was damaged after it was written.
    """
    if not Path(path).is_file():
        raise ConfigError(f"ckpt_path={str(path)!r}: no such file; give a file of a run's checkpoints/")
    checkpoint = read_whole(Path(path), _read, "the checkpoint", "delete it, and give another one or fit again")
    if not isinstance(checkpoint, dict) or "mllm_srec" not in checkpoint or "hyper_parameters" in checkpoint:
        raise ConfigError(f"ckpt_path={str(path)!r}: was not written by mllm_srec; give a file of a run's checkpoints/")
    return checkpoint


def _read(path: Path) -> Any:
    """Read a file of `torch.save`, which stores a checksum of every tensor and never compares it."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise ValueError("it is cut off or is no checkpoint") from error
    if damaged is not None:
        raise ValueError(f"{damaged} in it differs from its checksum, so it was changed or damaged")
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except pickle.UnpicklingError as error:  # torch's message explains how to run the code in the file
        raise ValueError("it holds more than numbers and names, which could run code") from error


def readable_to_continue(path: Path) -> tuple[Path, dict[str, Any], str]:
    """Read the checkpoint that training continues from, or the best one where the last one cannot be read.

    Args:
        path: The checkpoint that was asked for.

    Returns:
        The checkpoint's path and content, and a sentence on why it is another one; empty if it is not.

    Raises:
        ConfigError: It is no checkpoint of ours.
        DataError: Neither can be read, or the last one only because of the machine.
    """
    run = RunFolder(path.parent.parent)
    try:
        return path, read_checkpoint(path), ""
    except DataError as error:
        best = run.checkpoints / "best.ckpt"
        if path.name != run.last.name or not best.is_file() or machine_fault(error) is not None:
            raise  # a whole checkpoint that the machine cannot read now would be replaced by an earlier one
        reason = str(error).partition("; ")[0]
    try:
        checkpoint = read_checkpoint(best)
    except (DataError, ConfigError) as error:
        raise DataError(
            f"{reason}, nor can {best.name} beside it; delete {run.path}, or choose another --name, and fit again"
        ) from error
    step = checkpoint["global_step"]
    return best, checkpoint, f"{reason}; going on from {best} (step {step}), what was trained since is trained again"
