"""What a grid says while it works: which cells run, and how much time is left."""

from pathlib import Path

import pytest

from mllm_srec.pipeline.grid.cell import Outcome
from mllm_srec.pipeline.grid.plan import plan_cells
from mllm_srec.pipeline.grid.record import begin_attempt, end_attempt
from mllm_srec.pipeline.grid.settings import GridRow, GridSettings
from mllm_srec.pipeline.grid.time_left import GridClock


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """Rows `a` and `b` with seeds 0 and 1, in the order a-0, b-0, a-1, b-1."""
    monkeypatch.chdir(tmp_path)
    Path("shop.yaml").write_text("# nothing\n")
    return plan_cells(
        GridSettings([GridRow("a"), GridRow("b", set={"model.lr": 1.0})], ["shop.yaml"], seeds=[0, 1]), "runs", "d"
    )


class Desk:
    def __init__(self, cells, n_jobs=1):
        self.time, self.lines = 0.0, []
        self.clock = GridClock(cells, n_jobs, self.lines.append, lambda: self.time)

    def finish(self, cell, seconds, state="finished"):
        cell.folder.mkdir(parents=True, exist_ok=True)
        begin_attempt(cell)
        end_attempt(cell, 0, {"total": seconds}, None)
        self.clock.end(Outcome(cell, state), cell.row)
        return self.lines[-1]


def test_the_time_left_is_that_of_cells_alike(cells):
    desk = Desk(cells)
    assert desk.clock.seconds_left() is None
    assert desk.finish(cells[0], 100.0) == "[1/4] a; about 5 min left", "three like the only one that is known"
    assert desk.finish(cells[1], 20.0, "found") == "[2/4] b; about 2 min left", "each row as long as before"
    assert desk.finish(cells[2], 60.0) == "[3/4] a; about 20 s left"
    assert desk.finish(cells[3], 20.0) == "[4/4] b"


def test_two_jobs_take_half_the_time(cells):
    desk = Desk(cells, n_jobs=2)
    desk.finish(cells[0], 100.0)
    assert desk.clock.seconds_left() == 150.0


def test_what_a_running_cell_has_spent_is_taken_off(cells):
    desk = Desk(cells)
    desk.finish(cells[0], 100.0)
    desk.clock.begin(cells[1])
    desk.time = 40.0
    assert desk.clock.seconds_left() == 260.0
    desk.time = 400.0
    assert desk.clock.seconds_left() == 200.0, "never less than nothing"


def test_a_failed_cell_says_nothing_about_time(cells):
    desk = Desk(cells)
    assert desk.finish(cells[0], 1.0, "failed") == "[1/4] a"


def test_nothing_is_silent_for_long(cells):
    desk = Desk(cells)
    desk.clock.tick()
    desk.time = 31.0
    desk.clock.tick()
    assert desk.lines == [], "nothing runs"
    desk.clock.begin(cells[0])
    desk.time = 60.0
    desk.clock.tick()
    assert desk.lines == [f"[0/4] running: {cells[0].name} (29 s)"]
    desk.time = 89.0
    desk.clock.tick()
    assert len(desk.lines) == 1
    desk.time = 90.0
    desk.clock.tick()
    assert desk.lines[1:] == [f"[0/4] running: {cells[0].name} (59 s)"]


def test_a_grid_says_it(cells, monkeypatch):
    """Within `run_grid` itself, with a program that does nothing for a while."""
    import sys

    from mllm_srec.pipeline.grid import time_left
    from mllm_srec.pipeline.grid.run import run_grid

    monkeypatch.setattr(time_left, "LINE_EVERY", 0.2)
    lines = []
    program = (sys.executable, "-c", "import time; time.sleep(1)")
    run_grid(cells[:1], program, say=lines.append)
    assert any(line.startswith(f"[0/1] running: {cells[0].name}") for line in lines)
