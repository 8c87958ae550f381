"""The check of the real size, run on shrunken shapes; and the arithmetic and the recorded figures of the real ones."""

import importlib
import json
import os
import platform
from pathlib import Path

import pytest
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from mllm_srec.models.backbone import BackboneSettings, load_backbone

ROOT = Path(__file__).resolve().parents[2]
SHRUNKEN = {"mrope": (4, 6, 6), "vision": (2, 32, 4)}
SMALL, LARGE = "Small-VL", "Large-VL"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Layers this small wait for each other's threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scripts():
    """The two files of the experiment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments")
        yield importlib.import_module("check_real_size"), importlib.import_module("real_size_backbone")


@pytest.fixture(scope="module")
def shapes(scripts):
    shape = scripts[1].Shape
    small = shape(SMALL, 227_712, 64, 128, 2, 1, 1024, True, layers=2, **SHRUNKEN)
    return small, shape(LARGE, 387_904, 64, 192, 2, 2, 1088, False, layers=3, **SHRUNKEN)


@pytest.fixture(scope="module")
def run(scripts, shapes, tmp_path_factory):
    """Result of a run and the folder of its weights."""
    folder, out = tmp_path_factory.mktemp("weights"), tmp_path_factory.mktemp("out") / "real_size.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts[1], "SHARD_BYTES", 100_000)
        scripts[0].main(["--folder", str(folder), "--out", str(out), "--keep"], *shapes)
    return json.loads(out.read_text()), next(folder.iterdir())


def n_parameters(hidden, intermediate, heads, kv_heads, vocab, layers, tied):
    """Parameters of a plain model of transformers, its configuration written in today's nested form."""
    text = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "num_hidden_layers": layers,
    }
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": hidden, "mlp_ratio": 4}
    with torch.device("meta"):
        config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
        return sum(parameter.numel() for parameter in Qwen2VLForConditionalGeneration(config).parameters())


def test_counts_of_the_loaded_model(run):
    found = run[0][SMALL]
    assert found["census"] == {
        "visual/Linear": 10,
        "language/Linear4bit": 14,
        "lm_head/Linear": 1,
        "adapters/Linear": 28,
    }
    # r = 8 times inputs + outputs of q, k, v, o, gate, up and down, in two layers
    lora = 8 * 2 * ((64 + 64) + (64 + 32) + (64 + 32) + (64 + 64) + (64 + 128) + (64 + 128) + (128 + 64))
    assert found["trained_parameters"] == found["lora_parameters_by_shape"] == lora == 16384
    assert (found["trained_tensors"], found["trained_outside_language_layers"]) == (28, 0)
    assert found["parameters"] == {
        "language_4bit": 2 * (4096 + 2048 + 2048 + 4096 + 3 * 8192),
        "tower": 87872,
        "embedding": 65536,
        "norms_and_biases": 2 * (64 + 32 + 32 + 64 + 64) + 64,
        "lora": 16384,
        "total_without_lora": n_parameters(64, 128, 2, 1, 1024, 2, tied=True),
    }


def test_bytes_of_the_loaded_model(run):
    """Per matrix: half a byte a weight, a byte per 64, four per 16384, and 1092; the loaded tensors take as much."""
    q, k, gate = 2048 + 64 + 4 + 1092, 1024 + 32 + 4 + 1092, 4096 + 128 + 4 + 1092
    in_4_bit = 2 * (2 * q + 2 * k + 3 * gate)
    found = run[0][SMALL]
    assert found["bytes"] == {
        "language_4bit": in_4_bit,
        "tower": 2 * 87872,
        "embedding": 2 * 65536,
        "norms_and_biases": 2 * 576,
        "lora": 4 * 16384,
        "lora_gradients": 4 * 16384,
        "adamw_moments": 8 * 16384,
        "total": in_4_bit + 2 * (87872 + 65536 + 576) + 16 * 16384,
    }
    assert found["loaded"]["bytes_4_bit"] == in_4_bit == 53360


def test_counts_on_the_meta_device(run):
    found = run[0][LARGE]
    assert found["census"] == {
        "visual/Linear": 10,
        "language/Linear4bit": 21,
        "lm_head/Linear": 1,
        "adapters/Linear": 42,
    }
    lora = 8 * 3 * (4 * (64 + 64) + 3 * (64 + 192))
    assert found["trained_parameters"] == found["lora_parameters_by_shape"] == lora == 30720
    assert found["parameters"]["head"] == found["parameters"]["embedding"] == 1088 * 64
    assert found["parameters"]["total_without_lora"] == n_parameters(64, 192, 2, 2, 1088, 3, tied=False)


def test_the_meta_device_counts_what_loading_gives(run, scripts, shapes):
    """The plan for the loaded shape, made without its weights, equals the loaded model in every number."""
    ids = {**dict.fromkeys(("<|endoftext|>", "<|im_end|>"), 0)}
    ids |= {f"<|{name}|>": 1 for name in ("vision_start", "vision_end", "image_pad", "video_pad")}
    planned = scripts[1].count(scripts[1].planned_backbone(shapes[0], ids), shapes[0])
    assert planned == {key: value for key, value in run[0][SMALL].items() if key in planned}


