"""`run` in one process gives what its commands give, each in a process of its own, and needs no more memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml

from mllm_srec.files.reading import read_json

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "data": {"name": "tiny", "n_negatives": 4, "batch_size": 4, "max_train_groups": 24, "max_eval_groups": 8},
    "prepare": {"source": "demo", "k_core": 1, "demo": {"n_users": 16, "n_items": 40, "n_interactions": 8}},
    "candidates": {"n_negatives": 4},
    "summaries": {"variant": "base", "image": {"quantization": "none"}, "preference": {"quantization": "none"},
                  "item": {"quantization": "none"}},
    "model": {"backbone": "demo", "lora": {"dropout": 0.2}, "lr": 5e-3},
    "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False},
}  # fmt: skip


def start(folder, *words):
    """Run a command in a process of its own; returns its peak of memory in bytes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "mllm_srec", words[0], "--config", "tiny.yaml", "--name", "a", *words[1:]],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, out
    return usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_run_equals_its_commands(tmp_path):
    one, several = tmp_path / "one", tmp_path / "several"
    for folder in (one, several):
        folder.mkdir()
        (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    peak = start(one, "run")
    best = "runs/tiny/a/checkpoints/best.ckpt"
    peaks = [start(several, *words) for words in (["prepare"], ["summarize"], ["fit"], ["test", "--ckpt_path", best])]
    runs = [folder / "runs/tiny/a" for folder in (one, several)]
    results = [read_json(run / "metrics.json", "results", "") for run in runs]
    for found in results:  # checkpoints hold the path of their folder
        assert found.pop("test/weights") == found.pop("test/begun_weights")
    assert results[0] == results[1]
    assert "test/ndcg@10" in results[0]
    for name in ("test", "test_pairs", "test_users"):
        tables = [pl.read_parquet(run / f"predictions/{name}.parquet") for run in runs]
        assert tables[0].equals(tables[1])
    for name in ("best", "last"):
        states = [torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"] for run in runs]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert [stage["stage"] for stage in json.loads((runs[0] / "stages.json").read_text())] == [
        "prepare", "summarize", "fit", "test"
    ]  # fmt: skip
    print(f"peak memory: {peak / 2**20:.0f} MiB in one process, at most {max(peaks) / 2**20:.0f} MiB in several")
    assert peak < 0.75 * (max(peaks) + min(peaks)), "far from the sum of two stages, whatever else the machine does"
