"""A grid of two rows and two seeds on a tiny demo shop, with the recommender itself."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mllm_srec.__main__ import main
from mllm_srec.files.reading import read_json

DEMO = Path(__file__).resolve().parents[2] / "configs/demo.yaml"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # nine processes that import everything
def test_a_grid_on_the_demo_shop(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = {"n_users": 16, "n_items": 40, "n_interactions": 8, "image_size": 28}
    small = {"prepare.k_core": 1, "summaries.variant": "none", "trainer.max_epochs": 1, "data.max_train_groups": 16}
    small |= {"data.batch_size": 4, "model.warmup_steps": 0}  # else nothing is learnt, and seeds are alike
    grid = {
        "base": [str(DEMO)],
        "seeds": [0, 1],
        "set": {**small, "prepare.demo": sizes},
        "rows": [{"label": "both"}, {"label": "text only", "set": {"data.pictures.serve": "none"}}],
    }
    Path("tiny.yaml").write_text(yaml.safe_dump(grid))
    assert main(["grid", "--config", "tiny.yaml"]) == 0
    out = capsys.readouterr().out
    assert "[4/4] text-only-1-" in out
    folder = Path("experiments/results/tiny")
    cells = [json.loads(path.read_text()) for path in sorted((folder / "cells").iterdir())]
    assert [(cell["row"], cell["seed"]) for cell in cells] == [
        ("both", 0), ("both", 1), ("text only", 0), ("text only", 1),
    ]  # fmt: skip
    assert len({cell["candidates_hash"] for cell in cells}) == 1
    for cell in cells:
        stored = read_json(Path(cell["run"]) / "metrics.json", "results", "")
        assert cell["metrics"] == stored
        assert {"fit", "test", "total"} <= set(cell["seconds"])
        assert cell["seconds"]["fit"] > 0.5
        assert cell["peak_memory"] > 200 * 2**20
        settings = yaml.safe_load((Path(cell["run"]) / "config.yaml").read_text())
        assert settings["seed_everything"] == cell["seed"]
        assert settings["data"]["pictures"]["serve"] == ("features" if cell["row"] == "both" else "none")
        assert settings["data"]["pictures"]["max_pixels"] == 3136, "of configs/demo.yaml, which the flag leaves"
    assert "prepare" in cells[0]["seconds"]
    assert not any("prepare" in cell["seconds"] for cell in cells[1:])
    scores = [pd.read_parquet(Path(cell["run"]) / "predictions/test.parquet")["score"] for cell in cells]
    assert not scores[0].equals(scores[1]), "the seed did not reach the run"
    summary = pd.read_csv(folder / "summary.csv")
    means = summary.query("not reference and metric == 'auc'").set_index("row")["mean"]
    for row in ("both", "text only"):
        values = [cell["metrics"]["test/auc"] for cell in cells if cell["row"] == row]
        assert means[row] == pytest.approx(sum(values) / 2)
    assert {"chance", "popularity", "reader_both", "oracle_both"} <= set(summary.query("reference")["row"])
    assert main(["grid", "--config", "tiny.yaml"]) == 0
    assert capsys.readouterr().out.count("finished before") == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_trained_on_clean_pictures_and_tested_on_blank_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = {"n_users": 16, "n_items": 40, "n_interactions": 8, "image_size": 28}
    small = {"prepare.k_core": 1, "summaries.variant": "none", "data.max_train_groups": 16, "data.batch_size": 4}
    grid = {
        "base": [str(DEMO)],
        "seeds": [0],
        "set": {**small, "model.warmup_steps": 0, "prepare.demo": sizes},
        "data_sets": [
            {"name": "clean"},
            {
                "name": "blank", "trained_on": "clean",
                "set": {"data.name": "demo-blank", "prepare.corruption.kind": "blank"},
            },
        ],
        "rows": [
            {"label": "both"},
            {"label": "text", "set": {"data.pictures.serve": "none"}},
            {"label": "untrained", "set": {"model.finetune": "none"}},
        ],
        "significance": {"metrics": []},
    }  # fmt: skip
    Path("bad.yaml").write_text(yaml.safe_dump(grid))
    assert main(["grid", "--config", "bad.yaml"]) == 0
    assert "[6/6]" in capsys.readouterr().out
    cells = {
        (cell["row"], cell["data_set"]): cell
        for cell in map(json.loads, (path.read_text() for path in Path("experiments/results/bad/cells").iterdir()))
    }
    assert len({cell["candidates_hash"] for cell in cells.values()}) == 1
    scores = {
        key: pd.read_parquet(Path(cell["run"]) / "predictions/test.parquet").set_index(["group_id", "item_id"])["score"]
        for key, cell in cells.items()
    }
    for row in ("both", "text", "untrained"):
        assert scores[row, "clean"].index.equals(scores[row, "blank"].index)
        same = scores[row, "clean"].equals(scores[row, "blank"])
        assert same == (row == "text"), "only what shows no picture is untouched by bad ones"
        blank, clean = cells[row, "blank"], cells[row, "clean"]
        assert "fit" not in blank["seconds"]
        assert not (Path(blank["run"]) / "checkpoints").exists()
        weights = blank["metrics"].get("test/weights")
        best = Path(clean["run"]) / "checkpoints/best.ckpt"
        assert weights == (None if row == "untrained" else hashlib.sha256(best.read_bytes()).hexdigest())
    assert main(["grid", "--config", "bad.yaml"]) == 0
    assert capsys.readouterr().out.count("finished before") == 6
