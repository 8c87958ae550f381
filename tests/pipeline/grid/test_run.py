"""Running a grid: killed and continued, stopped, several at a time, and what fails; with a stand-in for `run`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mllm_srec.pipeline.grid import cell as grid_cell
from mllm_srec.pipeline.grid.plan import plan_cells
from mllm_srec.pipeline.grid.record import is_finished, read_attempts
from mllm_srec.pipeline.grid.results import cell_record
from mllm_srec.pipeline.grid.run import run_grid
from mllm_srec.pipeline.grid.settings import GridDataSet, GridRow, GridSettings
from mllm_srec.types import ConfigError
from tests.pipeline.grid.grid_stand_in import wait_for

STAND_IN = Path(__file__).with_name("grid_stand_in.py")
PROGRAM = (sys.executable, str(STAND_IN))


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Current folder with an empty configuration and the folder of the runs."""
    monkeypatch.chdir(tmp_path)
    Path("shop.yaml").write_text("# nothing\n")
    Path("runs").mkdir()
    return tmp_path


def content(*rows, seeds=(0,), **settings):
    """A grid file; a row is a label, or one with its `stand.` settings."""
    named = [(row, {}) if isinstance(row, str) else row for row in rows]
    return {
        "base": ["shop.yaml"],
        "rows": [{"label": label, "set": {f"stand.{k}": v for k, v in own.items()}} for label, own in named],
        "seeds": list(seeds),
        "set": {"data.name": "shop", "trainer.default_root_dir": "runs", **settings},
        "metrics": ["hr@10", "ndcg@10"],
    }


def cells_of(grid):
    rows = [GridRow(**row) for row in grid["rows"]]
    data_sets = [GridDataSet(**data_set) for data_set in grid.get("data_sets", [])]
    return plan_cells(GridSettings(**{**grid, "rows": rows, "data_sets": data_sets}), "runs", "d")


def run_here(grid, **changes):
    lines = []
    outcomes = run_grid(cells_of(grid), PROGRAM, say=lines.append, **changes)
    return [(outcome.cell.row, outcome.state) for outcome in outcomes], lines


