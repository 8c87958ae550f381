"""All cells of a grid, one after another or several at a time: what fails is named, what is done is not done again."""

from __future__ import annotations

import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, current_thread, main_thread

from mllm_srec.pipeline.grid.cell import POLL, Outcome, Say, run_cell
from mllm_srec.pipeline.grid.plan import Cell

PROGRAM = (sys.executable, "-m", "mllm_srec")
"""How cells are run."""


def _print(line: str) -> None:
    print(f"{line}\n", end="", flush=True)  # in one piece: lines of other threads come between two


def run_grid(
    cells: Sequence[Cell], program: Sequence[str] = PROGRAM, n_jobs: int = 1, say: Say = _print
) -> list[Outcome]:
    """Run every cell that is not finished; equal cells once.

    Cells that prepare the same data set or write its summaries do so one after another, whatever `n_jobs` is.

    Args:
        cells: From `plan_cells`.
        program: Words before `run`.
        n_jobs: Cells at a time.
        say: Called with lines for the terminal.

    Returns:
        Outcomes of the different cells, in their order.

    Raises:
        ConfigError: A folder cannot be written.
        KeyboardInterrupt: After all processes have ended.
        SystemExit: With status 143, after SIGTERM and the end of all processes.
    """
    different = {cell.run.path: cell for cell in reversed(cells)}  # the first of equal ones
    different = dict(reversed(different.items()))
    stop, building = Event(), defaultdict[Path, Lock](Lock)
    outcomes: dict[Path, Outcome] = {}
    pool = ThreadPoolExecutor(n_jobs, thread_name_prefix="cell")

    def submit(ready: Sequence[Cell]) -> set[Future[Outcome]]:
        return {pool.submit(run_cell, cell, program, stop, building[cell.folder], say) for cell in ready}

    def note(outcome: Outcome) -> None:
        outcomes[outcome.cell.run.path] = outcome
        say(f"[{len(outcomes)}/{len(different)}] {outcome_line(outcome)}")

    with _signals() as told:
        try:
            later = [cell for cell in different.values() if cell.needs is not None]
            waiting = submit([cell for cell in different.values() if cell.needs is None])
            while (waiting or later) and not told:
                done, waiting = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
                for future in done:
                    note(future.result())
                ready, later, hopeless = _sorted_by_need(later, outcomes)
                waiting |= submit(ready)
                for outcome in hopeless:
                    note(outcome)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    if told:
        raise KeyboardInterrupt if told[0] == signal.SIGINT else SystemExit(128 + told[0])
    return [outcomes[path] for path in different]


def _sorted_by_need(
    cells: Sequence[Cell], outcomes: Mapping[Path, Outcome]
) -> tuple[list[Cell], list[Cell], list[Outcome]]:
    """Cells whose need is done, those whose is not yet, and outcomes of those whose failed."""
    ready, later, hopeless = [], [], []
    for cell in cells:
        found = None if cell.needs is None else outcomes.get(cell.needs.run.path)
        if found is None:
            later.append(cell)
        elif found.state in ("finished", "found"):
            ready.append(cell)
        else:
            hopeless.append(Outcome(cell, "failed", f"it tests what {found.cell.name} trains, which {found.state}"))
    return ready, later, hopeless


def outcome_line(outcome: Outcome) -> str:
    """How a cell ended, with the log of what failed."""
    name = outcome.cell.name
    if outcome.state == "failed":
        return f"{name}: failed, {outcome.detail} (log {outcome.log})"
    return f"{name}: {'finished before' if outcome.state == 'found' else outcome.state}"


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Numbers of SIGINT and SIGTERM as they come, to be looked at where nothing is half done.

    Another thread than the main one may be interrupted by them, so that the main one must look by itself.
    """
    told: list[int] = []
    if current_thread() is not main_thread():
        yield told
        return
    before = {number: signal.signal(number, lambda n, _: told.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
