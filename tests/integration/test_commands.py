"""The commands as a person types them: a small shop, a tiny Qwen2-VL in 4 bits with LoRA, on a CPU."""

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mllm_srec.__main__ import main
from mllm_srec.files.reading import read_json


@pytest.fixture(scope="module")
def settings(shop_root, tiny_backbone):
    """Content of the configuration file."""
    raw = shop_root / "raw"
    return {
        "data": {
            "root": str(shop_root), "name": "small", "batch_size": 6, "eval_batch_size": 8, "n_negatives": 4,
            "max_train_groups": 12, "max_eval_groups": 6, "pictures": {"max_pixels": 3136},
        },
        "prepare": {
            "source": "tables", "reviews": str(raw / "interactions.csv"), "metadata": str(raw / "items.csv"),
            "images": str(raw / "pictures"), "k_core": 1, "split": "leave_one_out",
        },
        "candidates": {"n_negatives": 6},
        "summaries": {"variant": "none"},
        "model": {"backbone": str(tiny_backbone), "lr": 5e-3, "lora": {"r": 4}},
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False},
    }  # fmt: skip


@pytest.fixture(scope="module")
def fitted(settings, tmp_path_factory):
    """Folder with a configuration and the run `a` on a prepared data set; not to be changed."""
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "shop.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["prepare", "--config", "shop.yaml"]) == 0
        assert main(["fit", "--config", "shop.yaml", "--name", "a"]) == 0
    return folder


@pytest.fixture
def desk(fitted, tmp_path, monkeypatch):
    """A copy of that folder as current folder."""
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


A = Path("runs/small/a")
BEST, LAST = str(A / "checkpoints/best.ckpt"), str(A / "checkpoints/last.ckpt")
SHOP = ["--config", "shop.yaml"]


