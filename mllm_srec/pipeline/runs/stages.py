"""`stages.json` of a run folder: every stage that `run` has begun there, and how long it took."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from mllm_srec.files.atomic import CHECKSUM, json_checksum, write_text
from mllm_srec.files.reading import read_json, read_whole
from mllm_srec.pipeline.runs.folder import RunFolder

STAGES_FILE = "stages.json"


class StageTime(TypedDict):
    """One stage, in the order in which they were begun; those of a continued run follow those of the killed one."""

    stage: str  # prepare, summarize, fit or test
    began: str  # ISO 8601, UTC
    seconds: float | None  # wall time; None while it runs, or if `run` was killed in it


def stages_path(run: RunFolder) -> Path:
    """Return the file with the times of a run's stages."""
    return run.path / STAGES_FILE


def read_stages(run: RunFolder) -> list[StageTime]:
    """Return the stages of a run, the first one first; empty if none has begun.

    Raises:
        DataError: The file is damaged.
    """
    path = stages_path(run)
    if not path.exists():
        return []
    what, remedy = "the times of stages", "delete it: nothing else depends on it"
    content = read_json(path, what, remedy)
    return read_whole(path, lambda file: [_parsed(entry) for entry in content], what, remedy)


def _parsed(entry: dict[str, Any]) -> StageTime:
    """Return a stage of the file, after comparing its checksum; entries of earlier versions have none."""
    stage = StageTime(stage=entry["stage"], began=entry["began"], seconds=entry["seconds"])
    if entry.get(CHECKSUM, expected := json_checksum(stage)) != expected:
        raise ValueError(f"the entry of {entry['stage']} differs from its checksum")
    return stage


@contextmanager
def timed_stage(run: RunFolder, stage: str, now: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Write the beginning of a stage, and at its end, whether it failed or not, its duration.

    A folder that holds nothing else when its first stages fail is removed: it would be no run.

    Args:
        run: Folder of the run, which is made if it does not exist.
        stage: Name of the command that the stage is.
        now: Clock, in seconds.

    Raises:
        ConfigError: The folder cannot be written.
    """
    run.create()
    entry = StageTime(stage=stage, began=datetime.now(UTC).isoformat(timespec="seconds"), seconds=None)
    earlier, begun = read_stages(run), now()
    _write(run, [*earlier, entry])
    try:
        yield
    except BaseException:
        _write(run, [*earlier, {**entry, "seconds": round(now() - begun, 3)}])
        _remove_if_empty(run)
        raise
    _write(run, [*earlier, {**entry, "seconds": round(now() - begun, 3)}])


def _remove_if_empty(run: RunFolder) -> None:
    """Remove a run folder that holds times of stages only, and hidden files such as locks."""
    if all(path.name == STAGES_FILE or path.name.startswith(".") for path in run.path.iterdir()):
        shutil.rmtree(run.path, ignore_errors=True)


def _write(run: RunFolder, stages: list[StageTime]) -> None:
    entries = [{**stage, CHECKSUM: json_checksum(stage)} for stage in stages]
    write_text(json.dumps(entries, indent=2) + "\n", stages_path(run))


class StageClock:
    """Wall time of the stages that a process of `run` goes through, as `stages.json` shows them while it works.

    Args:
        run: Folder of the run; stages that are there already are those of earlier processes.
        now: Clock, in seconds.
    """

    def __init__(self, run: RunFolder, now: Callable[[], float] = time.monotonic) -> None:
        self._run, self._now, self._begun = run, now, now()
        self._n_before = len(read_stages(run))
        self._stages: list[StageTime] = []
        self._seen = self._begun

    @property
    def stage(self) -> str | None:
        """The stage that was begun last; None before the first."""
        return self._stages[-1]["stage"] if self._stages else None

    def tick(self) -> None:
        """Look for new stages."""
        stages = read_stages(self._run)[self._n_before :]
        if len(stages) < len(self._stages):
            return  # the folder was removed, since its stages failed
        if len(stages) > len(self._stages):
            self._seen = self._now()
        self._stages = stages

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage, the last one until now if it runs, and `total`, with all between them."""
        end = self._now()
        seconds: dict[str, float] = {}
        for entry in self._stages:
            spent = end - self._seen if entry["seconds"] is None else entry["seconds"]
            seconds[entry["stage"]] = round(seconds.get(entry["stage"], 0.0) + spent, 3)
        return {**seconds, "total": round(end - self._begun, 3)}
