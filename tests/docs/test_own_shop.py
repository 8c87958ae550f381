"""The example of one's own shop: its files are read as its configuration says, and one command runs all of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from mllm_srec.cli.commands import prepare
from mllm_srec.data.dataset import PreparedDataset
from tests.docs.documents import ROOT

FOLDER = ROOT / "examples/own_shop"
CONFIG = "examples/own_shop/config.yaml"


def test_the_example_is_small():
    assert 10 <= len((FOLDER / "ratings.csv").read_text().splitlines()) - 1 <= 20
    pictures = [*(FOLDER / "pictures").iterdir()]
    assert len(pictures) == 5
    assert all(path.stat().st_size < 5000 and Image.open(path).size == (84, 84) for path in pictures)


def test_its_tables_are_read_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    prepare.main("prepare", ["--config", CONFIG, "--data.root", str(tmp_path)])
    folder = tmp_path / "own-shop"
    counts = json.loads((folder / "prepare_report.json").read_text(encoding="utf-8"))["counts"]
    assert counts["pictures"] == {"no file of that name": 1}
    assert not {"reviews", "metadata"} & set(counts), "lines were dropped"
    assert "no file of that name" in capsys.readouterr().out
    data = PreparedDataset.open(folder)
    assert (data.interactions.height, data.items.height) == (13, 6)
    assert data.items.filter(pl.col("image").is_null())["item_id"].to_list() == ["soap"]
    mug = data.items.filter(pl.col("item_id") == "mug").row(0, named=True)
    assert (mug["title"], mug["brand"], mug["categories"]) == ("Red stoneware mug", "Hearth", ["Kitchen", "Cups"])
    assert data.interactions.filter(pl.col("review") == "")["item_id"].to_list() == []
    lists = data.candidates.filter(pl.col("label") == 1)
    assert sorted(lists["split"].to_list()) == ["test"] * 4 + ["val"] * 4


@pytest.mark.slow
def test_one_command_runs_all_of_it(tmp_path):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    [command] = re.findall(r"```bash\npython (.+)\n```", readme)
    flags = ["--data.root", str(tmp_path / "data"), "--trainer.default_root_dir", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, *command.split(), *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [honest] = re.findall(r"```\n(.+)\n```", readme)
    assert honest in done.stdout
    [run] = (tmp_path / "runs/own-shop").iterdir()
    assert {"metrics.json", "config.yaml", "adapter", "predictions"} <= {path.name for path in Path(run).iterdir()}
