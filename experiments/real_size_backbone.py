"""Qwen2-VL in its published shapes with random weights: written to disk, counted, and compared with what was loaded.

Used by `check_real_size.py`. The shapes are those of the published config.json files; the layout of configuration and
tensors is the hub's too (flat keys, the older tensor names), so that loading takes the same way as with real weights.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

from mllm_srec.families import qwen2_vl
from mllm_srec.models.backbone import Backbone, BackboneSettings, LoraSettings, census, prepare_backbone
from mllm_srec.models.backbone_files import RANDOM_MARK, BackboneInfo

SHARD_BYTES = 1 << 30
PLACES = {"lora_": "lora", ".visual.": "tower", "embed_tokens": "embedding", "lm_head": "head"}
FORMULAS = {
    "language_4bit": "n/2 + ceil(n/64) + 4 ceil(n/16384) + 1092 bytes for a matrix of n weights: codes, one byte of "
    "scale per 64 weights, one float32 per 256 scales; two tables of 16 and 256 levels and an offset in float32",
    "other weights": "2 bytes each (bfloat16)",
    "lora": "4 bytes each (float32), as much again for gradients, twice as much for the two moments of AdamW",
}


@dataclass(frozen=True)
class Shape:
    """Shape of a Qwen2-VL as published, and its published number of parameters."""

    name: str
    parameters: int
    hidden: int
    intermediate: int  # width inside the feed-forward layers
    heads: int
    kv_heads: int
    vocab: int
    tied: bool
    layers: int = 28
    mrope: tuple[int, int, int] = (16, 24, 24)  # frequencies for time, height, width
    vision: tuple[int, int, int] = (32, 1280, 16)  # depth, width and heads of the tower

    def config(self, ids: dict[str, int]) -> dict[str, Any]:
        """Content of config.json in the hub's flat form; `ids` of the control tokens come from the tokenizer."""
        return {
            "model_type": "qwen2_vl",
            "torch_dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "mrope", "mrope_section": list(self.mrope)},
            "sliding_window": 32768,
            "use_sliding_window": False,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            **{f"{key}_token_id": ids[f"<|{key}|>"] for key in ("vision_start", "vision_end")},
            **{f"{key}_token_id": ids[f"<|{key}_pad|>"] for key in ("image", "video")},
            "vision_config": {
                "depth": self.vision[0],
                "embed_dim": self.vision[1],
                "num_heads": self.vision[2],
                "hidden_size": self.hidden,
                "mlp_ratio": 4,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
            },
            RANDOM_MARK: True,
        }

    def lora_parameters(self, r: int) -> int:
        """Trained parameters by arithmetic alone, r x (inputs + outputs) a matrix: the oracle for the model's count."""
        h, i, kv = self.hidden, self.intermediate, self.hidden // self.heads * self.kv_heads
        return self.layers * r * (2 * (h + h) + 2 * (h + kv) + 3 * (h + i))  # q, o; k, v; gate, up, down


QWEN2_VL_2B = Shape("Qwen2-VL-2B-Instruct", 2_208_985_600, 1536, 8960, 12, 2, 151_936, tied=True)
QWEN2_VL_7B = Shape("Qwen2-VL-7B-Instruct", 8_291_375_616, 3584, 18944, 28, 4, 152_064, tied=False)


def write_backbone(folder: Path, shape: Shape, tokenizer: Any) -> None:
    """Write an untrained model with tokenizer and image processor; one shard at a time is in memory."""
    tokenizer.save_pretrained(str(folder))
    Qwen2VLImageProcessorPil().save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps(shape.config(tokenizer.get_vocab()), indent=1))
    shards: dict[str, dict[str, torch.Size]] = defaultdict(dict)
    total = 0
    for name, parameter in _without_values(shape, tokenizer.get_vocab()).named_parameters():  # a tied head only once
        shards[f"model-{total // SHARD_BYTES:05d}.safetensors"][published_name(name)] = parameter.shape
        total += parameter.nbytes
    random = torch.Generator().manual_seed(0)
    for file, sizes in shards.items():
        tensors = {name: torch.empty(size, dtype=torch.bfloat16) for name, size in sizes.items()}
        for name, tensor in tensors.items():
            is_norm = tensor.dim() == 1 and name.endswith("weight")
            tensor.normal_(float(is_norm), 0.02, generator=random)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": total},
        "weight_map": {n: file for file, sizes in shards.items() for n in sizes},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def published_name(name: str) -> str:
    """Name of a parameter in the published files, which are older than the names of today's transformers."""
    name = name.replace(".base_layer", "").replace("model.visual.", "visual.")  # the first is PEFT's, below adapters
    return name.replace("model.language_model.", "model.")


