"""Settings of earlier versions get their current names; what can no longer be honoured is refused."""

import pytest
import yaml

from mllm_srec.pipeline.runs.settings import MOVED, WITHOUT_EFFECT, current_settings, read_settings
from mllm_srec.types import ConfigError, DataError


def test_a_moved_setting_gets_its_current_name():
    old = {"data": {"name": "demo", "packing": {"packed": True, "loss_on": "all"}}, "model": {"lr": 1e-3}}
    assert current_settings(old, "old.yaml") == {
        "data": {"name": "demo", "packing": {"packed": True}}, "model": {"lr": 1e-3, "loss_on": "all"}
    }  # fmt: skip
    assert old["data"]["packing"]["loss_on"] == "all"  # the caller's settings stay as they are


def test_a_section_that_is_missing_is_made():
    assert current_settings({"data": {"packing": {"loss_on": "all"}}}, "x") == {
        "data": {"packing": {}}, "model": {"loss_on": "all"}
    }  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"data": None}, {"data": {"packing": None}}, {"model": {"loss_on": "all"}}])
def test_current_settings_stay(settings):
    assert current_settings(settings, "x") == settings


def test_old_and_new_name_together_must_agree():
    both = {"data": {"packing": {"loss_on": "all"}}, "model": {"loss_on": "all"}}
    assert current_settings(both, "x")["model"] == {"loss_on": "all"}
    both["model"]["loss_on"] = "response"
    with pytest.raises(ConfigError, match=r"data.packing.loss_on='all' in x: .* model.loss_on, which is 'response'"):
        current_settings(both, "x")


@pytest.mark.parametrize("old", WITHOUT_EFFECT)
def test_a_setting_that_is_gone_is_dropped_only_where_it_had_no_effect(old):
    section, _, name = old.partition(".")[2].partition(".")
    settings = {"data": {section: {name: WITHOUT_EFFECT[old]}}}
    assert current_settings(settings, "x") == {"data": {section: {}}}
    settings["data"][section][name] = "left"
    with pytest.raises(ConfigError, match=f"{old}='left' in x: this setting no longer exists; leave it out"):
        current_settings(settings, "x")


def test_every_setting_that_is_gone_has_a_value_without_effect():
    assert {old for old, new in MOVED.items() if new is None} == set(WITHOUT_EFFECT)


def test_settings_of_a_run_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"run='.*': not a run folder \(it has no config.yaml\); give one that `fit`"):
        read_settings(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"root": "data", "packing": {"loss_on": "all"}}}))
    assert read_settings(tmp_path, "moved") == {"data": {"root": "moved", "packing": {}}, "model": {"loss_on": "all"}}


def test_a_section_that_is_null_takes_the_moved_setting():
    old = {"model": None, "data": {"packing": {"loss_on": "all"}}}
    assert current_settings(old, "x")["model"] == {"loss_on": "all"}


@pytest.mark.parametrize("content", [b"", b"- a\n", b"data: [1\n", b"data: 3\n", b"\xff\xfe", b"just words"])
def test_damaged_settings_are_named(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.yaml: the settings of a run cannot be read .*; give another run"):
        read_settings(tmp_path, "moved")
