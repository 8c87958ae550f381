"""What a cell cost: stages by the log, memory and commits."""

import subprocess
import sys

import pytest

from mllm_srec.pipeline.grid.record import StageClock, peak_bytes
from mllm_srec.pipeline.runs.provenance import commit, versions


def test_stages_are_timed_by_the_lines_of_run(tmp_path):
    log, times = tmp_path / "log", [0.0]
    log.write_text("$ python -m mllm_srec fit of an earlier attempt\n")
    clock = StageClock(log, lambda: times[0])

    def at(seconds, text):
        times[0] = seconds
        with log.open("a") as file:
            file.write(text)
        clock.tick()
        return clock.stage

    assert at(1, "Seed set to 0\n") is None
    assert at(2, "$ python -m mllm_srec prep") is None, "half a line"
    assert at(3, "are --config x\n  $ python -m mllm_srec no stage\n") == "prepare"
    assert at(7, "\xfc\n$ python -m mllm_srec fit --a 'b c'\nepoch\n$ python -m mllm_srec test\n") == "test"
    assert at(7.5, "$ python -m mllm_srecfit\n") == "test"
    times[0] = 9
    assert clock.seconds() == {"prepare": 4.0, "fit": 0.0, "test": 2.0, "total": 9.0}


def test_a_stage_that_comes_twice_counts_twice(tmp_path):
    log, times = tmp_path / "log", [0.0]
    log.touch()
    clock = StageClock(log, lambda: times[0])
    for now, stage in ((1, "fit"), (3, "test"), (4, "fit")):
        times[0] = now
        with log.open("a") as file:
            file.write(f"$ python -m mllm_srec {stage}\n")
        clock.tick()
    times[0] = 10
    assert clock.seconds() == {"fit": 2.0 + 6.0, "test": 1.0, "total": 10.0}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count in bytes")
def test_peak_memory_is_in_bytes():
    assert peak_bytes(3) == 3 * 1024


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_commit_of_a_package(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n")
    beside = [tmp_path / "experiments/results/t.json", tmp_path / "experiments/LOG.md", tmp_path / "configs/demo.yaml"]
    for path in beside:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n")
    assert commit(package) == (None, None)
    git(tmp_path, "init")
    assert commit(package) == (None, None), "installed within another repository's folder"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    head = tmp_path / ".git" / "refs" / "heads"
    (branch,) = head.iterdir()
    assert commit(package) == (branch.read_text().strip(), False)
    (package / "new.py").touch()
    assert commit(package)[1] is False, "a file that git does not know changes nothing that it knows"
    for path in beside[:2]:
        path.write_text("2\n")
    assert commit(package)[1] is False, "results and texts decide no number"
    beside[2].write_text("2\n")
    assert commit(package)[1] is True, "configurations do"
    git(tmp_path, "checkout", "configs/demo.yaml")
    (package / "__init__.py").write_text("a = 2\n")
    assert commit(package) == (branch.read_text().strip(), True)


def test_the_commit_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == (None, None)


def test_versions_of_libraries():
    import torch

    found = versions()
    assert found["torch"] == torch.__version__
    assert found["python"] == sys.version.split()[0]
