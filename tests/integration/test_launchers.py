"""The overlays for several GPUs as they are, with gloo on a CPU: our launcher, torchrun on two machines, and Slurm."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mllm_srec.cli.schema import full_parser

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "configs/trainer"
TINY = {
    "data": {"name": "tiny", "n_negatives": 4, "batch_size": 3, "max_train_groups": 18, "max_eval_groups": 6},
    "prepare": {"source": "demo", "k_core": 1, "demo": {"n_users": 16, "n_items": 40, "n_interactions": 8}},
    "candidates": {"n_negatives": 4},
    "summaries": {"variant": "none"},
    "model": {"backbone": "demo", "quantization": "none"},
    "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False},
}
STEPS = {3: 2, 2: 3}
"""Processes -> steps of an epoch: six batches of three contexts."""


@pytest.mark.parametrize("path", sorted(OVERLAYS.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_overlay_is_understood_on_top_of_a_data_set(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = full_parser("fit", "").parse_args(["--config", "configs/beauty.yaml", "--config", str(path)])
    own = yaml.safe_load(path.read_text())["trainer"]
    assert {key: settings.trainer[key] for key in own} == own
    assert (settings.trainer.devices, settings.trainer.strategy, settings.trainer.precision) == (3, "ddp", "bf16-mixed")


@pytest.fixture
def desk(tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return tmp_path


def environment(**more):
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "MASTER_", "TORCHELASTIC"))
    }
    return {**kept, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1", **more}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def fit(overlay, *changes):
    return ["fit", "--config", "tiny.yaml", "--config", str(OVERLAYS / f"{overlay}.yaml"), *changes]


def finish(folder, commands):
    """Start commands side by side, (words, environment) each; all must end well."""
    started = [
        subprocess.Popen(words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for words, env in commands
    ]
    outs = [process.communicate(timeout=400)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(outs)
    return "\n".join(outs)


def check_one_run(folder, out, n_processes, name=None):
    """All processes worked in one run folder, on one training, and each list was validated once."""
    (run,) = (folder / "runs/tiny").iterdir()
    assert name is None or run.name == name
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["fit/steps"] == STEPS[n_processes]
    assert metrics["val/n_users"] == 6
    assert out.count("training ") == 1
    assert (run / "adapter").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_processes_of_one_machine(desk):
    words = [sys.executable, "-m", "mllm_srec", *fit("ddp3", "--trainer.accelerator=cpu")]
    check_one_run(desk, finish(desk, [(words, environment())]), 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_on_two_machines(desk):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launch += ["--master_addr", "127.0.0.1", "--master_port", free_port(), "--rdzv_id", "job-7"]
    own = fit("torchrun", "--trainer.accelerator=cpu", "--trainer.devices=1")
    commands = [([*launch, "--node_rank", str(n), "-m", "mllm_srec", *own], environment()) for n in (0, 1)]
    check_one_run(desk, finish(desk, commands), 2, "job-7-0")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_slurm_with_two_tasks_on_two_machines(desk):
    words = [sys.executable, "-m", "mllm_srec"]
    words += fit("slurm", "--trainer.accelerator=cpu", "--trainer.devices=1")
    port = free_port()
    commands = [
        (words, environment(
            SLURM_JOB_ID="4711", SLURM_STEP_ID="0", SLURM_JOB_NAME="train", SLURM_NTASKS="2",
            SLURM_NTASKS_PER_NODE="1", SLURM_NNODES="2", SLURM_PROCID=str(n), SLURM_LOCALID="0", SLURM_NODEID=str(n),
            SLURM_NODELIST="localhost", MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
        ))
        for n in (0, 1)
    ]  # fmt: skip
    out = finish(desk, commands)
    check_one_run(desk, out, 2, "4711.0-0")
    assert "requeueing enabled" not in out
