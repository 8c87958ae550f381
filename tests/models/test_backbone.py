"""Loading: what is quantised, what is trained, what is refused."""

import json
import shutil

import pytest
import torch
import transformers.configuration_utils

from mllm_srec.models.backbone import (
    BackboneSettings,
    LoraSettings,
    _resolve_dtype,
    census,
    check_census,
    load_backbone,
)
from mllm_srec.models.backbone_files import describe_backbone
from mllm_srec.models.lora_targets import check_lora_targets
from mllm_srec.types import ConfigError

CPU = torch.device("cpu")


def test_census_of_the_4_bit_model(load_tiny):
    """2 language layers of 7 linear modules; a tower of 2 layers (qkv, proj, fc1, fc2) and a merger of 2."""
    assert census(load_tiny(finetune="none").net) == {
        "visual/Linear": 10,
        "language/Linear4bit": 14,
        "lm_head/Linear": 1,
    }
    unquantised = census(load_tiny(finetune="none", quantization="none").net)
    assert unquantised == {"visual/Linear": 10, "language/Linear": 14, "lm_head/Linear": 1}


@pytest.mark.parametrize(
    ("counts", "quantization"),
    [
        ({"visual/Linear4bit": 1, "language/Linear4bit": 14}, "nf4"),
        ({"lm_head/Linear4bit": 1}, "nf4"),
        ({"language/Linear": 1, "language/Linear4bit": 13}, "nf4"),
        ({"language/Linear4bit": 1}, "none"),
    ],
)
def test_census_refuses_layers_in_the_wrong_type(counts, quantization):
    with pytest.raises(ConfigError, match="in the wrong type"):
        check_census(counts, quantization)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_trainable_names_are_the_adapters_of_the_language_layers(load_tiny, quantization):
    backbone = load_tiny(quantization=quantization)
    prefix = "net.base_model.model.model.language_model.layers"
    modules = [f"self_attn.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")]
    expected = {
        f"{prefix}.{layer}.{module}.lora_{part}.default.weight"
        for layer in (0, 1)
        for module in modules
        for part in "AB"
    }
    trained = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert set(trained) == expected
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}


def test_full_trains_everything_and_none_nothing(load_tiny):
    assert all(parameter.requires_grad for parameter in load_tiny(finetune="full", quantization="none").parameters())
    assert not any(parameter.requires_grad for parameter in load_tiny(finetune="none").parameters())


def test_adapters_begin_equal_for_equal_seeds(tiny_backbone):
    def initial(seed):
        settings = BackboneSettings(str(tiny_backbone), quantization="none", seed=seed)
        backbone = load_backbone(settings, CPU)
        return next(p for n, p in backbone.named_parameters() if "lora_A" in n)

    assert torch.equal(initial(1), initial(1))
    assert not torch.equal(initial(1), initial(2))


def test_4_bit_weights_cannot_be_trained_in_full():
    with pytest.raises(ConfigError, match="finetune='full' with quantization='nf4'"):
        BackboneSettings("any", finetune="full")


def test_a_pattern_without_modules_is_refused(tiny_backbone):
    settings = BackboneSettings(str(tiny_backbone), lora=LoraSettings(target_modules="visual.*nothing"))
    with pytest.raises(ConfigError, match="names no module"):
        load_backbone(settings, CPU)


def copy_with(tiny_backbone, tmp_path, **changes):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_backbone, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_another_family_is_refused_by_name(tiny_backbone, tmp_path):
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ConfigError, match="is of type 'llama'; supported are qwen2_5_vl, qwen2_vl"):
        describe_backbone(str(folder))


def test_qwen3_vl_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    with pytest.raises(ConfigError, match=r"'qwen3_vl'; supported are .* Qwen3-VL feeds pictures into several layers"):
        describe_backbone(str(tmp_path))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        describe_backbone(str(tmp_path / "absent"))


def test_random_weights_are_marked(tiny_backbone, tmp_path):
    assert describe_backbone(str(tiny_backbone)).random_weights
    assert not describe_backbone(str(copy_with(tiny_backbone, tmp_path, random_weights=False))).random_weights


