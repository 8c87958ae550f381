"""Sweeps: the command lines that an agent builds from `configs/sweeps`, and what such a run logs without network."""

import json
import os
import struct
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml
from PIL import Image
from wandb.proto import wandb_internal_pb2
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.wandb_agent import Agent

from mllm_srec.baselines.sasrec import SASRec
from mllm_srec.cli.schema import full_parser

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = {path.stem: path for path in sorted((ROOT / "configs/sweeps").glob("*.yaml"))}
MONITORS = {"lora_cot": "val/auc", "sasrec": SASRec.monitor}


def choices(sweep):
    """Every combination of listed values; of a range its ends."""
    values = {name: p["values"] if "values" in p else [p["min"], p["max"]] for name, p in sweep["parameters"].items()}
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def agents_command(sweep, chosen):
    """What `wandb agent` runs: its own code fills in the macros, but for the last step, which is part of a loop."""
    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    macros |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    words = create_sweep_command(list(sweep["command"]))
    return [
        part for word in words for part in (macros[word[2:-1]] if word.startswith("${") else [word])
    ]  # fmt: skip


@pytest.mark.parametrize("name", SWEEPS)
def test_every_command_of_a_sweep_is_understood(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(SWEEPS[name].read_text())
    assert sweep["metric"] == {"name": MONITORS[name], "goal": "maximize"}
    assert Path(sweep["program"]).is_file()
    parser = full_parser("fit", "")
    for chosen in choices(sweep):
        command = agents_command(sweep, chosen)
        assert command[:5] == ["/usr/bin/env", "python", "-m", "mllm_srec", "fit"]
        settings = parser.parse_args(command[5:])
        assert settings.tracking.wandb
        assert {key: settings[key] for key in chosen} == chosen


BLOCK, FILE_HEADER, HEADER = 32768, 7, 7
WHOLE, FIRST, _, LAST = 1, 2, 3, 4


def records(folder):
    """Everything in the file of an offline run, which is LevelDB's log format behind a header."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content, at, parts, found = path.read_bytes(), FILE_HEADER, [], []
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # a block's end too short for a header
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + HEADER])
        parts = ([] if kind in (WHOLE, FIRST) else parts) + [content[at + HEADER : at + HEADER + size]]
        at += HEADER + size
        if kind in (WHOLE, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            found.append(record)
    return found


TINY = {
    "data": {"name": "tiny", "n_negatives": 4, "batch_size": 4, "max_train_groups": 12, "max_eval_groups": 8},
    "prepare": {"source": "demo", "k_core": 1, "demo": {"n_users": 16, "n_items": 40, "n_interactions": 8}},
    "candidates": {"n_negatives": 4},
    "model": {"backbone": "demo", "quantization": "none"},
    "trainer": {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, "enable_progress_bar": False},
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SWEEPS)
def test_a_run_of_an_agent_logs_settings_metrics_and_examples(name, tmp_path, monkeypatch):
    """Started by the agent's own code; only what the files that it names say is smaller."""
    sweep = yaml.safe_load(SWEEPS[name].read_text())
    (tmp_path / "configs/baselines").mkdir(parents=True)
    overlay = yaml.safe_load((ROOT / "configs/baselines/sasrec.yaml").read_text())
    overlay["trainer"]["max_epochs"] = 2
    (tmp_path / "configs/baselines/sasrec.yaml").write_text(yaml.safe_dump(overlay))
    (tmp_path / "configs/beauty.yaml").write_text(yaml.safe_dump({**TINY, "summaries": {"variant": "base"}}))
    chosen = choices(sweep)[-1]
    monkeypatch.chdir(tmp_path)
    for variable, value in {
        "WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "WANDB_DIR": "", "WANDB_RUN_ID": "", "WANDB_SWEEP_PARAM_PATH": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(variable, value)  # the last three are the agent's to set, and are put back afterwards
    for variable in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.delenv(variable)
    for stage in (["prepare"], ["summarize"]) if name == "lora_cot" else (["prepare"],):
        words = [sys.executable, "-m", "mllm_srec", *stage, "--config", "configs/beauty.yaml"]
        subprocess.run(words, check=True, capture_output=True, timeout=400)
    agent = Agent(api=None, queue=None, sweep_id="s1")
    agent._sweep_command = list(sweep["command"])
    told = {"run_id": "r1", "program": sweep["program"], "args": {key: {"value": chosen[key]} for key in chosen}}
    agent._command_run(told)
    assert agent._run_processes["r1"].wait(timeout=400) == 0, "its output stands above"
    run = tmp_path / "runs/tiny/sweep-r1-0"
    found = records(run / "logs")
    config = {
        update.key: json.loads(update.value_json)
        for record in found if record.HasField("config") or record.HasField("run")
        for update in (record.config.update if record.HasField("config") else record.run.config.update)
    }  # fmt: skip
    for key, value in chosen.items():
        at = config["config"]
        for part in key.split("."):
            at = at[part]
        assert at == value
    logged = {
        item.key or "/".join(item.nested_key): item.value_json
        for record in found if record.HasField("summary")
        for item in record.summary.update
    }  # fmt: skip
    assert logged, "what a sweep judges by"
    history = {item.key or "/".join(item.nested_key) for r in found for item in r.history.item}
    stored = json.loads((run / "metrics.json").read_text())
    assert json.loads(logged[sweep["metric"]["name"]]) == pytest.approx(stored[sweep["metric"]["name"]], abs=1e-6)
    assert {"train/loss", sweep["metric"]["name"]} <= history
    assert {record.run.sweep_id for record in found if record.HasField("run")} == {"s1"}
    (artifact,) = [record.artifact for record in found if record.HasField("artifact")]
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    content = json.loads(files["examples.table.json"].read_text())
    assert content["columns"] == ["user_id", "history", "picture", "title", "label", "probability", "score"]
    assert 0 < len(content["data"]) <= 16
    assert all(path.is_relative_to(run) for path in files.values()), "a folder that can be taken elsewhere"
    for row in content["data"]:
        with Image.open(files[row[2]["path"]]) as picture:
            assert picture.size == (56, 56)
    stated = [row[5] is not None for row in content["data"]]
    assert all(stated) if name == "lora_cot" else not any(stated), "only the language model states probabilities"
