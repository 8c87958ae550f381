"""Settings that make another run of one, and those that may differ."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mllm_srec.data.settings import PictureSettings
from mllm_srec.models.random_backbone import RandomBackboneSettings, build_random_backbone
from mllm_srec.pipeline.build import DEMO_BACKBONE, DEMO_FOLDER, RANDOM_BACKBONE, resolve_backbone
from mllm_srec.pipeline.runs.changes import MADE, changed_settings, check_same_model, check_unchanged, data_changed
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import ConfigError

DEFAULTS = {
    "seed_everything": 0,
    "name": None,
    "baseline": None,
    "model": {"backbone": "Qwen/Qwen2-VL-7B-Instruct", "revision": None, "lora": {"r": 8}, "scoring": "packed"},
    "data": {"root": "data", "n_negatives": 20, "evaluator": "sampled", "pictures": {"serve": "pixels"}},
    "summaries": {"variant": "full", "item": {"prompt": None, "token_budget": 16384}},
    "prepare": {"k_core": 5, "reviews": None},
    "trainer": {"max_epochs": None, "strategy": "auto", "accelerator": "auto", "enable_progress_bar": None},
    "tracking": {"wandb": False},
}


def changed(**settings):
    """Defaults with dotted settings, in which `__` stands for a dot."""
    content = copy.deepcopy(DEFAULTS)
    for dotted, value in settings.items():
        *path, last = dotted.split("__")
        section = content
        for name in path:
            section = section[name]
        section[last] = value
    return content


def found(stored, now, *unread):
    return set(changed_settings(stored, now, DEFAULTS, unread))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed_everything", 7),
        ("model__lora__r", 4),
        ("model__revision", "v1"),
        ("model__backbone", "Qwen/Qwen2-VL-2B-Instruct"),
        ("data__n_negatives", 10),
        ("data__evaluator", "full"),
        ("data__pictures__serve", "none"),
        ("summaries__variant", "base"),
        ("summaries__item__prompt", "Why?"),
        ("prepare__k_core", 2),
        ("trainer__max_epochs", 3),
        ("trainer__strategy", "ddp"),
    ],
)
def test_what_makes_another_run(setting, value):
    dotted = setting.replace("__", ".")
    assert found(DEFAULTS, changed(**{setting: value})) == {dotted}
    assert found(changed(**{setting: value}), DEFAULTS) == {dotted}
    assert found(DEFAULTS, changed(**{setting: value}), dotted.partition(".")[0]) == set(), (
        "of a section without effect"
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("name", "b"),
        ("data__root", "/elsewhere"),
        ("data__pictures__serve", "features"),
        ("model__scoring", "cached"),
        ("summaries__item__token_budget", 9),
        ("prepare__reviews", "moved.csv"),
        ("trainer__accelerator", "cpu"),
        ("trainer__enable_progress_bar", False),
        ("tracking__wandb", True),
    ],
)
def test_what_may_differ(setting, value):
    assert found(DEFAULTS, changed(**{setting: value})) == set()


def test_a_setting_that_is_newer_than_the_run_had_its_default():
    old = changed()
    del old["data"]["n_negatives"], old["summaries"]
    assert found(old, changed()) == set()
    assert found(old, changed(data__n_negatives=10)) == {"data.n_negatives"}


def test_a_class_in_place_of_a_name_and_the_other_way_round():
    ddp = {"class_path": "DDPStrategy", "init_args": {"x": 1}}
    assert found(changed(trainer__strategy=ddp), changed()) == {"trainer.strategy"}
    assert found(changed(), changed(trainer__strategy=ddp)) == {
        "trainer.strategy.class_path", "trainer.strategy.init_args.x"
    }  # fmt: skip


def test_another_baseline_is_one_difference():
    gru, knn = ({"class_path": name, "init_args": {"k": k}} for name, k in (("GRU", 1), ("KNN", 2)))
    assert changed_settings(changed(baseline=gru), changed(baseline=knn), DEFAULTS) == {"baseline": ("GRU", "KNN")}
    assert changed_settings(changed(baseline=gru), changed(), DEFAULTS) == {"baseline": ("GRU", None)}
    assert found(changed(baseline=gru), changed(baseline={**gru, "init_args": {"k": 3}})) == {"baseline.init_args.k"}


def test_settings_as_dataclasses_and_tuples_are_those_of_the_file():
    typed = changed(data__pictures=PictureSettings(serve="features"), trainer__devices=(0, 1))
    stored = changed(data__pictures={"serve": "pixels", "min_pixels": 3136, "max_pixels": 200704})
    stored["trainer"]["devices"] = [0, 1]
    assert found(stored, typed) == set()


def test_a_backbone_is_known_by_its_weights(tmp_path):
    small = RandomBackboneSettings(hidden_size=32, n_layers=1, n_heads=2, vision_width=32, vision_depth=1)
    for name, seed in (("a/tiny", 0), ("b/moved", 0), ("c/tiny", 1)):
        build_random_backbone(tmp_path / name, ["a red mug"] * 9, replace(small, seed=seed))

    def same(before, now):
        return not found(changed(model__backbone=str(before)), changed(model__backbone=str(now)))

    assert same(tmp_path / "a/tiny", tmp_path / "b/moved")
    assert not same(tmp_path / "a/tiny", tmp_path / "c/tiny")
    assert same("/gone/tiny", tmp_path / "a/tiny"), "its folder was moved, its name stayed"
    assert not same("/gone/tiny", tmp_path / "b/moved")
    assert not same("/gone/tiny", "hub/tiny")
    assert same(DEMO_FOLDER, "demo")
    assert same("data/shop/backbones/random-c0ffee", "random")
    assert not same(DEMO_FOLDER, "random")


def test_backbones_that_are_made_have_the_names_that_are_compared(shop):
    assert set(MADE) == {DEMO_BACKBONE, RANDOM_BACKBONE}
    for name, beginning in MADE.items():
        assert Path(resolve_backbone(name, shop)).name.startswith(beginning)


def test_the_message_names_every_difference_and_the_way_out(tmp_path):
    run = RunFolder(tmp_path / "pop")
    check_unchanged(run, changed(seed_everything=1), DEFAULTS)  # no run is there
    run.create()
    run.config.write_text(yaml.safe_dump(DEFAULTS))
    check_unchanged(run, changed(), DEFAULTS)
    with pytest.raises(ConfigError) as refused:
        check_unchanged(run, changed(seed_everything=1, data__n_negatives=10), DEFAULTS, advice="; or ask")
    assert str(refused.value) == (
        f"name='pop': {run.path} holds a run with other settings:\n"
        "  seed_everything: run 0, now 1\n  data.n_negatives: run 20, now 10\n"
        f"Give another --name, or set them back (--config {run.config}); or ask"
    )


def test_data_that_was_prepared_again_is_known_by_its_candidates(tmp_path):
    run, folder = RunFolder(tmp_path / "run"), tmp_path / "data"
    run.create()
    assert data_changed(run, folder) is None
    run.merge_metrics("test", {}, {"candidates_hash": "c0ffee" * 4})
    assert data_changed(run, folder) is None, "a data set that is gone was not prepared again"
    folder.mkdir()
    manifest = {"prepare": {}, "candidates": {}, "raw": {}, "tables": {}, "candidates_hash": "c0ffee" * 4}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert data_changed(run, folder) is None
    (folder / "manifest.json").write_text(json.dumps({**manifest, "candidates_hash": "abba" * 6}))
    assert "candidates c0ffeec0, now abbaabba" in data_changed(run, folder)


def test_another_model_is_not_measured_in_a_run_folder(tmp_path):
    run = RunFolder(tmp_path / "blank")
    check_same_model(run, changed(), DEFAULTS)
    run.create()
    run.config.write_text(yaml.safe_dump(DEFAULTS))
    check_same_model(run, changed(data__evaluator="full", trainer__max_epochs=3), DEFAULTS)
    with pytest.raises(ConfigError, match=r"model.lora.r: run 8, now 4"):
        check_same_model(run, changed(model__lora__r=4), DEFAULTS)
    old = changed()
    del old["model"]["lora"]
    run.config.write_text(yaml.safe_dump(old))
    with pytest.raises(ConfigError, match=r"model.lora.r: run 8, now 4"):
        check_same_model(run, changed(model__lora__r=4), DEFAULTS)
    run.checkpoints.mkdir()
    run.best.touch()
    with pytest.raises(ConfigError, match=r"holds a trained model; measure it with --ckpt_path .*last\.ckpt"):
        check_same_model(run, changed(), DEFAULTS)
