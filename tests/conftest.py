"""Shared fixtures: a tiny Qwen2-VL folder, its encoder, and pictures; nothing is downloaded."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mllm_srec.models.backbone import BackboneSettings, LoraSettings, load_backbone
from mllm_srec.models.random_backbone import RandomBackboneSettings, build_random_backbone
from mllm_srec.prompts.encoding import PromptEncoder, load_tokenizer

SHARED_DATA = Path(__file__).resolve().parents[1] / "../shared/data"
TEXTS = [
    "Based on the user's historical multimodal interaction sequence, please deduce whether the user might like",
    "the target item next by responding. You are a helpful assistant. user assistant system",
    "a red mug with dots, a blue lamp with stripes, no picture available, no history",
] * 20


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder with real data (../shared/data) is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained Qwen2-VL: 2 language layers of width 64, a vision tower of 2 layers."""
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    settings = RandomBackboneSettings(hidden_size=64, n_layers=2, n_heads=2, vision_width=32, vision_depth=2)
    build_random_backbone(folder, TEXTS, settings)
    return folder


@pytest.fixture(scope="session")
def encoder(tiny_backbone: Path) -> PromptEncoder:
    """Encoder with the tiny backbone's tokenizer."""
    return PromptEncoder(load_tokenizer(str(tiny_backbone)))


@pytest.fixture
def load_tiny(tiny_backbone: Path):
    """Function that loads the tiny backbone; adapters get non-zero weights, so that they matter."""

    def load(**changes):
        settings = BackboneSettings(name=str(tiny_backbone), lora=LoraSettings(dropout=0.0), **changes)
        backbone = load_backbone(settings, torch.device("cpu"))
        generator = torch.Generator().manual_seed(1)
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.2, generator=generator)
        return backbone.eval()

    return load


def write_picture(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """A picture of smooth random colours, as PNG."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path
