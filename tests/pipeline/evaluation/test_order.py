"""The order of candidates, lists and batches changes no metric and, but for rounding, no score."""

import dataclasses

import lightning.pytorch as lightning
import numpy as np
import polars as pl
import pytest

from mllm_srec.data.loading.examples import GroupExamples
from mllm_srec.metrics.evaluation import CALIBRATION
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.evaluation.prediction_writer import PredictionWriter
from mllm_srec.pipeline.evaluation.references import split_metrics

KEYS = ["group_id", "item_id"]


def shuffled(examples: GroupExamples, seed: int) -> GroupExamples:
    """The same groups in another order, each with its targets in another order."""
    random = np.random.default_rng(seed)
    moved = examples.take(random.permutation(len(examples)))
    order = np.concatenate(
        [random.permutation(np.arange(a, b)) for a, b in zip(moved.offsets[:-1], moved.offsets[1:], strict=True)]
    )
    targets = {name: getattr(moved, name)[order] for name in ("item_index", "relevance", "kind")}
    return dataclasses.replace(moved, **targets)


def evaluate(model, data, folder):
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, use_distributed_sampler=False,
        callbacks=[PredictionWriter(folder)],
    )  # fmt: skip
    trainer.test(model, data, verbose=False)
    tables = {name: pl.read_parquet(folder / f"{name}.parquet").sort(KEYS) for name in ("test_pairs", "test")}
    return split_metrics(model.results, "test"), tables


@pytest.mark.parametrize("scoring", ["packed", "cached"])
@pytest.mark.parametrize("evaluator", ["sampled", "full"])
def test_any_order_gives_the_same(tiny_backbone, make_datamodule, tmp_path, scoring, evaluator):
    model = MLLMRecommender(str(tiny_backbone), finetune="none", quantization="none", scoring=scoring)
    metrics, tables = evaluate(model, make_datamodule(evaluator=evaluator, eval_batch_size=5), tmp_path / "plain")
    data = make_datamodule(evaluator=evaluator, eval_batch_size=3, eval_batch_tokens=2500)
    plain = data.eval_examples
    data.eval_examples = lambda split: tuple(shuffled(part, seed) for seed, part in enumerate(plain(split)))
    assert data.eval_examples("test")[1].item_index.tolist() != plain("test")[1].item_index.tolist()
    again, moved = evaluate(model, data, tmp_path / "shuffled")
    ranks = {name: value for name, value in metrics.items() if name.removeprefix("test/") not in CALIBRATION}
    assert {name: again[name] for name in ranks} == pytest.approx(ranks, abs=1e-9)
    assert again == pytest.approx(metrics, abs=1e-5)
    for name, table in tables.items():
        assert moved[name].select(KEYS).equals(table.select(KEYS))
        assert (moved[name]["score"] - table["score"]).abs().max() < 1e-5
