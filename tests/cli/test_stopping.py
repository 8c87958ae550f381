"""What a command that was told to stop says of how it goes on: true of this command, in this place."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from mllm_srec.__main__ import COMMANDS
from mllm_srec.cli.commands import rank
from mllm_srec.cli.experiment import ExperimentCLI
from mllm_srec.cli.stopping import AFTER_STOP, run_stoppable
from mllm_srec.files.signals import Stopped
from mllm_srec.pipeline.ranking import all_users
from mllm_srec.pipeline.runs.folder import RunFolder


def advice(folder, command, *typed, last=False, dry=False, checkpoints=(1,), **settings):
    run = RunFolder(folder / "20250101-000000-0")
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    if last:
        run.last.touch()
    stated = SimpleNamespace(**{"ckpt_path": None, "name": None, **settings})
    trainer = SimpleNamespace(global_step=7, checkpoint_callbacks=list(checkpoints))
    stub = SimpleNamespace(subcommand=command, typed=typed, dry=dry, run=run, settings=stated, trainer=trainer)
    return ExperimentCLI._how_to_go_on(stub)


def test_a_training_goes_on_from_its_last_checkpoint(tmp_path):
    found = advice(tmp_path, "fit", "--config", "a.yaml", "--ckpt_path", "old.ckpt", last=True)
    last = tmp_path / "20250101-000000-0/checkpoints/last.ckpt"
    assert found == (f"{last} holds step 7; go on with\n  python -m mllm_srec fit --config a.yaml --ckpt_path {last}")


def test_a_training_without_checkpoints_begins_anew(tmp_path):
    found = advice(tmp_path, "fit", checkpoints=())
    assert found.startswith("without checkpoints (trainer.enable_checkpointing=false) nothing of it is kept; ")
    assert advice(tmp_path, "fit") is None, "not begun; what is said of it stands in the table"


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_measurement_goes_on_in_its_folder(tmp_path, command):
    """Without a name, the same words would begin another one, named after the time."""
    begin = f"what is scored is kept; go on with\n  python -m mllm_srec {command} --config a.yaml"
    typed = ("--config", "a.yaml")
    assert advice(tmp_path, command, *typed) == f"{begin} --name 20250101-000000-0"
    named = advice(tmp_path, command, *typed, "--name", "x", name="x")
    assert named == f"{begin} --name x"
    assert advice(tmp_path, command, *typed, "--ckpt_path", "b", ckpt_path="b") == f"{begin} --ckpt_path b"
    assert "goes on" in AFTER_STOP[command]


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_trial_leaves_nothing(tmp_path, command):
    assert advice(tmp_path, command, dry=True, last=True) == "a trial leaves nothing; the same command starts again"


def test_lists_of_all_users_go_on_and_a_list_of_one_does_not(monkeypatch, capsys):
    def stopped(*_):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(all_users, "write_lists", stopped)
    ranker = SimpleNamespace(chooser=SimpleNamespace(covers=lambda _: True, source="all"))
    assert run_stoppable("rank", lambda: rank._write(ranker, Path("x.csv"), ["u"], [], 3)) == 143
    assert "finished lists are kept; the same command goes on from there" in capsys.readouterr().err
    assert run_stoppable("rank", stopped) == 143
    assert "nothing was written; the same command starts again" in capsys.readouterr().err


def test_the_table_is_of_commands_that_exist():
    assert AFTER_STOP.keys() <= COMMANDS.keys()
