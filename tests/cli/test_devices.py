"""Devices that are not there, errors of devices, and settings that are refused before anything is built."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import Namespace

import mllm_srec.cli.commands.compare as some_command
from mllm_srec.__main__ import main
from mllm_srec.cli import devices
from mllm_srec.cli.devices import check_devices, chosen_devices, explain
from mllm_srec.types import ConfigError
from tests.test_import_direction import ROOT

DEMO = str(ROOT / "configs/demo.yaml")


def trainer(accelerator="auto", count="auto", strategy="auto"):
    return SimpleNamespace(accelerator=accelerator, devices=count, strategy=strategy)


@pytest.fixture
def machine(monkeypatch):
    """Function that sets what the machine has."""

    def has(cuda=0, mps=0):
        there = {"cpu": 1, "tpu": 0, "cuda": cuda, "mps": mps, "gpu": cuda or mps}
        monkeypatch.setattr(devices, "available", lambda: there)

    return has


@pytest.mark.parametrize("name", ["gpu", "cuda", "mps", "tpu"])
def test_an_accelerator_that_is_not_there_is_refused(machine, name):
    machine()
    with pytest.raises(ConfigError, match=rf"trainer.accelerator='{name}': .*; set it to auto or cpu"):
        check_devices(trainer(name))


def test_those_that_are_there_and_auto_pass(machine):
    machine(cuda=2)
    for accelerator, count in [("auto", "auto"), ("auto", 2), ("gpu", 2), ("cuda", "2"), ("gpu", [0, 1]), ("cpu", 9)]:
        check_devices(trainer(accelerator, count))
    machine(mps=1)
    check_devices(trainer("gpu", 1))
    machine()
    check_devices(trainer("cpu", 3))


@pytest.mark.parametrize(
    ("accelerator", "count"), [("gpu", 3), ("auto", 3), ("cuda", [0, 2]), ("gpu", "3"), ("gpu", "0,7"), ("auto", "7,")]
)
def test_more_devices_than_there_are_are_refused(machine, accelerator, count):
    machine(cuda=2)
    with pytest.raises(ConfigError, match=r"trainer.devices=.*: this machine has 2 that torch can use"):
        check_devices(trainer(accelerator, count))


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (2, 2), ("2", 2), ([0, 7], (0, 7)), ("0,7", (0, 7)), ("7,", (7,)), ("auto", None), (-1, None), ("-1", None),
        ("a,b", None), (True, None), (["a"], None),
    ],
)  # fmt: skip
def test_devices_are_a_number_or_indices(given, chosen):
    assert chosen_devices(given) == chosen


@pytest.mark.parametrize(
    "strategy", ["ddp_fork", "ddp_notebook_find_unused_parameters_true", Namespace(init_args={"start_method": "fork"})]
)
def test_processes_that_would_hang_are_refused(machine, strategy):
    machine()
    for fine in ("auto", "ddp", "ddp_spawn", Namespace(class_path="DDPStrategy", init_args={"start_method": "spawn"})):
        check_devices(trainer("cpu", 2, fine))
    with pytest.raises(
        ConfigError, match=r"trainer.strategy='.*fork.*|trainer.strategy='ddp_notebook.*; set it to ddp"
    ):
        check_devices(trainer("cpu", 2, strategy))


def test_a_misspelt_accelerator_gets_its_nearest():
    with pytest.raises(ConfigError, match=r"accelerator='gpus': is no accelerator; did you mean 'gpu'\?"):
        check_devices(trainer("gpus"))


def test_what_is_available_is_what_torch_sees():
    there = devices.available()
    assert there["cuda"] == torch.cuda.device_count()
    assert there["cpu"] == 1


REFUSED = {
    "model.lora.dropout=1.0": r"lora.dropout=1.0: must be in \[0, 1\)",
    "model.lora.target_modules=*.q_proj": r"target_modules='\*.q_proj': is no regular expression .* write \.\*",
    "model.lora.r=0": "lora.r=0: must be at least 1",
    "model.lr=-1e-3": "model.lr=-0.001: must be above 0",
    "model.lr=.nan": "model.lr=nan: must be above 0",
    "model.weight_decay=-1": "model.weight_decay=-1.0: must be at least 0",
    "model.warmup_steps=-1": "model.warmup_steps=-1: must be at least 0",
    "model.scoring=cached --model.scoring_tokens=0": "scoring_tokens=0: must be at least 1",
    "trainer.default_root_dir=null": "default_root_dir=None: names no folder for runs",
    "model.finetune=full": "finetune='full'",
    "trainer.accelerator=tpu": "accelerator='tpu': this machine has none",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_bad_settings_are_refused_before_the_shop_is_built(setting, tmp_path, capsys):
    assert main(["fit", "--config", DEMO, "--data.root", str(tmp_path / "data"), *f"--{setting}".split()]) == 1
    assert re.search(REFUSED[setting], capsys.readouterr().err)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["run", "summarize"])
def test_other_commands_check_devices_too(command, tmp_path, capsys):
    arguments = ["--config", DEMO, "--data.root", str(tmp_path / "data"), "--trainer.accelerator", "tpu"]
    assert main([command, *arguments]) == 1
    assert "accelerator='tpu': this machine has none" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


ERRORS = {
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has": "memory of the device is used up .*data.batch_size",
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried": "memory of the device is used up",
    "CUDA error: no kernel image is available for execution on the device\nmore": r"\(CUDA error: no kernel .*\);",
    "Found no NVIDIA driver on your system. Please check": "trainer.accelerator to cpu",
    "The NVIDIA driver on your system is too old (found version 11040)": "build of torch that fits its driver",
    "Torch not compiled with CUDA enabled": "trainer.accelerator to cpu",
    "Forgot to compile the bitsandbytes library?\n1. You're not using the package": "set model.quantization to none",
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors_of_devices_say_what_to_set(text, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError(text)

    monkeypatch.setattr(some_command, "main", fail)
    assert main(["compare", "a", "b"]) == 1
    assert re.search(ERRORS[text], capsys.readouterr().err)


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(some_command, "main", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["compare", "a", "b"])
    assert explain(MemoryError()) is not None
    assert explain(RuntimeError("CUDA error: device-side assert triggered")) is None


def test_no_flag_makes_a_checkpoint_run_code(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["test", "--config", DEMO, "--data.root", str(tmp_path), "--weights_only", "false"])
    assert end.value.code == 2
    assert "'weights_only' is not known" in capsys.readouterr().err


BLOCKED = """
import sys
sys.modules["bitsandbytes"] = sys.modules["peft"] = None
from mllm_srec.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def without_quantisation(*arguments):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, timeout=600, check=False
    )


SMALL = ["--prepare.demo.n_users", "30", "--prepare.demo.n_items", "60", "--data.max_test_groups", "3"]


@pytest.mark.slow
def test_a_baseline_needs_neither_bitsandbytes_nor_peft(tmp_path):
    places = ["--data.root", str(tmp_path / "data"), "--trainer.default_root_dir", str(tmp_path / "runs")]
    popularity = str(ROOT / "configs/baselines/popularity.yaml")
    done = without_quantisation("test", "--config", DEMO, "--config", popularity, *places, *SMALL)
    assert done.returncode == 0, done.stderr
    done = without_quantisation("test", "--config", DEMO, *places, *SMALL, "--model.finetune", "none")
    assert done.returncode == 1
    assert "model.quantization='nf4': bitsandbytes cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr
