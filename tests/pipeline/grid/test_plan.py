"""Cells of a grid: what they run, and which of them are the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from mllm_srec.metrics.evaluation import EvaluationMetrics
from mllm_srec.pipeline.grid.plan import merged_settings, plan_cells
from mllm_srec.pipeline.grid.settings import (
    GridDataSet,
    GridReport,
    GridRow,
    GridSettings,
    QuickGrid,
    Significance,
    check_grid,
    quickened,
)
from mllm_srec.reports.tables.metric_words import check_metrics, find_metric
from mllm_srec.types import ConfigError


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Current folder with small configuration files."""
    monkeypatch.chdir(tmp_path)
    files = {
        "shop": {"data": {"name": "shop", "batch_size": 4}, "model": {"lr": 0.1, "lora": {"r": 4}}},
        "toys": {"data": {"name": "toys"}},
        "fast": {"trainer": {"max_epochs": 1}},
        "own/a": {"trainer": {"max_epochs": 9}},
    }
    for name, content in files.items():
        Path(f"{name}.yaml").parent.mkdir(exist_ok=True)
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def plan(*rows, **changes):
    return plan_cells(GridSettings(**{"rows": list(rows), "base": ["shop.yaml"], "seeds": [0], **changes}), "runs", "d")


def test_what_all_rows_share_is_given_to_those_that_read_it(desk):
    """A common setting of the recommender is no argument of a baseline's cell, where it would be refused."""
    sasrec = {"baseline.class_path": "mllm_srec.baselines.sasrec.SASRec"}
    ours, baseline = plan(GridRow("ours"), GridRow("sasrec", set=sasrec), set={"model.lr": 0.5, "data.batch_size": 2})
    assert {"--model.lr=0.5", "--data.batch_size=2"} <= set(ours.arguments)
    assert "--data.batch_size=2" in baseline.arguments
    assert "--model.lr=0.5" not in baseline.arguments


def test_what_a_cell_runs_is_given_from_the_common_to_the_own(desk):
    row = GridRow("a", ["fast.yaml"], {"model.lr": 1e-3, "data.retriever": "x y", "data.pictures": {"serve": "none"}})
    data_set = GridDataSet("set of toys", ["toys.yaml"], "own")
    (cell,) = plan(row, data_sets=[data_set], seeds=[3], set={"model.lr": 0.5, "tracking.wandb": True, "x": None})
    assert cell.arguments[:8] == (
        "--config", "shop.yaml", "--config", "toys.yaml", "--config", "fast.yaml", "--config", "own/a.yaml",
    )  # fmt: skip
    assert cell.arguments[8:] == (
        "--trainer.enable_progress_bar=false", "--model.lr=0.001", "--tracking.wandb=true", "--x=null",
        "--data.retriever=x y", "--data.pictures.serve=none", "--seed_everything=3", "--name", cell.name,
    )  # fmt: skip
    assert (cell.row, cell.data_set, cell.seed) == ("a", "set of toys", 3)
    assert cell.name == f"a-3-{cell.settings_hash[:12]}"
    assert (cell.folder, cell.run.path, cell.log, cell.record) == (
        Path("runs/toys"), Path("runs/toys") / cell.name, Path(f"runs/toys/{cell.name}.log"),
        Path(f"runs/toys/{cell.name}.json"),
    )  # fmt: skip
    assert cell.settings["data"] == {
        "name": "toys", "batch_size": 4, "retriever": "x y", "pictures": {"serve": "none"},
    }  # fmt: skip
    assert cell.settings["trainer"]["max_epochs"] == 9


def test_a_row_without_a_file_of_its_own_for_a_data_set_has_none(desk):
    _, b = plan(GridRow("a"), GridRow("b"), data_sets=[GridDataSet("t", ["toys.yaml"], "own")])
    assert [word for word in b.arguments if word.endswith(".yaml")] == ["shop.yaml", "toys.yaml"]


def test_defaults_of_folder_and_data_set(desk):
    (cell,) = plan(GridRow("a"), base=["fast.yaml"])
    assert (cell.folder, cell.data_set) == (Path("runs/d"), "d")
    (cell,) = plan(GridRow("a"), set={"trainer.default_root_dir": "elsewhere"})
    assert (cell.folder, cell.data_set) == (Path("elsewhere/shop"), "shop")
    (cell,) = plan(GridRow("a"), set={"trainer.default_root_dir": None})
    assert cell.folder == Path("runs/shop"), "and not None/shop"


