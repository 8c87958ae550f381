"""Ctrl-C and SIGTERM: the first one stops a command where it can go on later, a second one ends it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM)

SAME = 0.3
"""Seconds in which a signal that comes twice counts once: launchers pass on what their processes got already."""

SAME_UNDER_TORCHRUN = 5.0
"""The same under torchrun, which passes a Ctrl-C on when it has closed other things."""

POLL = 0.1
"""Seconds between two looks at whether this process was told to stop, while it waits for another one."""


class Stopped(BaseException):
    """A command was told to stop.

    Args:
        number: Number of the signal.
        advice: How to go on; None: nothing special is known.
    """

    def __init__(self, number: int, advice: str | None = None) -> None:
        super().__init__(number, advice)
        self.number, self.advice = number, advice

    @property
    def status(self) -> int:
        """Exit status: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number

    @property
    def cause(self) -> str:
        """What stopped the command, in words."""
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name


_received: dict[int, float] = {}
"""Signal -> time of its arrival, since the outermost `stoppable` began; the first one decides the exit status."""

_depths = {"stoppable": 0, "deferred": 0}


@contextmanager
def stoppable() -> Iterator[None]:
    """Have the first signal raise `Stopped` where the main thread is, and a second one of its kind end the process."""
    with _handled("stoppable"):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """Have signals wait: `received` tells of them, and the caller raises `Stopped` where nothing is half done.

    A second signal of a kind ends the process nevertheless.
    """
    with _handled("deferred"):
        yield


def received() -> int:
    """Return the number of the signal that came first; 0 if none came."""
    return next(iter(_received), 0)


def raise_received() -> None:
    """Raise `Stopped` if a signal came."""
    if number := received():
        raise Stopped(number)


def run_process(command: Sequence[str]) -> int:
    """Run a process that stops where it can go on later, and wait for its end even if this one is told to stop.

    Ctrl-C reaches it by itself where both are in one terminal; it is told by SIGTERM in any case, and once.

    Args:
        command: The command line.

    Returns:
        Its exit status.

    Raises:
        Stopped: This process or that one was told to stop; both have stopped then.
    """
    told = False
    with deferred():
        process = subprocess.Popen(list(command))
        while (status := _status(process)) is None:
            if received() and not told:
                process.send_signal(signal.SIGTERM)
                told = True
        if number := received():
            raise Stopped(number)
    for number in NUMBERS:
        if status in (128 + number, -number):
            raise Stopped(number)
    return status


def _status(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=POLL)
    except subprocess.TimeoutExpired:
        return None


def take_over() -> None:
    """Become the handler again, if a library replaced it.

    Lightning's handler would stop training between two optimizer steps, and speak to other processes from within.
    """
    if any(_depths.values()) and threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _handle)


@contextmanager
def _handled(kind: str) -> Iterator[None]:
    """Be the handler of both signals inside; those that a shell has the process ignore stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in NUMBERS}
    if not any(_depths.values()):
        _received.clear()
    _depths[kind] += 1
    take_over()
    try:
        yield
    finally:
        _depths[kind] -= 1
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if number in _received:
        same = SAME_UNDER_TORCHRUN if "TORCHELASTIC_RUN_ID" in os.environ else SAME
        if now - _received[number] > same:
            os.write(2, b"\nmllm_srec: ended at once\n")
            os._exit(128 + number)
        return
    first = not _received
    _received[number] = now
    if first and not _depths["deferred"]:
        raise Stopped(number)


def _in_child() -> None:
    """Let a forked process, such as a loader's worker, end with its parent, which Ctrl-C reaches, too."""
    if any(_depths.values()):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_in_child)