def tree(folder):
    """Path -> hash of every file but locks."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(".lock")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def metrics(run):
    return read_json(run / "metrics.json", "results", "")


def state(path):
    return torch.load(path, weights_only=True)["state_dict"]


def refused(arguments, capsys):
    """The error of a command that ends with status 1."""
    capsys.readouterr()
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err


# --- from raw files to predictions --------------------------------------------------------------------------------


def test_from_raw_files_to_predictions(settings, tmp_path, monkeypatch, capsys):
    """The one test of this file that always runs: every command once, each hint taken by its word."""
    monkeypatch.chdir(tmp_path)
    Path("shop.yaml").write_text(yaml.safe_dump(settings))
    where = [*SHOP, "--data.root", "data", "--data.max_eval_groups", "2", "--data.max_test_groups", "3"]
    where += ["--data.max_train_groups", "6"]
    hint = refused(["fit", *where], capsys).splitlines()[-1].strip()
    assert hint.startswith("python -m mllm_srec prepare ")
    assert main(shlex.split(hint)[3:]) == 0
    assert "data/small is prepared" in capsys.readouterr().out
    assert main(["fit", *where, "--trainer.max_epochs", "1", "--name", "a"]) == 0
    out = capsys.readouterr().out
    assert "training 11,264 weights on 6 examples of small" in out
    hint = next(line for line in out.splitlines() if line.startswith("next: "))
    assert main(shlex.split(hint)[4:]) == 0
    assert main(["predict", "--config", "runs/small/a/config.yaml", "--ckpt_path", BEST]) == 0
    found = metrics(A)
    assert (found["val/n_users"], found["test/n_users"]) == (2, 3)
    assert (found["val/max_groups"], found["test/max_groups"]) == (2, 3)
    assert {path.name for path in A.iterdir() if not path.name.startswith(".")} == {
        "adapter", "checkpoints", "config.yaml", "logs", "metrics.json", "predictions",
    }  # fmt: skip
    written = sorted(path.name for path in (A / "predictions").iterdir() if not path.name.startswith("."))
    assert written == ["test.parquet", "test_pairs.parquet", "test_users.parquet"]
    assert sorted(path.name for path in (A / "logs").iterdir()) == ["1-fit", "2-test", "3-predict"]
    assert (A / "adapter/adapter_config.json").exists()


def test_the_fit_folder(fitted):
    run = fitted / A
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    log = pl.read_csv(run / "logs/1-fit/metrics.csv", infer_schema_length=None)
    assert log["val/auc"].drop_nulls().len() == 2
    found = metrics(run)
    assert found["fit/steps"] == 4
    assert found["fit/data"] == "small"
    assert (found["val/n_users"], found["val/checkpoint"], found["val/random_backbone"]) == (6, "best.ckpt", True)


def test_settings_of_the_run_are_whole_and_plain(fitted, settings):
    text = (fitted / A / "config.yaml").read_text()
    assert "!!python" not in text
    assert "!!python" not in (fitted / A / "logs/1-fit/hparams.yaml").read_text()
    stored = yaml.safe_load(text)
    assert (stored["name"], stored["seed_everything"]) == ("a", 0)
    for section, values in settings.items():
        for name, value in values.items():
            found = stored[section][name]
            if isinstance(value, dict):
                assert {key: found[key] for key in value} == value
            else:
                assert found == value, f"{section}.{name}"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prepare", "validate", "test", "predict"])
def test_settings_of_the_run_are_read_by_every_command(desk, command):
    checkpoint = [] if command == "prepare" else ["--ckpt_path", BEST]
    assert main([command, "--config", str(A / "config.yaml"), *checkpoint]) == 0


@pytest.mark.slow
def test_results_of_fit_are_those_of_the_best_weights(desk):
    """With a rate that ruins the weights the last ones are not the best; adapter and numbers must be of one piece."""
    epochs = ["--trainer.max_epochs", "4", "--model.lr", "0.3", "--name", "wild"]
    assert main(["fit", *SHOP, *epochs]) == 0
    run = Path("runs/small/wild")
    best, last = (torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert last["global_step"] == 8, "the last checkpoint is not that of the last epoch"
    assert best["global_step"] < 8, "the test needs a best epoch before the last"
    found = metrics(run)
    assert found["fit/best_step"] == best["global_step"]
    for name, value in best["results"].items():
        assert found[name] == value or (found[name] is None and value != value), name
    log = pl.read_csv(run / "logs/1-fit/metrics.csv", infer_schema_length=None)["val/auc"].drop_nulls()
    assert found["val/auc"] == pytest.approx(log.max(), abs=1e-6)
    exported = load_file(run / "adapter/adapter_model.safetensors")
    for name, value in best["state_dict"].items():
        if "q_proj.lora_B" in name and "layers.0" in name:
            assert any(torch.equal(value, other) for other in exported.values())
    before = tree(run)
    limit = ["--data.max_test_groups", "6"]  # as many as `fit` draws
    assert main(["validate", *SHOP, *limit, "--ckpt_path", str(run / "checkpoints/best.ckpt")]) == 0
    again = metrics(run)
    assert {key: again[key] for key in found if key != "val/backbone"} == {
        key: value for key, value in found.items() if key != "val/backbone"
    }
    written = {f"predictions/{name}.parquet" for name in ("val", "val_pairs", "val_users")}
    assert {path for path in tree(run) if path not in before} <= written | {
        "logs/2-validate/metrics.csv", "logs/2-validate/hparams.yaml",
    }  # fmt: skip


# --- nothing is mixed or overwritten ------------------------------------------------------------------------------


@pytest.mark.slow
def test_other_protocols_have_their_own_folders(desk, capsys):
    assert main(["test", *SHOP, "--ckpt_path", BEST]) == 0
    before = tree(desk / A)
    assert main(["test", *SHOP, "--ckpt_path", BEST, "--data.n_negatives", "2"]) == 0
    assert "writing to runs/small/a--sampled@2\n" in capsys.readouterr().out
    assert main(["predict", *SHOP, "--ckpt_path", LAST]) == 0
    assert tree(desk / A) == before
    other = Path("runs/small/a--sampled@2")
    assert metrics(other)["test/m"] == 2
    assert pl.read_parquet(other / "predictions/test.parquet").height == 3 * 11
    assert not any(key.startswith(("fit/", "val/")) for key in metrics(other))
    assert yaml.safe_load((other / "config.yaml").read_text())["data"]["n_negatives"] == 2
    last = Path("runs/small/a--checkpoint-last")
    assert (last / "predictions/test.parquet").exists()
    assert metrics(last)["test/checkpoint"] == "last.ckpt"
    again = tree(desk / A)
    assert main(["test", *SHOP, "--ckpt_path", BEST]) == 0  # the same protocol stays where it was
    assert {path for path in tree(desk / A) if path not in again} == {
        "logs/3-test/hparams.yaml", "logs/3-test/metrics.csv",
    }  # fmt: skip


@pytest.mark.slow
def test_other_data_have_their_own_folder(desk, capsys):
    """Never tested before: nothing but what the run was trained on tells that these are other data."""
    other = ["--data.name", "other", "--candidates.seed", "5"]
    assert main(["prepare", *SHOP, *other]) == 0
    before = tree(desk / A)
    assert main(["test", *SHOP, *other, "--ckpt_path", BEST]) == 0
    assert "results, predictions and settings: runs/other/a--from-small" in capsys.readouterr().out
    assert tree(desk / A) == before
    assert (desk / "runs/other/a--from-small/predictions/test.parquet").exists()


@pytest.mark.slow
def test_a_finished_run_is_not_trained_over(desk, capsys):
    before = tree(desk / A)
    message = refused(["fit", *SHOP, "--name", "a"], capsys)
    assert "runs/small/a holds a run already; choose another --name" in message
    assert f"--ckpt_path {LAST}" in message
    assert tree(desk / A) == before


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_begins_anew(desk):
    run = Path("runs/small/early")
    run.mkdir()
    (run / "config.yaml").write_text("name: early\n")
    assert main(["fit", *SHOP, "--name", "early", "--trainer.max_epochs", "1", "--model.lr", "1e-4"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["lr"] == 1e-4


@pytest.mark.slow
def test_a_fast_dev_run_leaves_nothing(desk, capsys):
    before = tree(desk)
    dry = ["--trainer.fast_dev_run", "true"]
    for command, checkpoint in (("fit", []), ("validate", []), ("test", ["--ckpt_path", BEST]), ("predict", [])):
        assert main([command, *SHOP, *dry, *checkpoint]) == 0
    assert tree(desk) == before
    assert [path.name for path in (desk / "runs/small").iterdir()] == ["a"]
    assert "results, predictions" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_fit_without_validation_keeps_its_last_weights(desk):
    assert main(["fit", *SHOP, "--name", "blind", "--trainer.limit_val_batches", "0", "--trainer.max_epochs=1"]) == 0
    run = Path("runs/small/blind")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert (run / "adapter/adapter_model.safetensors").exists()
    assert not any(key.startswith("val/") for key in metrics(run))


# --- what was typed wins or is refused ----------------------------------------------------------------------------


@pytest.mark.slow
def test_typed_flags_and_a_checkpoint(desk, capsys):
    message = refused(["test", *SHOP, "--ckpt_path", BEST, "--model.lora.r", "8"], capsys)
    assert "lora.r: checkpoint 4, now 8" in message
    message = refused(["fit", *SHOP, "--ckpt_path", LAST, "--model.lr", "1e-4", "--data.batch_size", "2"], capsys)
    assert "model.lr: run 0.005, now 0.0001" in message
    assert "data.batch_size: run 6, now 2" in message
    assert f"--config {A / 'config.yaml'}" in message
    shutil.copy(LAST, "alone.ckpt")
    message = refused(["fit", *SHOP, "--ckpt_path", "alone.ckpt", "--model.lr", "1e-4"], capsys)
    assert "model.lr: run 0.005, now 0.0001" in message
    assert main(["test", *SHOP, "--ckpt_path", BEST, "--name", "mine", "--model.score", "literal"]) == 0
    found = metrics(Path("runs/small/mine"))
    assert (found["test/score"], found["test/checkpoint"]) == ("literal", "best.ckpt")
    assert not (A / "predictions").exists()


@pytest.mark.slow
def test_checkpoints_that_do_not_fit(desk, tmp_path, tiny_backbone, capsys):
    other = shutil.copytree(tiny_backbone, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    next(iter(weights.values())).add_(0.01)
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    before = tree(desk / A)
    message = refused(["test", *SHOP, "--ckpt_path", BEST, "--model.backbone", str(other)], capsys)
    assert "the checkpoint was trained with other settings" in message
    assert "fingerprint: checkpoint" in message
    (tmp_path / "broken.ckpt").write_bytes(Path(BEST).read_bytes()[:5000])
    message = refused(["test", *SHOP, "--ckpt_path", "broken.ckpt"], capsys)
    assert "broken.ckpt: the checkpoint cannot be read (it is cut off or is no checkpoint); delete it" in message
    message = refused(["test", *SHOP, "--model.backbone", "no/such-backbone"], capsys)
    assert "backbone='no/such-backbone'" in message
    assert tree(desk / A) == before


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(desk):
    assert main(["fit", *SHOP, "--name", "half", "--trainer.max_epochs", "1"]) == 0
    half = Path("runs/small/half")
    assert main(["fit", *SHOP, "--ckpt_path", str(half / "checkpoints/last.ckpt")]) == 0
    expected, found = state(LAST), state(half / "checkpoints/last.ckpt")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)
    assert sorted(path.name for path in (half / "logs").iterdir()) == ["1-fit", "2-fit"]
    assert metrics(half)["fit/steps"] == 4


# --- the other commands -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_run_does_what_is_missing(desk):
    """In one process; the fit of run `a` is done."""

    def run():
        command = [sys.executable, "-m", "mllm_srec", "run", *SHOP, "--name", "a"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    stages = [line for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert stages == [f"$ python -m mllm_srec test --config shop.yaml --name a --name a --ckpt_path {BEST}"]
    assert done.stdout.splitlines()[-1] == "done: runs/small/a"
    assert metrics(desk / A)["test/n_users"] == 11
    assert "Warning" not in done.stderr
    assert set(done.stderr.splitlines()) <= {
        "mllm_srec run: shop.yaml, loading libraries", "Seed set to 0", "GPU available: False, used: False",
        f"Loaded model weights from the checkpoint at {BEST}",
    }  # fmt: skip
    before = tree(desk / A)
    again = run()
    assert again.stdout == "done: runs/small/a\n"
    assert tree(desk / A) == before


@pytest.mark.slow
def test_run_stops_where_a_stage_fails(desk, capfd):
    assert main(["run", *SHOP, "--name", "b", "--data.n_negatives", "7"]) == 1
    err = capfd.readouterr().err
    assert "mllm_srec run: error: data.n_negatives=7, but the data set stores 6 candidates per list" in err
    assert "Traceback" not in err
    assert not Path("runs/small/b/checkpoints").exists()


@pytest.mark.slow
def test_wandb_offline_beside_csv(desk):
    tracking = ["--tracking.wandb", "true", "--tracking.offline", "true", "--tracking.tags", '["x"]']
    assert main(["fit", *SHOP, *tracking, "--name", "tracked", "--trainer.max_epochs", "1"]) == 0
    logs = Path("runs/small/tracked/logs")
    assert "val/auc" in (logs / "1-fit/metrics.csv").read_text()
    runs = list((logs / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 1
    assert not Path("wandb").exists()


@pytest.mark.slow
def test_the_demo_shop_is_prepared_by_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = {"n_users": 16, "n_items": 40, "n_interactions": 8, "image_size": 28}
    arguments = ["--config", str(Path(__file__).resolve().parents[2] / "configs/demo.yaml"), "--prepare.k_core", "1"]
    arguments += [f"--prepare.demo.{name}={value}" for name, value in sizes.items()]
    arguments += ["--trainer.max_epochs=1", "--data.max_train_groups=16", "--trainer.enable_progress_bar=false"]
    assert main(["fit", *arguments, "--name", "d"]) == 0
    first = capsys.readouterr()
    assert "preparing the demo shop in data/demo" in first.err
    assert "preference: " in first.out  # a real data set asks for `summarize`; here they are written
    assert main(["test", *arguments, "--ckpt_path", "runs/demo/d/checkpoints/best.ckpt"]) == 0
    out = capsys.readouterr()
    assert "preparing" not in out.err
    assert "texts written now" not in out.out
    assert "random weights" not in out.out
    assert "ceilings: the oracle knows" in out.out
    found = json.loads(Path("runs/demo/d/metrics.json").read_text())
    for stage, measure in (("image", "attribute"), ("item", "attribute"), ("preference", "current_taste")):
        quality = json.loads(Path(f"data/demo/summaries/{stage}/quality.json").read_text())
        accuracy = found[f"test/summaries/{stage}/{measure}_accuracy"]
        assert accuracy == quality[f"{measure}_accuracy"] > 0.6
        assert f"{stage} {measure}_accuracy {accuracy:.4f}" in out.out
    assert (tmp_path / "runs/demo/d/adapter/adapter_model.safetensors").exists()
    evaluators = {"sampled": "d", "full": "d--full", "rerank": "d--rerank@100-retriever-popularity"}
    for evaluator in evaluators:  # the first once more: the same protocol keeps its folder
        words = ["--ckpt_path", "runs/demo/d/checkpoints/best.ckpt", "--data.evaluator", evaluator]
        assert main(["test", *arguments, *words]) == 0
    assert sorted(path.name for path in Path("runs/demo").iterdir()) == sorted(evaluators.values())
    full, reranked = (json.loads(Path(f"runs/demo/{evaluators[name]}/metrics.json").read_text()) for name in
                      ("full", "rerank"))  # fmt: skip
    assert reranked["test/ndcg@10"] == pytest.approx(full["test/ndcg@10"], abs=1e-9), "100 of 40 items: nothing missed"
    assert full["test/reference/popularity/hr@10"] != full["test/reference/chance/hr@10"]
    assert "test/reference/oracle_both/auc" in full
    assert "test/reference/oracle_both/hr@10" not in full, "ceilings are known for sampled lists only"


@pytest.mark.slow
def test_features_serve_as_pixels_do(desk):
    assert main(["test", *SHOP, "--ckpt_path", BEST]) == 0
    pixels = pl.read_parquet(A / "predictions/test.parquet")
    assert main(["test", *SHOP, "--ckpt_path", BEST, "--data.pictures.serve", "features"]) == 0
    features = pl.read_parquet(A / "predictions/test.parquet")
    assert (features["score"] - pixels["score"]).abs().max() < 1e-4


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_prepare_with_other_settings(desk, shop_root, capsys):
    before = tree(shop_root / "small")
    message = refused(["prepare", *SHOP, "--prepare.split", "random", "--candidates.n_negatives", "3"], capsys)
    assert 'prepare.split: prepared with "leave_one_out", now "random"' in message
    assert "candidates.n_negatives: prepared with 6, now 3" in message
    assert tree(shop_root / "small") == before
    assert main(["prepare", *SHOP]) == 0
    assert "was already prepared with the same settings" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_run_folder_that_cannot_be_written(desk, command, capsys):
    Path("occupied").write_text("")
    message = refused([command, *SHOP, "--trainer.default_root_dir", "occupied"], capsys)
    assert "the run folder occupied/small/" in message
    assert "occupied is a file); set trainer.default_root_dir to a folder of yours" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trainer.accelerator", "gpu"], "trainer.accelerator='gpu': "),
        (["--data.n_negatives", "7"], "data.n_negatives=7, but the data set stores 6 candidates per list"),
        (["--model.finetune", "full"], "4-bit weights cannot be trained"),
    ],
)
def test_settings_that_cannot_be_met(desk, flags, message, capsys):
    if flags[1] == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert message in refused(["test", *SHOP, *flags], capsys)


# --- several processes --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_share_a_run_and_count_every_row_once(desk):
    """Without a name: the second process must find the folder of the first."""
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "1"]

    def run(*arguments):
        command = [sys.executable, "-m", "mllm_srec", *arguments, *SHOP, *two]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = run("fit")
    made = [path for path in (desk / "runs/small").iterdir() if path.name != "a"]
    assert len(made) == 1
    assert made[0].name.endswith("-0")
    assert out.count("training 11,264 weights") == 1
    out = run("test", "--ckpt_path", str(made[0] / "checkpoints/best.ckpt"))
    assert out.count("measured on the lists of 11 users") == 1
    lists = pl.read_parquet(made[0] / "predictions/test.parquet")
    assert lists.height == lists.n_unique(["group_id", "item_id"]) == 5 * 11
    assert [path for path in (desk / "runs/small").iterdir() if path.name != "a"] == made
