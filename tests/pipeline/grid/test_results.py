"""The results of a grid: recomputed by pandas, and nothing merged that was measured differently."""

import json
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mllm_srec.__main__ import main
from mllm_srec.files.signals import Stopped
from mllm_srec.pipeline.grid import run as runner
from mllm_srec.pipeline.grid.merge import check_merge, merge_records
from mllm_srec.pipeline.grid.read import read_grid
from mllm_srec.pipeline.grid.results import check_output, other_information, read_records, tidy, write_results
from mllm_srec.pipeline.grid.summary import write_summary
from mllm_srec.pipeline.grid.verify import compare_records
from mllm_srec.reports.tables.grid_about import AboutGrid, GridReport, Significance
from mllm_srec.reports.tables.paper_names import row_name
from mllm_srec.types import ConfigError, DataError
from tests.pipeline.grid.grid_stand_in import METRICS, N_USERS, leave_results, user_values

ROWS = {"popularity": -0.3, "sasrec": 0.0, "ours": 0.25}
SEEDS = (0, 1, 2)
ABOUT = AboutGrid("t", False, [], [], [], ["hr@10"], Significance(), GridReport())


def record(folder, row="a", seed=0, data_set="shop", gain=0.0, candidates_hash="c0ffee", table="t", **changes):
    """A cell's record and its run folder, without a process."""
    run = folder / f"{table}-{row}-{seed}-{data_set}"
    leave_results(run, user_values(100 * seed + 7, gain), candidates_hash)
    metrics = {**json.loads((run / "metrics.json").read_text()), **changes.pop("metrics", {})}
    return {
        "table": table, "row": row, "data_set": data_set, "seed": seed, "run": str(run), "log": f"{run}.log",
        "config_hash": f"{row}{seed}{gain}", "row_hash": f"{row}{gain}", "candidates_hash": candidates_hash,
        "commit": "f" * 40, "dirty": False, "code": ["f" * 12],
        "versions": {}, "seconds": {"fit": 2.0 + seed, "total": 3.0}, "peak_memory": 2**30 * (seed + 1),
        "metrics": metrics, **changes,
    }  # fmt: skip


@pytest.fixture
def records(tmp_path):
    return [record(tmp_path / "runs", row, seed, gain=gain) for seed in SEEDS for row, gain in ROWS.items()]


@pytest.fixture
def out(records, tmp_path):
    folder = tmp_path / "out"
    write_results(folder, records, ABOUT)
    write_summary(folder, "t", records, ["ndcg@10", "hr@10", "user_auc"], Significance("best", list(METRICS)))
    return folder


def by_pandas(records):
    """Row, seed, user and values of every user, read from the runs' own files."""
    tables = [
        pd.read_parquet(Path(r["run"]) / "predictions/test_users.parquet").assign(row=r["row"], seed=r["seed"])
        for r in records
    ]
    return pd.concat(tables)


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_means_and_deviations_by_pandas_from_the_users_files(records, out):
    users = by_pandas(records)
    of_seeds = users.groupby(["row", "seed"])[list(METRICS)].mean()
    summary = pd.read_csv(out / "summary.csv").query("not reference").set_index(["row", "metric"])
    assert len(summary) == 9
    for metric in METRICS:
        for row in ROWS:
            found, values = summary.loc[(row, metric)], of_seeds.loc[row][metric]
            assert found["mean"] == pytest.approx(values.mean(), abs=1e-9)
            assert found["sd"] == pytest.approx(values.std(ddof=1), abs=1e-9)
            assert found["n_seeds"] == 3
        order = of_seeds.groupby("row")[metric].mean().sort_values(ascending=False).index
        assert [summary.loc[(row, metric)]["place"] for row in order[:2]] == [1, 2]
        assert np.isnan(summary.loc[(order[2], metric)]["place"])


def test_the_tidy_table_holds_every_number_of_every_cell(records, out):
    table = pd.read_parquet(out / "results.parquet")
    assert list(table.columns) == ["table", "row", "data_set", "seed", "metric", "value"]
    numbers = [
        ("t", r["row"], "shop", r["seed"], key, value)
        for r in records
        for key, value in r["metrics"].items()
        if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
    ]
    assert list(table.itertuples(index=False, name=None)) == numbers
    assert "test/reference/popularity/hr@10" in set(table["metric"])


