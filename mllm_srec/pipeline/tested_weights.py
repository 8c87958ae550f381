"""Which weights a run folder holds results of: a folder made to test a checkpoint belongs to that checkpoint alone."""

from __future__ import annotations

from pathlib import Path

from mllm_srec.files.hashing import file_hash
from mllm_srec.pipeline.run_folder import RunFolder
from mllm_srec.types import SPLITS, ConfigError

WEIGHTS, BEGUN = "weights", "begun_weights"
"""`<stage>/weights` of `metrics.json`: hash of the checkpoint whose results stand there; `begun_weights`: of the one
that was measured last, whether that came to an end or not."""


def note_weights(run: RunFolder, stage: str, checkpoint: Path) -> None:
    """Say whose results this folder is for, before there are any."""
    run.merge_metrics(stage, {}, {BEGUN: file_hash(checkpoint)})


def belongs_to(run: RunFolder, checkpoint: Path) -> bool:
    """Whether an earlier evaluation of this very checkpoint, finished or killed, began the folder."""
    noted = {value for split in SPLITS if (value := run.read_metrics().get(f"{split}/{BEGUN}")) is not None}
    return noted == {_hash(checkpoint)}


def was_tested(run: RunFolder, checkpoint: Path) -> bool:
    """Whether the folder holds test results of this checkpoint.

    Raises:
        ConfigError: There is no such checkpoint.
    """
    results = run.read_metrics()
    return "test/n_users" in results and results.get(f"test/{WEIGHTS}") == _hash(checkpoint)


def _hash(checkpoint: Path) -> str:
    if not checkpoint.is_file():
        raise ConfigError(f"ckpt_path={str(checkpoint)!r}: no such file")
    return file_hash(checkpoint)
