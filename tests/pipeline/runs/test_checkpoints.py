"""Settings that a checkpoint would silently override, and the best checkpoint of a run that was moved."""

import copy
import re

import pytest
import torch
import yaml

from mllm_srec.pipeline.runs.checkpoints import RunCheckpoint, check_resume
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import ConfigError

CHECKPOINT = {
    "mllm_srec": {},
    "optimizer_states": [{"param_groups": [{"lr": 1e-5, "initial_lr": 1e-3, "weight_decay": 0.1}]}],
}
SETTINGS = {
    "seed_everything": 0,
    "name": "a",
    "model": {"lr": 1e-3, "weight_decay": 0.1, "lora": {"r": 8}, "backbone": "x", "activation_checkpointing": False},
    "summaries": {"variant": "full", "clip": None, "item": {"prompt": None, "token_budget": 9}},
    "data": {"root": "data", "batch_size": 4, "num_workers": 0, "pictures": {"serve": "pixels", "max_pixels": 99}},
    "trainer": {"max_epochs": 1},
}


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "a")
    folder.create()
    folder.config.write_text(yaml.safe_dump(SETTINGS))
    return folder


def changed(key, value):
    settings = copy.deepcopy(SETTINGS)
    *path, last = key.split(".")
    section = settings
    for name in path:
        section = section[name]
    section[last] = value
    return settings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.max_epochs", 9),
        ("name", "b"),
        ("data.root", "/elsewhere"),
        ("data.num_workers", 4),
        ("data.pictures.serve", "features"),
        ("model.activation_checkpointing", True),
        ("model.backbone", "/moved"),
        ("model.lr", 1e-3),
        ("summaries.item.token_budget", 1),
    ],
)
def test_what_may_change_when_a_run_is_continued(run, key, value):
    check_resume(CHECKPOINT, changed(key, value), run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.lr", 2e-3),
        ("model.weight_decay", 0.0),
        ("model.lora.r", 4),
        ("data.batch_size", 8),
        ("data.pictures.max_pixels", 100),
        ("data.pictures.serve", "none"),
        ("summaries.variant", "base"),
        ("summaries.item.prompt", "Why?"),
        ("seed_everything", 1),
    ],
)
def test_what_may_not_change(run, key, value):
    with pytest.raises(ConfigError, match=rf"(?s){key}: run .*, now {re.escape(repr(value))}.*--config {run.config}"):
        check_resume(CHECKPOINT, changed(key, value), run)


def test_a_list_is_equal_in_yaml_and_in_a_command(tmp_path):
    """YAML gives lists where a parser's defaults are tuples: nothing could be continued."""
    folder = tmp_path / "runs/demo/t"
    folder.mkdir(parents=True)
    settings = copy.deepcopy(SETTINGS)
    settings["data"]["several"] = [1, 5]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    settings["data"]["several"] = (1, 5)
    check_resume(CHECKPOINT, settings, RunFolder(folder))
    settings["data"]["several"] = (1, 6)
    with pytest.raises(ConfigError, match=r"data\.several"):
        check_resume(CHECKPOINT, settings, RunFolder(folder))


def test_a_checkpoint_outside_a_run_is_compared_with_its_optimizer():
    check_resume(CHECKPOINT, changed("data.batch_size", 8), None)
    with pytest.raises(ConfigError, match=r"model.lr: run 0.001, now 0.002"):
        check_resume(CHECKPOINT, changed("model.lr", 2e-3), None)


# --- the best checkpoint of a run that was moved ------------------------------------------------------------------


def state_of(folder):
    """State of a callback that kept a checkpoint with an AUC of 0.9 in `folder`."""
    callback = RunCheckpoint(folder, "best", monitor="val/auc")
    path = f"{callback.dirpath}/best.ckpt"
    callback.best_model_score = callback.current_score = callback.kth_value = torch.tensor(0.9)
    callback.best_k_models, callback.best_model_path, callback.kth_best_model_path = (
        {path: torch.tensor(0.9)},
        path,
        path,
    )
    return callback.state_dict()


def test_a_moved_run_still_knows_its_best(tmp_path):
    state = state_of(tmp_path / "old")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/best.ckpt").touch()
    callback = RunCheckpoint(tmp_path / "new", "best", monitor="val/auc")
    callback.load_state_dict(state)
    path = str(tmp_path / "new/best.ckpt")
    assert (callback.best_model_path, callback.kth_best_model_path) == (path, path)
    assert callback.best_k_models == {path: torch.tensor(0.9)}
    assert callback.best_model_score == torch.tensor(0.9)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_another_run_begins_without_a_best(tmp_path):
    callback = RunCheckpoint(tmp_path / "fork", "best", monitor="val/auc")
    callback.load_state_dict(state_of(tmp_path / "old"))
    assert callback.best_k_models == {}
    assert callback.best_model_score is None
