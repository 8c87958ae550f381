"""Runs to be asked for lists: a small shop, a tiny model whose adapters matter, and what `fit` would leave."""

import json
import shutil

import polars as pl
import pytest
import torch
import yaml

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.settings import PictureSettings
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.ranking.loaded_run import load_run
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.summaries import run as summarize
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.settings import STAGES, StageSettings, SummarySettings

PIXELS = 4 * 28 * 28
DRAWN = StageSettings(
    quantization="none", generation=GenerationSettings(max_new_tokens=6, sample=True, temperature=1.0, top_p=1.0)
)
"""Random weights draw texts that differ; taking the most likely token, they repeat themselves."""


@pytest.fixture(scope="session")
def told_root(shop_root, tiny_backbone, tmp_path_factory):
    """`data.root` with the small shop and all its summaries, by variant; not to be changed."""
    root = tmp_path_factory.mktemp("told")
    shutil.copytree(shop_root / "shop", root / "shop", ignore=shutil.ignore_patterns("summaries"))
    for variant in ("full", "base"):
        settings = SummarySettings(variant=variant, window=2, step=1, image=DRAWN, item=DRAWN, preference=DRAWN)
        pictures = PictureSettings(max_pixels=PIXELS)
        data = PreparedDataset.open(root / "shop")
        plan = SummaryPlan(data, settings, PromptSettings(), pictures, str(tiny_backbone), None)
        trainer = summarize.summary_trainer(accelerator="cpu", devices=1, enable_progress_bar=False)
        summarize.Summarizer(plan, trainer).run(STAGES)
    return root


@pytest.fixture(scope="session")
def run_settings(shop_root, tiny_backbone):
    """Function: content of `config.yaml`, as short as one may write it."""

    def settings(root, variant="none", serve="pixels", model=None, **data):
        drawn = {"quantization": "none"}
        drawn["generation"] = {"max_new_tokens": 6, "sample": True, "temperature": 1.0, "top_p": 1.0}
        raw = shop_root / "raw"
        return {
            "prepare": {
                "source": "tables", "reviews": str(raw / "interactions.csv"), "metadata": str(raw / "items.csv"),
                "images": str(raw / "pictures"), "k_core": 1, "split": "leave_one_out",
            },
            "candidates": {"n_negatives": 4},
            "data": {
                "root": str(root), "name": "shop", "n_negatives": 4,
                "pictures": {"max_pixels": PIXELS, "serve": serve}, **data,
            },
            "summaries": {"variant": variant, "window": 2, "step": 1, **dict.fromkeys(STAGES, drawn)},
            "model": {"backbone": str(tiny_backbone), "lora": {"dropout": 0.0}, **(model or {})},
            "trainer": {"accelerator": "cpu"},
        }  # fmt: skip

    return settings


@pytest.fixture(scope="session")
def write_run(run_settings):
    """Function that writes a run folder: settings, and a checkpoint whose adapters move every score."""

    def write(folder, root, **changes):
        settings = run_settings(root, **changes)
        run = load_run(settings)
        model = MLLMRecommender(run.model.settings.name, lora=run.model.settings.lora)
        model.configure_model()
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.2, generator=generator)
        checkpoint = {"state_dict": model.state_dict(), "global_step": 1}
        model.on_save_checkpoint(checkpoint)
        checkpoint["PromptDataModule"] = run.datamodule.state_dict()
        (folder / "checkpoints").mkdir(parents=True)
        torch.save(checkpoint, folder / "checkpoints/best.ckpt")
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        return folder

    return write


@pytest.fixture(scope="session")
def told_run(tmp_path_factory, told_root, write_run):
    """A run with summaries and invented scores: in every other list the liked item is on top."""
    data = PreparedDataset.open(told_root / "shop")
    run = write_run(tmp_path_factory.mktemp("runs") / "mine", told_root, variant="full")
    rows = data.candidates.filter(pl.col("split") == "test").sort("group_id", "position")
    turn = (rows["group_id"].rank("dense").to_numpy() % 2 == 0) * 2 - 1
    score = (rows["label"].to_numpy() - 0.5) * turn * 3 - rows["position"].to_numpy() / 10
    table = rows.select("group_id", "user_id", "item_id", "label", "kind").with_columns(
        score=pl.Series(score, dtype=pl.Float32), yes_logit=pl.Series(score + 1), no_logit=pl.lit(1.0)
    )
    (run / "predictions").mkdir()
    table.write_parquet(run / "predictions/test.parquet")
    (run / "metrics.json").write_text(json.dumps({"test/candidates_hash": data.candidates_hash, "test/n_users": 12}))
    return run
