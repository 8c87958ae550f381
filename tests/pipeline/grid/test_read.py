"""Folders of grid results: what a grid was, what is missing, and files that contradict each other."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
import pytest

from mllm_srec.pipeline.grid.read import read_grid
from mllm_srec.pipeline.grid.results import write_results
from mllm_srec.pipeline.grid.settings import GridDataSet, GridReport, GridRow, GridSettings, Significance, described
from mllm_srec.pipeline.grid.summary import write_summary
from mllm_srec.reports.tables.grid_about import AboutDataSet
from mllm_srec.types import ConfigError, DataError
from tests.pipeline.grid.grid_stand_in import METRICS
from tests.pipeline.grid.test_results import record

GAINS = {"popularity": -0.3, "sasrec": 0.0, "ours": 0.25}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Results of three rows and two seeds on two data sets, as `grid` leaves them."""
    root = tmp_path_factory.mktemp("grid")
    records = [
        record(root / "runs", row, seed, data_set, gain)
        for data_set in ("shop", "mall") for seed in (0, 1) for row, gain in GAINS.items()
    ]  # fmt: skip
    plan = GridSettings([GridRow(row) for row in GAINS], seeds=[0, 1], metrics=["hr@10", "ndcg@10"])
    write_results(root / "t", records, described(replace(plan, significance=Significance("ours")), "t", False))
    write_summary(root / "t", "t", records, ["ndcg@10", "hr@10"], Significance("ours", list(METRICS)[:2]))
    return root / "t"


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "t")


def about(**changes):
    report = {"title": "A title", "caption": "A caption", "kind": "curves", "metrics": ["hr@10"], "article": "figure6"}
    stated = {
        "name": "t", "quick": False, "seeds": [0, 1], "rows": ["sasrec", "ours", "popularity"], "metrics": ["ndcg@10"],
        "data_sets": [{"name": "mall", "panel": "noise", "x": 0.5}, {"name": "shop", "panel": None, "x": None}],
        "significance": {"base": "ours", "metrics": ["ndcg@10"], "n_resamples": 10000, "seed": 0},
        "report": {**report, "baseline_rows": ["sasrec"]},
    }  # fmt: skip
    return {**stated, **changes}


def test_a_grid_that_names_no_data_sets_has_those_of_its_results(folder):
    (folder / "grid.json").write_text(json.dumps(about(data_sets=[], report={"kind": "table"})))
    grid = read_grid(folder)
    assert (grid.about.report.kind, grid.about.article, grid.about.quick) == ("table", None, False)
    assert (grid.about.title, grid.about.shown_metrics) == ("t", ["ndcg@10"])
    assert [data_set.name for data_set in grid.about.data_sets] == ["shop", "mall"]
    assert grid.missing == ()


def rewrite(path, **changes):
    """Write other content into a file as if the grid had."""
    content = {key: value for key, value in json.loads(path.read_text()).items() if key != "checksum"}
    path.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize("name", ["grid.json", "summary.csv"])
