"""The folder of one run: the same layout for all loggers, results merged and never mixed (DESIGN.md section 2)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from mllm_srec.types import ConfigError

RUN_VARIABLE = "MLLM_SREC_RUN"
"""Environment variable by which processes of one run agree on its name; launched processes inherit it."""

PROTOCOL = ("evaluator", "candidates_hash", "m", "max_groups", "split", "ties", "score", "prompt")
"""What must be equal for two numbers of the same name to be comparable."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    Attributes:
        path: `<trainer.default_root_dir>/<data.name>/<name or time-seed>`.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Resolved settings of the run."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints: `best.ckpt` by `val/auc`, and `last.ckpt`."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """Trained weights in PEFT's own format."""
        return self.path / "adapter"

    @property
    def predictions(self) -> Path:
        """Scored rows."""
        return self.path / "predictions"

    @property
    def logs(self) -> Path:
        """What loggers write."""
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        """Results of all stages, flat."""
        return self.path / "metrics.json"

    def create(self) -> None:
        """Make the folder.

        Raises:
            ConfigError: It cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"the run folder {self.path} cannot be written ({error.strerror}); "
                "set trainer.default_root_dir to a folder of yours"
            ) from error

    def read_metrics(self) -> dict[str, Any]:
        """Content of `metrics.json`; empty where there is none."""
        return json.loads(self.metrics.read_text(encoding="utf-8")) if self.metrics.exists() else {}

    def merge_metrics(self, stage: str, values: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
        """Put results of `stage` beside those of other stages.

        Args:
            stage: `val` or `test`.
            values: Flat keys that begin with `<stage>/`.
            protocol: What the numbers were measured with; stored as `<stage>/<key>`.

        Raises:
            ConfigError: The file holds results of this stage under another protocol.
        """
        with FileLock(f"{self.metrics}.lock"):
            there = self.read_metrics()
            differing = self.protocol_differences(stage, protocol)
            if differing:
                raise ConfigError(f"{self.metrics} holds {stage} results of another protocol: {'; '.join(differing)}")
            kept = {key: value for key, value in there.items() if not key.startswith(f"{stage}/")}
            merged = {**kept, **values, **{f"{stage}/{key}": value for key, value in protocol.items()}}
            partial = self.metrics.with_suffix(".partial")
            partial.write_text(json.dumps(dict(sorted(merged.items())), indent=2) + "\n", encoding="utf-8")
            partial.replace(self.metrics)

    def protocol_differences(self, stage: str, protocol: Mapping[str, Any]) -> list[str]:
        """What differs between stored results of `stage` and `protocol`; empty where nothing is stored."""
        there = self.read_metrics()
        return [
            f"{key} was {there[f'{stage}/{key}']}, now {protocol[key]}"
            for key in PROTOCOL
            if key in protocol and f"{stage}/{key}" in there and there[f"{stage}/{key}"] != protocol[key]
        ]


def new_run(root: str | Path, data_name: str, name: str | None, seed: int) -> RunFolder:
    """Folder of a new run; without a name, one of the time and the seed, the same on all processes of the run."""
    if name is None:
        stamp = os.environ.get("TORCHELASTIC_RUN_ID") or os.environ.get("SLURM_JOB_ID")
        if stamp in (None, "none"):
            stamp = time.strftime("%Y%m%d-%H%M%S")
        name = os.environ.setdefault(RUN_VARIABLE, f"{stamp}-{seed}")
    if name in ("", ".", "..") or Path(name).name != name:
        raise ConfigError(f"name={name!r} is no folder name; give one without slashes, such as 'lora-16'")
    return RunFolder(Path(root) / data_name / name)


def run_of_checkpoint(ckpt_path: str | Path) -> RunFolder | None:
    """The run folder that a checkpoint lies in; None where it lies elsewhere."""
    parent = Path(ckpt_path).resolve().parent
    if parent.name == "checkpoints" and (parent.parent / "config.yaml").exists():
        path = Path(ckpt_path).parent.parent
        return RunFolder(path)
    return None
