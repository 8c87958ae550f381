"""`run` without its stages: what it starts, in which process, and the times that it writes."""

import json
from pathlib import Path

import pytest

from mllm_srec.__main__ import main
from mllm_srec.cli.commands import run
from mllm_srec.types import ConfigError

POPULARITY = Path(__file__).parents[3] / "configs/baselines/popularity.yaml"
DEMO = Path(__file__).parents[3] / "configs/demo.yaml"


def begun():
    return [(entry["stage"], entry["seconds"]) for entry in stages()]


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Commands that `run` runs in its own process; `test` fails if the list is told so."""
    monkeypatch.chdir(tmp_path)
    commands = []

    def start(command, arguments):
        commands.append(command)
        assert begun()[-1] == (command, None), "written before the stage begins"
        if command == "test" and "x" in commands:
            Path("runs/demo/a/config.yaml").touch()
            raise ConfigError("k_core=0: too small; give 1")

    monkeypatch.setattr(run, "run_here", start)
    monkeypatch.setattr(run, "run_process", lambda *_: pytest.fail("another process"))
    return commands


@pytest.fixture
def apart(monkeypatch, tmp_path):
    """Commands that `run` starts as processes; the second fails."""
    monkeypatch.chdir(tmp_path)
    commands = []

    def start(command):
        commands.append(command[3])
        return 3 if len(commands) == 2 else 0

    monkeypatch.setattr(run, "run_process", start)
    monkeypatch.setattr(run, "run_here", lambda *_: pytest.fail("this process"))
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


def test_a_failing_stage_is_timed(started, capsys):
    started.append("x")
    assert call("--data.name", "demo") == 1
    assert "mllm_srec run: error: k_core=0: too small; give 1" in capsys.readouterr().err
    assert stages()[-1]["stage"] == "test"
    assert stages()[-1]["seconds"] is not None


def test_several_devices_get_a_process_for_each_stage(apart, capsys):
    assert call("--trainer.devices", "2") == 1
    assert apart == ["prepare", "test"]
    assert not Path("runs/demo/a").exists(), "nothing came of it"
    assert "`test` ended with status 3; see its output above" in capsys.readouterr().err


def test_settings_that_do_harm_are_refused_before_anything_is_prepared(started, capsys):
    assert call("--trainer.precision", "bf16-true") == 1
    assert "would silently cast" in capsys.readouterr().err
    assert started == []
    assert list(Path().iterdir()) == []
