"""Run the cells of a grid, one after another or several at a time; skip finished ones, report failed ones."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock

from mllm_srec.files.signals import deferred, raise_received, received
from mllm_srec.pipeline.grid.cell import POLL, Outcome, Say, run_cell
from mllm_srec.pipeline.grid.plan import Cell
from mllm_srec.pipeline.grid.time_left import GridClock
from mllm_srec.types import DataError

PROGRAM = (sys.executable, "-m", "mllm_srec")
"""Command line of a cell before `run`."""


def _print(line: str) -> None:
    print(f"{line}\n", end="", flush=True)  # one write, so that lines of other threads do not break it


def run_grid(
    cells: Sequence[Cell], program: Sequence[str] = PROGRAM, n_jobs: int = 1, say: Say = _print
) -> list[Outcome]:
    """Run every cell that is not finished; equal cells run once.

    Cells of a data set prepare and summarise it one after another, whatever `n_jobs` is.

    Args:
        cells: From `plan_cells`.
        program: Command line before `run`.
        n_jobs: Number of cells that run at a time.
        say: Function that prints a line.

    Returns:
        An outcome for each of the different cells, in their order.

    Raises:
        ConfigError: A folder cannot be written.
        Stopped: The grid was told to stop, and all processes have ended.
    """
    different = {cell.run.path: cell for cell in reversed(cells)}  # the first of equal ones
    different = dict(reversed(different.items()))
    stop, building = Event(), defaultdict[Path, Lock](Lock)
    outcomes: dict[Path, Outcome] = {}
    clock = GridClock(list(different.values()), n_jobs, say)
    pool = ThreadPoolExecutor(n_jobs, thread_name_prefix="cell")

    def work(cell: Cell) -> Outcome:
        clock.begin(cell)
        try:
            return run_cell(cell, program, stop, building[cell.folder], clock.say)
        except DataError as error:  # a damaged record or result, which names itself: the others go on
            return Outcome(cell, "failed", str(error))

    def submit(ready: Sequence[Cell]) -> set[Future[Outcome]]:
        return {pool.submit(work, cell) for cell in ready}

    def note(outcome: Outcome) -> None:
        outcomes[outcome.cell.run.path] = outcome
        clock.end(outcome, outcome_line(outcome))

    with deferred():
        try:
            later = [cell for cell in different.values() if cell.needs is not None]
            waiting = submit([cell for cell in different.values() if cell.needs is None])
            while (waiting or later) and not received():
                done, waiting = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
                clock.tick()
                for future in done:
                    note(future.result())
                ready, later, hopeless = _sorted_by_need(later, outcomes)
                waiting |= submit(ready)
                for outcome in hopeless:
                    note(outcome)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
        raise_received()
    return [outcomes[path] for path in different]


def _sorted_by_need(
    cells: Sequence[Cell], outcomes: Mapping[Path, Outcome]
) -> tuple[list[Cell], list[Cell], list[Outcome]]:
    """Return cells whose needed cell is done, cells whose is not yet, and outcomes of cells whose failed."""
    ready, later, hopeless = [], [], []
    for cell in cells:
        needed = None if cell.needs is None else outcomes.get(cell.needs.run.path)
        if needed is None:
            later.append(cell)
        elif needed.state in ("finished", "found"):
            ready.append(cell)
        else:
            hopeless.append(Outcome(cell, "failed", f"it tests what {needed.cell.name} trains, which {needed.state}"))
    return ready, later, hopeless


def outcome_line(outcome: Outcome) -> str:
    """Return a line on how a cell ended, with the log of a failed one."""
    name = outcome.cell.name
    if outcome.state == "failed":
        return f"{name}: failed, {outcome.detail} (log {outcome.log})"
    return f"{name}: {'finished before' if outcome.state == 'found' else outcome.state}"
