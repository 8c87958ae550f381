"""Families are found by `model_type`; a new one is one file; nothing else in the package knows a family."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import mllm_srec.families as room
import mllm_srec.models.backbone as backbone_module
from mllm_srec.data.pictures.image_store import load_image_processor
from mllm_srec.data.settings import PictureSettings
from mllm_srec.families.lookup import families, family_of, read_family, titles
from mllm_srec.models.backbone import BackboneSettings, load_backbone
from mllm_srec.models.backbone_files import describe_backbone, describe_writer
from mllm_srec.prompts.encoding import load_encoder
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, pack
from mllm_srec.types import ConfigError

PACKAGE = Path(room.__file__).parents[1]
TOY_FILE = '''
"""A family for a test."""

from dataclasses import replace

from mllm_srec.families import qwen2_vl

FAMILY = replace(
    qwen2_vl.FAMILY,
    model_type="toy_vl",
    title="Toy-VL",
    model_class="ToyVL",
    lora_targets=r".*language_model\\..*\\.(q|v)_proj",
)
'''


class ToyConfig(Qwen2VLConfig):
    """Configuration of the toy."""

    model_type = "toy_vl"


class ToyVL(Qwen2VLForConditionalGeneration):
    """A Qwen2-VL under another name."""

    config_class = ToyConfig


@pytest.fixture
def toy(tmp_path, tiny_backbone, monkeypatch):
    """A folder of toy weights, and one more file in the room of families."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "toy_vl.py").write_text(TOY_FILE)
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(files)])
    monkeypatch.setattr(backbone_module.transformers, "ToyVL", ToyVL, raising=False)
    AutoConfig.register("toy_vl", ToyConfig)
    families.cache_clear()
    folder = tmp_path / "weights"
    shutil.copytree(tiny_backbone, folder)
    net = Qwen2VLForConditionalGeneration.from_pretrained(str(tiny_backbone))
    model = ToyVL(ToyConfig(**{**net.config.to_dict(), "model_type": "toy_vl"}))
    model.load_state_dict(net.state_dict())
    model.save_pretrained(folder)
    yield folder
    families.cache_clear()
    CONFIG_MAPPING._extra_content.pop("toy_vl", None)
    sys.modules.pop("mllm_srec.families.toy_vl", None)


def hidden_states(folder):
    backbone = load_backbone(BackboneSettings(str(folder), quantization="none"), torch.device("cpu")).eval()
    encoder = load_encoder(str(folder))
    picture = [encoder.image_token_id] * 6
    targets = [PromptTarget([300, *picture, 301 + c], encoder.answer_ids[c], (1, 4, 6), "p") for c in (0, 1)]
    batch, _ = pack([PromptGroup(0, [310, 311], targets)], encoder, PackingSettings())
    pixels = torch.randn(24, backbone.family.values_per_patch, generator=torch.Generator().manual_seed(0))
    batch |= {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 6]]), "image_index": torch.tensor([0, 0])}
    with torch.no_grad():
        return backbone, backbone(batch)


def test_a_new_file_is_a_new_family(toy, tiny_backbone):
    assert [*families()] == ["qwen2_5_vl", "qwen2_vl", "toy_vl"]
    assert titles() == "Qwen2-VL, Qwen2.5-VL or Toy-VL"
    assert describe_backbone(str(toy)).class_name == "ToyVL"
    assert describe_writer(str(toy)).multimodal
    processor = load_image_processor(str(toy), None, PictureSettings())
    assert (processor.grid(56, 84), processor.n_tokens((1, 4, 6))) == ((1, 4, 6), 6)
    backbone, hidden = hidden_states(toy)
    assert backbone.family.title == "Toy-VL"
    _, expected = hidden_states(tiny_backbone)
    assert torch.equal(hidden, expected)


def test_adapters_follow_the_family(toy):
    backbone, _ = hidden_states(toy)
    adapted = {re.search(r"\.(\w+)\.lora_A", name)[1] for name, _ in backbone.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "v_proj"}


def test_rows_are_not_shared_where_layers_carry_a_state(encoder, monkeypatch):
    monkeypatch.setattr(encoder, "family", replace(encoder.family, shares_prefix=False))
    group = PromptGroup(0, [310], [PromptTarget([300]), PromptTarget([301])])
    with pytest.raises(ConfigError, match=r"data.packing.packed=True: the layers of Qwen2-VL carry a state"):
        pack([group], encoder, PackingSettings())
    batch, _ = pack([group], encoder, PackingSettings(packed=False))
    assert batch["input_ids"].tolist() == [[310, 300], [310, 301]]


def test_the_nearest_family_is_named():
    with pytest.raises(ConfigError, match=r"backbone='x': is of type 'qwen2_vlm'; .* did you mean 'qwen2_vl'\?"):
        family_of("qwen2_vlm", "x")


def test_any_causal_language_model_is_text_only():
    llama = family_of("llama")
    assert (llama.text_only, llama.model_class, llama.vision_tower) == (True, "LlamaForCausalLM", "")
    with pytest.raises(ConfigError, match="is of type 'llama'; supported are qwen2_5_vl, qwen2_vl "):
        family_of("llama", may_be_text_only=False)
    with pytest.raises(ConfigError, match="text-only model, which cannot see pictures"):
        llama.load_image_processor("x", None, 1, 2)


def test_sizes_are_those_of_the_model_and_of_its_processor(load_tiny, tiny_backbone):
    family, vision = read_family(str(tiny_backbone)), load_tiny(finetune="none").base.config.vision_config
    sizes = (family.patch_size, family.temporal_patch_size, family.spatial_merge)
    assert sizes == (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
    facts = load_image_processor(str(tiny_backbone), None, PictureSettings()).facts
    assert sizes == (facts["patch_size"], facts["temporal_patch_size"], facts["merge_size"])
    assert family.values_per_patch == 1176


# --- nothing else knows a family ----------------------------------------------------------------------------------

TRACES = re.compile(
    r"model\.visual|[\"']visual\.|\b1176\b|spatial_merge_size|rope_deltas|Qwen2_?5?_?VL|<\|(vision|image)_|qwen2(_5)?_vl\b"
)
ALLOWED = {"models/random_backbone.py"}  # an untrained stand-in, and that of one family


def traces():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if not name.startswith("families/") and name not in ALLOWED:
            yield from (
                f"{name}: {line}" for line in path.read_text(encoding="utf-8").splitlines() if TRACES.search(line)
            )


def test_no_other_file_knows_a_family():
    assert [*traces()] == []
