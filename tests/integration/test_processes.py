"""Evaluation and training on several processes (gloo, CPU), as on a server with three GPUs: nothing depends on them."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml

from mllm_srec.metrics.evaluation import CALIBRATION

pytestmark = pytest.mark.slow

SHOP = ["--config", "shop.yaml"]
KEYS = ["group_id", "item_id"]


@pytest.fixture(scope="module")
def folder(shop_root, tiny_backbone, tmp_path_factory):
    """Folder with a configuration and the run `a`, trained on three processes, one of which validates nothing."""
    made = tmp_path_factory.mktemp("processes")
    raw = shop_root / "raw"
    settings = {
        "data": {
            "root": str(shop_root), "name": "processes", "batch_size": 3, "eval_batch_size": 3, "n_negatives": 4,
            "max_train_groups": 18, "max_eval_groups": 2, "pictures": {"max_pixels": 3136},
        },
        "prepare": {
            "source": "tables", "reviews": str(raw / "interactions.csv"), "metadata": str(raw / "items.csv"),
            "images": str(raw / "pictures"), "k_core": 1, "split": "leave_one_out",
        },
        "candidates": {"n_negatives": 4},
        "summaries": {"variant": "none"},
        "model": {"backbone": str(tiny_backbone), "lr": 5e-3, "quantization": "none", "lora": {"r": 4}},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False},
    }  # fmt: skip
    (made / "shop.yaml").write_text(yaml.safe_dump(settings))
    run(made, "prepare")
    out = run(made, "fit", "--name", "a", *processes(3))
    assert out.count("training ") == 1
    return made


def processes(n):
    return ["--trainer.devices", str(n), *(["--trainer.strategy", "ddp"] if n > 1 else [])]


def run(folder, command, *arguments):
    """One command of its own processes; what it printed."""
    words = [sys.executable, "-m", "mllm_srec", command, *SHOP, *arguments]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def outcome(folder, name, *arguments):
    """Metrics and tables of a test of run `a` in a copy of it."""
    copy = folder / "runs/processes" / name
    shutil.copytree(folder / "runs/processes/a", copy)
    run(folder, "test", "--ckpt_path", str(copy / "checkpoints/best.ckpt"), *arguments)
    return results(copy)


def results(made):
    found = json.loads((made / "metrics.json").read_text())
    tables = {
        name: pl.read_parquet(made / f"predictions/{name}.parquet") for name in ("test_pairs", "test", "test_users")
    }
    return {key: value for key, value in found.items() if key.startswith("test/")}, tables


def assert_same(found, expected):
    metrics, tables = found
    numbers = {key: value for key, value in expected[0].items() if isinstance(value, float)}
    assert len(numbers) > 40
    smooth = {f"test/{name}" for name in CALIBRATION}  # they follow every rounding of a score; ranks do not
    ranks = {key: value for key, value in numbers.items() if key not in smooth}
    assert {key: metrics[key] for key in ranks} == pytest.approx(ranks, abs=1e-9)
    assert {key: metrics[key] for key in numbers} == pytest.approx(numbers, abs=1e-5)
    for name in ("test_pairs", "test"):
        assert tables[name].select(KEYS).equals(expected[1][name].select(KEYS))
        assert (tables[name]["score"] - expected[1][name]["score"]).abs().max() < 1e-5
    assert (
        tables["test_users"]
        .select("group_id", "user_id")
        .equals(expected[1]["test_users"].select("group_id", "user_id"))
    )


@pytest.fixture(scope="module")
def expected(folder):
    """Results of one process."""
    return outcome(folder, "one")


def test_training_on_three_processes_validates_every_list_once(folder):
    found = json.loads((folder / "runs/processes/a/metrics.json").read_text())
    assert (found["val/n_users"], found["fit/steps"]) == (2, 2)
    assert found["val/auc"] is not None


def weights(made):
    return torch.load(made / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_processes_that_are_told_to_stop_agree_on_a_step(folder):
    """SIGTERM to the first one only, as by `kill`; what is continued equals what was never stopped."""
    settings = yaml.safe_load((folder / "shop.yaml").read_text())
    settings["baseline"] = {"class_path": "mllm_srec.baselines.gru4rec.GRU4Rec", "init_args": {"patience": 99}}
    settings["trainer"] |= {"max_epochs": 60, "accumulate_grad_batches": 2, "devices": 2, "strategy": "ddp"}
    settings["data"] |= {"batch_size": 1, "max_train_groups": 10}
    (folder / "gru.yaml").write_text(yaml.safe_dump(settings))
    whole, part = (folder / "runs/processes" / name for name in ("gru-whole", "gru-part"))
    start = [sys.executable, "-m", "mllm_srec", "fit", "--config", "gru.yaml", "--name"]
    subprocess.run([*start, whole.name], cwd=folder, check=True, capture_output=True)
    process = subprocess.Popen([*start, part.name], cwd=folder, stderr=subprocess.PIPE, text=True)
    while not (part / "checkpoints/last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert err.count("stopped by SIGTERM") == 1, "the first process speaks for all"
    words = shlex.split(err.strip().splitlines()[-1])[1:]
    done = subprocess.run([sys.executable, *words], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(torch.equal(value, weights(part)[name]) for name, value in weights(whole).items())


@pytest.mark.parametrize("n", [2, 3])
def test_any_number_of_processes_gives_the_same(folder, expected, n):
    assert_same(outcome(folder, f"on-{n}", *processes(n)), expected)


def test_batches_of_any_size_give_the_same(folder, expected):
    assert_same(outcome(folder, "batches", "--data.eval_batch_size", "1"), expected)
    assert_same(outcome(folder, "tokens", "--data.eval_batch_tokens", "700", "--model.scoring", "cached"), expected)


def test_processes_without_any_list_take_part(folder):
    limit = ["--data.max_test_groups", "2"]
    assert_same(outcome(folder, "two-on-3", *limit, *processes(3)), outcome(folder, "two", *limit))


def parts(made):
    return list((made / "predictions").glob(".test-*/*.parquet"))


@pytest.mark.parametrize("n", [(1, 1), (3, 2)])
def test_a_killed_evaluation_continues_on_other_processes(folder, expected, n):
    """SIGKILL to all processes at random moments, then to the end; every row once, every number the same."""
    before, after = n
    made = folder / "runs/processes" / f"killed-{before}-{after}"
    shutil.copytree(folder / "runs/processes/a", made)
    words = ["--ckpt_path", str(made / "checkpoints/best.ckpt"), "--data.eval_batch_size", "1"]
    moments, seen = random.Random(before), []
    for _ in range(3):
        target = len(parts(made)) + moments.randint(1, 5)
        process = subprocess.Popen(
            [sys.executable, "-m", "mllm_srec", "test", *SHOP, *words, *processes(before)],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None and len(parts(made)) < target:
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        seen.append(len(parts(made)))
    assert seen[0] > 0
    assert seen == sorted(seen)
    out = run(folder, "test", *words, *processes(after))
    assert "continuing an interrupted evaluation" in out
    assert_same(results(made), expected)
    assert not parts(made)


def test_a_folder_of_a_run_is_left_whole(folder, expected):
    """Nothing but results: no parts, no partial files."""
    left = [path.name for path in Path(folder / "runs/processes/one/predictions").iterdir()]
    assert sorted(left) == [".lock", "test.parquet", "test_pairs.parquet", "test_users.parquet"]
