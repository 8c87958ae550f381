"""Baselines by command, as a person types them: fit, resume, test, full ranking, and as retrievers."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

from mllm_srec.__main__ import main
from mllm_srec.cli import experiment
from mllm_srec.cli.results import ResultWriter
from mllm_srec.cli.schema import full_parser

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OVERLAYS = sorted((CONFIGS / "baselines").glob("*.yaml"))
DATA_SETS = ("demo", "beauty", "movielens", "gift_cards")
GRU = {"class_path": "mllm_srec.baselines.gru4rec.GRU4Rec", "init_args": {"hidden": 8, "patience": 50}}
POPULARITY = {"class_path": "mllm_srec.baselines.popularity.Popularity"}


@pytest.fixture(scope="module")
def settings(shop_root):
    raw = shop_root / "raw"
    return {
        "data": {"root": str(shop_root), "name": "items", "batch_size": 3, "eval_batch_size": 4, "n_negatives": 4},
        "prepare": {
            "source": "tables", "reviews": str(raw / "interactions.csv"), "metadata": str(raw / "items.csv"),
            "images": str(raw / "pictures"), "k_core": 1, "split": "leave_one_out",
        },
        "candidates": {"n_negatives": 4},
        "model": {"backbone": "nowhere/that-exists"},  # no baseline below looks at it
        "trainer": {"accelerator": "cpu", "max_epochs": 4, "enable_progress_bar": False},
    }  # fmt: skip


@pytest.fixture(scope="module")
def fitted(settings, tmp_path_factory):
    """Folder with configurations and the run `a`; not to be changed."""
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "gru.yaml").write_text(yaml.safe_dump({**settings, "baseline": GRU}))
    (folder / "popularity.yaml").write_text(yaml.safe_dump({**settings, "baseline": POPULARITY}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["prepare", "--config", "gru.yaml"]) == 0
        assert main(["fit", "--config", "gru.yaml", "--name", "a"]) == 0
        assert main(["test", "--config", f"{A}/config.yaml", "--ckpt_path", BEST]) == 0
    return folder


@pytest.fixture
def desk(fitted, tmp_path, monkeypatch):
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


A = "runs/items/a"
BEST = f"{A}/checkpoints/best.ckpt"


def metrics(run):
    return json.loads((Path(run) / "metrics.json").read_text())


def weights(run, name="last"):
    return torch.load(Path(run) / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


def refused(arguments, capsys):
    capsys.readouterr()
    assert main(arguments) == 1
    return capsys.readouterr().err


def test_results_and_their_rows(fitted, monkeypatch):
    monkeypatch.chdir(fitted)
    found = metrics(A)
    assert found["test/model"] == "GRU4Rec"
    assert found["test/n_weights"] == sum(value.numel() for value in weights(A).values())
    assert found["test/random_backbone"] is False
    assert found["test/prompt"] == "items/50"
    pairs = pl.read_parquet(f"{A}/predictions/test_pairs.parquet").filter(pl.col("kind") != "disliked")
    assert found["test/auc"] == pytest.approx(roc_auc_score(pairs["label"], pairs["score"]), abs=1e-9)
    lists = pl.read_parquet(f"{A}/predictions/test.parquet")
    areas = [roc_auc_score(rows["label"], rows["score"]) for _, rows in lists.group_by("group_id")]
    assert found["test/user_auc"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert found["test/reference/chance/auc"] == 0.5


def test_a_run_that_stopped_continues_as_if_it_had_not(desk):
    short = ["fit", "--config", "gru.yaml", "--name", "b", "--trainer.max_epochs", "2"]
    assert main(short) == 0
    last = "runs/items/b/checkpoints/last.ckpt"
    assert main([*short[:-1], "4", "--ckpt_path", last]) == 0
    one, other = weights(A), weights("runs/items/b")
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=0)


def test_a_finished_training_that_goes_on_is_that_of_its_new_settings(desk, capsys, monkeypatch):
    run = ["--config", "gru.yaml", "--name", "a", "--trainer.max_epochs"]
    more = ["fit", *run, "6", "--ckpt_path", f"{A}/checkpoints/last.ckpt"]
    with monkeypatch.context() as patch:
        patch.setattr(ResultWriter, "write_fitted", lambda *_: pytest.fail("killed"))
        with pytest.raises(BaseException, match="killed"):
            main(more)
    assert "fit/steps" not in metrics(A), "not done: it was killed before its results"
    assert metrics(A)["fit/data"] == "items"
    assert main(["run", *run, "6"]) == 0
    assert "mllm_srec fit" in capsys.readouterr().out
    assert yaml.safe_load(Path(A, "config.yaml").read_text())["trainer"]["max_epochs"] == 6
    assert "trainer.max_epochs: run 6, now 4" in refused(["run", *run, "4"], capsys)
    assert main(["run", *run, "6"]) == 0
    assert capsys.readouterr().out == f"done: {A}\n"


@pytest.mark.parametrize(("command", "number", "status"), [("fit", 15, 143), ("run", 2, 130)])
def test_told_to_stop_it_saves_and_says_how_to_go_on(desk, command, number, status):
    words = ["--config", "gru.yaml", "--trainer.max_epochs", "80", "--trainer.accumulate_grad_batches", "2"]
    assert main(["fit", *words, "--name", "whole"]) == 0
    expected = weights("runs/items/whole")
    start = [sys.executable, "-m", "mllm_srec", command, *words, "--name", "part"]
    process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    last = Path("runs/items/part/checkpoints/last.ckpt")
    while not last.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert process.returncode == status, err
    assert "Traceback" not in err
    step = torch.load(last, weights_only=True)["global_step"]
    assert 0 < step < torch.load("runs/items/whole/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert f"{last} holds step {step}; go on with\n" in err or command == "run"
    said, advice = err.strip().splitlines()[-2:]
    assert said.startswith(f"mllm_srec {command}: stopped by {'SIGTERM' if number == 15 else 'Ctrl-C'}; ")
    assert said.endswith("go on with")
    assert advice.startswith(f"  python -m mllm_srec {command} --config gru.yaml")
    assert main(shlex.split(advice)[3:]) == 0
    assert all(torch.equal(value, weights("runs/items/part")[name]) for name, value in expected.items())
    assert metrics("runs/items/part")["val/ndcg@10"] == metrics("runs/items/whole")["val/ndcg@10"]


def test_a_log_file_gets_lines_and_no_bar(desk, capfd, monkeypatch):
    monkeypatch.setattr("mllm_srec.cli.progress_lines.LINE_EVERY", 0.0)
    words = ["--config", "gru.yaml", "--trainer.enable_progress_bar", "true"]
    assert main(["fit", *words, "--name", "b", "--trainer.max_epochs", "1"]) == 0
    assert main(["test", *words, "--ckpt_path", "runs/items/b/checkpoints/best.ckpt"]) == 0
    out, err = capfd.readouterr()
    assert "training: 1 of 4 steps (25 %)" in err
    assert "; epoch 1 of 1, loss " in err
    assert "testing: 1 of " in err
    assert "Epoch 0" not in out + err, "Lightning's bar"


NOTHING = [
    (["--trainer.max_epochs", "0"], "trainer.max_epochs=0: leaves nothing to train"),
    (["--trainer.max_steps", "0"], "trainer.max_steps=0: leaves nothing to train"),
    (["--trainer.limit_train_batches", "0"], "trainer.limit_train_batches=0: leaves nothing to train"),
    (["--data.max_train_groups", "0"], "data.max_train_groups=0; give at least 1, or null for all"),
    (["--data.max_eval_groups", "0"], "data.max_eval_groups=0; give at least 1, or null for all"),
    (["--data.negatives", "explicit", "--baseline", "null"], "model.finetune='none': leaves nothing to train"),
]


@pytest.mark.parametrize(("words", "message"), NOTHING)
def test_nothing_to_train_is_an_error_and_leaves_nothing(desk, capsys, words, message):
    none = ["--model.finetune", "none"] if "null" in words else []
    assert message in refused(["fit", "--config", "gru.yaml", "--name", "void", *words, *none], capsys)
    assert not Path("runs/items/void").exists()


def test_lists_of_no_user_are_no_result(desk, capsys):
    """All interactions are of the train split: nothing is measured, and nothing pretends that it was."""
    few = Path("few.csv")
    few.write_text("user_id,item_id,rating,timestamp\n" + "".join(f"u{n},i{n:02d},5,{n}\n" for n in range(1, 9)))
    words = ["--config", "popularity.yaml", "--data.name", "few", "--data.root", ".", "--prepare.reviews", str(few)]
    for command in ("run", "test"):
        message = refused([command, *words, "--name", "void"], capsys)
        assert "lists of no user can be measured" in message or command == "run"
    assert not Path("runs/few/void/metrics.json").exists()


def test_a_damaged_last_checkpoint_gives_way_to_the_best(desk, capsys, monkeypatch):
    """Early stopping included: what follows is as if training had been killed right after the best validation."""

    def unused(*_):
        raise AssertionError("Lightning writes checkpoints through another folder, and not whole")

    monkeypatch.setattr("lightning.fabric.plugins.io.torch_io._atomic_save", unused)
    fit = ["fit", "--config", "gru.yaml", "--name", "b", "--trainer.max_epochs", "60"]
    fit += ["--baseline.init_args.patience", "3"]
    assert main(fit) == 0
    run, before = Path("runs/items/b"), metrics("runs/items/b")
    trained = weights(run)
    assert before["fit/best_step"] < before["fit/steps"] < 240, "else it was not stopped early"
    (run / "metrics.json").write_text(json.dumps({key: before[key] for key in ("fit/data", "fit/candidates_hash")}))
    last = run / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:3000])
    last.with_name(".last.ckpt.partial").write_bytes(b"left by a kill")
    capsys.readouterr()
    assert main([*fit, "--ckpt_path", str(last)]) == 0
    out = capsys.readouterr().out
    assert f"{last}: the checkpoint cannot be read (it is cut off or is no checkpoint); going on from" in out
    assert metrics(run) == before
    assert all(torch.equal(value, weights(run)[name]) for name, value in trained.items())
    assert not last.with_name(".last.ckpt.partial").exists()


def test_a_run_that_was_killed_when_it_had_stopped_early_trains_no_more(desk):
    fit = ["fit", "--config", "gru.yaml", "--name", "b", "--trainer.max_epochs", "60"]
    fit += ["--baseline.init_args.patience", "1"]
    assert main(fit) == 0
    run, before = Path("runs/items/b"), metrics("runs/items/b")
    trained = weights(run)
    assert before["fit/best_step"] < before["fit/steps"], "else it was not stopped early"
    facts = {key: before[key] for key in ("fit/data", "fit/candidates_hash")}
    (run / "metrics.json").write_text(json.dumps(facts))
    assert main([*fit, "--ckpt_path", str(run / "checkpoints/last.ckpt")]) == 0
    assert metrics(run) == before
    assert all(torch.equal(value, weights(run)[name]) for name, value in trained.items())


def test_training_that_ends_before_a_validation_keeps_its_weights(desk):
    run = ["run", "--config", "gru.yaml", "--name", "short", "--trainer.max_epochs", "3"]
    assert main([*run, "--trainer.check_val_every_n_epoch", "2"]) == 0
    found = metrics("runs/items/short")
    assert found["fit/best_step"] < found["fit/steps"], "the best was seen at the one validation"
    last = torch.load("runs/items/short/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == found["fit/steps"]
    assert main([*run[:4], "never", *run[5:], "--trainer.check_val_every_n_epoch", "5"]) == 0
    found = metrics("runs/items/never")
    assert found["test/step"] == found["fit/best_step"] == found["fit/steps"] > 0
    assert "val/auc" not in found


def test_initial_weights_are_called_so(desk, capsys, monkeypatch):
    assert main(["test", "--config", "gru.yaml", "--name", "b"]) == 0
    said = capsys.readouterr()
    for text in (said.out, said.err):  # beside the results, and before the work
        assert "no --ckpt_path is given: `test` measures initial weights, that are random" in text
    assert main(["test", "--config", "popularity.yaml", "--name", "c"]) == 0
    assert main(["test", "--config", f"{A}/config.yaml", "--ckpt_path", BEST]) == 0
    said = capsys.readouterr()
    assert "initial weights" not in said.out + said.err
    monkeypatch.setattr(experiment, "choose_run", lambda *_: pytest.fail("said only later"))
    with pytest.raises(BaseException, match="said only later"):
        main(["validate", "--config", "gru.yaml"])
    assert "`validate` measures initial weights" in capsys.readouterr().err


def test_equal_seeds_are_equal_and_others_are_not(desk):
    for name, seed in (("c", "0"), ("d", "1")):
        assert main(["fit", "--config", "gru.yaml", "--name", name, "--seed_everything", seed]) == 0
    same, other = weights("runs/items/c"), weights("runs/items/d")
    assert all(torch.equal(value, same[name]) for name, value in weights(A).items())
    assert not all(torch.equal(value, other[name]) for name, value in weights(A).items())


def test_what_does_not_belong_together_is_refused(desk, capsys):
    test = ["test", "--config", f"{A}/config.yaml", "--ckpt_path", BEST]
    assert "hidden: checkpoint 8, now 16" in refused([*test, "--baseline.init_args.hidden", "16"], capsys)
    assert "model: checkpoint 'GRU4Rec', now 'Popularity'" in refused(
        ["test", "--config", "popularity.yaml", "--ckpt_path", BEST], capsys
    )
    resumed = ["fit", "--config", "gru.yaml", "--ckpt_path", f"{A}/checkpoints/last.ckpt"]
    assert "baseline.init_args.lr: run 0.001, now 0.5" in refused([*resumed, "--baseline.init_args.lr", "0.5"], capsys)
    assert "baseline='GRU4Rec': baselines do not rank for single users" in refused(
        ["rank", "--ckpt_path", BEST, "--user", "u01"], capsys
    )


def test_an_unknown_setting_is_named(desk, capsys):
    settings = yaml.safe_load(Path("gru.yaml").read_text())
    settings["baseline"]["init_args"]["hiden"] = 3
    Path("odd.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit):
        main(["fit", "--config", "odd.yaml"])
    err = capsys.readouterr().err
    assert err.startswith("python -m mllm_srec fit: error: baseline: ")
    assert "'hiden' is not known; did you mean 'hidden'?" in err
    assert "Union" not in err


def test_a_bad_setting_is_explained(desk, capsys):
    fit = ["fit", "--config", "gru.yaml", "--name", "odd"]
    assert "hidden=0: too small; give at least 1" in refused([*fit, "--baseline.init_args.hidden", "0"], capsys)
    with pytest.raises(SystemExit):
        main([*fit, "--baseline.init_args.hidden", "many"])
    assert "hidden" in (err := capsys.readouterr().err)
    assert "many" in err


def test_the_whole_catalogue_and_then_its_first_items_again(desk, capsys):
    test = ["test", "--config", f"{A}/config.yaml", "--ckpt_path", BEST]
    assert main([*test, "--data.evaluator", "full"]) == 0
    whole = Path("runs/items/a--full")
    found, rows = metrics(whole), pl.read_parquet(whole / "predictions/test.parquet")
    seen = pl.read_parquet(
        Path(yaml.safe_load(Path("gru.yaml").read_text())["data"]["root"]) / "items/interactions.parquet"
    )
    known = seen.filter(pl.col("split") != "test").select("user_id", "item_id")
    assert rows.join(known, on=["user_id", "item_id"], how="semi").is_empty()
    positives = rows.filter(pl.col("label") == 1)  # leave-one-out: one a list
    hits = [min(max(5 - above, 0), tied) / tied for above, tied in positives.select("n_above", "n_tied").iter_rows()]
    assert found["test/hr@5"] == pytest.approx(np.mean(hits), abs=1e-9)
    rerank = ["--data.evaluator", "rerank", "--data.retriever", str(whole), "--data.n_retrieved", "5"]
    assert main(["run", "--config", "popularity.yaml", "--name", "again", *rerank]) == 0
    reranked = pl.read_parquet("runs/items/again/predictions/test.parquet").filter(pl.col("score").is_not_null())
    top = rows.filter(pl.col("rank") <= 5).select("group_id", "item_id").sort("group_id", "item_id")
    assert reranked.select("group_id", "item_id").sort("group_id", "item_id").equals(top)


def test_where_nothing_is_trained_only_test_runs(desk, capfd):
    run = ["run", "--config", "popularity.yaml", "--name", "counted"]
    assert main(run) == 0
    out = capfd.readouterr().out
    assert "mllm_srec test" in out
    assert "mllm_srec fit" not in out
    found = metrics("runs/items/counted")
    assert found["test/auc"] == pytest.approx(found["test/reference/popularity/auc"], abs=1e-12)
    assert found["test/ndcg@10"] == pytest.approx(found["test/reference/popularity/ndcg@10"], abs=1e-12)
    assert main(run) == 0
    assert "mllm_srec test" not in capfd.readouterr().out
    assert "has nothing to train" in refused(["fit", "--config", "popularity.yaml"], capsys=capfd)


def test_a_finished_run_is_not_done_under_other_settings(desk, capsys):
    run = ["run", "--config", "popularity.yaml", "--name", "pop"]
    assert main(run) == 0
    before = metrics("runs/items/pop")
    for change, line in (
        (["--data.n_negatives", "3"], "data.n_negatives: run 4, now 3"),
        (["--data.evaluator", "full"], "data.evaluator: run 'sampled', now 'full'"),
        (["--config", "gru.yaml"], "baseline: run 'mllm_srec.baselines.popularity.Popularity', now 'mllm_srec.bas"),
        (["--seed_everything", "7"], "seed_everything: run 0, now 7"),
        (["--data.max_test_groups", "3"], "data.max_test_groups: run None, now 3"),
    ):
        assert line in refused([*run, *change], capsys)
    assert metrics("runs/items/pop") == before
    assert main([*run, "--data.eval_batch_size", "2"]) == 0
    assert "done: runs/items/pop" in capsys.readouterr().out


def test_a_finished_training_is_not_done_under_other_settings(desk, capsys):
    run = ["run", "--config", "gru.yaml", "--name", "a"]
    assert main(run) == 0
    for change, line in (
        (["--trainer.max_epochs", "9"], "trainer.max_epochs: run 4, now 9"),
        (["--baseline.init_args.hidden", "4"], "baseline.init_args.hidden: run 8, now 4"),
    ):
        message = refused([*run, *change], capsys)
        assert line in message
        assert f"test --ckpt_path {BEST}" in message
    tested = ["run", "--config", "gru.yaml", "--name", "again", "--ckpt_path", BEST]
    assert main(tested) == 0
    assert "data.n_negatives: run 4, now 3" in refused([*tested, "--data.n_negatives", "3"], capsys)


def test_weights_as_loaded_are_not_measured_in_the_folder_of_another_model(desk, capsys):
    assert main(["test", "--config", "gru.yaml", "--name", "blank"]) == 0
    again = ["test", "--config", "gru.yaml", "--name", "blank"]
    before = metrics("runs/items/blank")
    assert "seed_everything: run 0, now 3" in refused([*again, "--seed_everything", "3"], capsys)
    assert "hidden: run 8, now 4" in refused([*again, "--baseline.init_args.hidden", "4"], capsys)
    assert "holds a trained model; measure it with --ckpt_path" in refused([*again[:3], "--name", "a"], capsys)
    assert metrics("runs/items/blank") == before
    assert main([*again, "--data.n_negatives", "3"]) == 0, "another protocol has a folder of its own"
    assert metrics("runs/items/blank") == before


def test_a_run_on_data_that_was_prepared_again_is_not_done(desk, capsys):
    run = ["run", "--config", "popularity.yaml", "--name", "pop"]
    assert main(run) == 0
    there = {key: value for key, value in metrics("runs/items/pop").items() if key != "checksum"}
    Path("runs/items/pop/metrics.json").write_text(json.dumps({**there, "test/candidates_hash": "0" * 64}))
    assert "holds a run on other data (candidates 00000000, now" in refused(run, capsys)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: str(path.relative_to(CONFIGS).with_suffix("")))
@pytest.mark.parametrize("data_set", DATA_SETS)
def test_every_overlay_goes_with_every_data_set(overlay, data_set):
    arguments = ["--config", str(CONFIGS / f"{data_set}.yaml"), "--config", str(overlay)]
    config = full_parser("fit", "").parse_args(arguments)
    content = yaml.safe_load(overlay.read_text())
    if "baseline" in content:
        assert config.baseline.class_path == content["baseline"]["class_path"]
        trainer = config.trainer
        assert not content.get("trainer") or (trainer.precision, trainer.accumulate_grad_batches) == ("32-true", 1)
        assert not content.get("trainer") or trainer.val_check_interval == 1.0, "the recommender's budget is not theirs"
    assert config.data.name == data_set
    assert overlay.read_text().startswith("# "), "a comment says what it is"
    assert f"configs/{overlay.relative_to(CONFIGS)}" in overlay.read_text(), "and how to run it"