def test_a_number_that_one_cell_has_not_is_null_there(tmp_path):
    rows = [record(tmp_path, "a", metrics={"test/auc": 0.5}), record(tmp_path, "b", metrics={"test/auc": None})]
    table = tidy(rows).to_pandas().query("metric == 'test/auc'")
    assert table["value"].tolist()[0] == 0.5
    assert np.isnan(table["value"].tolist()[1])
    assert "test/auc" not in set(tidy(rows[1:])["metric"]), "no number anywhere"


def test_differences_to_the_best_row_by_pandas(records, out):
    """Seeds averaged within a user, users paired; Holm's correction written out."""
    averaged = by_pandas(records).groupby(["row", "user_id"])[list(METRICS)].mean()
    assert averaged.groupby("row")["ndcg@10"].mean().idxmax() == "ours"
    summary = pd.read_csv(out / "summary.csv").query("not reference").set_index(["row", "metric"])
    assert set(summary.loc["ours"]["base"].isna()) == {True}
    others = summary.drop("ours")
    assert set(others["base"]) == {"ours"}
    for (row, metric), found in others.iterrows():
        gain = averaged.loc[row][metric] - averaged.loc["ours"][metric]
        assert found["difference"] == pytest.approx(gain.mean(), abs=1e-9)
        assert found["low"] < gain.mean() < found["high"]
        spread = gain.std(ddof=1) / np.sqrt(N_USERS)  # the normal interval, which that of the bootstrap is near
        assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * spread, rel=0.15)
    p_values, largest = others["p_value"].sort_values(), 0.0
    for place, (key, p) in enumerate(p_values.items()):
        largest = max(largest, min(1.0, (len(p_values) - place) * p))
        assert others.loc[key]["holm_p"] == pytest.approx(largest, abs=1e-12)


def test_the_markdown_says_the_same(records, out):
    text = (out / "summary.md").read_text()
    summary = pd.read_csv(out / "summary.csv").query("not reference").set_index(["row", "metric"])
    (header, _, *lines) = re.findall(r"^\|.*\|$", text.split("### ")[0], re.MULTILINE)
    metrics = [cell.strip() for cell in header.strip("|").split("|")][1:]
    assert metrics == ["NDCG@10", "HR@10", "User AUC"]
    metrics = ["ndcg@10", "hr@10", "user_auc"]
    for line, row in zip(lines, ROWS, strict=False):
        label, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        assert label == row_name(row)
        for metric, cell in zip(metrics, cells, strict=True):
            found = summary.loc[(row, metric)]
            number = f"{found['mean']:.4f} ± {found['sd']:.4f}"
            around = {1: "**", 2: "*"}.get(found["place"], "")
            dagger = " †" if found["holm_p"] <= 0.05 else ""
            assert cell == f"{around}{number}{around}{dagger}"
    assert lines[3:] == ["| (chance) | 0.2000 | 0.5000 | - |", "| (popularity) | - | 0.6000 | - |"]
    assert "| ours | 3 | 3.0 | 3.0 | 3.00 |" in text, "cost: mean of 2, 3, 4 seconds; the largest process"
    assert "sampled@20, ties expected, 40 users, candidates c0ffee; 3 rows, seeds 0, 1, 2" in text
    assert "- code: ffffffffffff\n" in text


def test_references_are_no_models(out):
    """Chance has a higher hr@10 than any row here, and is neither best nor has it seeds."""
    references = pd.read_csv(out / "summary.csv").query("reference")
    assert set(references["row"]) == {"chance", "popularity"}
    assert references[["place", "sd", "n_seeds", "difference"]].isna().all().all()


def test_a_row_with_fewer_seeds_is_said_to_have_them(records, tmp_path):
    write_results(tmp_path / "out", records[:-1], ABOUT)
    write_summary(tmp_path / "out", "t", records[:-1], ["hr@10"], Significance("first"), ["ours-2: failed"])
    text = (tmp_path / "out/summary.md").read_text()
    assert "seeds 0, 1, 2 ('ours' only 2 of 3)" in text
    assert "- missing: ours-2: failed" in text
    assert "### shop: differences to popularity" in text