@pytest.mark.parametrize(("table", "command"), [("t", "t.yaml`"), ("t-quick", "t.yaml --quick`")])
def test_older_results_are_refused_with_the_command_that_makes_them_again(folder, name, table, command):
    for path in (folder / "cells").iterdir():
        rewrite(path, table=table)
    results = pl.read_parquet(folder / "results.parquet").with_columns(table=pl.lit(table))
    results.write_parquet(folder / "results.parquet")
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: missing.* `python -m mllm_srec grid --config experiments/{command}"):
        read_grid(folder)


@pytest.mark.parametrize("root", sorted(Path(__file__).parents[3].glob("experiments/results/*/grid.json")), ids=str)
def test_committed_results_are_read(root):
    grid = read_grid(root.parent)
    assert grid.about.name == root.parent.name
    assert grid.summary.height > 0
    assert grid.missing == ()


def test_the_rows_of_a_grid_come_first(folder):
    grid = read_grid(folder)
    assert grid.summary["row"].unique(maintain_order=True).to_list() == [*GAINS, "chance", "popularity"][:4]


def test_comparisons_are_those_of_the_grids_own_summary(folder):
    stored = pl.read_csv(folder / "summary.csv").filter(pl.col("base").is_not_null())
    found = read_grid(folder).differences
    assert len(found) == stored.height == 8
    for line, difference in zip(stored.iter_rows(named=True), found, strict=True):
        assert (line["row"], line["metric"], line["holm_p"]) == (difference.row, difference.metric, difference.holm_p)
        assert line["n_changed"] == difference.n_changed
        assert (difference.mark == " †") == (line["holm_p"] <= 0.05)
    text = (folder / "summary.md").read_text()
    assert sum(difference.mark == " †" for difference in found) == text.count(" † |") // 2 > 0


def test_what_a_grid_says_of_itself(folder):
    (folder / "grid.json").write_text(json.dumps(about()))
    grid = read_grid(folder)
    assert (grid.about.heading, grid.about.report.caption) == ("A title", "A caption")
    assert grid.about.report.kind == "curves"
    assert (grid.about.shown_metrics, grid.about.article, grid.about.report.baseline_rows) == (
        ["hr@10"],
        "figure6",
        ["sasrec"],
    )
    assert [(d.name, d.panel, d.x) for d in grid.about.data_sets] == [("mall", "noise", 0.5), ("shop", None, None)]
    assert grid.summary.filter(~pl.col("reference"))["row"].unique(maintain_order=True).to_list() == about()["rows"]


def test_what_grid_writes_is_what_report_reads(folder):
    grid = GridSettings(
        rows=[GridRow("ours"), GridRow("sasrec"), GridRow("popularity")],
        data_sets=[GridDataSet("shop", x=0), GridDataSet("mall", trained_on="shop", panel="noise", x=0.5)],
        seeds=[0, 1],
        metrics=["ndcg@10"],
        significance=Significance("ours", ["ndcg@10"]),
        report=GridReport("A title", "A caption", "curves", ["hr@10"], "figure6", ["sasrec"]),
    )
    written = described(grid, "t", False)
    (folder / "grid.json").write_text(json.dumps(asdict(written)))
    assert read_grid(folder).about == written
    assert (written.title, written.shown_metrics, written.article) == ("A title", ["hr@10"], "figure6")
    assert written.data_sets == [AboutDataSet("shop", None, 0), AboutDataSet("mall", "noise", 0.5)]
    assert (written.rows, written.seeds) == (["ours", "sasrec", "popularity"], [0, 1])


def test_what_is_missing_is_named(folder):
    (folder / "grid.json").write_text(json.dumps(about(rows=[*GAINS, "new"], seeds=[0, 1, 2])))
    missing = read_grid(folder).missing
    assert len(missing) == 8
    assert "ours on mall: no result of seed 2" in missing
    assert "new on shop: no result of seed 0, 1, 2" in missing


def test_a_quick_grid_is_marked(folder):
    (folder / "grid.json").write_text(json.dumps(about(quick=True)))
    grid = read_grid(folder)
    assert grid.about.heading == "A title (quick run)"
    assert grid.about.marked("x.") == "x. Quick run: shows that everything runs, and nothing else."


def test_cells_that_contradict_the_table(folder):
    path = folder / "cells/shop--ours--1.json"
    rewrite(path, metrics={**json.loads(path.read_text())["metrics"], "test/hr@10": 0.123})
    with pytest.raises(DataError, match=r"contradict each other \(ours, shop, 1, test/hr@10\); run the grid again"):
        read_grid(folder)
    path.unlink()
    with pytest.raises(DataError, match="contradict each other"):
        read_grid(folder)


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{", "{}", json.dumps(about(report={"kind": "pie"})), json.dumps(about(seeds="0")),
        json.dumps(about(data_sets=[{"name": "a", "x": "far"}])), json.dumps(about(data_sets=[{}])),
        json.dumps(about(more=1)),
    ],
)  # fmt: skip
def test_a_broken_description_is_named(folder, content):
    (folder / "grid.json").write_text(content)
    with pytest.raises(
        DataError, match=r"(?s)grid\.json: the description of the grid cannot be read .*; make them again with"
    ):
        read_grid(folder)


def test_files_that_contradict_each_other(folder):
    text = (folder / "summary.csv").read_text()
    lines = text.splitlines()
    parts = lines[1].split(",")
    parts[lines[0].split(",").index("mean")] = "0.123"
    (folder / "summary.csv").write_text("\n".join([lines[0], ",".join(parts), *lines[2:]]) + "\n")
    with pytest.raises(DataError, match=r"says 0\.123 for .* but results\.parquet says"):
        read_grid(folder)


def test_a_summary_without_the_columns_of_comparisons_is_refused(folder):
    pl.read_csv(folder / "summary.csv").drop("n_changed").write_csv(folder / "summary.csv")
    with pytest.raises(DataError, match=r"summary\.csv: lacks the columns n_changed; make them again with `python"):
        read_grid(folder)


def test_folders_without_results_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no results\.parquet; give folders that `grid` wrote"):
        read_grid(tmp_path)