def test_step_and_list(run):
    found = run[0][SMALL]
    assert found["random_weights"] is True
    assert found["loaded"] == {
        "dtype": "torch.float32",
        "bytes_4_bit": 53360,
        "n_equal": 43,
        "n_different": 0,
        "nf4_error": pytest.approx(0.095, abs=0.01),  # of normally distributed weights
    }
    step = found["step"]
    assert step["loss"] == pytest.approx(6.93, abs=0.5)  # log 1024: untrained
    assert step["gradient_norm"] > 0.01
    assert (step["n_tensors_with_gradient"], step["n_adapters_changed"]) == (14, 14)  # B of each adapter
    assert (step["n_base_tensors"], step["base_unchanged"]) == (57, True)
    assert len(set(found["list"]["scores"])) == 5
    assert found["list"]["difference_of_separate_rows"] < 1e-5


def test_time_memory_and_machine(run):
    result = run[0]
    assert list(result[SMALL]["phases"]) == [
        "write", "load", "forward", "backward", "optimizer", "score", "score_in_separate_rows",
    ]  # fmt: skip
    for phase in result[SMALL]["phases"].values():
        assert set(phase) == {"seconds", "processor_seconds", "peak_memory_gb", "peak_with_mapped_files_gb"}
        assert 0 <= phase["peak_memory_gb"] <= phase["peak_with_mapped_files_gb"] < 5  # sampled: a short phase shows 0
    assert result["random_weights"] is True
    assert result["tokenizer"] == "learned from the prompts"
    assert result["versions"]["torch"] == torch.__version__
    assert result["machine"]["cores"] == os.cpu_count()


def test_files_are_laid_out_as_published(run):
    index = json.loads((run[1] / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in run[1].glob("*.safetensors")}
    assert len(set(index["weight_map"].values())) > 2
    assert {name.split(".")[0] for name in index["weight_map"]} == {"visual", "model"}
    assert "model.layers.1.self_attn.q_proj.weight" in index["weight_map"]
    assert index["metadata"]["total_size"] == 2 * 227_712


def test_a_wrong_weight_is_found(run, scripts):
    backbone = load_backbone(BackboneSettings(str(run[1])), torch.device("cpu"))
    before = scripts[0].checksums(backbone, trained=False)
    with torch.no_grad():
        backbone.base.model.visual.merger.mlp[0].bias[3] += 1
        layer = backbone.base.model.language_model.layers[1].mlp.up_proj.base_layer
        layer.weight.data = layer.weight.data.flip(0)
    found = scripts[1].compare_with_files(run[1], backbone)
    assert (found["n_equal"], found["n_different"]) == (42, 1)
    assert found["nf4_error"] > 1
    after = scripts[0].checksums(backbone, trained=False)
    assert sorted(
        name.removeprefix("net.base_model.model.model.") for name in before if before[name] != after[name]
    ) == [
        "language_model.layers.1.mlp.up_proj.base_layer.weight",
        "visual.merger.mlp.0.bias",
    ]


def test_weights_are_removed_even_after_an_error(scripts, shapes, tmp_path, monkeypatch):
    def fail(folder, *_):
        (folder / "model.safetensors").write_text("")
        raise RuntimeError("disk full")

    monkeypatch.setattr(scripts[1], "write_backbone", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        scripts[0].main(["--folder", str(tmp_path), "--out", str(tmp_path / "x.json")], *shapes)
    assert list(tmp_path.iterdir()) == []


PUBLISHED_IDS = {
    "<|endoftext|>": 151643,
    "<|im_end|>": 151645,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}


@pytest.mark.parametrize(
    ("name", "parameters", "lora"),
    [("QWEN2_VL_2B", 2_208_985_600, 9_232_384), ("QWEN2_VL_7B", 8_291_375_616, 20_185_088)],
)
def test_real_shapes_have_the_published_parameters(scripts, name, parameters, lora):
    """The totals that the model pages state, and the adapters that PEFT reports for Qwen2 1.5B and 7B at rank 8."""
    shape = getattr(scripts[1], name)
    found = scripts[1].count(scripts[1].planned_backbone(shape, PUBLISHED_IDS), shape)
    assert found["parameters"]["total_without_lora"] == found["published_parameters"] == parameters
    assert found["trained_parameters"] == found["lora_parameters_by_shape"] == lora
    assert found["census"] == {
        "visual/Linear": 130,
        "language/Linear4bit": 196,
        "lm_head/Linear": 1,
        "adapters/Linear": 392,
    }


def test_recorded_figures():
    """The file in the repository is of a full run, with every check passed, and names no place on a machine."""
    text = (ROOT / "experiments/results/real_size.json").read_text()
    recorded = json.loads(text)
    small, large = recorded["Qwen2-VL-2B-Instruct"], recorded["Qwen2-VL-7B-Instruct"]
    for found, parameters, lora in ((small, 2_208_985_600, 9_232_384), (large, 8_291_375_616, 20_185_088)):
        assert found["random_weights"] is True
        assert found["parameters"]["total_without_lora"] == parameters
        assert found["trained_parameters"] == found["lora_parameters_by_shape"] == lora
        assert found["trained_outside_language_layers"] == 0
        assert {key: found["census"][key] for key in ("visual/Linear", "lm_head/Linear", "language/Linear4bit")} == {
            "visual/Linear": 130,
            "lm_head/Linear": 1,
            "language/Linear4bit": 196,
        }
    assert small["loaded"]["bytes_4_bit"] == small["bytes"]["language_4bit"]
    assert small["loaded"]["n_different"] == 0
    assert small["step"]["base_unchanged"] is True
    assert small["step"]["n_adapters_changed"] == 196
    assert small["step"]["gradient_norm"] > 0
    assert small["list"]["difference_of_separate_rows"] < 1e-3
    assert all(word not in text for word in ("/home", "/work", "/tmp", "/root", platform.node()))
