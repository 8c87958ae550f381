"""Which commands may share a process, and what a command leaves to the next in it."""

import gc
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch

from mllm_srec.__main__ import COMMANDS
from mllm_srec.cli import one_process
from mllm_srec.cli.one_process import MODULES, run_here, runs_here
from mllm_srec.files.signals import Stopped
from mllm_srec.types import ConfigError


def trainer(**changes):
    return SimpleNamespace(**{"accelerator": "cpu", "devices": "auto", "num_nodes": 1, "strategy": "auto", **changes})


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in one_process.LAUNCHED:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "changes", [{}, {"devices": 1}, {"devices": "1"}, {"devices": [1]}, {"devices": "1,"},
                {"strategy": "single_device"}, {"accelerator": "mps"}, {"accelerator": "gpu", "devices": 1}],
)  # fmt: skip
def test_one_device_is_one_process(changes):
    assert runs_here(trainer(**changes))


@pytest.mark.parametrize(
    "changes", [{"devices": 2}, {"devices": "2"}, {"devices": [0, 1]}, {"devices": "0,1"}, {"num_nodes": 2},
                {"strategy": "ddp"}, {"strategy": {"class_path": "x"}}, {"accelerator": "tpu"}],
)  # fmt: skip
def test_several_devices_are_several_processes(changes):
    assert not runs_here(trainer(**changes))


@pytest.mark.parametrize("n_gpus", [0, 1, 3])
@pytest.mark.parametrize("devices", ["auto", -1])
def test_all_devices_are_counted(n_gpus, devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    assert runs_here(trainer(accelerator="auto", devices=devices)) == (n_gpus < 2)


@pytest.mark.parametrize("name", one_process.LAUNCHED)
def test_processes_of_a_launcher_start_each_command_anew(name, monkeypatch):
    monkeypatch.setenv(name, "2")
    assert not runs_here(trainer())
    monkeypatch.setenv(name, "1")
    assert runs_here(trainer())


def test_the_table_is_that_of_the_dispatcher():
    assert {command: COMMANDS[command][0] for command in MODULES} == MODULES


class Model:
    """Refers to itself, as modules and their callbacks do."""

    def __init__(self):
        self.itself = self


@pytest.mark.parametrize(("error", "status"), [(None, 0), (ConfigError("x"), 1), (Stopped(15), 143)])
def test_a_command_leaves_nothing(error, status, monkeypatch):
    import mllm_srec.cli.commands.prepare as module

    made, finished = [], []
    monkeypatch.setitem(
        sys.modules, "wandb", SimpleNamespace(run=1, finish=lambda exit_code: finished.append(exit_code))
    )

    def command(name, arguments):
        assert (name, arguments) == ("prepare", ["--x"])
        made.append(weakref.ref(Model()))
        if error is not None:
            raise error

    monkeypatch.setattr(module, "main", command)
    gc.disable()
    try:
        if error is None:
            run_here("prepare", ("--x",))
        else:
            with pytest.raises(type(error)):
                run_here("prepare", ("--x",))
        assert made[0]() is None
    finally:
        gc.enable()
    assert finished == [status], "the next command would log into its run, or a failed one be called finished"
