"""The script of Table 2: its files by pandas, and data sets that are not there."""

import importlib
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mllm_srec.__main__ import main
from mllm_srec.types import ConfigError

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
DEMO = {"n_users": 16, "n_items": 40, "n_interactions": 8, "image_size": 28}


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("table2")


@pytest.fixture
def desk(tmp_path, monkeypatch, shop_root):
    """Three configurations: a tiny demo shop, the small shop, and one that nobody prepared."""
    monkeypatch.chdir(tmp_path)
    raw = shop_root / "raw"
    tables = {
        "source": "tables", "reviews": str(raw / "interactions.csv"), "metadata": str(raw / "items.csv"),
        "images": str(raw / "pictures"), "k_core": 1, "split": "leave_one_out",
    }  # fmt: skip
    files = {
        "demo": {"data": {"name": "ti|ny"}, "prepare": {"source": "demo", "k_core": 1, "demo": DEMO}},
        "shop": {"data": {"root": str(shop_root), "name": "shop"}, "prepare": tables, "candidates": {"n_negatives": 4}},
        "none": {"data": {"name": "none"}, "prepare": tables},
    }
    for name, content in files.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def test_every_prepared_data_set_has_a_row(script, desk, shop):
    paths = script.make_table(["demo.yaml", "shop.yaml", "none.yaml"], desk / "out/table2")
    assert sorted(path.name for path in paths) == ["table2.csv", "table2.json", "table2.md", "table2.tex"]
    table = pd.read_csv(desk / "out/table2/table2.csv").set_index("data_set")
    assert list(table.index) == ["ti|ny", "shop"]
    for name, folder in (("ti|ny", Path("data/ti|ny")), ("shop", shop.folder)):
        rows = pd.read_parquet(folder / "interactions.parquet")
        n_users, n_items = rows["user_id"].nunique(), rows["item_id"].nunique()
        assert table.loc[name, ["users", "items", "interactions"]].tolist() == [n_users, n_items, len(rows)]
        assert table.loc[name, "sparsity"] == pytest.approx(1 - len(rows) / n_users / n_items, abs=1e-12)
        assert table.loc[name, "samples"] == len(pd.read_parquet(folder / "samples.parquet"))
    about = json.loads((desk / "out/table2/table2.json").read_text())
    assert about["title"] == "Table 2: data statistics"
    assert pd.DataFrame(about["rows"]).set_index("data_set").equals(table)
    text = (desk / "out/table2/table2.md").read_text()
    assert "| ti\\|ny | 16 | " in text
    assert "The article's own numbers are not available" in text
    assert "    ti\\textbar{}ny & 16 & " in (desk / "out/table2/table2.tex").read_text()
    assert "none: not prepared here (python -m mllm_srec prepare --config none.yaml)" in text


def test_the_table_stands_in_the_report(script, desk):
    script.make_table(["demo.yaml", "none.yaml"], Path("experiments/results/table2"))
    assert main(["report"]) == 0
    page, table = Path("report/index.html").read_text(), pd.read_csv("experiments/results/table2/table2.csv")
    assert "Table 2: data statistics" in page
    assert "ti|ny" in page
    assert "none: not prepared here" in page
    for key in ("users", "items", "interactions", "samples"):
        assert f">{table[key][0]:,}<" in page
    assert (Path("report/tables") / "table2--statistics.tex").is_file()
    Path("experiments/results/table2/table2.json").write_text("{}")
    assert main(["report"]) == 1


def test_nothing_prepared_is_an_error(script, desk):
    with pytest.raises(ConfigError, match=r"no data set is prepared:\n  none: not prepared here"):
        script.make_table(["none.yaml"], desk / "out")
    assert not (desk / "out").exists()


def test_flags_and_command(script, desk, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["table2.py", "--config", "demo.yaml", "--output", "here", "--data.name", "other"])
    script.main()
    assert "| other | 16 | " in capsys.readouterr().out
    assert Path("data/other/manifest.json").exists()
    monkeypatch.setattr("sys.argv", ["table2.py", "--config", "none.yaml", "--output", "here"])
    with pytest.raises(SystemExit):
        script.main()
    assert "none: not prepared here" in capsys.readouterr().err
