"""One cell of a grid as a process of its own, never run twice at once, even if a killed grid left its process."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO, Literal

from mllm_srec.pipeline.grid.plan import Cell
from mllm_srec.pipeline.grid.record import begin_attempt, end_attempt, is_finished, peak_bytes
from mllm_srec.pipeline.runs.stages import StageClock
from mllm_srec.types import ConfigError

POLL = 0.1
"""Seconds between two looks at a process."""

GRACE = 30.0
"""Seconds that a process has to end after SIGTERM, and again after SIGKILL."""

BUILDING = (None, "prepare", "summarize")
"""Stages that build what all cells of a data set share; None: no stage has begun."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        cell: The cell.
        state: `found`: it was already finished; `stopped`: the grid was stopped.
        detail: Exit status and last line of the log of a failed cell.
    """

    cell: Cell
    state: Literal["finished", "found", "failed", "stopped"]
    detail: str = ""

    @property
    def log(self) -> Path:
        """Log of the cell, or if it was never begun, of the cell that it waited for."""
        return self.cell.log if self.cell.needs is None or self.cell.log.exists() else self.cell.needs.log


class LockedLog:
    """The log of a cell with a lock: processes that print into it inherit the lock, and hold it until the last ends.

    Args:
        path: Log file, which is appended to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO = path.open("ab")

    def acquire(self) -> bool:
        """Try to lock the file; return False if another process holds the lock."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def hand_over(self) -> None:
        """Leave the lock to the processes that inherited it, and open the file again without it."""
        self.file.close()
        self.file = self.path.open("ab")


def run_cell(cell: Cell, program: Sequence[str], stop: Event, building: Lock, say: Say) -> Outcome:
    """Run a cell unless it is finished; continue it if it was killed.

    Args:
        cell: The cell.
        program: Command line before `run`.
        stop: Event that ends everything.
        building: Lock that is held until the process has prepared and summarised, for other cells of the data set.
        say: Function that prints a line.

    Raises:
        ConfigError: The folder of the runs cannot be written.
    """
    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
        log = LockedLog(cell.log)
    except OSError as error:
        raise ConfigError(
            f"{cell.folder}: cannot be written ({error.strerror}); set trainer.default_root_dir to a folder of yours"
        ) from error
    with log.file, ExitStack() as held:
        if not _wait_for_lock(log, stop, say):
            return Outcome(cell, "stopped")
        if is_finished(cell):
            return Outcome(cell, "found")
        held.enter_context(building)
        if stop.is_set():
            return Outcome(cell, "stopped")
        try:
            cell.check_need()
        except ConfigError as error:
            return Outcome(cell, "failed", str(error))
        say(f"{cell.name}: running, log {cell.log}")
        return _run(cell, [*program, "run", *cell.command], log, stop, held)


def _wait_for_lock(log: LockedLog, stop: Event, say: Say) -> bool:
    """Wait for a process of another grid, or one that a killed grid left; return False if stopped meanwhile."""
    waited = False
    while not log.acquire():
        if not waited:
            say(f"{log.path.stem}: waiting for another process that runs it")
        waited = True
        if stop.wait(POLL):
            return False
    return not stop.is_set()


def _run(cell: Cell, command: Sequence[str], log: LockedLog, stop: Event, held: ExitStack) -> Outcome:
    """Start the process, wait for its end and record its cost."""
    begin_attempt(cell)
    clock = StageClock(cell.run)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log.file,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches the grid only, which stops all of them
    )
    usage = None
    while usage is None and not stop.wait(POLL):
        clock.tick()
        if clock.stage not in BUILDING:
            held.close()
        usage = _reap(process)
    if usage is None:
        _end(process, log)
        end_attempt(cell, -signal.SIGTERM, clock.seconds(), None)
        return Outcome(cell, "stopped")
    clock.tick()
    end_attempt(cell, process.returncode, clock.seconds(), peak_bytes(usage.ru_maxrss))
    if process.returncode != 0:
        return Outcome(cell, "failed", f"{_ending(process.returncode)}: {last_line(cell.log)}")
    if not is_finished(cell):
        return Outcome(cell, "failed", f"ended with status 0, but {cell.run.metrics} holds no test results")
    return Outcome(cell, "finished")


def _reap(process: subprocess.Popen[bytes]) -> resource.struct_rusage | None:
    """Return the resources that an ended process and its children used; None while it runs.

    `getrusage(RUSAGE_CHILDREN)` would mix the memory of all cells. A process begins as a copy of this one, so no value
    is below the memory of this process.
    """
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if pid == 0:
        return None
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _end(process: subprocess.Popen[bytes], log: LockedLog) -> None:
    """End the process and all that it started, by SIGKILL if need be; the log is locked again afterwards."""
    log.hand_over()
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if process.returncode is None:
                _reap(process)
            if process.returncode is not None and log.acquire():
                return
            time.sleep(POLL)


def _ending(status: int) -> str:
    """Return how a process ended, in words."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank; the last state of a progress bar counts as a line."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1] if lines else "(the log is empty)"
