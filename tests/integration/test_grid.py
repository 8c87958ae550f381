"""A grid of two rows and two seeds on a tiny demo shop, with the recommender itself."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mllm_srec.__main__ import main

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
        stored = json.loads((Path(cell["run"]) / "metrics.json").read_text())
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