def test_a_whole_table_of_one_seed_comes_before_the_next(desk):
    sets = [GridDataSet("s"), GridDataSet("t", ["toys.yaml"])]
    cells = plan(GridRow("a"), GridRow("b", ["fast.yaml"]), seeds=[1, 0], data_sets=sets)
    assert [(c.data_set, c.seed, c.row) for c in cells] == [
        (data_set, seed, row) for data_set in "st" for seed in (1, 0) for row in "ab"
    ]


def test_the_same_settings_are_the_same_run_however_they_are_written(desk):
    Path("b.yaml").write_text("model: {lora: {r: 4}, lr: 0.1}\ndata.batch_size: 4\ndata: {name: shop}\n")
    a, b, c = plan(
        GridRow("a", ["fast.yaml"]),
        GridRow("other", set={"trainer.max_epochs": 1}),
        GridRow("third", ["b.yaml"], {"trainer": {"max_epochs": 1}, "tracking.wandb": True}),
    )
    (d,) = plan(GridRow("d"), base=["b.yaml", "fast.yaml"], set={"trainer.enable_progress_bar": True})
    assert [cell.name for cell in (a, b, c)] == [a.name] * 3
    assert d.settings_hash == a.settings_hash
    assert d.name == a.name.replace("a-0", "d-0")
    a.folder.mkdir(parents=True)
    a.record.write_text("{}")
    (again,) = plan(GridRow("d"), base=["b.yaml", "fast.yaml"])
    assert again.name == a.name, "run before, in another grid"


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [1]}, {"set": {"model.lr": 0.2}}, {"set": {"data.root": "x"}}, {"base": ["shop.yaml", "fast.yaml"]},
        {"set": {"trainer.accelerator": "gpu"}}, {"set": {"model.lora.r": None}}, {"set": {"baseline.class_path": "x"}},
    ],
    ids=str,
)  # fmt: skip
def test_other_settings_are_another_run(desk, change):
    (a,), (b,) = plan(GridRow("a")), plan(GridRow("a"), **change)
    assert a.settings_hash != b.settings_hash
    assert a.name != b.name


def test_arguments_of_another_class_stay_so_that_rather_too_many_are_run(desk):
    for name, content in {"x": {"class_path": "X", "init_args": {"k": 1}}, "y": {"class_path": "Y"}}.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"baseline": content}))
    assert merged_settings(["x.yaml", "y.yaml"], {})["baseline"] == {"class_path": "Y", "init_args": {"k": 1}}


def test_the_quick_version(desk):
    grid = GridSettings([GridRow("a", set={"model.lr": 1}), GridRow("b")], ["shop.yaml"], seeds=[0, 1])
    with pytest.raises(ConfigError, match=r"quick_grid: this grid has no such section, or an empty one; add one"):
        quickened(grid)
    quick = quickened(replace(grid, quick_grid=QuickGrid(set={"model.lr": 9, "data.name": "q"})))
    assert quick.seeds == [0, 1]
    assert quick.rows == grid.rows
    assert quickened(replace(grid, quick_grid=QuickGrid([5]))).seeds == [5]


def test_what_is_on_top_wins_in_the_rows_that_read_it(desk):
    sasrec = {"baseline.class_path": "mllm_srec.baselines.sasrec.SASRec", "prepare": {"demo": {"n_items": 5}}}
    rows = [GridRow("ours", set={"model.lr": 1, "data.n_negatives": 3}), GridRow("sasrec", set=sasrec)]
    on_top = {"model.lr": 9, "data": {"n_negatives": 2}, "prepare.k_core": 1}
    ours, baseline = plan_cells(GridSettings(rows, ["shop.yaml"], seeds=[0]), "runs", "d", on_top)
    assert {"--model.lr=9", "--data.n_negatives=2", "--prepare.k_core=1"} <= set(ours.arguments)
    assert ours.settings["model"]["lr"] == 9
    assert {"--data.n_negatives=2", "--prepare.k_core=1", "--prepare.demo.n_items=5"} <= set(baseline.arguments)
    assert "--model.lr=9" not in baseline.arguments


