"""How long a grid still takes, from the cells that it has finished; and a line while it works."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from mllm_srec.files.progress import LINE_EVERY, duration_words
from mllm_srec.pipeline.grid.cell import Outcome, Say
from mllm_srec.pipeline.grid.plan import Cell
from mllm_srec.pipeline.grid.record import read_attempts


class GridClock:
    """Tells what a grid works on, and how much time is left.

    Args:
        cells: All cells, each once.
        n_jobs: Number of cells that run at a time.
        say: Function that prints a line.
        now: Clock, in seconds.
    """

    def __init__(self, cells: Sequence[Cell], n_jobs: int, say: Say, now: Callable[[], float] = time.monotonic) -> None:
        self._cells, self._n_jobs, self._print, self._now = cells, n_jobs, say, now
        self._running: dict[Path, float] = {}
        self._done: dict[Path, Outcome] = {}
        self._said = now()

    def say(self, line: str) -> None:
        """Print a line."""
        self._said = self._now()
        self._print(line)

    def begin(self, cell: Cell) -> None:
        """Note that a cell begins."""
        self._running[cell.run.path] = self._now()

    def end(self, outcome: Outcome, line: str) -> None:
        """Note that a cell ended, and print a line on it, with the time left."""
        path = outcome.cell.run.path
        self._running.pop(path, None)
        self._done[path] = outcome
        self.say(f"[{len(self._done)}/{len(self._cells)}] {line}{self._left_words()}")

    def tick(self) -> None:
        """Print a line on what runs, if none was printed for `LINE_EVERY` seconds."""
        if self._now() - self._said < LINE_EVERY or not self._running:
            return
        running = dict(self._running)
        names = [
            f"{cell.name} ({duration_words(self._now() - running[cell.run.path])})"
            for cell in self._cells
            if cell.run.path in running
        ]
        self.say(f"[{len(self._done)}/{len(self._cells)}] running: {', '.join(names)}{self._left_words()}")

    def _left_words(self) -> str:
        seconds = self.seconds_left()
        return (
            "" if seconds is None or len(self._done) == len(self._cells) else f"; about {duration_words(seconds)} left"
        )

    def seconds_left(self) -> float | None:
        """Estimate the time until all cells are done; None as long as none has finished."""
        known = {path: _seconds(outcome.cell) for path, outcome in self._done.items() if outcome.state != "failed"}
        measured = {path: seconds for path, seconds in known.items() if seconds is not None}
        if not measured:
            return None
        running = dict(self._running)
        left = 0.0
        for cell in self._cells:
            if cell.run.path not in self._done:
                spent = self._now() - running[cell.run.path] if cell.run.path in running else 0.0
                left += max(0.0, self._expected(cell, measured) - spent)
        return left / self._n_jobs

    def _expected(self, cell: Cell, measured: Mapping[Path, float]) -> float:
        """Mean of what is most like a cell: its row on its data set, else its row, else its data set, else all."""
        ended = [(self._done[path].cell, seconds) for path, seconds in measured.items()]
        for alike in (
            lambda other: (other.row, other.data_set) == (cell.row, cell.data_set),
            lambda other: other.row == cell.row,
            lambda other: other.data_set == cell.data_set,
        ):
            if times := [seconds for other, seconds in ended if alike(other)]:
                return fmean(times)
        return fmean(measured.values())


def _seconds(cell: Cell) -> float | None:
    """Seconds that all attempts of a cell took together; None if none of them is known."""
    totals = [attempt["seconds"]["total"] for attempt in read_attempts(cell) if "total" in attempt["seconds"]]
    return sum(totals) if totals else None