@pytest.mark.parametrize(
    ("significance", "n_rows"),
    [(Significance("absent"), 3), (Significance(metrics=[]), 3), (Significance(), 1)],
    ids=["base without a finished cell", "no metrics", "one row"],
)
def test_where_nothing_can_be_compared_the_means_are_there(records, tmp_path, significance, n_rows):
    some = records[:n_rows]
    write_results(tmp_path / "out", some, ABOUT)
    write_summary(tmp_path / "out", "t", some, ["hr@10"], significance)
    text = (tmp_path / "out/summary.md").read_text()
    assert f"- nothing is compared: base {significance.base!r}" in text
    assert "†" not in text
    assert "holm_p" in pd.read_csv(tmp_path / "out/summary.csv").columns


def test_data_sets_are_compared_each_for_itself(tmp_path):
    runs = tmp_path / "runs"
    records = [
        record(runs, row, data_set=name, gain=gain, candidates_hash=name)
        for name, sign in (("x", 1), ("y", -1))
        for row, gain in (("a", 0.0), ("b", 0.3 * sign))
    ]
    write_results(tmp_path / "out", merge_records(records, []), ABOUT)
    write_summary(tmp_path / "out", "t", records, ["ndcg@10"], Significance())
    table = pd.read_csv(tmp_path / "out/summary.csv").query("not reference").set_index(["data_set", "row"])
    assert table["place"].to_dict() == {("x", "a"): 2, ("x", "b"): 1, ("y", "a"): 1, ("y", "b"): 2}
    assert table["base"].dropna().to_dict() == {("x", "a"): "b", ("y", "b"): "a"}


def test_an_unknown_metric_is_refused(records, tmp_path):
    with pytest.raises(ConfigError, match=r"metrics: no result has hr@11; there are .*hr@10"):
        write_summary(tmp_path, "t", records, ["hr@10", "hr@11"], Significance())


def test_what_is_compared_need_be_no_column(records, tmp_path):
    write_results(tmp_path, records, ABOUT)
    write_summary(tmp_path, "t", records, ["hr@10"], Significance("ours", ["ndcg@10"]))
    found = {(d.row, d.metric) for d in read_grid(tmp_path).differences}
    assert found == {("popularity", "ndcg@10"), ("sasrec", "ndcg@10")}
    assert "ndcg" not in (tmp_path / "summary.md").read_text().split("\n\n")[4]


def test_labels_that_look_like_numbers(tmp_path):
    rows = {"4": 0.0, "0.50": 0.3, "007": 0.1}
    records = [record(tmp_path / "runs", row, seed, "1", gain) for seed in SEEDS for row, gain in rows.items()]
    write_results(tmp_path / "out", records, ABOUT)
    write_summary(tmp_path / "out", "t", records, ["hr@10"], Significance("0.50", ["hr@10"]))
    grid = read_grid(tmp_path / "out")
    assert {(d.row, d.base, d.data_set) for d in grid.differences} == {("4", "0.50", "1"), ("007", "0.50", "1")}
    assert set(grid.summary.filter(~grid.summary["reference"])["row"]) == set(rows)


def test_cells_of_different_code_are_said_to_be(records, tmp_path):
    records[2]["code"] = ["b" * 12, "f" * 12]  # killed under one, continued under the other
    records[0]["code"] = ["a" * 12 + " with changes"]
    records[1]["code"] = ["outside a repository"]
    write_results(tmp_path / "out", records, ABOUT)
    write_summary(tmp_path / "out", "t", records, ["hr@10"], Significance(metrics=[]))
    names = "aaaaaaaaaaaa with changes, outside a repository, bbbbbbbbbbbb, ffffffffffff"
    assert f"- code: {names}; cells were run with different code\n" in (tmp_path / "out/summary.md").read_text()


