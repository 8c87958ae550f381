"""Does the real size work? Qwen2-VL-2B in its exact shape goes through our loading, training and scoring; 7B is counted.

    python experiments/check_real_size.py --tokenizer FOLDER [--folder FOLDER] [--keep] [--out FILE] [--dtype auto]

Writes Qwen2-VL-2B-Instruct with random weights, in the published layout of configuration and tensors, loads it in NF4
with LoRA as `fit` does, takes one training step on a pair group, and scores one list of 1 + 4 candidates twice: packed,
and in separate rows. For 7B, modules and parameters are counted on the meta device, which holds shapes without values.
The weights (4.4 GB) go to a new folder inside `--folder` (default: the system's) and are removed after the run unless
`--keep` is given. Without `--tokenizer`, the folder of a Qwen2 tokenizer, a small one is learned from the prompts. Plan
10 GB of memory and ten minutes on two cores. Random weights: the figures are sizes and times, and say nothing of quality.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

from mllm_srec.data.image_store import load_image_processor
from mllm_srec.data.settings import PictureSettings
from mllm_srec.models.backbone import SKIPPED, Backbone, BackboneSettings, census, prepare_backbone
from mllm_srec.models.backbone_files import RANDOM_MARK, BackboneInfo
from mllm_srec.models.random_backbone import build_tokenizer
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.models.scoring import response_loss
from mllm_srec.prompts import builder
from mllm_srec.prompts.encoding import PromptEncoder, load_tokenizer
from mllm_srec.prompts.packing import PackingSettings, PromptGroup, PromptTarget, pack
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import PackedBatch

OUT = Path(__file__).parent / "results" / "real_size.json"
SHARD_BYTES = 1 << 30
SIDE = 224  # of the drawn pictures, in pixels: 64 tokens each
TITLES = [f"Gift card number {n} in a black box with a red ribbon" for n in range(10)]
FORMULAS = {
    "language_4bit": "a matrix of n weights: n/2 + ceil(n/64) + 4 ceil(n/64/256) + 1092: codes, a byte of scale per 64 "
    "weights, a float32 scale per 256 of those, and 16 + 256 levels and one offset in float32",
    "others": "2 bytes (bfloat16); adapters: 4 bytes (float32), as much for gradients, and twice as much for AdamW",
    "lora": "r x (inputs + outputs) of the seven matrices of each language layer",
}


@dataclass(frozen=True)
class Shape:
    """A Qwen2-VL's shape, from its published config.json; `published` is its published number of parameters."""

    name: str
    published: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool
    layers: int = 28
    mrope: tuple[int, int, int] = (16, 24, 24)
    tower: tuple[int, int, int] = (32, 1280, 16)  # depth, width, heads

    def config(self, ids: dict[str, int]) -> dict[str, Any]:
        """The configuration in the flat form that the hub has; ids of the control tokens come from the tokenizer."""
        control = {f"{key}_token_id": ids[f"<|{key}|>"] for key in ("vision_start", "vision_end")}
        control |= {f"{key}_token_id": ids[f"<|{key}_pad|>"] for key in ("image", "video")}
        vision = {"depth": self.tower[0], "embed_dim": self.tower[1], "num_heads": self.tower[2], "mlp_ratio": 4}
        vision |= {"hidden_size": self.hidden, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
        text = {"hidden_size": self.hidden, "intermediate_size": self.intermediate, "num_hidden_layers": self.layers}
        text |= {"num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "vocab_size": self.vocab}
        text |= {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": list(self.mrope)}}
        text |= {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "rms_norm_eps": 1e-6}
        window = {"sliding_window": 32768, "use_sliding_window": False, "max_window_layers": self.layers}
        model = {"model_type": "qwen2_vl", "torch_dtype": "bfloat16", "tie_word_embeddings": self.tied}
        return {**model, **text, **window, **control, "vision_config": vision, RANDOM_MARK: True}

    def lora_parameters(self, r: int) -> int:
        """Trained parameters by arithmetic alone: the oracle of the count on the model."""
        h, i, kv = self.hidden, self.intermediate, self.hidden // self.heads * self.kv_heads
        return self.layers * r * (2 * (h + h) + 2 * (h + kv) + 3 * (h + i))  # q, o; k, v; gate, up, down


QWEN2_VL_2B = Shape("Qwen2-VL-2B-Instruct", 2_208_985_600, 1536, 8960, 12, 2, 151_936, tied=True)
QWEN2_VL_7B = Shape("Qwen2-VL-7B-Instruct", 8_291_375_616, 3584, 18944, 28, 4, 152_064, tied=False)


@contextmanager
def measured(phases: dict[str, dict[str, float]], name: str) -> Iterator[None]:
    """Add seconds, processor seconds and peak resident memory (mapped files included) of a phase to `phases`."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew; elsewhere it is that since start
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    seconds = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - cpu}
    phases[name] = {**{key: round(value, 2) for key, value in seconds.items()}, "peak_memory_gb": round(peak / 1e9, 2)}
    print(name, phases[name], flush=True)


def published_name(name: str) -> str:
    """Name of a parameter in the published files, which are older than the names of today's transformers."""
    return name.replace(".base_layer", "").replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def on_meta(shape: Shape, ids: dict[str, int]) -> Any:
    """The model without values."""
    with torch.device("meta"):
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(**shape.config(ids))).to(torch.bfloat16)


def write_backbone(folder: Path, shape: Shape, tokenizer: Any) -> None:
    """Write an untrained model as the hub has it: flat configuration, bfloat16 shards; one shard is held at a time."""
    tokenizer.save_pretrained(str(folder))
    Qwen2VLImageProcessorPil().save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps(shape.config(tokenizer.get_vocab()), indent=1))
    shards, total = defaultdict(dict), 0
    for name, parameter in on_meta(shape, tokenizer.get_vocab()).named_parameters():  # a tied head is not among them
        shards[f"model-{total // SHARD_BYTES:05d}.safetensors"][published_name(name)] = parameter.shape
        total += parameter.nbytes
    random = torch.Generator().manual_seed(0)
    for file, shapes in shards.items():
        means = {name: float(len(size) == 1 and name.endswith("weight")) for name, size in shapes.items()}  # norms: 1
        empty = {name: torch.empty(size, dtype=torch.bfloat16) for name, size in shapes.items()}
        save_file({name: t.normal_(means[name], 0.02, generator=random) for name, t in empty.items()}, folder / file)
    index = {"metadata": {"total_size": total}, "weight_map": {name: f for f, names in shards.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
