"""The report of a grid without models: its numbers by pandas from the users' files, and its files."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from mllm_srec.__main__ import main
from mllm_srec.pipeline.grid.read import read_grid
from mllm_srec.pipeline.report.report import _anchors, check_report_folder, write_report
from mllm_srec.pipeline.report.sections import grid_section
from mllm_srec.reports.page.page import GENERATOR
from mllm_srec.reports.tables.paper_names import column_name, row_name
from tests.pipeline.grid.grid_stand_in import METRICS
from tests.pipeline.grid.test_read import GAINS, about, written  # noqa: F401 - a fixture
from tests.reports.page.page_reader import PageReader


@pytest.fixture
def here(written, tmp_path, monkeypatch):  # noqa: F811
    """A working folder with results where `report` looks for them."""
    shutil.copytree(written, tmp_path / "experiments/results/t")
    shutil.copytree(written, tmp_path / "experiments/results/t-quick")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def reported(written, tmp_path_factory):  # noqa: F811
    """A report of the results, not to be changed."""
    folder = tmp_path_factory.mktemp("reported") / "report"
    assert main(["report", str(written), "--output", str(folder)]) == 0
    return folder


def read_page(folder="report"):
    return PageReader(Path(folder, "index.html").read_text(encoding="utf-8"))


def users_of(folder):
    """Values of all users of all cells, from the runs' own files."""
    cells = [json.loads(path.read_text()) for path in sorted(Path(folder, "cells").glob("*.json"))]
    return pd.concat(
        pd.read_parquet(Path(cell["run"]) / "predictions/test_users.parquet").assign(
            row=cell["row"], seed=cell["seed"], data_set=cell["data_set"]
        )
        for cell in cells
    )


def test_numbers_of_the_page_by_pandas(reported, written):  # noqa: F811
    page = read_page(reported)
    users = users_of(written)
    of_seeds = users.groupby(["data_set", "row", "seed"])[list(METRICS)].mean()
    for data_set in ("shop", "mall"):
        rows = page.table(f"Results on {data_set}")
        assert list(rows) == [*map(row_name, GAINS), "ours over best other, %", "(chance)", "(popularity)"]
        for row in GAINS:
            for metric in ("hr@10", "ndcg@10"):
                values = of_seeds.loc[(data_set, row)][metric]
                number, spread = rows[row_name(row)][column_name(metric)]
                assert number.split()[0] == f"{values.mean():.4f}"
                assert spread == f"± {values.std(ddof=1):.4f}"
        means = of_seeds.groupby(["data_set", "row"]).mean().loc[data_set]["hr@10"]
        gain = 100 * (means["ours"] / max(means["popularity"], means["sasrec"]) - 1)
        assert rows["ours over best other, %"]["HR@10"][0] == f"{gain:+.2f}"


def test_the_formats_say_the_same(reported):
    rows = read_page(reported).table("Results on shop")
    table = pd.read_csv(reported / "tables/t--1-results.csv").set_index(["row", "column"])
    text = (reported / "tables/t--1-results.md").read_text()
    latex = (reported / "tables/t--1-results.tex").read_text()
    for row in GAINS:
        for metric in ("hr@10", "ndcg@10"):
            number, spread = rows[row_name(row)][column_name(metric)]
            cell = table.loc[(row, metric)]
            assert number.split()[0] == f"{cell['mean']:.4f}"
            shown = f"{number.split()[0]} {spread}"
            marked = {1: f"**{shown}**", 2: f"*{shown}*"}.get(cell["place"], shown)
            marked += f" {cell['mark']}" if isinstance(cell["mark"], str) else ""
            assert re.search(rf"^\| {row_name(row)} \|.*{re.escape(f' {marked} |')}", text, re.MULTILINE)
            assert rf"{cell['mean']:.3f} $\pm$ {cell['sd']:.3f}" in latex


def test_marks_are_those_of_the_summary(reported, written):  # noqa: F811
    summary = (written / "summary.md").read_text().split("### shop: differences")[0]
    table = {line.split(" | ")[0].strip("| "): line for line in summary.splitlines() if line.startswith("| ")}
    shown = [row_name(row) for row in GAINS]
    found = {row: cells for row, cells in read_page(reported).table("Results on shop").items() if row in shown}
    for row, cells in found.items():
        assert sum("†" in number for number, _ in cells.values()) == table[row].count("†")
    assert any("†" in number for cells in found.values() for number, _ in cells.values())


def test_quick_results_are_marked_in_every_output(here, capsys):
    folder = Path("experiments/results/t-quick")
    (folder / "grid.json").write_text(json.dumps(about(quick=True)))
    assert main(["report", str(folder)]) == 0
    assert "quick runs, which only show that everything runs: A title" in capsys.readouterr().out
    assert read_page().text.count("quick run") >= 6
    files = [path for part in ("tables", "figures") for path in Path("report", part).iterdir()]
    assert files
    assert all("-quick-" in path.name for path in files)
    for path in Path("report/tables").glob("*.md"):
        assert "Quick run" in path.read_text()
    for path in Path("report/tables").glob("*.tex"):
        assert "Quick run" in path.read_text()