def test_random_weights_and_generated_shops_are_said_to_be(records, tmp_path):
    write_summary(tmp_path, "t", records, ["hr@10"], Significance(metrics=[]))
    assert not re.search("random weights|generated", (tmp_path / "summary.md").read_text())
    records[0]["metrics"]["test/random_backbone"] = True
    records[1]["metrics"]["test/item_features"] = "image: x (random weights, abc), centred"
    for cell in records:
        cell["metrics"]["test/reference/oracle_both/hr@10"] = 1.0
    write_summary(tmp_path, "t", records, ["hr@10"], Significance(metrics=[]))
    text = (tmp_path / "summary.md").read_text()
    assert "- models that start from random weights, whose quality is unknown: popularity\n" in text
    assert "- item features from random weights, whose quality is unknown: sasrec\n" in text
    assert "this is a generated shop" in text


# --- what must not be merged ----------------------------------------------------------------------------------------


def test_rows_that_rest_on_other_information_are_named(records, tmp_path):
    assert other_information(records) == []
    for one in records:
        if one["row"] == "sasrec":
            one["metrics"]["test/learns_later_likes"] = True
        else:
            one["metrics"] |= {"test/no_pairs": "no AUC of pairs: why not", "test/n_without_negatives": 3}
    assert other_information(records) == [
        "rows that learned about each user from train likes after the test context, too, since the split is random: "
        "sasrec; their ceiling, where the truth is known, is (hindsight, both), and not (reader, both)",
        "popularity, ours: no AUC of pairs: why not",
        "3 lists without negatives, in which every model scores 1, are left out",
    ]
    write_summary(tmp_path, "t", records, ["ndcg@10"], Significance())
    text = (tmp_path / "summary.md").read_text()
    assert all(line.split(":")[0] in text for line in other_information(records))


def test_other_candidates_are_refused_by_name(records, tmp_path):
    odd = record(tmp_path / "odd", "ours", 1, gain=ROWS["ours"], candidates_hash="bead")
    records[5] = odd
    with pytest.raises(ConfigError) as caught:
        merge_records(records, [])
    message = str(caught.value)
    assert message.startswith("candidates_hash of data set 'shop' is \"c0ffee\" in 8 cells, but not in\n")
    assert f"row 'ours', data set 'shop', seed 1 ({odd['run']}): \"bead\"\n" in message
    assert message.count("row '") == 1


@pytest.mark.parametrize(("key", "value"), [("evaluator", "full"), ("m", 100), ("max_groups", 5), ("ties", "worst")])
def test_another_protocol_is_refused_too(records, key, value):
    records[2]["metrics"][f"test/{key}"] = value
    with pytest.raises(ConfigError, match=f"^{key} of data set 'shop' .*\n.*row 'ours', data set 'shop', seed 0"):
        merge_records(records, [])


def test_two_grids_merge_unless_their_candidates_differ(records, tmp_path):
    others = [record(tmp_path / "more", f"b{i}", table="u") for i in range(2)]
    write_results(tmp_path / "u", others, ABOUT)
    assert read_records(tmp_path / "u") == others
    merged = merge_records(records, read_records(tmp_path / "u"))
    assert [(r["table"], r["row"]) for r in merged[-2:]] == [("u", "b0"), ("u", "b1")]
    assert merge_records(records, records) == records, "the same runs count once"
    with pytest.raises(ConfigError, match="candidates_hash of data set 'shop'"):
        merge_records(records, [record(tmp_path / "x", "b", candidates_hash="bead", table="u")])
    with pytest.raises(
        ConfigError, match=r"row 'ours', data set 'shop', seed 0 of u and row .* of t are different runs"
    ):
        merge_records(records, [record(tmp_path / "x", "ours", gain=9, table="u")])


def test_seeds_of_a_row_are_set_alike(records, tmp_path):
    more = record(tmp_path / "x", "ours", 7, gain=ROWS["ours"], table="u")
    assert len(merge_records(records, [more])) == len(records) + 1
    other = record(tmp_path / "x", "ours", 8, gain=9, table="u")  # settings that only this seed has
    with pytest.raises(ConfigError, match=r"seed 8 of u and row 'ours', .* of t are set differently .*another label"):
        merge_records(records, [other])


