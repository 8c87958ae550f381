"""Signs of life of long jobs: a bar on a terminal, and in a log file a line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:  # rich takes a tenth of a second, and most jobs need no bar
    from rich.progress import Progress

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds before a bar appears: what is quicker needs none."""

LINE_EVERY = 30.0
"""Seconds between two lines where stderr is no terminal, and before the first one."""

BYTES = "bytes"
"""Unit of a total that is shown in MB."""


class LateProgress:
    """A job's progress on stderr, from the first seconds on: a bar that is wiped when done, or lines in a log file.

    Args:
        description: What is being done, for the person who waits.
        total: Amount of work in the unit that `update` reports.
        unit: What is counted, such as `pictures`, for the lines; or `BYTES`.
        shown: False reports nothing.
        clock: Seconds since any moment.
    """

    def __init__(
        self,
        description: str,
        total: int,
        unit: str = "",
        *,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._description, self._total, self._unit, self._clock = description, total, unit, clock
        self._terminal, self._shown = sys.stderr.isatty(), shown
        self._done = 0
        self._end: int | None = None  # of the part at work; None: of no part
        self._started = clock()
        self._said, self._done_then = self._started, 0  # time of the last line, and what was done by then
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, completed: int) -> None:
        """Report how much is done so far, in the unit of `total`."""
        self._done = completed
        if not self._shown:
            return
        if self._terminal:
            self._draw()
        elif self._clock() - self._said >= LINE_EVERY:
            self._say()

    def advance(self, n: int = 1) -> None:
        """Report that so much more is done; within a `part`, this may be an estimate."""
        done = self._done + n
        self.update(done if self._end is None else min(done, self._end))

    @contextmanager
    def part(self, n: int) -> Iterator[None]:
        """Work on a part of known size: within the block no estimate counts for more, and at its end all of it is done.

        Args:
            n: Amount of work in the part.
        """
        self._end = end = self._done + n
        try:
            yield
        finally:
            self._end = None
        self.update(end)

    def skip(self, n: int) -> None:
        """Report what needed no work, such as results of an earlier command; it does not count as speed."""
        self._done_then += n
        self.advance(n)

    def _draw(self) -> None:
        if self._bar is None and self._clock() - self._started > PATIENCE:
            self._bar = _new_bar(self._unit)
            self._bar.add_task(self._description, total=self._total)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)

    def _say(self) -> None:
        """Print a line; its speed is that since the last one, since the first part of a job may be unlike the rest."""
        now = self._clock()
        recent = (self._done - self._done_then, now - self._said)
        line = progress_line(self._description, self._done, self._total, *recent, unit=self._unit)
        print(line, file=sys.stderr, flush=True)
        self._said, self._done_then = now, self._done


def _new_bar(unit: str) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counts = DownloadColumn() if unit == BYTES else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def track(items: Iterable[T], total: int, description: str, unit: str = "") -> Iterator[T]:
    """Yield `items`, of which there are `total`, under a `LateProgress`."""
    with LateProgress(description, total, unit) as progress:
        for done, item in enumerate(items, start=1):
            yield item
            progress.update(done)


def progress_line(description: str, done: int, total: int, recent: float, seconds: float, unit: str = "") -> str:
    """Return a line such as `ranking: 1,250 of 5,000 users (25 %), 41 a second, 1 min 31 s left`.

    Args:
        description: What is being done.
        done: How much is done.
        total: How much there is to do.
        recent: How much was done in the last `seconds`, from which speed and time left follow.
        seconds: Length of that time.
        unit: What is counted; `BYTES` shows MB.
    """
    share = f"{done / total:.0%}".replace("%", " %") if total else "100 %"
    if unit == BYTES:
        counts = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
    else:
        counts = f"{done:,} of {total:,}" + (f" {unit}" if unit else "")
    if recent <= 0 or seconds <= 0:
        return f"{description}: {counts} ({share})"
    speed = speed_words(recent / seconds / (1e6 if unit == BYTES else 1), "MB" if unit == BYTES else "")
    return f"{description}: {counts} ({share}), {speed}, {duration_words((total - done) * seconds / recent)} left"


def speed_words(per_second: float, unit: str = "") -> str:
    """Return a speed such as `41 a second`, `2.5 MB a second` or `12 an hour`, in the period that gives 1 or more."""
    periods = (("a second", 1), ("a minute", 60), ("an hour", 3600))
    name, length = next((period for period in periods if per_second * period[1] >= 1), periods[-1])
    value = per_second * length
    return " ".join(filter(None, [f"{value:,.0f}" if value >= 10 else f"{value:.1f}", unit, name]))


def duration_words(seconds: float) -> str:
    """Return a length of time in its two largest units: `35 s`, `1 min 30 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    sizes = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (small_name, small) in pairwise(sizes):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{whole} s"
