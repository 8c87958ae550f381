"""`run` without its stages: what it starts, and the times that it writes."""

import json
from pathlib import Path

import pytest

from mllm_srec.__main__ import main
from mllm_srec.cli.commands import run

POPULARITY = Path(__file__).parents[3] / "configs/baselines/popularity.yaml"
DEMO = Path(__file__).parents[3] / "configs/demo.yaml"


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Commands that `run` starts; `test` fails if the list is told so."""
    monkeypatch.chdir(tmp_path)
    commands = []

    def start(command):
        commands.append(command[3])
        began = [(s["stage"], s["seconds"]) for s in json.loads(Path("runs/demo/a/stages.json").read_text())]
        assert began[-1] == (command[3], None), "written before the stage begins"
        return 3 if command[3] == "test" and "x" in commands else 0

    monkeypatch.setattr(run, "run_process", start)
    return commands


def call(*arguments):
    return main(["run", "--config", str(DEMO), "--config", str(POPULARITY), "--name", "a", *arguments])


def stages():
    return json.loads(Path("runs/demo/a/stages.json").read_text())


def test_the_times_of_its_stages_are_in_the_run_folder(started):
    assert call("--data.name", "demo") == 0
    assert started[0] == "prepare"
    assert started[-1] == "test"
    assert [entry["stage"] for entry in stages()] == started
    assert all(entry["seconds"] >= 0 for entry in stages())


def test_a_failing_stage_is_named_and_timed(started, capsys):
    started.append("x")
    assert call("--data.name", "demo") == 1
    assert "`test` ended with status 3; see its output above" in capsys.readouterr().err
    assert stages()[-1]["stage"] == "test"
    assert stages()[-1]["seconds"] is not None
