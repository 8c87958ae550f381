"""`stages.json`: what `run` writes of its stages, and the clock of a grid that reads it."""

import json
import os
import signal
import subprocess
import sys
from datetime import datetime

import pytest

from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.stages import StageClock, read_stages, stages_path, timed_stage
from mllm_srec.types import ConfigError, DataError


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "runs/shop/a")


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def test_a_stage_is_written_when_it_begins_and_when_it_ends(run):
    clock = Clock()
    assert read_stages(run) == []
    with timed_stage(run, "prepare", clock):
        (entry,) = json.loads(stages_path(run).read_text())
        assert (entry["stage"], entry["seconds"]) == ("prepare", None)
        assert datetime.fromisoformat(entry["began"]).tzinfo is not None
        clock.time = 2.5
    with timed_stage(run, "fit", clock):
        clock.time = 4.0
    assert [(s["stage"], s["seconds"]) for s in read_stages(run)] == [("prepare", 2.5), ("fit", 1.5)]
    assert [path.name for path in run.path.iterdir()] == ["stages.json"], "no partial file is left"


def test_a_failing_stage_has_a_time_too(run):
    run.create()
    run.config.touch()
    with pytest.raises(RuntimeError, match="no memory"), timed_stage(run, "fit"):
        raise RuntimeError("no memory")
    assert read_stages(run)[0]["seconds"] is not None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_folder_of_failed_stages_alone_does_not_stay(run, error):
    with timed_stage(run, "prepare"):
        pass
    with pytest.raises(error), timed_stage(run, "fit"):
        raise error
    assert not run.path.exists()


def test_a_killed_stage_has_none_and_a_continued_run_adds_to_it(run):
    code = (
        "import sys, time; from pathlib import Path; from mllm_srec.pipeline.runs.folder import RunFolder\n"
        "from mllm_srec.pipeline.runs.stages import timed_stage\n"
        f"with timed_stage(RunFolder(Path({str(run.path)!r})), 'fit'): print('in', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"in\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with timed_stage(run, "fit", Clock()):
        pass
    assert [(s["stage"], s["seconds"]) for s in read_stages(run)] == [("fit", None), ("fit", 0.0)]


def test_a_folder_that_cannot_be_written(run):
    run.path.parent.parent.mkdir()
    run.path.parent.touch()
    with pytest.raises(ConfigError, match=r"cannot be written .*trainer.default_root_dir"), timed_stage(run, "fit"):
        pass


@pytest.mark.parametrize("text", ["{", "{}x", '[{"stage": "fit"}]', "[1]", "3"])
def test_a_damaged_file_is_named(run, text):
    run.create()
    stages_path(run).write_text(text)
    with pytest.raises(DataError, match=r"stages\.json: the times of stages cannot be read .*; delete it"):
        read_stages(run)


# --- the clock of a grid ----------------------------------------------------------------------------------------------


def test_the_clock_sees_stages_begin_and_end_while_run_works(run):
    with timed_stage(run, "fit", Clock()):
        pass
    now, of_run = Clock(), Clock()
    clock = StageClock(run, now)

    def at(seconds):
        now.time = of_run.time = seconds
        clock.tick()
        return clock.stage

    assert at(1) is None, "what an earlier process left is passed over"
    with timed_stage(run, "prepare", of_run):
        assert at(3) == "prepare"
        at(7)
    assert at(7) == "prepare", "ended, and nothing else begun"
    with timed_stage(run, "fit", of_run):
        assert at(8) == "fit"
        at(10)
        assert clock.seconds() == {"prepare": 6.0, "fit": 2.0, "total": 10.0}, "until now"
    at(11)
    assert clock.seconds() == {"prepare": 6.0, "fit": 3.0, "total": 11.0}


def test_a_stage_that_comes_twice_counts_twice(run):
    of_run = Clock()
    clock = StageClock(run, of_run)
    for stage, seconds in (("fit", 2.0), ("test", 1.0), ("fit", 6.0)):
        with timed_stage(run, stage, of_run):
            of_run.time += seconds
    clock.tick()
    assert clock.seconds() == {"fit": 8.0, "test": 1.0, "total": 9.0}


def test_the_clock_keeps_what_it_saw_of_a_folder_that_is_removed(run):
    of_run = Clock()
    clock = StageClock(run, of_run)
    stage = timed_stage(run, "fit", of_run)
    stage.__enter__()
    of_run.time = 3.0
    clock.tick()
    assert not stage.__exit__(RuntimeError, RuntimeError(), None)
    assert not run.path.exists()
    clock.tick()
    assert clock.stage == "fit"
    assert clock.seconds()["total"] == 3.0


def test_the_clock_of_a_run_that_never_begins(run):
    now = Clock()
    clock = StageClock(run, now)
    now.time = 0.5
    clock.tick()
    assert (clock.stage, clock.seconds()) == (None, {"total": 0.5})
