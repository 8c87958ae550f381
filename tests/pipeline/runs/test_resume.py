"""Settings that a checkpoint would silently override when training goes on."""

import copy
import re

import pytest
import yaml

from mllm_srec.pipeline.runs.changes import check_resume
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
    "data": {
        "root": "data",
        "retriever": "popularity",
        "batch_size": 4,
        "num_workers": 0,
        "pictures": {"serve": "pixels", "max_pixels": 99},
    },
    "prepare": {"k_core": 5},
    "candidates": {"seed": 0},
    "trainer": {
        "max_epochs": 1,
        "accumulate_grad_batches": 1,
        "gradient_clip_val": None,
        "precision": None,
        "devices": 1,
        "val_check_interval": None,
    },
}  # fmt: skip


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


def resume(settings, origin, unread=()):
    check_resume(CHECKPOINT, origin, settings, SETTINGS, unread)


def test_a_retriever_of_hard_negatives_is_a_part_of_training(run):
    other = changed("data.retriever", "runs/shop/sasrec")
    resume(other, run)
    settings = copy.deepcopy(SETTINGS)
    settings["data"] |= {"n_train_negatives": 2, "negatives_from": "hard"}
    run.config.write_text(yaml.safe_dump(settings))
    resume(settings, run)
    other["data"] |= {"n_train_negatives": 2, "negatives_from": "hard"}
    with pytest.raises(ConfigError, match=r"data\.retriever: run 'popularity', now 'runs/shop/sasrec'"):
        resume(other, run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.max_epochs", 9),
        ("trainer.val_check_interval", 0.5),
        ("trainer.devices", 2),
        ("trainer.precision", "32-true"),
        ("data.retriever", "runs/demo/x"),
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
    resume(changed(key, value), run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.lr", 2e-3),
        ("trainer.accumulate_grad_batches", 2),
        ("trainer.gradient_clip_val", 0.5),
        ("trainer.precision", "bf16-mixed"),
        ("prepare.k_core", 3),
        ("candidates.seed", 3),
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
        resume(changed(key, value), run)


def test_a_setting_that_is_newer_than_the_run_had_its_default(run):
    old = copy.deepcopy(SETTINGS)
    del old["data"]["batch_size"], old["trainer"]["accumulate_grad_batches"]
    run.config.write_text(yaml.safe_dump(old))
    resume(SETTINGS, run)
    for key in ("data.batch_size", "trainer.accumulate_grad_batches"):
        with pytest.raises(ConfigError, match=rf"{key}: run \d, now 9"):
            resume(changed(key, 9), run)


def test_what_is_not_read_is_not_compared(run):
    resume(changed("summaries.variant", "base"), run, ["summaries"])


def test_a_list_is_equal_in_yaml_and_in_a_command(tmp_path):
    """YAML gives lists where a parser's defaults are tuples: nothing could be continued."""
    folder = tmp_path / "runs/demo/t"
    folder.mkdir(parents=True)
    settings = copy.deepcopy(SETTINGS)
    settings["data"]["several"] = [1, 5]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    settings["data"]["several"] = (1, 5)
    resume(settings, RunFolder(folder))
    settings["data"]["several"] = (1, 6)
    with pytest.raises(ConfigError, match=r"data\.several"):
        resume(settings, RunFolder(folder))


def test_a_checkpoint_outside_a_run_is_compared_with_its_optimizer():
    resume(changed("data.batch_size", 8), None)
    with pytest.raises(ConfigError, match=r"model.lr: run 0.001, now 0.002"):
        resume(changed("model.lr", 2e-3), None)