def start(grid, *arguments):
    """The command line in a process of its own, which is its own session."""
    Path("g.yaml").write_text(yaml.safe_dump(grid))
    command = [*PROGRAM, "grid", "--config", "g.yaml", "--output", "out", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def invocations():
    path = Path("runs/invocations")
    return Counter(line.partition("-")[0] for line in path.read_text().split()) if path.exists() else Counter()


def fitting(label):
    return bool(list(Path("runs").glob(f"{label}-*.fitting")))


def alive(pid):
    """Whether a thread of a process runs; one that nobody has waited for yet has ended all the same."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return any((thread / "stat").read_text().rpartition(")")[2].split()[0] != "Z" for thread in threads)
    except OSError:
        return False


# --- killed and continued -------------------------------------------------------------------------------------------


def test_killed_in_the_middle_it_continues_and_runs_nothing_again(desk):
    """SIGKILL of the grid leaves its cell behind: the next one waits for that; what is finished is not run again."""
    grid = content("a", ("b", {"until": "go"}), ("c", {"gain": 0.1}))
    first = start(grid)
    wait_for(lambda: fitting("b"))
    first.kill()
    first.communicate()
    assert invocations() == {"a": 1, "b": 1}
    second, (a, b, _) = start(grid), cells_of(grid)
    said = {second.stdout.readline(), second.stdout.readline()}  # by two threads: either may come first
    waits = f"{b.name}: waiting for another process that runs it\n"
    assert waits in said
    assert (said - {waits}).pop().startswith(f"[1/3] {a.name}: finished before; about ")
    Path("go").touch()
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0, out
    assert invocations() == {"a": 1, "b": 2, "c": 1}, "`run` itself sees what a left one has done"
    record = json.loads(Path("out/cells/shop--b--0.json").read_text())
    assert (record["attempts"], record["attempts_without_cost"]) == (2, 1)
    third, _ = run_here(grid)
    assert third == [("a", "found"), ("b", "found"), ("c", "found")]
    assert invocations()["b"] == 2


def test_killed_with_its_cell_it_continues(desk):
    grid = content("a", ("b", {"first": 60}))
    first = start(grid)
    wait_for(lambda: fitting("b"))
    first.kill()
    first.communicate()
    pid = int(next(Path("runs").glob("b-*.fitting")).read_text())
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid))
    states, lines = run_here(grid)
    assert states == [("a", "found"), ("b", "finished")]
    assert not any("waiting" in line for line in lines)
    assert invocations() == {"a": 1, "b": 2}


# --- trained here, tested there -------------------------------------------------------------------------------------


def two_sets(*rows, **settings):
    """A grid whose second data set is only for testing what was trained on the first."""
    grid = content(*rows, **settings)
    del grid["set"]["data.name"]
    for name in ("clean", "noisy"):
        Path(f"{name}.yaml").write_text(f"data: {{name: {name}}}\n")
    sets = [
        {"name": "noisy", "configs": ["noisy.yaml"], "trained_on": "clean", "panel": "noise", "x": 0.5},
        {"name": "clean", "configs": ["clean.yaml"]},
    ]
    return {**grid, "data_sets": sets}


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_what_was_trained_on_one_data_set_is_tested_on_another(desk, n_jobs):
    grid = two_sets("a", ("b", {"sleep": 0.3}), seeds=(0, 1))
    cells = cells_of(grid)
    assert [(c.data_set, c.row, c.seed) for c in cells[:4]] == [("clean", r, s) for s in (0, 1) for r in "ab"]
    outcomes = run_grid(cells, PROGRAM, n_jobs, say=lambda line: None)
    assert {outcome.state for outcome in outcomes} == {"finished"}
    for cell in cells[4:]:
        of_clean = next(c for c in cells[:4] if (c.row, c.seed) == (cell.row, cell.seed))
        assert cell.needs == of_clean
        found = cell.run.read_metrics()
        assert found["test/weights_of"] == of_clean.name
        assert "fit/steps" not in found
        assert cell_record("t", cell)["command"].endswith(f"--ckpt_path {of_clean.run.best}")
    assert {outcome.state for outcome in run_grid(cells, PROGRAM, say=lambda line: None)} == {"found"}


def test_rows_without_training_are_tested_without_a_checkpoint(desk):
    cells = cells_of(two_sets(("a", {"untrained": 1})))
    assert [outcome.state for outcome in run_grid(cells, PROGRAM, say=lambda line: None)] == ["finished"] * 2
    assert cells[1].run.read_metrics()["test/weights_of"] is None


def test_what_tests_a_failed_training_fails_with_its_name(desk):
    lines = []
    cells = cells_of(two_sets(("a", {"fail": "out of memory"}), "b"))
    outcomes = run_grid(cells, PROGRAM, say=lines.append)
    assert [(o.cell.data_set, o.cell.row, o.state) for o in outcomes] == [
        ("clean", "a", "failed"), ("clean", "b", "finished"), ("noisy", "a", "failed"), ("noisy", "b", "finished"),
    ]  # fmt: skip
    assert outcomes[2].detail == f"it tests what {cells[0].name} trains, which failed"
    assert any(f"{cells[2].name}: failed" in line and f"(log {cells[0].log})" in line for line in lines)
    assert cells[0].log.is_file()
    assert not cells[2].run.path.exists()


def test_a_lost_checkpoint_is_no_reason_to_train_elsewhere(desk):
    cells = cells_of(two_sets("a"))
    run_grid(cells[:1], PROGRAM, say=lambda line: None)
    cells[0].run.best.unlink()
    _, outcome = run_grid(cells, PROGRAM, say=lambda line: None)
    assert outcome.state == "failed"
    assert outcome.detail.startswith(f"{cells[0].run.checkpoints / 'best.ckpt'}: missing")
    assert f"delete {cells[0].run.path} and {cells[0].record}" in outcome.detail
    assert not cells[1].run.path.exists()


def test_a_cell_on_data_that_was_prepared_again_is_not_finished(desk):
    (cell,) = cells_of(content("a"))
    run_grid([cell], PROGRAM, say=lambda line: None)
    Path("data/shop").mkdir(parents=True)
    there = str(cell.run.read_metrics()["test/candidates_hash"])
    manifest = {"prepare": {}, "candidates": {}, "raw": {}, "tables": {}, "candidates_hash": there}
    Path("data/shop/manifest.json").write_text(json.dumps(manifest))
    cell.run.config.write_text(yaml.safe_dump({"data": {"root": "data", "name": "shop"}}))
    assert is_finished(cell)
    Path("data/shop/manifest.json").write_text(json.dumps({**manifest, "candidates_hash": "another" * 3}))
    assert not is_finished(cell)
    cell.run.config.write_text("cut: [")
    assert not is_finished(cell), "`run` names the file"


def test_results_outlive_the_checkpoint_that_they_are_of(desk):
    cells = cells_of(two_sets("a"))
    run_grid(cells, PROGRAM, say=lambda line: None)
    cells[0].run.best.unlink()
    assert [outcome.state for outcome in run_grid(cells, PROGRAM, say=lambda line: None)] == ["found", "found"]
    assert cell_record("t", cells[1])["command"].endswith("checkpoints/best.ckpt")


def test_what_was_trained_anew_is_not_what_was_tested(desk):
    cells = cells_of(two_sets("a"))
    run_grid(cells, PROGRAM, say=lambda line: None)
    cells[0].run.best.write_text("other weights")
    assert is_finished(cells[0])
    assert not is_finished(cells[1])
    _, outcome = run_grid(cells, PROGRAM, say=lambda line: None)
    assert outcome.state == "failed"
    assert outcome.detail.startswith(f"{cells[1].run.path}: holds a test of other weights")
    shutil.rmtree(cells[1].run.path)
    assert [outcome.state for outcome in run_grid(cells, PROGRAM, say=lambda line: None)] == ["found", "finished"]
    assert cells[1].run.read_metrics()["test/weights_of"] == "other weights"


def test_another_training_is_another_test(desk):
    one, other = (cells_of(two_sets(("a", {"gain": gain}))) for gain in (0.1, 0.2))
    assert one[1].name != other[1].name
    same = cells_of(two_sets(("a", {"gain": 0.1})))
    assert [cell.name for cell in same] == [cell.name for cell in one]
    alone = two_sets(("a", {"gain": 0.1}))
    del alone["data_sets"][0]["trained_on"]
    assert cells_of(alone)[0].name != one[1].name, "trained on noise is not tested on noise"


def test_the_grid_says_what_it_was(desk):
    grid = {**two_sets("a", "b"), "report": {"kind": "curves", "title": "T", "metrics": ["hr@10"]}}
    process = start(grid)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    about = json.loads(Path("out/grid.json").read_text())
    assert (about["name"], about["quick"], about["seeds"], about["rows"]) == ("g", False, [0], ["a", "b"])
    assert about["data_sets"] == [
        {"name": "noisy", "panel": "noise", "x": 0.5},
        {"name": "clean", "panel": None, "x": None},
    ]
    assert about["report"]["kind"] == "curves"
    assert about["report"]["title"] == "T"
    assert about["metrics"] == ["hr@10", "ndcg@10"]


def test_results_that_were_deleted_are_made_again(desk):
    grid = content("a")
    run_here(grid)
    (cell,) = cells_of(grid)
    cell.run.metrics.unlink()
    assert not is_finished(cell)
    assert run_here(grid)[0] == [("a", "finished")]
    assert invocations() == {"a": 2}
    assert [attempt["status"] for attempt in read_attempts(cell)] == [0, 0]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_stop_it_stops_all_processes(desk, number, status):
    grid = content(("a", {"sleep": 60, "child": "import time; time.sleep(60)"}), "b")
    process = start(grid)
    wait_for(lambda: fitting("a"))
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == status, out
    child = int(Path("runs/child").read_text())
    assert not alive(child), "what `run` started lives on"
    assert invocations() == {"a": 1}, "b is not begun"
    assert "Traceback" not in out
    assert not Path("out").exists()
    a, _ = cells_of(grid)
    assert [attempt["status"] for attempt in read_attempts(a)] == [-signal.SIGTERM]


def test_who_does_not_end_when_told_is_made_to(desk, monkeypatch):
    monkeypatch.setattr(grid_cell, "GRACE", 0.5)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); open('runs/deaf', 'w').close(); time.sleep(60)"
    (cell,) = cells_of(content(("a", {"sleep": 60, "child": deaf})))
    stop, found = threading.Event(), []
    arguments = (cell, PROGRAM, stop, threading.Lock(), lambda line: None)
    thread = threading.Thread(target=lambda: found.append(grid_cell.run_cell(*arguments)))
    thread.start()
    wait_for(lambda: fitting("a") and Path("runs/deaf").exists())
    stop.set()
    thread.join(timeout=20)
    assert [outcome.state for outcome in found] == ["stopped"]
    assert not alive(int(Path("runs/child").read_text()))


# --- what fails -----------------------------------------------------------------------------------------------------


def test_a_failing_cell_is_named_with_its_log_and_the_others_go_on(desk):
    grid = content(("a", {"fail": "out of memory"}), "b")
    process = start(grid)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    a, b = cells_of(grid)
    assert a.log.parent == Path("runs/shop")
    line = f"{a.name}: failed, ended with status 3: RuntimeError: out of memory (log {a.log})"
    assert f"[1/2] {line}\n" in out
    assert out.endswith(f"mllm_srec grid: error: 1 of 2 cells failed:\n  {line}\n")
    log = a.log.read_text()
    assert log.startswith("$ python -m mllm_srec prepare")
    assert "RuntimeError: out of memory" in log
    assert is_finished(b)
    assert [path.name for path in Path("out/cells").iterdir()] == ["shop--b--0.json"]
    assert f"- missing: {line}\n" in Path("out/summary.md").read_text()
    states, _ = run_here(grid)
    assert states == [("a", "failed"), ("b", "found")]
    assert invocations() == {"a": 2, "b": 1}, "what failed is tried again"


def test_when_all_cells_fail_there_are_no_results(desk):
    process = start(content(("a", {"fail": "x"})))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "1 of 1 cells failed" in out
    assert not Path("out").exists()


def run_cell_of(cell, program):
    return grid_cell.run_cell(cell, program, threading.Event(), threading.Lock(), lambda line: None)


def test_a_process_that_was_killed_is_named_so(desk):
    (cell,) = cells_of(content("a"))
    code = "import os; print('so far', flush=True); os.kill(os.getpid(), 9)"
    outcome = run_cell_of(cell, [sys.executable, "-c", code])
    assert (outcome.state, outcome.detail) == ("failed", "killed by SIGKILL: so far")


def test_a_process_that_leaves_no_results_failed(desk):
    (cell,) = cells_of(content("a"))
    outcome = run_cell_of(cell, [sys.executable, "-c", "pass"])
    assert outcome.state == "failed"
    assert outcome.detail == f"ended with status 0, but {cell.run.metrics} holds no test results"
    assert grid_cell.last_line(cell.log) == "(the log is empty)"


def test_a_folder_that_cannot_be_written(desk):
    Path("runs/shop").touch()
    with pytest.raises(ConfigError, match=r"runs/shop: cannot be written .*set trainer.default_root_dir to a folder"):
        run_here(content("a", "b"))


# --- once, and side by side -----------------------------------------------------------------------------------------


def test_equal_cells_are_run_once_in_one_grid_and_in_two(desk):
    states, _ = run_here(content("a", "same", ("b", {"gain": 0.1})))
    assert states == [("a", "finished"), ("b", "finished")]
    table = content("b under another name", ("c", {"gain": 0.1}))
    Path("g2.yaml").write_text(yaml.safe_dump(table))
    assert run_here(table)[0] == [("b under another name", "found"), ("c", "found")]
    assert invocations() == {"a": 1, "b": 1}


def test_several_at_a_time_build_one_after_another(desk):
    """Both fit only when both do, so that this would wait in vain if they ran one after another."""
    states, _ = run_here(content("a", ("b", {"gain": 1}), ("c", {"gain": 2}), **{"stand.together": 2}), n_jobs=3)
    assert states == [("a", "finished"), ("b", "finished"), ("c", "finished")]
    built = [line.split() for line in Path("runs/building").read_text().splitlines()]
    assert len(built) == 6
    for (one, into), (other, out) in zip(built[::2], built[1::2], strict=True):
        assert (one, into, out) == (other, "in", "out")


def test_two_grids_at_once_run_a_shared_cell_once(desk):
    grid = content(("a", {"until": "go"}))
    first = start(grid)
    wait_for(lambda: fitting("a"))
    second = start(grid, "--output", "out2")
    assert "waiting for another process that runs it" in second.stdout.readline()
    Path("go").touch()
    outs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outs
    assert invocations() == {"a": 1}
    assert ["finished before" in out for out in outs] == [False, True]


# --- what it cost ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cost_of_a_cell_is_its_own(desk):
    """The large cell comes first: what its processes used must not be counted for the small one."""
    grid = content(("large", {"memory": 400, "sleep": 0.6}), "small")
    start(grid).communicate(timeout=60)  # not here: a process begins as a copy of the one that starts it
    (large,), (small,) = (read_attempts(cell) for cell in cells_of(grid))
    assert large["peak_memory"] > 400 * 2**20
    assert small["peak_memory"] < 350 * 2**20
    assert {*large["seconds"]} == {"prepare", "fit", "test", "total"}
    assert 0.5 < large["seconds"]["fit"] < large["seconds"]["total"] < 30
    assert large["seconds"]["total"] >= sum(v for k, v in large["seconds"].items() if k != "total") - 1e-6


@pytest.mark.parametrize("damaged", ["record", "metrics"])
def test_a_damaged_file_of_one_cell_is_named_and_the_others_run(desk, damaged):
    grid = content("a", ("b", {"gain": 0.5}))
    run_here(grid)
    cell = cells_of(grid)[0]
    path = cell.record if damaged == "record" else cell.run.metrics
    path.write_bytes(path.read_bytes()[:40])
    shutil.rmtree(cells_of(grid)[1].run.path)
    found, lines = run_here(grid)
    assert found == [("a", "failed"), ("b", "finished")]
    assert any(str(path) in line and "failed" in line for line in lines)