def test_fingerprint_follows_weights_and_not_the_place(tiny_backbone, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_backbone, moved)
    same = describe_backbone(str(moved)).fingerprint
    assert same == describe_backbone(str(tiny_backbone)).fingerprint
    with (moved / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, 2)
        weights.write(b"\x01\x02\x03\x04")
    assert describe_backbone(str(moved)).fingerprint != same


@pytest.mark.parametrize("values", [{"r": 0}, {"alpha": 0}, {"dropout": 1.0}])
def test_lora_refuses_nonsense(values):
    with pytest.raises(ConfigError, match=r"lora\."):
        LoraSettings(**values)


def test_adapters_beyond_the_language_model_are_refused(tiny_backbone):
    settings = BackboneSettings(str(tiny_backbone), lora=LoraSettings(target_modules=r".*(qkv|q_proj)"))
    with pytest.raises(ConfigError, match=r"reaches beyond the language model: .*visual\.blocks\.0\.attn\.qkv"):
        load_backbone(settings, CPU)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r".*\.query", "names no module of .* must match whole names, such as model.language_model.layers.0"),
        (r"q_proj", "names no module"),
        (r".*visual.*qkv", "reaches beyond the language model: model.visual.blocks.0.attn.qkv and 1 more"),
        (
            r".*language_model.*mlp",
            r"names model.language_model.layers.0.mlp \(Qwen2MLP\) and 1 more that are no linear",
        ),
        (r".*language_model.*norm.*", r"names model.language_model.layers.0.input_layernorm \("),
    ],
)
def test_layers_that_cannot_get_adapters_are_named_before_weights_are_loaded(tiny_backbone, pattern, message):
    with pytest.raises(ConfigError, match=message):
        check_lora_targets(str(tiny_backbone), None, pattern)
    with pytest.raises(ConfigError, match=message):
        load_backbone(BackboneSettings(str(tiny_backbone), lora=LoraSettings(target_modules=pattern)), CPU)


def test_a_pattern_of_ones_own_passes(tiny_backbone):
    pattern = r".*layers\.0\..*\.(q|v)_proj"
    check_lora_targets(str(tiny_backbone), None, pattern)
    backbone = load_backbone(BackboneSettings(str(tiny_backbone), lora=LoraSettings(target_modules=pattern)), CPU)
    assert len([name for name, _ in backbone.named_parameters() if "lora_A" in name]) == 2


def test_fingerprint_survives_another_release_of_transformers(tiny_backbone, monkeypatch):
    before = describe_backbone(str(tiny_backbone)).fingerprint
    monkeypatch.setattr(transformers.configuration_utils, "__version__", "9.9.9")
    assert describe_backbone(str(tiny_backbone)).fingerprint == before


def test_weights_that_are_trained_are_never_bfloat16():
    assert (
        _resolve_dtype(BackboneSettings("x", finetune="full", quantization="none"), torch.device("cuda"))
        == torch.float32
    )
    assert _resolve_dtype(BackboneSettings("x"), torch.device("cuda")) == torch.bfloat16
    assert _resolve_dtype(BackboneSettings("x"), CPU) == torch.float32
    with pytest.raises(ConfigError, match="round away"):
        BackboneSettings("x", finetune="full", quantization="none", dtype="bfloat16")


def test_4_bit_layers_train_after_they_were_evaluated(load_tiny):
    """A fit begins with a validation; on some processors bitsandbytes would repack its weights there, for good."""

    def gradients(evaluate_first):
        backbone = load_tiny(quantization="nf4")
        ids = torch.arange(20)[None]
        if evaluate_first:
            with torch.no_grad():
                backbone.eval().net(input_ids=ids)
        logits = backbone.train().net(input_ids=ids).logits
        logits.square().mean().backward()
        found = {name: p.grad for name, p in backbone.named_parameters() if p.requires_grad}
        assert all(bool(gradient.any()) for gradient in found.values())
        return logits.detach(), found

    (before, expected), (after, found) = gradients(False), gradients(True)
    assert torch.equal(before, after)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