def test_a_backbone_is_given_to_the_baselines_that_look_with_it(desk):
    rows = [GridRow(name, set={"baseline.class_path": name}) for name in ("x.Looks", "x.Counts")]
    grid = GridSettings(rows, ["shop.yaml"], seeds=[0], set={"model.backbone": "demo"})
    looks, counts = plan_cells(grid, "runs", "d", reads_features=lambda name: name == "x.Looks")
    assert "--model.backbone=demo" in looks.arguments
    assert "--model.backbone=demo" not in counts.arguments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "rows: got none; give at least one"),
        ({"seeds": []}, "seeds: got none"),
        ({"seeds": [1, 1]}, "seeds: '1' and '1' are the same name"),
        ({"seeds": [0, -1]}, "seeds=-1: negative; give whole numbers from 0"),
        ({"rows": [GridRow("a b"), GridRow("a/b")]}, "rows: 'a b' and 'a/b' are the same name; give each its own"),
        ({"rows": [GridRow("-")]}, "rows=\\['-'\\]: a name has no letter or digit"),
        ({"metrics": ["hr@5", "hr@5"]}, "metrics: 'hr@5' and 'hr@5'"),
        ({"set": {"name": "x"}}, "set: 'name' is set by the grid itself"),
        ({"rows": [GridRow("a", set={"seed_everything": 1})]}, "set of row 'a': 'seed_everything' is set by"),
        ({"set": {"--model.lr": 1}}, "set: '--model.lr' is not a dotted setting; give one such as model.lr"),
        ({"significance": Significance("c")}, "significance.base='c': no such row; accepted are best, first, a"),
        ({"base": ["no.yaml"], "rows": [GridRow("a", ["na.yaml"])]}, "no.yaml, na.yaml: no such file; paths in a"),
        ({"data_sets": [GridDataSet("s", ["shop.yaml"], "nowhere")]}, "nowhere: no such file"),
        ({"base": []}, "base: row 'a' of data set '' has no configuration file; give one"),
    ],
    ids=str,
)  # fmt: skip
def test_grids_that_cannot_be_run(desk, changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(**{"rows": [GridRow("a")], **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "bad.yaml, line 1 is not valid YAML"),
        ("[1]", "bad.yaml holds list"),
        ("a: 1\na: 2\n", "bad.yaml, line 2 is not valid YAML: 'a' is given twice, first in line 1"),
        ("a: &b [*b]", "Circular reference"),
    ],
)
def test_files_that_are_no_settings(desk, text, message):
    Path("bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        plan(GridRow("a", ["bad.yaml"]))


def test_the_home_folder_is_where_the_cells_are(desk, monkeypatch):
    """The command of a cell reads `~` so, and would write elsewhere than the grid looks."""
    monkeypatch.setenv("HOME", str(desk / "home"))
    Path("there.yaml").write_text("trainer: {default_root_dir: ~/runs}\n")
    for cell in (*plan(GridRow("a", ["there.yaml"])), *plan(GridRow("a"), set={"trainer.default_root_dir": "~/runs"})):
        assert cell.folder == desk / "home/runs/shop"


METHOD = {
    "table3": "mllm_srec",
    "table4": "image_text",
    "table5": "full",
    "figure5": "qlora",
    "figure6": "full",
    "audit": "full",
}
"""Grid -> the row that is the method itself."""


def experiment(name):
    content = yaml.safe_load(Path(f"experiments/{name}.yaml").read_text())
    kinds = {"rows": GridRow, "data_sets": GridDataSet}
    content |= {key: [kind(**one) for one in content[key]] for key, kind in kinds.items()}
    sections = {"quick_grid": QuickGrid, "significance": Significance, "report": GridReport}
    return GridSettings(**{**content, **{key: kind(**content[key]) for key, kind in sections.items()}})


@pytest.mark.parametrize("quick", [False, True])
def test_the_method_is_one_run_in_all_tables_and_figures(monkeypatch, quick):
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    found = {}
    for name, row in METHOD.items():
        grid = quickened(experiment(name)) if quick else experiment(name)
        on_top = grid.quick_grid.set if quick else {}
        cells = [cell for cell in plan_cells(grid, "runs", "d", on_top) if cell.row == row and cell.needs is None]
        found[name] = {cell.seed: cell.settings_hash for cell in cells}
    assert set(found["table3"]) == ({0} if quick else {0, 1, 2})
    assert all(hashes == found["table3"] for hashes in found.values())


def test_the_audit_is_tested_where_figure_6_is(monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    hashes = {
        name: {c.settings_hash for c in plan_cells(experiment(name), "runs", "d") if c.row == "full" and c.needs}
        for name in ("figure6", "audit")
    }
    assert len(hashes["figure6"]) == 9 * 3
    assert len(hashes["audit"] & hashes["figure6"]) == 3, "every picture of another item, three seeds"


def test_table_3_names_the_overlay_of_every_row():
    """Files that other rooms bring are not asked for here, only that each row has the name of its overlay."""
    content = yaml.safe_load((Path(__file__).resolve().parents[3] / "experiments/table3.yaml").read_text())
    *baselines, ours = content["rows"]
    assert ours == {"label": "mllm_srec"}
    assert len(baselines) == 18
    assert all(row["configs"] == [f"configs/baselines/{row['label']}.yaml"] for row in baselines)
    assert content["seeds"] == [0, 1, 2]
    assert json.dumps(content["quick_grid"]["set"])
    check_grid(GridSettings([GridRow(row["label"]) for row in content["rows"]], seeds=content["seeds"]))


# --- trained here, tested there -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nowhere", "noisy", "worse"])
def test_only_what_is_trained_can_be_tested_elsewhere(desk, name):
    sets = [
        GridDataSet("clean"),
        GridDataSet("noisy", ["toys.yaml"], trained_on=name),
        GridDataSet("worse", ["toys.yaml"], trained_on="clean"),
    ]
    with pytest.raises(
        ConfigError,
        match=f"trained_on='{name}' of data set 'noisy': .* without trained_on: clean$",
    ):
        check_grid(GridSettings(rows=[GridRow("a")], base=["shop.yaml"], data_sets=sets))


def test_a_quick_grid_may_keep_some_data_sets(desk):
    sets = [GridDataSet("clean"), GridDataSet("noisy"), GridDataSet("worse")]
    grid = GridSettings(rows=[GridRow("a")], data_sets=sets, quick_grid=QuickGrid(data_sets=["worse", "clean"]))
    assert [data_set.name for data_set in quickened(grid).data_sets] == ["clean", "worse"]
    with pytest.raises(ConfigError, match=r"quick_grid.data_sets='x': no such data set; .* clean, noisy, worse"):
        quickened(replace(grid, quick_grid=QuickGrid(data_sets=["clean", "x"])))


def test_the_report_compares_with_rows_of_the_grid(desk):
    grid = GridSettings(rows=[GridRow("a")], base=["shop.yaml"], report=GridReport(baseline_rows=["b"]))
    with pytest.raises(ConfigError, match=r"report.baseline_rows='b': no such row; accepted are a"):
        check_grid(grid)


def test_seeds_of_a_row_have_one_hash(desk):
    sets = [GridDataSet("clean", ["shop.yaml"]), GridDataSet("worse", ["toys.yaml"], trained_on="clean")]
    cells = plan(GridRow("a"), GridRow("b", set={"model.lr": 9}), data_sets=sets, seeds=[0, 1])
    hashes = {(cell.row, cell.data_set): {c.row_hash for c in cells if (c.row, c.data_set) == (cell.row, cell.data_set)}
              for cell in cells}  # fmt: skip
    assert all(len(found) == 1 for found in hashes.values())
    assert len(set.union(*hashes.values())) == 4
    (other,) = plan(GridRow("a"), data_sets=sets[:1], seeds=[5], set={"model.lr": 7})
    assert {other.row_hash} != hashes["a", "clean"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["ndgc@10"]}, r"^metrics='ndgc@10': unknown metric; did you mean 'ndcg@10' or .*\?"),
        (
            {"metrics": ["hr@7"]},
            r"^metrics='hr@7': no cell measures K = 7; did you mean .*hr@.*data.cut_offs: \[1, 5, 7",
        ),
        ({"metrics": ["zzz"]}, r"^metrics='zzz': unknown metric; accepted are auc, .*ece"),
        (
            {"significance": Significance(metrics=["auc"])},
            r"^significance\.metrics='auc': users have no value of it; accepted are user_auc, .*hr@5",
        ),
        ({"report": GridReport(metrics=["aucc"])}, r"^report\.metrics='aucc': unknown metric; did you mean 'auc'"),
    ],
)
def test_misspelt_metrics_are_found_before_anything_runs(desk, changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(GridRow("a"), **changes)


def test_a_column_at_a_cut_off_that_is_measured(desk):
    assert plan(GridRow("a", set={"data.cut_offs": [3]}), metrics=["hr@3", "ndcg@20"])
    with pytest.raises(ConfigError, match=r"^report.metrics='hr@1': no cell measures K = 1"):
        plan(GridRow("a", set={"data.cut_offs": [3]}), metrics=["hr@3"], report=GridReport(metrics=["hr@1"]))
    assert plan(GridRow("a"), metrics=["hr@1"])


def test_all_that_is_measured_may_be_a_column():
    known = EvaluationMetrics(probabilities=True)
    kind = torch.zeros(1, 2, dtype=torch.long)  # liked
    known.add_pairs(
        torch.zeros(1, 2), torch.ones(1, 2), kind, torch.ones(1, 2) > 0, torch.zeros(1, 2), torch.ones(1, 2)
    )
    names = [name for name in known.compute() if not name.startswith("n_")]
    assert {"ece", "auc", "user_auc", "hr_worst@10"} <= set(names)
    assert [name for name in names if find_metric(name) is None] == []
    check_metrics("metrics", list(known.compute()))