def _without_values(shape: Shape, ids: dict[str, int]) -> Any:
    """The model in bfloat16 on the meta device."""
    with torch.device("meta"):
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(**shape.config(ids))).to(torch.bfloat16)


def planned_backbone(shape: Shape, ids: dict[str, int]) -> Backbone:
    """What loading would make of the shape, on the meta device: layers in 4 bits, frozen weights, adapters."""
    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=list(qwen2_vl.FAMILY.not_quantised), **nf4)
    net = _without_values(shape, ids)
    Bnb4BitHfQuantizer(config, pre_quantized=False).preprocess_model(net, device_map=None)
    info = BackboneInfo(shape.name, type(net).__name__, fingerprint="", random_weights=True)
    return prepare_backbone(net, info, BackboneSettings(shape.name))


def count(backbone: Backbone, shape: Shape) -> dict[str, Any]:
    """Modules, parameters and bytes by place; weights in 4 bits are counted by the shape of their layer."""
    layers = [module for module in backbone.modules() if isinstance(module, bnb.nn.Linear4bit)]
    in_4_bit = [layer.in_features * layer.out_features for layer in layers]
    numbers = Counter({"language_4bit": sum(in_4_bit)})
    for name, parameter in backbone.named_parameters():
        if not isinstance(parameter, bnb.nn.Params4bit):
            place = next((place for part, place in PLACES.items() if part in name), "norms_and_biases")
            numbers[place] += parameter.numel()
    needed = {place: number * (4 if place == "lora" else 2) for place, number in numbers.items()}
    needed["language_4bit"] = sum(n // 2 + math.ceil(n / 64) + 4 * math.ceil(n / 16384) + 1092 for n in in_4_bit)
    needed |= {"lora_gradients": 4 * numbers["lora"], "adamw_moments": 8 * numbers["lora"]}
    modules = census(backbone.net)
    modules["adapters/Linear"] = modules.pop("language/Linear")  # loading made sure that no other is left
    trained = {name: parameter.numel() for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    return {
        "random_weights": backbone.info.random_weights,
        "published_parameters": shape.parameters,
        "lora_parameters_by_shape": shape.lora_parameters(LoraSettings.r),
        "census": modules,
        "parameters": {**numbers, "total_without_lora": sum(numbers.values()) - numbers["lora"]},
        "trained_tensors": len(trained),
        "trained_outside_language_layers": sum(".language_model.layers." not in name for name in trained),
        "trained_parameters": sum(trained.values()),
        "bytes": {**needed, "total": sum(needed.values())},
    }


def bytes_in_4_bit(backbone: Backbone) -> int:
    """Bytes that the loaded 4-bit weights and their scales really take: what the formula is tested against."""
    total = 0
    for module in backbone.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state = module.weight.quant_state
            parts = (module.weight, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
            total += sum(part.nbytes for part in parts)
    return total


def compare_with_files(folder: Path, backbone: Backbone) -> dict[str, Any]:
    """Every loaded weight against its file: equal, or for 4-bit weights close.

    Returns:
        `n_equal`, `n_different` and, of 4-bit weights, the largest relative error (norm of the difference by norm).
    """
    loaded = {published_name(name): parameter for name, parameter in backbone.base.named_parameters()}
    equal, errors = [], [0.0]
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                found, written = loaded[name], file.get_tensor(name)
                if isinstance(found, bnb.nn.Params4bit):
                    values = bnb.functional.dequantize_4bit(found.data, found.quant_state).float()
                    errors.append(float((values - written.float()).norm() / written.float().norm()))
                else:
                    equal.append(torch.equal(found, written.to(found.dtype)))
    return {"n_equal": sum(equal), "n_different": len(equal) - sum(equal), "nf4_error": round(max(errors), 4)}