def test_curves_bars_and_what_is_not_there(here):
    results = Path("experiments/results/t")
    (results / "grid.json").write_text(json.dumps(about(rows=[*GAINS, "new"])))
    assert main(["report"]) == 0
    text = read_page().text
    assert "Not drawn, since they have no position on the axis: shop." in text
    assert "new on shop: no result of seed 0, 1" in text
    assert "Figure 6 (hallucination and anomalous inputs) are not available" in text
    assert "Training" not in text, "runs without curves are left out"
    assert "Case studies" not in text
    bars = about()
    (results / "grid.json").write_text(json.dumps({**bars, "report": {**bars["report"], "kind": "bars"}}))
    assert main(["report"]) == 0
    assert sorted(read_page().table("HR@10 in numbers")) == sorted(["(chance)", "(popularity)", *map(row_name, GAINS)])


def unsealed(content):
    """The content of a file without its checksum, so that another one can be written by hand."""
    return {key: value for key, value in content.items() if key != "checksum"}


def test_runs_that_are_gone_are_said_to_be(here):
    for path in Path("experiments/results/t/cells").glob("*.json"):
        cell = json.loads(path.read_text())
        path.write_text(json.dumps({**unsealed(cell), "run": "nowhere/at/all"}))
    assert main(["report"]) == 0
    assert "12 of 12 are not here: no curves and no cases of these runs" in read_page().text


def test_a_later_report_replaces_an_earlier_one_and_nothing_else(here, capsys):
    assert main(["report"]) == 0
    assert "written: report/index.html, 5 tables, 4 figures" in capsys.readouterr().out
    Path("report/tables/mine.txt").write_text("mine")
    (Path("experiments/results/t-quick") / "grid.json").write_text(json.dumps(about(quick=True)))
    assert main(["report", "experiments/results/t-quick"]) == 0
    assert Path("report/tables/mine.txt").exists()
    listed = json.loads(Path("report/report.json").read_text())["files"]
    there = {str(path.relative_to("report")) for path in Path("report").rglob("*") if path.is_file()}
    assert there == {*listed, "report.json", "tables/mine.txt"}
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("years of work")
    capsys.readouterr()
    assert main(["report", "--output", "other"]) == 1
    assert "'other': holds other files than a report" in capsys.readouterr().err
    assert main(["report", "--output", "other/thesis.tex"]) == 1
    assert "is a file; give a folder" in capsys.readouterr().err


def test_a_list_of_files_cannot_remove_others(here):
    assert main(["report"]) == 0
    Path("precious.csv").write_text("1")
    names = ["../precious.csv", "tables/../../precious.csv", str(Path("precious.csv").resolve())]
    Path("report/report.json").write_text(json.dumps({"generator": GENERATOR, "files": names}))
    assert main(["report"]) == 0
    assert Path("precious.csv").exists()


def test_a_report_that_was_broken_off_can_be_written_again(here, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mllm_srec.pipeline.report.report.write_drawing", killed)
        with pytest.raises(KeyboardInterrupt):
            write_report([Path("experiments/results/t")], [], Path("report"), "title")
    assert not Path("report/index.html").exists()
    check_report_folder(Path("report"))
    assert main(["report"]) == 0
    listed = json.loads(Path("report/report.json").read_text())["files"]
    assert "index.html" in listed


def test_somebody_elses_report_is_not_replaced(here, capsys):
    Path("ci").mkdir()
    Path("ci/index.html").write_text("mine")
    for content in ('{"tests": 3}', '{"files": []}', "[]", "{"):
        Path("ci/report.json").write_text(content)
        assert main(["report", "--output", "ci"]) == 1
        assert "'ci': holds other files than a report" in capsys.readouterr().err
    assert Path("ci/index.html").read_text() == "mine"


def test_runs_that_were_measured_anew_are_not_drawn(here):
    folder = Path("experiments/results/t")
    for path in (folder / "cells").glob("*.json"):  # run folders of our own
        cell = json.loads(path.read_text())
        run = shutil.copytree(cell["run"], Path("runs") / path.stem)
        path.write_text(json.dumps({**unsealed(cell), "run": str(run)}))

    def gone():
        return [text for name, text in grid_section(read_grid(folder), "t", (0, 0)).facts if name == "Run folders"]

    assert gone() == []
    for path in Path("runs").glob("*/metrics.json"):
        metrics, before = json.loads(path.read_text()), gone()
        path.write_text(json.dumps({**unsealed(metrics), "val/auc": 0.5}))  # validated once more: the same run
        assert gone() == before
        path.write_text(json.dumps({**unsealed(metrics), "test/hr@10": 0.999}))
    assert gone() == ["12 of 12 are not here: no curves and no cases of these runs"]


def test_nothing_to_report_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 1
    assert "RESULTS: got none; give folders that `grid` wrote" in capsys.readouterr().err
    assert main(["report", "--runs", "nowhere"]) == 1
    assert "'nowhere': holds no test results" in capsys.readouterr().err


def test_names_of_sections_differ_and_are_safe():
    assert _anchors(["a", "a", "a-n2", "a", "../Ö b", "--"]) == ["a", "a-n2", "a-n2-n2", "a-n3", "b", "results"]


def test_templates_and_styles_are_part_of_the_package():
    import tomllib

    root = Path(__file__).resolve().parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mllm_srec"]
    packed = {path for pattern in patterns for path in (root / "mllm_srec").glob(pattern)}
    templates = set((root / "mllm_srec/reports/page/templates").iterdir())
    assert templates
    assert templates <= packed
