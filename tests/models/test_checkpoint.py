"""Checks between a checkpoint and the model that reads it."""

import pytest

from mllm_srec.models.backbone import BackboneSettings, LoraSettings
from mllm_srec.models.backbone_files import BackboneInfo
from mllm_srec.models.checkpoint import check_identity, check_keys, identity
from mllm_srec.types import ConfigError

INFO = BackboneInfo("folder", "Qwen2VLForConditionalGeneration", "abc", False)


def test_equal_settings_fit_wherever_the_folder_lies():
    moved = BackboneInfo("elsewhere", INFO.class_name, "abc", False)
    check_identity(identity(BackboneSettings("folder"), INFO), identity(BackboneSettings("elsewhere"), moved))


@pytest.mark.parametrize(
    ("settings", "info", "match"),
    [
        (BackboneSettings("x", lora=LoraSettings(r=4)), INFO, "lora.r: checkpoint 8, now 4"),
        (BackboneSettings("x", quantization="none"), INFO, "quantization: checkpoint 'nf4', now 'none'"),
        (BackboneSettings("x"), BackboneInfo("x", INFO.class_name, "def", False), "fingerprint: checkpoint 'abc'"),
    ],
)
def test_differences_are_named_with_both_values(settings, info, match):
    with pytest.raises(ConfigError, match=match):
        check_identity(identity(BackboneSettings("folder"), INFO), identity(settings, info))


def test_foreign_checkpoints_are_refused():
    with pytest.raises(ConfigError, match="not written by mllm_srec"):
        check_identity(None, identity(BackboneSettings("folder"), INFO))


def test_keys_must_agree_one_to_one():
    check_keys({"a", "b"}, {"b", "a"})
    with pytest.raises(ConfigError, match=r"1 trained weights are missing in it \['b'\], 1 are unknown .* \['c'\]"):
        check_keys({"a", "c"}, {"a", "b"})


def test_a_checkpoint_of_a_baseline_is_named_as_one():
    with pytest.raises(ConfigError, match="belongs to the baseline GRU4Rec"):
        check_identity({"model": "GRU4Rec", "settings": {}}, identity(BackboneSettings("folder"), INFO))
