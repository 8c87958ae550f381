"""A progress bar for long jobs; short jobs and log files do without it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds before a bar appears: what is quicker needs none."""


class LateProgress:
    """A bar on stderr that appears after `PATIENCE` seconds, only on a terminal, and is wiped when done.

    Args:
        description: What is being done, for the person who waits.
        total: Amount of work in the unit that `update` reports (bytes, pictures).
    """

    def __init__(self, description: str, total: int) -> None:
        self._description = description
        self._total = total
        self._started = time.monotonic()
        self._wanted = sys.stderr.isatty()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, completed: int) -> None:
        """Report how much is done so far, in the unit of `total`."""
        if not self._wanted:
            return
        if self._progress is None and time.monotonic() - self._started > PATIENCE:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(self._description, total=self._total)
            self._progress.start()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=completed)


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield `items`, of which there are `total`, under a `LateProgress` bar."""
    with LateProgress(description, total) as progress:
        for done, item in enumerate(items, start=1):
            yield item
            progress.update(done)
