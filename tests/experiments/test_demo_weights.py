"""The demo backbone as it is shipped: its files, its card, and what it can do on seeds that nobody has seen."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from mllm_srec.models.backbone_files import describe_backbone
from mllm_srec.pipeline.build import DEMO_FOLDER

MIB = 2**20


@pytest.fixture(scope="module")
def measuring():
    """The script that measures it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[2] / "experiments")
        yield importlib.import_module("measure_demo_backbone")


def test_the_folder_is_small_and_a_qwen2_vl():
    assert sum(path.stat().st_size for path in DEMO_FOLDER.iterdir()) <= 16 * MIB
    info = describe_backbone(str(DEMO_FOLDER))
    assert (info.class_name, info.random_weights) == ("Qwen2VLForConditionalGeneration", False)
    net, report = Qwen2VLForConditionalGeneration.from_pretrained(str(DEMO_FOLDER), output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in net.state_dict().values())


def test_nothing_but_weights_words_and_card_is_shipped():
    names = {path.name for path in DEMO_FOLDER.iterdir()}
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json", "skills.json"} <= names
    assert not {name for name in names if name.endswith((".pt", ".bin", ".pkl"))}


def test_the_card_says_what_was_measured():
    card = (DEMO_FOLDER / "README.md").read_text()
    skills = json.loads((DEMO_FOLDER / "skills.json").read_text())
    n_parameters = sum(
        p.numel() for p in Qwen2VLForConditionalGeneration.from_pretrained(str(DEMO_FOLDER)).parameters()
    )
    assert f"{n_parameters:,} parameters" in card
    for name, value in skills.items():
        if name != "n":
            assert f"| {name} | {value:.3f} |" in card
    assert "by construction" in card


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_skills_on_fresh_seeds(measuring, quantization):
    demo = measuring.Demo.load(DEMO_FOLDER, seed=77, quantization=quantization)
    found = measuring.skills(demo, 100, seed=77)
    assert found["image"] >= 0.95
    assert found["caption"] >= 0.95
    assert found["item"] >= 0.95
    assert found["refine"] >= 0.9
    assert found["condense"] >= 0.9
    assert found["compare"] >= 0.85
    assert (found["question_auc"] - 0.5) >= 0.8 * (found["question_auc_reader"] - 0.5)
