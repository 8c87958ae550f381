"""No baseline learns from validation or test: with other held-out items in the tables, its weights are the same."""

import shutil
from pathlib import Path

import lightning.pytorch as lightning
import numpy as np
import polars as pl
import pytest
import torch
import yaml

from mllm_srec.baselines.base import ItemRecommender
from mllm_srec.baselines.parts.train_data import ItemFeatures
from mllm_srec.cli.schema import full_parser
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.item_datamodule import ItemDataModule
from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import CandidateSettings, DemoSettings, PictureSettings, PrepareSettings
from mllm_srec.pipeline.model_kinds import train_data
from mllm_srec.prompts.templates import PromptSettings
from tests.prepared_again import replace_table

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OVERLAYS = sorted(
    path for path in (CONFIGS / "baselines").glob("*.yaml") if "baseline" in (yaml.safe_load(path.read_text()) or {})
)
FEWER = {"gsasrec": ["--baseline.init_args.n_negatives", "8"]}
"""Overlays with more negatives than the 40 items of this shop can give."""


def exchange(folder, seed):
    """Held-out rows with the items, ratings and times of other held-out rows; train rows stay."""
    random = np.random.default_rng(seed)
    rows = pl.read_parquet(folder / "interactions.parquet")
    items = pl.read_parquet(folder / "items.parquet")["item_id"].to_numpy()
    held_out = pl.col("split") != "train"
    other = pl.Series(random.choice(items, rows.height))
    exchanged = rows.with_columns(
        item_id=pl.when(held_out).then(other).otherwise(pl.col("item_id")),
        rating=pl.when(held_out).then(6.0 - pl.col("rating")).otherwise(pl.col("rating")),
    )
    assert not exchanged.equals(rows)
    replace_table(folder, "interactions", exchanged)
    return exchanged.filter(~held_out).equals(rows.filter(~held_out))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two data roots whose tables differ in held-out rows only."""
    demo = DemoSettings(n_users=24, n_items=40, n_interactions=14, image_size=28)
    folders = [tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")]
    for folder in folders:
        prepare_dataset(folder / "demo", PrepareSettings(source="demo", k_core=1, demo=demo), CandidateSettings(6))
    assert exchange(folders[1] / "demo", seed=3)
    return folders


def made(overlay):
    """The model of an overlay, as the command line makes it; one that needs a hub's T5 is skipped, and says so."""
    arguments = ["--config", str(CONFIGS / "demo.yaml"), "--config", str(overlay)]
    arguments += FEWER.get(overlay.stem, [])
    parser = full_parser("fit", "")
    config = parser.parse_args(arguments)
    if getattr(config.baseline.init_args, "backbone", None) == "t5-small":
        pytest.skip("needs t5-small from the hub; vip5_random has the same code")
    return parser.instantiate_classes(config).baseline


def features(n_items):
    random = np.random.default_rng(0)
    image, text = (random.normal(size=(n_items + 1, size)).astype(np.float32) for size in (12, 9))
    image[[0, 3]], text[0] = 0, 0
    image, text = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9) for rows in (image, text))
    return ItemFeatures(image, text, "random")


def fitted(overlay, root):
    """The model after a few steps."""
    model = made(overlay)
    module = ItemDataModule(
        str(root), "demo", unit=model.unit, max_history=model.max_history, batch_size=8, n_negatives=6
    )
    model.attach(train_data(PreparedDataset.open(root / "demo"), module.numbering, features(40)), seed=1)
    if model.trained:
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=6, logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, use_distributed_sampler=False, limit_val_batches=0, default_root_dir=root,
        )  # fmt: skip
        trainer.fit(model, module)
    return model


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_weights_do_not_know_what_was_held_out(overlay, roots):
    one, other = (fitted(overlay, root) for root in roots)
    states = [{**dict(model.named_buffers()), **model.state_dict()} for model in (one, other)]
    assert isinstance(one, ItemRecommender)
    assert states[0].keys() == states[1].keys()
    assert states[0] or overlay.stem == "random", "what was computed from the train split is compared too"
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=0, msg=name)
    if one.trained:
        fresh = made(overlay)
        fresh.attach(one.train_data, seed=1)
        assert any(not torch.equal(value, states[0][name]) for name, value in fresh.state_dict().items()), "not trained"


def test_tallrec_is_trained_on_prompts_that_do_not_know_it_either(roots, tiny_backbone, tmp_path):
    """Liked and disliked titles come from the interactions' table: every training batch is the same, token by token."""

    def batches(prepared):
        root = tmp_path / prepared.name
        shutil.copytree(prepared, root)
        groups = pl.read_parquet(root / "demo/groups.parquet")  # contexts of other splits list what was exchanged
        replace_table(root / "demo", "groups", groups.filter(pl.col("split") == "train"))
        module = PromptDataModule(
            str(root), "demo", str(tiny_backbone), batch_size=8, n_negatives=6,
            prompt=PromptSettings(wording="tallrec", user_id=False, profile=False, max_history=10),
            pictures=PictureSettings(serve="none"),
        )  # fmt: skip
        module.setup("fit")
        return list(module.train_dataloader())

    one, other = (batches(root) for root in roots)
    assert len(one) == len(other) > 2
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            torch.testing.assert_close(right[name], value, rtol=0, atol=0, msg=name)
