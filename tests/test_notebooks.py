"""Notebooks: stripped, thin, importing only what is there; and executed on a tiny demo shop."""

import ast
import importlib
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_LINES = 20
"""Of a cell: what is longer is code, which belongs into the package."""


def cells(content):
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def faults(content):
    """What a committed notebook must not have."""
    found = []
    for place, cell in enumerate(cells(content)):
        nodes = list(ast.walk(ast.parse(source(cell))))
        found += [f"{place}: output"] * bool(cell["outputs"])
        found += [f"{place}: execution count"] * (cell["execution_count"] is not None)
        found += [f"{place}: metadata"] * bool(cell["metadata"])
        defines = any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in nodes)
        found += [f"{place}: defines something"] * defines
        found += [f"{place}: {len(cell['source'])} lines"] * (len(cell["source"]) > MAX_LINES)
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        found += [f"{place}: absolute path {text}" for text in texts if text.startswith("/")]
    extra = set(content["metadata"]) - {"kernelspec", "language_info"}
    return found + [f"metadata {name}" for name in sorted(extra)]


def unknown_imports(content):
    """Names imported from the package that are not in it."""
    found = []
    for cell in cells(content):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mllm_srec"):
                module = importlib.import_module(node.module)
                found += [f"{node.module}.{name.name}" for name in node.names if not hasattr(module, name.name)]
    return found


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["analysis", "case_study", "data_tour"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_thin(path):
    assert faults(read(path)) == []
    assert unknown_imports(read(path)) == []
    assert read(path)["cells"][0]["cell_type"] == "markdown", "it begins by saying what it is"


def test_faults_are_found():
    lines = [*["x = 1\n"] * 21, "def f():\n", "    return '/home/me'\n", "from mllm_srec.types import NOTHING"]
    cell = {"cell_type": "code", "metadata": {"collapsed": True}, "outputs": [1], "execution_count": 3, "source": lines}
    content = {"cells": [cell, {"cell_type": "markdown", "source": ["def"]}], "metadata": {"widgets": {}}}
    assert faults(content) == [
        "0: output", "0: execution count", "0: metadata", "0: defines something", "0: 24 lines",
        "0: absolute path /home/me", "metadata widgets",
    ]  # fmt: skip
    assert unknown_imports(content) == ["mllm_srec.types.NOTHING"]


# --- executed -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folder in which a grid of two rows was run on a tiny demo shop, with summaries."""
    from mllm_srec.__main__ import main

    folder = tmp_path_factory.mktemp("home")
    sizes = {"n_users": 24, "n_items": 40, "n_interactions": 12, "image_size": 28}
    small = {"prepare.k_core": 1, "trainer.max_epochs": 1, "data.max_train_groups": 16, "prepare.demo": sizes}
    grid = {
        "base": [str(ROOT / "configs/demo.yaml")],
        "seeds": [0],
        "set": small,
        "rows": [
            {"label": "mllm_srec"},
            {"label": "popularity", "configs": [str(ROOT / "configs/baselines/popularity.yaml")]},
        ],
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(grid))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))
        assert main(["grid", "--config", "tiny.yaml"]) == 0
    return folder


def executed(name, home, monkeypatch, **settings):
    """Text and kinds of everything that the cells of a notebook show, after it ran in a kernel of its own."""
    import nbformat
    from nbclient import NotebookClient

    environment = {"MLLM_SREC_HOME": home, "MLLM_SREC_CPU": 1, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": 1, **settings}
    for key, value in environment.items():
        monkeypatch.setenv(key, str(value))
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=500, kernel_name="python3").execute(cwd=str(home))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output.get("data", {}) for output in outputs]
    texts = [output.get("text", "") for output in outputs] + [text for data in shown for text in data.values()]
    return "\n".join(map(str, texts)), sum("image/png" in data for data in shown)


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestExecuted:
    """Each notebook from its first cell to its last."""

    def test_analysis(self, home, monkeypatch):
        results = home / "experiments/results/tiny"
        settings = {"MLLM_SREC_RESULTS": results, "MLLM_SREC_ROWS": "mllm_srec,popularity", "MLLM_SREC_RESAMPLES": 20}
        text, n_pictures = executed("analysis", home, monkeypatch, **settings)
        assert "# tiny" in text
        assert "rows with run folders: mllm_srec, popularity" in text
        assert "20 resamples" in text
        assert n_pictures == 8
        assert "There is no Table 2 here" in text

    def test_analysis_of_results_without_runs(self, home, monkeypatch):
        """As in a fresh clone: the table is there, the run folders are not."""
        text, n_pictures = executed("analysis", ROOT, monkeypatch, MLLM_SREC_DATA_SET="demo-small")
        assert "rows with run folders: none" in text
        cell = json.loads((ROOT / "experiments/results/table3/cells/demo-small--sasrec--2.json").read_text())
        assert f"sasrec, seed 2: its run folder {cell['run']} is not" in text
        assert n_pictures == 2

    def test_case_study(self, home, monkeypatch):
        run = next((home / "runs/demo").glob("mllm_srec-0-*/adapter")).parent
        rows = pd.read_parquet(home / "data/demo/interactions.parquet")
        user = rows[(rows["split"] != "test") & (rows["rating"] >= 4)]["user_id"].mode()[0]  # enough for a preference
        text, n_pictures = executed("case_study", home, monkeypatch, MLLM_SREC_RUN=run, MLLM_SREC_USER=user)
        assert f"user {user}" in text
        assert "items ranked" in text
        assert "item_summary" in text
        assert "no preference" not in text
        assert n_pictures == 2

    def test_data_tour(self, home, monkeypatch, tmp_path):
        settings = {"MLLM_SREC_DATA": tmp_path / "shop", "MLLM_SREC_DEMO_USERS": 40}
        text, n_pictures = executed("data_tour", home, monkeypatch, **settings)
        assert (tmp_path / "shop/manifest.json").is_file()
        assert "candidates_hash" in text
        assert "without_history" in text
        assert n_pictures == 1
        text, _ = executed("data_tour", home, monkeypatch, MLLM_SREC_DATA=home / "data/demo")
        assert "candidates_hash" in text
