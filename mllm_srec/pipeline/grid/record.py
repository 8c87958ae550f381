"""The record of a cell beside its run folder: every attempt to run it, and the cost of each."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from mllm_srec.files.atomic import write_json
from mllm_srec.files.reading import read_object, read_whole
from mllm_srec.pipeline.grid.plan import Cell
from mllm_srec.pipeline.runs.changes import data_changed
from mllm_srec.pipeline.runs.names import was_tested
from mllm_srec.pipeline.runs.provenance import commit, versions
from mllm_srec.pipeline.runs.settings import read_settings
from mllm_srec.types import MllmSrecError


class Attempt(TypedDict):
    """One process that ran a cell, from the beginning or from where the one before was killed."""

    started: str  # ISO 8601, UTC
    commit: str | None  # of the code; None outside a repository
    dirty: bool | None  # True if the code differed from it
    versions: dict[str, str | None]  # of the libraries
    status: int | None  # exit status; negative: killed by that signal; None while it runs, or if its end was not seen
    seconds: dict[str, float]  # wall time of each stage, and `total`; empty if its end was not seen
    peak_memory: int | None  # bytes of its largest process


def read_attempts(cell: Cell) -> list[Attempt]:
    """Return the attempts so far, the oldest first."""
    if not cell.record.is_file():
        return []
    remedy = "delete it and run the grid again: the cell is run again too, and its finished stages are kept"
    attempts: list[Attempt] = read_object(cell.record, "the record of a cell", remedy, ("attempts",))["attempts"]

    def check(path: Path) -> list[Attempt]:
        for attempt in attempts:
            _ = attempt["status"], attempt["seconds"], attempt["peak_memory"], attempt["versions"]
        return attempts

    return read_whole(cell.record, check, "the record of a cell", remedy)


def is_finished(cell: Cell) -> bool:
    """Return True if the last attempt succeeded and its results are still there, of the right weights and data."""
    attempts = read_attempts(cell)
    if not attempts or attempts[-1]["status"] != 0 or "test/n_users" not in cell.run.read_metrics():
        return False
    if _saw_other_data(cell):
        return False  # `run` refuses it and says why
    return cell.tested is None or not cell.tested.exists() or was_tested(cell.run, cell.tested)


def _saw_other_data(cell: Cell) -> bool:
    """Return True if the data set was prepared again after the cell ran, or if its settings cannot be read."""
    if not cell.run.config.exists():
        return False
    try:
        data = read_settings(cell.run.path).get("data") or {}
    except MllmSrecError:
        return True
    known = "root" in data and "name" in data
    return known and data_changed(cell.run, Path(data["root"], data["name"])) is not None


def begin_attempt(cell: Cell) -> None:
    """Write that an attempt begins."""
    head, dirty = commit()
    attempt = Attempt(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=head,
        dirty=dirty,
        versions=versions(),
        status=None,
        seconds={},
        peak_memory=None,
    )
    _write(cell, [*read_attempts(cell), attempt])


def end_attempt(cell: Cell, status: int, seconds: dict[str, float], peak_memory: int | None) -> None:
    """Write how the last attempt ended, and its cost."""
    *earlier, attempt = read_attempts(cell)
    attempt["status"], attempt["seconds"], attempt["peak_memory"] = status, seconds, peak_memory
    _write(cell, [*earlier, attempt])


def _write(cell: Cell, attempts: list[Attempt]) -> None:
    content = {"settings_hash": cell.settings_hash, "settings": cell.settings, "attempts": attempts}
    write_json(content, cell.record)


def peak_bytes(maxrss: int) -> int:
    """Return `ru_maxrss` in bytes: Linux counts KiB."""
    return maxrss if sys.platform == "darwin" else maxrss * 1024
