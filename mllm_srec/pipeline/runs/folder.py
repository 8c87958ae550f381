"""The folder of one run: one layout for all loggers; results are merged, but never across protocols."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from mllm_srec.files.atomic import write_json
from mllm_srec.files.folders import lock_if_free, locked, make_writable, why_not_writable
from mllm_srec.files.reading import read_object
from mllm_srec.pipeline.runs.protocol import differences
from mllm_srec.types import ConfigError

METRICS_LOCK = ".metrics.lock"
RUNNING_LOCK = ".running.lock"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    Attributes:
        path: `<trainer.default_root_dir>/<data.name>/<name or time-seed>`.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Resolved settings of the run; every command takes it as `--config`."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints: `best.ckpt` by `val/auc`, and `last.ckpt`."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The best checkpoint, or the last one if nothing was validated."""
        best = self.checkpoints / "best.ckpt"
        return best if best.exists() else self.last

    @property
    def last(self) -> Path:
        """The checkpoint that a killed run continues from."""
        return self.checkpoints / "last.ckpt"

    @property
    def adapter(self) -> Path:
        """Trained weights in PEFT's own format."""
        return self.path / "adapter"

    @property
    def predictions(self) -> Path:
        """Folder of the scored rows."""
        return self.path / "predictions"

    @property
    def logs(self) -> Path:
        """Folder of the loggers, with one subfolder per command, such as `1-fit`, `2-test`."""
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        """File of the results of all stages, with flat keys."""
        return self.path / "metrics.json"

    def next_log(self, command: str) -> str:
        """Return the name of the next command's folder below `logs`; earlier logs stay as they are."""
        names = [path.name for path in self.logs.iterdir()] if self.logs.is_dir() else []
        numbers = [int(name.partition("-")[0]) for name in names if name.partition("-")[0].isdecimal()]
        return f"{max(numbers, default=0) + 1}-{command}"

    def check_writable(self) -> None:
        """Check that the folder can be made and written, without making it.

        Raises:
            ConfigError: The folder cannot be made or written.
        """
        reason = why_not_writable(self.path)
        if reason is not None:
            raise _not_writable(self.path, reason)

    def create(self) -> None:
        """Make the folder.

        Raises:
            ConfigError: It cannot be written.
        """
        try:
            make_writable(self.path)
        except OSError as error:
            raise _not_writable(self.path, str(error.strerror)) from error

    def occupy(self) -> FileLock:
        """Lock the folder for one training process, until the returned lock is released or the process ends.

        Raises:
            ConfigError: Another process trains in this folder.
        """
        lock = lock_if_free(self.path / RUNNING_LOCK)
        if lock is None:
            raise ConfigError(f"another process is training in {self.path}; choose another --name")
        return lock

    def holds_work(self) -> bool:
        """Return True if training or measuring left something here that must not be overwritten."""
        measured = any(key.startswith(("val/", "test/")) for key in self.read_metrics())
        return measured or self.best.exists() or self.adapter.exists()

    def read_metrics(self) -> dict[str, Any]:
        """Content of `metrics.json`; empty where there is none.

        Raises:
            DataError: The file is damaged.
        """
        if not self.metrics.exists():
            return {}
        remedy = "put a copy of it back, or delete it and measure the run again with `python -m mllm_srec test`"
        return read_object(self.metrics, "the results of the run", remedy)

    def merge_metrics(self, stage: str, values: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
        """Merge results of a stage into `metrics.json`, in place of earlier ones of the same protocol.

        Args:
            stage: `fit`, `val` or `test`.
            values: Flat keys that begin with `<stage>/`.
            protocol: Protocol of the measurement; stored as `<stage>/<part>`.

        Raises:
            ConfigError: The file holds results of this stage under another protocol.
        """
        with locked(self.path / METRICS_LOCK):
            differing = self.protocol_differences(stage, protocol)
            if differing:
                raise ConfigError(f"{self.metrics} holds {stage} results of another protocol: {_shown(differing)}")
            merged = self.read_metrics() | dict(values) | {f"{stage}/{key}": value for key, value in protocol.items()}
            write_json(dict(sorted(merged.items())), self.metrics)

    def begin_training(self, facts: Mapping[str, Any]) -> None:
        """Note that a training begins or goes on: what an earlier one ended with no longer says that it is done.

        Args:
            facts: Flat keys that begin with `fit/`, in place of all such keys.
        """
        with locked(self.path / METRICS_LOCK):
            kept = {key: value for key, value in self.read_metrics().items() if not key.startswith("fit/")}
            write_json(dict(sorted((kept | dict(facts)).items())), self.metrics)

    def protocol_differences(self, stage: str, protocol: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Compare stored results of `stage` with `protocol`: part -> (stored, current) of those that differ."""
        prefix = f"{stage}/"
        stored = self.read_metrics().items()
        there = {key.removeprefix(prefix): value for key, value in stored if key.startswith(prefix)}
        return differences(there, protocol)

    def for_data(self, data_name: str, candidates_hash: str) -> RunFolder:
        """Return this folder, or for a run that was trained on other data, a folder that names both."""
        there = self.read_metrics()
        trained_on = there.get("fit/data", data_name)
        if trained_on != data_name:
            return RunFolder(self.path.parents[1] / data_name / f"{self.path.name}--from-{trained_on}")
        if there.get("fit/candidates_hash", candidates_hash) != candidates_hash:
            return RunFolder(self.path.with_name(f"{self.path.name}--candidates-{candidates_hash[:8]}"))
        return self

    def for_protocol(self, stage: str, protocol: Mapping[str, Any]) -> RunFolder:
        """Return this folder, or if it holds results of another protocol, a folder named after the difference."""
        differing = self.protocol_differences(stage, protocol)
        if not differing:
            return self
        if "evaluator" in differing:
            differing.pop("m", None)  # the evaluator's name says it
        if "evaluator" in differing or "retriever" in differing:
            differing.pop("lists_hash", None)  # they follow
            retriever = differing.pop("retriever", (None, None))[1]
            if retriever is not None:
                differing["retriever"] = (None, retriever)
        label = "-".join(_label(key, now) for key, (_, now) in differing.items())
        return RunFolder(self.path.with_name(f"{self.path.name}--{label}"))


def _label(key: str, value: Any) -> str:
    """Return a part of the protocol as part of a folder's name."""
    if key == "evaluator":
        return str(value)
    text = "none" if value is None else str(value).removesuffix(".ckpt").replace("/", "-")
    names = {"candidates_hash": ("candidates", text[:8]), "groups_seed": ("seed", text)}
    names["corruption"] = ("pictures", "clean" if value is None else re.sub(r"[^\w.=]+", "-", text))
    if key == "max_groups":
        names[key] = ("groups", "all" if value is None else text)
    return "-".join(names.get(key, (key, text)))


def _shown(differing: Mapping[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key} was {before}, now {now}" for key, (before, now) in differing.items())


def _not_writable(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"the run folder {path} cannot be written ({reason}); set trainer.default_root_dir to a folder of yours"
    )
