"""Exported weights: an adapter names what it belongs to, a fully trained model is a backbone, no path leaks."""

import json

import pytest
import torch

from mllm_srec.data.pictures.image_store import load_image_processor
from mllm_srec.data.settings import PictureSettings
from mllm_srec.models.backbone import Backbone, BackboneSettings, load_backbone
from mllm_srec.models.backbone_files import BackboneInfo
from mllm_srec.models.export import export_weights
from mllm_srec.prompts.encoding import load_encoder
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, pack
from mllm_srec.types import ConfigError

CPU = torch.device("cpu")


def hidden(backbone, folder):
    encoder = load_encoder(str(folder))
    target = PromptTarget([300, 301], encoder.answer_ids[0], None, None)
    batch, _ = pack([PromptGroup(0, [310, 311], [target])], encoder, PackingSettings())
    with torch.no_grad():
        return backbone(batch)


def test_a_fully_trained_model_is_a_backbone(load_tiny, tiny_backbone, tmp_path):
    trained = load_tiny(finetune="full", quantization="none")
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.01
    export_weights(trained, tmp_path / "adapter")
    again = load_backbone(BackboneSettings(str(tmp_path / "adapter"), finetune="none", quantization="none"), CPU).eval()
    assert torch.equal(hidden(again, tmp_path / "adapter"), hidden(trained, tiny_backbone))
    assert again.info.fingerprint != trained.info.fingerprint
    ours, theirs = (load_encoder(str(folder)).fingerprint() for folder in (tmp_path / "adapter", tiny_backbone))
    assert ours == theirs
    pictures = [
        load_image_processor(str(f), None, PictureSettings()).facts for f in (tmp_path / "adapter", tiny_backbone)
    ]
    assert pictures[0] == pictures[1]
    assert "a folder that `model.backbone` takes" in (tmp_path / "adapter/README.md").read_text()


def test_an_adapter_names_model_and_commit(load_tiny, tmp_path):
    backbone = load_tiny()
    info = BackboneInfo("org/model", "Qwen2VLForConditionalGeneration", "abc", False, commit="a" * 40)
    export_weights(Backbone(backbone.net, info), tmp_path / "adapter")
    about = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (about["base_model_name_or_path"], about["revision"]) == ("org/model", "a" * 40)
    card = (tmp_path / "adapter/README.md").read_text()
    assert "base_model: org/model\n" in card
    assert f"Backbone: `org/model` at commit `{'a' * 40}`" in card


def test_a_card_shows_no_path_of_the_disk(load_tiny, tiny_backbone, tmp_path):
    export_weights(load_tiny(), tmp_path / "adapter")
    card = (tmp_path / "adapter/README.md").read_text()
    assert "/" not in card.replace("YAML", "")
    assert f"Backbone: `{tiny_backbone.name}` (" in card
    assert "began with random weights" in card


def test_an_adapter_is_no_backbone(load_tiny, tiny_backbone, tmp_path):
    export_weights(load_tiny(), tmp_path / "adapter")
    with pytest.raises(ConfigError, match=rf"is a LoRA adapter, not a model; give .*, {tiny_backbone}, and test its"):
        load_backbone(BackboneSettings(str(tmp_path / "adapter")), CPU)