def test_quick_results_join_no_others(records, tmp_path):
    quick = [record(tmp_path / "x", f"q{i}", table="u-quick") for i in range(2)]
    assert merge_records(quick[:1], quick[1:]) == quick
    with pytest.raises(ConfigError, match=r"u-quick and t: quick results cannot join others; leave one out"):
        merge_records(records, quick)


def test_merged_results_can_be_merged_again(records, tmp_path):
    for name, part in (("u", records[3:6]), ("v", merge_records(records[:3], records[3:6]))):
        write_results(tmp_path / name, [{**r, "table": name} for r in part], replace(ABOUT, rows=["ours"], seeds=[9]))
    again = merge_records(records[6:], read_records(tmp_path / "v"))
    assert {(r["row"], r["seed"]) for r in again} == {(r["row"], r["seed"]) for r in records}
    about = json.loads((tmp_path / "v/grid.json").read_text())
    assert (about["seeds"], about["rows"]) == ([0, 1, 9], ["ours", "popularity", "sasrec"])
    assert pd.read_parquet(tmp_path / "v/results.parquet")["seed"].nunique() == 2


def test_merged_runs_must_be_here(records):
    check_merge("t", [], records, compared=True)
    shutil.rmtree(records[4]["run"])
    with pytest.raises(ConfigError, match=rf"1 of 9 runs are missing, such as those of {records[4]['run']}, .*copy"):
        check_merge("t", [], records, compared=True)
    check_merge("t", [], records, compared=False)


# --- the folder -----------------------------------------------------------------------------------------------------


def test_only_results_of_the_same_grid_are_replaced(records, out, tmp_path):
    check_output(out, "t")
    check_output(tmp_path / "new", "t")
    with pytest.raises(ConfigError, match="holds results of the grid 't'; give another for 'u'"):
        check_output(out, "u")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/notes.txt").touch()
    with pytest.raises(ConfigError, match="holds other files than results of a grid"):
        check_output(tmp_path / "thesis", "t")
    with pytest.raises(ConfigError, match=r"notes.txt': is a file; give a folder"):
        check_output(tmp_path / "thesis/notes.txt", "t")
    write_results(out, records[:1], ABOUT)
    assert [path.name for path in (out / "cells").iterdir()] == ["shop--popularity--0.json"]


