"""`analyse` on real runs of small baselines: by pandas from the files that the runs left, and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from mllm_srec.__main__ import main
from tests.prepared_again import replace_table

GRU = {"class_path": "mllm_srec.baselines.gru4rec.GRU4Rec", "init_args": {"hidden": 8, "patience": 50}}
POPULARITY = {"class_path": "mllm_srec.baselines.popularity.Popularity"}
RUNS = ["gru=runs/shop/gru-0,runs/shop/gru-1", "runs/shop/popularity"]
FAST = ["--n_resamples", "30", "--history_bins", "0", "3", "5", "--like_bins", "0", "2", "4"]


@pytest.fixture(scope="module")
def finished(shop_root, tmp_path_factory):
    """Folder with two seeds of a GRU and popularity, measured on lists of four and on the whole catalogue."""
    folder, raw = tmp_path_factory.mktemp("finished"), shop_root / "raw"
    shutil.copytree(shop_root / "shop", folder / "data/shop")
    settings = {
        "data": {"root": "data", "name": "shop", "batch_size": 3, "eval_batch_size": 4, "n_negatives": 4},
        "prepare": {
            "source": "tables", "reviews": str(raw / "interactions.csv"), "metadata": str(raw / "items.csv"),
            "images": str(raw / "pictures"), "k_core": 1, "split": "leave_one_out",
        },
        "candidates": {"n_negatives": 4},
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False},
    }  # fmt: skip
    (folder / "gru.yaml").write_text(yaml.safe_dump({**settings, "baseline": GRU}))
    (folder / "popularity.yaml").write_text(yaml.safe_dump({**settings, "baseline": POPULARITY}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in ("0", "1"):
            run = ["--config", "gru.yaml", "--name", f"gru-{seed}", "--seed_everything", seed]
            assert main(["fit", *run]) == 0
            assert main(["test", *run, "--ckpt_path", f"runs/shop/gru-{seed}/checkpoints/best.ckpt"]) == 0
        assert main(["test", "--config", "popularity.yaml", "--name", "popularity"]) == 0
        assert main(["test", "--config", "popularity.yaml", "--name", "whole", "--data.evaluator", "full"]) == 0
        rerank = ["--data.evaluator", "rerank", "--data.retriever", "popularity", "--data.n_retrieved", "5"]
        assert main(["test", "--config", "popularity.yaml", "--name", "reranked", *rerank]) == 0
    return folder


@pytest.fixture
def desk(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def analysed(*arguments):
    assert main(["analyse", *arguments, *FAST, "--output", "out.csv"]) == 0
    return pd.read_csv("out.csv", dtype={"stratum": str})


def value(table, **where):
    rows = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
    assert len(rows) == 1, where
    return rows.iloc[0]


def predictions(run, name):
    return pd.read_parquet(f"runs/shop/{run}/predictions/{name}.parquet")


def tables():
    """History length by group, and train likes by item, from the files of the data set."""
    groups, rows = (pd.read_parquet(f"data/shop/{name}.parquet") for name in ("groups", "interactions"))
    likes = rows[(rows["split"] == "train") & (rows["rating"] >= 4)]["item_id"].value_counts()
    return groups.set_index("group_id")["history"].map(len), likes


def test_numbers_of_seeds_and_of_one_run(desk, capsys):
    table = analysed(*RUNS)
    assert list(table["run"].unique()) == ["gru", "popularity"]
    assert table.groupby("run")["n_seeds"].unique().str[0].to_dict() == {"gru": 2, "popularity": 1}
    history, likes = tables()
    for name, runs in (("gru", ["gru-0", "gru-1"]), ("popularity", ["popularity"])):
        lists = [predictions(run, "test_users").set_index("group_id") for run in runs]
        pairs = [predictions(run, "test_pairs") for run in runs]
        scored = [predictions(run, "test") for run in runs]
        stated = [json.loads(Path(f"runs/shop/{run}/metrics.json").read_text()) for run in runs]
        for metric in ("ndcg@10", "user_auc"):
            mean = sum(of[metric] for of in lists) / len(runs)
            row = value(table, run=name, analysis="history_length", metric=metric, stratum="all")
            assert row["value"] == pytest.approx(np.mean([of[f"test/{metric}"] for of in stated]), abs=1e-5)
            for low, high, label in ((0, 3, "0-2"), (3, 5, "3-4"), (5, 99, "5+")):
                own = mean[(history.loc[mean.index] >= low) & (history.loc[mean.index] < high)]
                row = value(table, run=name, analysis="history_length", metric=metric, stratum=label)
                assert row["value"] == pytest.approx(own.mean(), nan_ok=True)
                assert row["n"] == own.notna().sum()
        for stratum, kinds, key in (("liked / sampled", ["liked", "sampled"], "auc"),
                                    ("liked / disliked", ["liked", "disliked"], "auc_disliked")):  # fmt: skip
            own = [of[of["kind"].isin(kinds)] for of in pairs]
            areas = [roc_auc_score(of["kind"] == "liked", of["score"]) for of in own]
            row = value(table, run=name, analysis="negative_kinds", stratum=stratum)
            assert row["value"] == pytest.approx(np.mean(areas), abs=1e-9)
            assert row["value"] == pytest.approx(np.mean([of[f"test/{key}"] for of in stated]), abs=1e-5)
            assert row["n"] == len(own[0])
        positive = scored[0][scored[0]["label"] == 1]
        known = positive["item_id"].map(likes).fillna(0)
        row = value(table, run=name, analysis="cold_items", metric="recall@10", stratum="2-3")
        assert row["n"] == known.between(2, 3).sum()
        whole = value(table, run=name, analysis="cold_items", metric="auc_in_list", stratum="all")
        one_each = np.mean([of["test/user_auc"] for of in stated])
        assert whole["value"] == pytest.approx(one_each, abs=1e-5), "leave one out: a positive a list"
    popular = value(table, run="gru", analysis="popularity_matched", metric="popularity/auc", stratum="as drawn")
    stated = json.loads(Path("runs/shop/popularity/metrics.json").read_text())
    assert popular["value"] == pytest.approx(stated["test/reference/popularity/auc"], abs=1e-5)
    out = capsys.readouterr().out
    assert "test, lists: liked items in the context" in out
    assert "fewer than 30 users, so that intervals are too narrow: history_length all, " in out
    assert "written: out.csv" in out


def test_the_whole_catalogue(desk, capsys):
    table = analysed("runs/shop/whole")
    stated = json.loads(Path("runs/shop/whole/metrics.json").read_text())
    row = value(table, analysis="cold_items", metric="auc_in_list", stratum="all")
    assert row["value"] == pytest.approx(stated["test/user_auc"], abs=1e-5)
    assert {f"test/hr@{k}" for k in (1, 5, 10, 20)} <= set(stated)
    row = value(table, analysis="cold_items", metric="recall@10", stratum="all")
    assert row["value"] == pytest.approx(stated["test/recall@10"], abs=1e-5)
    assert not (table["metric"].str.endswith("user_auc") & (table["analysis"] == "popularity_matched")).any()
    assert "popularity_matched has no user_auc" in capsys.readouterr().out


def test_positives_that_a_retriever_missed(desk):
    """They are there, among the cold ones, and count as missed."""
    table = analysed("runs/shop/reranked")
    stated = json.loads(Path("runs/shop/reranked/metrics.json").read_text())
    scored = predictions("reranked", "test")
    missed = scored[scored["score"].isna()]
    assert len(missed) > 0
    assert value(table, analysis="cold_items", metric="recall@10", stratum="all")["n"] == (scored["label"] == 1).sum()
    for metric, key in (("recall@10", "recall@10"), ("auc_in_list", "user_auc_reranked")):
        row = value(table, analysis="cold_items", metric=metric, stratum="all")
        assert row["value"] == pytest.approx(stated[f"test/{key}"], abs=1e-5)
    likes = missed["item_id"].map(tables()[1]).fillna(0)
    cold = value(table, analysis="cold_items", metric="recall@10", stratum="0-1")
    positive = scored[(scored["label"] == 1) & (scored["item_id"].map(tables()[1]).fillna(0) < 2)]
    assert cold["n"] == len(positive)
    assert (likes < 2).any(), "else the stratum says nothing of what was missed"
    assert cold["value"] == pytest.approx(positive["score"].notna().mean()), (
        "lists of five: what is found is in the ten"
    )


def refusal(capsys, *arguments):
    capsys.readouterr()
    assert main(["analyse", *arguments]) == 1
    return capsys.readouterr().err


def test_what_must_not_be_mixed_is_refused(desk, capsys):
    assert "evaluator is 'sampled@4' in" in refusal(capsys, RUNS[1], "runs/shop/whole")
    assert "did you mean 'ndcg@10'" in refusal(capsys, RUNS[1], "--metrics", "ndgc@10")
    assert "history_bins=[1]" in refusal(capsys, RUNS[1], "--history_bins", "1")
    assert "holds no val results" in refusal(capsys, RUNS[1], "--split", "val")
    assert "is not a finished run" in refusal(capsys, "nowhere")
    Path("mine.csv").write_text("a,b\n")
    assert "is no result of `analyse`" in refusal(capsys, RUNS[1], "--output", "mine.csv")
    assert "is no folder; make it first" in refusal(capsys, RUNS[1], "--output", "there/out.csv")


def test_another_data_set_is_refused(desk, capsys):
    folder = Path("data/shop")
    shutil.copytree("data", "moved")
    replace_table(folder, "candidates", pl.read_parquet(folder / "candidates.parquet").with_columns(label=0))
    assert "was prepared again since" in refusal(capsys, RUNS[1])
    (folder / "manifest.json").unlink()
    assert "holds no prepared data set" in refusal(capsys, RUNS[1])
    shutil.rmtree("data")
    assert main(["analyse", RUNS[1], *FAST, "--data_root", "moved"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(score=-t["score"]), "the AUC of its pairs is"),
        (lambda t: pd.concat([t, t.head(1)]), "1 targets are duplicates"),
        (lambda t: t.assign(group_id=t["group_id"].astype("int32")), "column group_id is Int32, not Int64"),
        (lambda t: t.assign(item_id="x" + t["item_id"]), "scored rows are not in the data set by their item_id"),
    ],
)
def test_damaged_pairs_are_refused(desk, capsys, change, message):
    path = Path("runs/shop/popularity/predictions/test_pairs.parquet")
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    assert message in refusal(capsys, RUNS[1])


def test_lists_that_do_not_fit_are_refused(desk, capsys):
    path = Path("runs/shop/popularity/predictions/test.parquet")
    table = pd.read_parquet(path)
    table[table["group_id"] != table["group_id"].iloc[0]].to_parquet(path, index=False)
    assert "1 rows of test.parquet and test_users.parquet do not match" in refusal(capsys, RUNS[1])
    path.unlink()
    assert "test.parquet': the scored rows are missing" in refusal(capsys, RUNS[1])


def test_it_loads_no_model_library(desk):
    code = (
        "import sys; from mllm_srec.__main__ import main\n"
        f"assert main(['analyse', {RUNS[1]!r}, '--n_resamples', '2']) == 0\n"
        "print('LOADED', [n for n in ('torch', 'lightning', 'transformers', 'datasets', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr
