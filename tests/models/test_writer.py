"""Models that write: what is quantised, what is refused, what names them."""

import json
from dataclasses import replace

import pytest
import torch

from mllm_srec.families.lookup import read_family
from mllm_srec.models.backbone import BackboneSettings, census
from mllm_srec.models.backbone_files import describe_backbone, describe_writer
from mllm_srec.models.summarizer import load_writer
from mllm_srec.types import ConfigError

CPU = torch.device("cpu")


def settings_of(folder, **changes):
    return BackboneSettings(str(folder), **{"finetune": "none", **changes})


@pytest.mark.parametrize("tied", [False, True])
def test_census_of_a_4_bit_llama(write_llama, tied):
    writer = load_writer(settings_of(write_llama(tied)), CPU)
    assert census(writer.net) == {"language/Linear4bit": 14, "lm_head/Linear": 1}
    assert not writer.net.training
    assert not any(parameter.requires_grad for parameter in writer.net.parameters())


def test_census_of_a_4_bit_qwen(tiny_backbone):
    writer = load_writer(settings_of(tiny_backbone), CPU)
    assert census(writer.net) == {"visual/Linear": 10, "language/Linear4bit": 14, "lm_head/Linear": 1}
    assert not writer.net.training
    assert not any(parameter.requires_grad for parameter in writer.net.parameters())


def not_quantised(monkeypatch, *modules):
    """Let the family of every model name these modules."""
    changed = lambda *args: replace(read_family(*args), not_quantised=modules)  # noqa: E731
    monkeypatch.setattr("mllm_srec.models.backbone.read_family", changed)


def test_quantisation_that_spares_a_language_layer_is_refused(tiny_llama, monkeypatch):
    not_quantised(monkeypatch, "lm_head", "layers.0.mlp.up_proj")
    with pytest.raises(ConfigError, match="language/Linear': 1"):
        load_writer(settings_of(tiny_llama), CPU)


def test_quantisation_of_the_head_is_refused(tiny_llama, monkeypatch):
    not_quantised(monkeypatch, "nothing")
    with pytest.raises(ConfigError, match="lm_head/Linear4bit': 1"):
        load_writer(settings_of(tiny_llama), CPU)


def test_who_is_multimodal(tiny_backbone, tiny_llama):
    qwen, llama = describe_writer(str(tiny_backbone)), describe_writer(str(tiny_llama))
    assert (qwen.multimodal, qwen.class_name, qwen.max_positions) == (True, "Qwen2VLForConditionalGeneration", 8192)
    assert (llama.multimodal, llama.class_name, llama.max_positions) == (False, "LlamaForCausalLM", 512)
    assert qwen.fingerprint == describe_backbone(str(tiny_backbone)).fingerprint
    with pytest.raises(ConfigError, match="is of type 'llama'; supported are"):
        describe_backbone(str(tiny_llama))


def test_fingerprint_follows_the_weights(write_llama):
    folder = write_llama()
    before = describe_writer(str(folder)).fingerprint
    assert before == describe_writer(str(folder)).fingerprint
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, 2)
        weights.write(b"\x01\x02\x03\x04")
    assert describe_writer(str(folder)).fingerprint != before


def test_what_cannot_write_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ConfigError, match=r"is of type 't5'; supported are .* any text-only causal language model"):
        describe_writer(str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be read"):
        describe_writer(str(tmp_path / "absent"))


def test_a_writer_is_not_trained(tiny_llama):
    with pytest.raises(ConfigError, match="finetune='lora'"):
        load_writer(settings_of(tiny_llama, finetune="lora"), CPU)