def test_damaged_results_of_another_grid(out, tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}: holds no results of a grid"):
        read_records(tmp_path)
    path = out / "cells/shop--ours--1.json"
    older = {key: value for key, value in json.loads(path.read_text()).items() if key != "row_hash"}
    for text in ("{", "[]", "{}", json.dumps(older)):
        path.write_text(text)
        with pytest.raises(DataError, match=r"shop--ours--1.json: a cell of the grid cannot be read"):
            read_records(out)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Function that writes a grid file and runs the command on it, with the stand-in."""
    monkeypatch.chdir(tmp_path)
    program = (sys.executable, str(Path(__file__).with_name("grid_stand_in.py")))
    monkeypatch.setattr(runner, "run_grid", partial(runner.run_grid, program=program))
    Path("shop.yaml").touch()
    Path("runs").mkdir()

    def grid(name, rows, *arguments, **changes):
        content = {
            "base": ["shop.yaml"], "seeds": [0], "metrics": ["hr@10"],
            "set": {"data.name": "shop", "trainer.default_root_dir": "runs"},
            "rows": [{"label": label, "set": settings} for label, settings in rows.items()], **changes,
        }  # fmt: skip
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content))
        return main(["grid", "--config", f"{name}.yaml", *arguments])

    return grid


def test_the_command_from_the_file_to_the_table(command, capsys):
    quick = {"seeds": [5], "set": {"stand.gain": 0.5}}
    assert command("small", {"a": {}}, "--quick", quick_grid=quick) == 0
    out = capsys.readouterr().out
    assert out.rstrip().endswith("written: experiments/results/small-quick")
    assert "# small-quick\n" in out
    cell = json.loads(Path("experiments/results/small-quick/cells/shop--a--5.json").read_text())
    assert (cell["table"], cell["row"], cell["data_set"], cell["seed"]) == ("small-quick", "a", "shop", 5)
    assert re.fullmatch("[0-9a-f]{40}", cell["commit"])
    assert cell["dirty"] in (True, False)
    assert cell["candidates_hash"] == "c0ffee"
    assert cell["config_hash"][:12] == cell["run"][-12:]
    assert cell["versions"]["polars"]
    assert "--stand.gain=0.5" in cell["command"]
    assert cell["metrics"]["test/hr@10"] == pytest.approx(user_values(5, 0.5)["hr@10"].mean())


def test_the_command_refuses_to_merge_other_candidates(command, capsys):
    assert command("one", {"a": {}}) == 0
    assert command("two", {"b": {"stand.gain": 0.1}}, "--merge", "experiments/results/one") == 0
    text = Path("experiments/results/two/summary.md").read_text()
    assert "| b | " in text
    assert "| a | " in text
    assert [r["table"] for r in read_records(Path("experiments/results/two"))] == ["one", "two"]
    capsys.readouterr()
    assert command("three", {"c": {"stand.hash": "bead"}}, "--merge", "experiments/results/two") == 1
    err = capsys.readouterr().err
    assert err.startswith(
        "mllm_srec grid: error: candidates_hash of data set 'shop' is \"c0ffee\" in 2 cells, but not in"
    )
    assert "row 'c', data set 'shop', seed 0 (runs/shop/c-0-" in err
    assert not Path("experiments/results/three").exists()


def test_the_command_prints_commands_and_runs_nothing(command, capsys):
    assert command("dry", {"a": {"model.lr": 0.1}, "b c": {"data.x": "d e"}}, "--dry_run", "--seeds", "[3]") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("python -m mllm_srec run --config shop.yaml --trainer.enable_progress_bar=false ")
    assert "--model.lr=0.1 --seed_everything=3 --name a-3-" in first
    assert "'--data.x=d e' --seed_everything=3 --name b-c-3-" in second
    assert list(Path("runs").iterdir()) == []
    shutil.rmtree("runs")


def test_of_a_trained_model_a_mean_over_lists_may_differ_by_one_list(records):
    trained = {
        "fit/steps": 9,
        "test/n_users": 100,
        "test/auc": 0.5,
        "test/ndcg@10": 0.5,
        "test/reference/chance/hr@5": 0.2,
    }
    moved = {**trained, "test/ndcg@10": 0.509}

    def verdict(**changes):
        one = {**records[0], "metrics": {**trained, **changes.pop("old", {})}}
        return compare_records([{**records[0], "metrics": {**moved, **changes}}], [one])[0]

    assert verdict().passed
    assert not verdict(**{"test/ndcg@10": 0.511}).passed
    assert not verdict(**{"test/auc": 0.502}).passed
    assert not verdict(**{"test/reference/chance/hr@5": 0.205}).passed, "a reference is not trained"
    assert not verdict(**{"test/n_users": 99}).passed
    untrained = {key: value for key, value in trained.items() if key != "fit/steps"}
    found = compare_records(
        [{**records[0], "metrics": {**untrained, "test/ndcg@10": 0.509}}], [{**records[0], "metrics": untrained}]
    )[0]
    assert not found.passed
    assert found.lines[1:] == ["  test/ndcg@10: 0.009"]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ({"test/auc": 0.5}, {}, "test/auc: 0.5 is stored, now missing"),
        ({"test/auc": 0.5}, {"test/auc": None}, "test/auc: 0.5 is stored, now None"),
        ({"test/auc": None}, {"test/auc": 0.5}, "test/auc: None is stored, now 0.5"),
        ({"test/auc": 0.5}, {"test/auc": float("nan")}, "test/auc: 0.5 is stored, now nan"),
    ],
)
def test_a_result_that_only_one_of_two_cells_has_is_a_difference(records, old, new, line):
    def verdict(old, new):
        common = {"test/n_users": 100, "test/ndcg@10": 0.5, "test/model": "SASRec"}
        one, other = ({**records[0], "metrics": {**common, **of}} for of in (old, new))
        return compare_records([other], [one])[0]

    found = verdict(old, new)
    assert not found.passed
    assert found.other == (line,)
    assert verdict(old, {**old, "test/new": 0.1}).passed, "a result that is newer than the stored cell"
    assert verdict({"fit/seconds": 3, "test/n_user_auc": 4}, {}).passed


def test_one_row_with_one_seed_leaves_the_table_as_it_is(command, capsys):
    rows = {"a": {}, "b": {"stand.gain": 0.2}}
    assert command("small", rows, seeds=[0, 1]) == 0
    before = {path: path.read_bytes() for path in Path("experiments/results/small").rglob("*") if path.is_file()}
    invocations = Path("runs/invocations").read_text().split()
    more, apart = {**rows, "c": {"stand.gain": 0.1}}, {"seeds": [0, 1], "significance": {"base": "a"}}
    assert command("small", more, "--only", "c", "--seeds", "0", report={"baseline_rows": ["a"]}, **apart) == 0
    out = capsys.readouterr().out
    assert f"| c | {user_values(0, 0.1)['hr@10'].mean():.4f} |" in out
    assert "was left as it is" in out
    assert len(Path("runs/invocations").read_text().split()) == len(invocations) + 1
    assert {path: path.read_bytes() for path in before} == before
    assert command("small", rows, "--only", "b", "--seeds=1", "--output", "mine") == 0
    assert [path.name for path in Path("mine/cells").iterdir()] == ["shop--b--1.json"]
    assert command("small", rows, "--only", "bb") == 1
    assert "only='bb': no such row; did you mean 'b'?" in capsys.readouterr().err


def test_chosen_seeds_leave_the_table_of_all_as_it_is(command, capsys):
    assert command("small", {"a": {}}, "--seeds", "0", seeds=[0, 1]) == 0
    assert "written: experiments/results/small" in capsys.readouterr().out, "no table is there that could be lost"
    assert command("small", {"a": {}}, seeds=[0, 1]) == 0
    before = {path: path.read_bytes() for path in Path("experiments/results/small").rglob("*") if path.is_file()}
    capsys.readouterr()
    for word in (["--seeds", "0"], ["--seeds=[0]"]):
        assert command("small", {"a": {}}, *word, seeds=[0, 1]) == 0
        assert "experiments/results/small was left as it is: it may have other rows or" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    sets = [{"name": "s"}, {"name": "t", "set": {"data.n_negatives": 3}}]
    assert command("two", {"a": {}}, data_sets=sets) == 0
    assert command("two", {"a": {}}, "--data_sets", '[{"name": "s"}]', data_sets=sets) == 0
    assert "experiments/results/two was left as it is" in capsys.readouterr().out
    assert command("three", {"b": {}}, "--merge", "experiments/results/small", "--seeds", "0") == 0
    assert command("three", {"b": {}}, "--merge", "experiments/results/small", "--seeds", "0") == 0
    assert "left as it is" not in capsys.readouterr().out, "seed 1 is of the other table"
    assert command("small", {"a": {}}, seeds=[0]) == 0, "the file says so now"
    assert len(list(Path("experiments/results/small/cells").iterdir())) == 1


def test_what_can_not_be_verified_is_said_before_it_runs(command, capsys, monkeypatch):
    assert command("small", {"a": {}}, seeds=[0]) == 0
    monkeypatch.setattr(runner, "run_grid", lambda *_, **__: pytest.fail("runs"))
    assert command("small", {"a": {}}, "--verify", seeds=[0, 1]) == 1
    assert "nothing is stored of row 'a', data set 'shop', seed 1; there are a on shop with seeds 0" in (
        capsys.readouterr().err
    )


def test_a_stopped_verification_leaves_nothing(command, capsys, monkeypatch, tmp_path):
    assert command("small", {"a": {}}, seeds=[0]) == 0
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stopped(cells, n_jobs):
        assert next(tmp_path.glob("verify-small-*")).is_dir()
        assert cells[0].folder.is_relative_to(next(tmp_path.glob("verify-small-*")))
        raise Stopped(15)

    monkeypatch.setattr(runner, "run_grid", stopped)
    assert command("small", {"a": {}}, "--verify", seeds=[0]) == 143
    assert list(tmp_path.glob("verify-*")) == []
    assert "its runs are removed; the same command verifies from the beginning" in capsys.readouterr().err


def test_verify_runs_a_cell_anew_and_compares_it(command, capsys):
    rows = {"a": {}, "b": {"stand.gain": 0.2}}
    assert command("small", rows, seeds=[0, 1]) == 0
    capsys.readouterr()
    before = Path("runs/invocations").read_text()
    assert command("small", rows, "--verify", "--only", "b", "--seeds", "0", seeds=[0, 1]) == 0
    assert "b on shop, seed 0: the same, 8 results equal to the digit" in capsys.readouterr().out
    assert Path("runs/invocations").read_text() == before, "a finished run proves nothing"
    path = Path("experiments/results/small/cells/shop--b--0.json")
    cell, stored = json.loads(path.read_text()), path.read_bytes()
    del cell["checksum"]  # as whoever changes a file by hand must
    for by, status, words in (
        (5e-4, 0, "the same, 7 results equal to the digit, 1 differ, most of all test/hr@10 by 0.0005"),
        (
            5e-2,
            1,
            "NOT the same, 7 results equal to the digit, 1 differ, most of all test/hr@10 by 0.05 (allowed 0.025)",
        ),
    ):
        metrics = {**cell["metrics"], "test/hr@10": cell["metrics"]["test/hr@10"] + by}
        path.write_text(json.dumps({**cell, "metrics": metrics}))
        assert command("small", rows, "--verify", "--only", "b", "--seeds", "0", seeds=[0, 1]) == status
        out = capsys.readouterr()
        assert words in out.out
        assert ("1 of 1 cells are not what experiments/results/small says: b on shop, seed 0" in out.err) == status
    path.write_text(
        json.dumps({**cell, "metrics": {**cell["metrics"], "test/hr@10": cell["metrics"]["test/hr@10"] + 1e-14}})
    )
    assert command("small", rows, "--verify", "--only", "b", "--seeds", "0", seeds=[0, 1]) == 0
    assert "b on shop, seed 0: the same, 8 results equal to the digit" in capsys.readouterr().out
    path.write_text(json.dumps({**cell, "metrics": {**cell["metrics"], "test/candidates_hash": "bead"}}))
    assert command("small", rows, "--verify", "--only", "b", "--seeds", "0", seeds=[0, 1]) == 1
    assert "test/candidates_hash: 'bead' is stored, now 'c0ffee'" in capsys.readouterr().out
    path.write_bytes(stored)
    changed = {"a": {}, "b": {"stand.gain": 0.2, "stand.sleep": 0.01}}
    assert command("small", changed, "--verify", "--only", "b", "--seeds", "0", seeds=[0, 1]) == 1
    assert "the settings of this cell have changed since it was stored" in capsys.readouterr().out
    assert command("small", rows, "--verify", "--only", "b", "--seeds", "7", seeds=[0, 1]) == 1
    assert "verify: nothing is stored of row 'b', data set 'shop', seed 7; there are a, b on shop with seeds 0, 1" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "rows"),
        (["--rows", "[{label: a}]", "--base", "[shop.yaml]"], 1, "config: got none; give a grid file, such as"),
        (["--config", "bad.yaml"], 2, "'seds' is not known; did you mean 'seeds'?"),
        (["--config", "bad.yaml", "--jobs", "0"], 2, ""),
        (["--config", "good.yaml", "--quick"], 1, "quick_grid: this grid has no such section"),
        (["--config", "good.yaml", "--output", "good.yaml"], 1, "output='good.yaml': is a file"),
        (["--config", "good.yaml", "--merge", "runs"], 1, "runs: holds no results of a grid"),
    ],
)
def test_the_command_refuses(command, capsys, arguments, status, message):
    Path("bad.yaml").write_text("rows: [{label: a}]\nseds: [1]\n")
    Path("good.yaml").write_text("rows: [{label: a}]\nbase: [shop.yaml]\n")
    try:
        found = main(["grid", *arguments])
    except SystemExit as error:
        found = error.code
    assert found == status
    assert message in capsys.readouterr().err
