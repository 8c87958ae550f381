"""A run folder that an earlier version wrote still works: it is tested, ranked with and loaded as it was.

`old_run/` was written by commit 5b6864d: `fit` and `test` on a demo shop of 40 users, titles only, LoRA of rank 1. Only
paths of a disk were made relative in it. Its `config.yaml` states `data.packing.loss_on`, which has moved since.
"""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from mllm_srec import Ranker
from mllm_srec.__main__ import main
from mllm_srec.pipeline.runs.settings import read_settings

OLD = Path(__file__).with_name("old_run")
TOLERANCE = 1e-3
"""Between processors: 4-bit products differ in rounding. On one machine scores were equal to 1e-6."""


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The old run folder, in its place below an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(OLD, "runs/old-shop/old"))


@pytest.mark.slow
def test_an_old_run_is_tested_and_gives_its_scores(old, capsys):
    before = {path.name: pl.read_parquet(path) for path in (old / "predictions").iterdir()}
    metrics = json.loads((old / "metrics.json").read_text())
    checkpoint = old / "checkpoints/best.ckpt"
    assert main(["test", "--config", str(old / "config.yaml"), "--ckpt_path", str(checkpoint)]) == 0
    assert f"results, predictions and settings: {old}" in capsys.readouterr().out
    keys = ["group_id", "user_id", "item_id", "label", "kind"]
    for name, stored in before.items():
        current = pl.read_parquet(old / "predictions" / name)
        assert current.select(keys).equals(stored.select(keys))
        assert (current["score"] - stored["score"]).abs().max() < TOLERANCE
    again = json.loads((old / "metrics.json").read_text())
    assert again["test/candidates_hash"] == metrics["test/candidates_hash"]
    assert again["test/auc"] == pytest.approx(metrics["test/auc"], abs=0.02)


@pytest.mark.slow
def test_an_old_run_ranks(old):
    settings = read_settings(old)
    arguments = ["prepare", "--config", str(old / "config.yaml")]
    assert main(arguments) == 0
    ranked = Ranker.open(old).rank("U00000", top_k=5).table
    assert ranked.height == 5
    assert settings["model"]["loss_on"] == "all"
    assert "loss_on" not in settings["data"]["packing"]


def test_its_settings_are_those_that_were_written():
    """The fast part: every setting of the old file is known today, under its own or its new name."""
    written = yaml.safe_load((OLD / "config.yaml").read_text())
    assert written["data"]["packing"] == {
        "packed": True, "max_row_tokens": 4096, "padding_side": "right", "loss_on": "all"
    }  # fmt: skip
    from mllm_srec.cli.schema import full_parser

    parsed = full_parser("prepare", "").parse_args(["--config", str(OLD / "config.yaml")])
    assert parsed.data.packing.max_row_tokens == 4096
    assert parsed.model.lora.r == 1
