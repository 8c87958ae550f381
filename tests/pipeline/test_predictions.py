"""Predictions: every row once, in the agreed columns, and the metrics recomputed from them with other code."""

import copy
import json
import math

import lightning.pytorch as lightning
import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mllm_srec.data.prompt_datamodule import PromptDataModule
from mllm_srec.data.settings import PictureSettings
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.predictions import FILES, PredictionWriter, expected_rows, joined_scores
from mllm_srec.pipeline.results import stage_metrics
from mllm_srec.types import MllmSrecError

SCHEMA = {
    "group_id": pl.Int64, "user_id": pl.String, "item_id": pl.String, "label": pl.Int8, "kind": pl.String,
    "score": pl.Float32, "yes_logit": pl.Float32, "no_logit": pl.Float32,
}  # fmt: skip
KEYS = ["group_id", "user_id", "item_id", "label", "kind"]


class TiedRecommender(MLLMRecommender):
    """Scores rounded, so that many are tied."""

    def _scores(self, batch):
        scores, logits = super()._scores(batch)
        return (scores * 20).round() / 20, logits


def trainer(folder, *callbacks):
    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, use_distributed_sampler=False, callbacks=list(callbacks),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_backbone):
    return TiedRecommender(str(tiny_backbone), finetune="none", quantization="none")


@pytest.fixture(scope="module")
def tested(model, shop_root, tiny_backbone, tmp_path_factory):
    """Folder of predictions, and metrics, of one test."""
    folder = tmp_path_factory.mktemp("tested")
    data = PromptDataModule(
        str(shop_root), "shop", str(tiny_backbone), eval_batch_size=4, n_negatives=4,
        pictures=PictureSettings(max_pixels=4 * 28 * 28),
    )  # fmt: skip
    trainer(folder, PredictionWriter(folder / "predictions")).test(model, data, verbose=False)
    return folder / "predictions", stage_metrics(model.results, "test")


def test_every_row_once_in_the_agreed_columns(tested, shop):
    folder, _ = tested
    pairs, lists = (pl.read_parquet(folder / f"{name}.parquet") for name in FILES)
    for table in (pairs, lists):
        assert dict(table.schema) == SCHEMA
        assert not any(table.null_count().row(0))
        assert table.n_unique(["group_id", "item_id"]) == table.height
    samples = shop.samples.filter(pl.col("split") == "test")
    candidates = shop.candidates.filter((pl.col("split") == "test") & (pl.col("position") <= 4))
    assert pairs.select(KEYS).sort(KEYS).rows() == samples.select(KEYS).sort(KEYS).rows()
    assert lists.select(KEYS).sort(KEYS).rows() == candidates.select(KEYS).sort(KEYS).rows()
    assert sorted(path.name for path in folder.iterdir()) == ["test.parquet", "test_pairs.parquet"]


def test_the_score_is_the_difference_of_the_logits(tested):
    table = pl.read_parquet(tested[0] / "test.parquet")
    difference = table["yes_logit"] - table["no_logit"]
    np.testing.assert_allclose(table["score"], (difference * 20).round() / 20, atol=1e-4)


def ranking(rows, k):
    """HR, Recall, NDCG and MRR at k of one list, by averaging over many orders of the tied, in plain Python."""
    random = np.random.default_rng(0)
    labels, scores = np.array(rows["label"]), np.array(rows["score"])
    n_positive, totals, n_draws = labels.sum(), np.zeros(4), 4000
    ideal = sum(1 / math.log2(place + 2) for place in range(min(n_positive, k)))
    for _ in range(n_draws):
        order = np.lexsort((random.random(len(scores)), -scores))
        hits = np.flatnonzero(labels[order][:k])
        dcg = sum(1 / math.log2(place + 2) for place in hits)
        totals += [len(hits) > 0, len(hits) / n_positive, dcg / ideal, 1 / (hits[0] + 1) if len(hits) else 0]
    return totals / n_draws


def test_metrics_recomputed_from_the_files(tested):
    folder, metrics = tested
    pairs, lists = (pl.read_parquet(folder / f"{name}.parquet") for name in FILES)
    easy, hard = pairs.filter(pl.col("kind") != "disliked"), pairs.filter(pl.col("kind") != "sampled")
    assert metrics["test/auc"] == pytest.approx(roc_auc_score(easy["label"], easy["score"]), abs=1e-9)
    assert metrics["test/auc_disliked"] == pytest.approx(roc_auc_score(hard["label"], hard["score"]), abs=1e-9)
    groups = [rows for _, rows in lists.group_by("group_id", maintain_order=True)]
    users = [roc_auc_score(rows["label"], rows["score"]) for rows in groups]
    assert metrics["test/user_auc"] == pytest.approx(np.mean(users), abs=1e-9)
    assert metrics["test/n_users"] == len(groups) == 11
    assert any(rows["score"].n_unique() < rows.height for rows in groups), "no ties: the test would prove less"
    names = ("hr", "recall", "ndcg", "mrr")
    expected = np.mean([ranking(rows, 5) for rows in groups], axis=0)
    for name, value in zip(names, expected, strict=True):
        assert metrics[f"test/{name}@5"] == pytest.approx(value, abs=0.01), name


def test_predict_gives_the_lists_of_the_test(tested, model, make_datamodule, tmp_path):
    trainer(tmp_path, PredictionWriter(tmp_path / "again")).predict(model, make_datamodule(), return_predictions=False)
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["test.parquet"]
    assert pl.read_parquet(tmp_path / "again/test.parquet").equals(pl.read_parquet(tested[0] / "test.parquet"))


# --- rows that are missing or double ------------------------------------------------------------------------------


@pytest.fixture
def scored(make_datamodule):
    """Data module and scores of all pairs, as processes collect them."""
    module = make_datamodule()
    items = module.data.items.select("item_id").with_row_index("item_index").cast({"item_index": pl.Int64})
    rows = expected_rows(module, "test_pairs").join(items, on="item_id", maintain_order="left")
    numbers = pl.arange(rows.height, eager=True).cast(pl.Float32)
    names = ("score", "yes_logit", "no_logit")
    return module, rows.select("group_id", "item_index").with_columns(numbers.alias(name) for name in names)


def test_parts_in_any_order_make_the_whole(scored):
    module, rows = scored
    joined = joined_scores("test_pairs", module, [rows[7:].reverse(), rows[:0], rows[:7]])
    assert joined["score"].to_list() == list(range(rows.height))


def double(rows):
    return pl.concat([rows, rows[3:4]])


WRONG = {
    "missing": (lambda rows: rows[2:], "2 have no score; 0 scores are double and 0 belong to no row"),
    "double": (double, "0 have no score; 1 scores are double and 0 belong to no row"),
    "double for missing": (lambda rows: double(rows)[1:], "1 have no score; 1 scores are double"),
    "unknown": (
        lambda rows: pl.concat([rows, rows[:1].with_columns(group_id=pl.lit(999_999, pl.Int64))]),
        "1 belong to no row",
    ),
    "none": (lambda rows: rows[:0], "have no score"),
}


@pytest.mark.parametrize(("damage", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_rows(scored, damage, message):
    module, rows = scored
    with pytest.raises(MllmSrecError, match=message):
        joined_scores("test_pairs", module, [damage(rows)])


def test_a_missing_batch_writes_nothing(model, make_datamodule, tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    (folder / "test.parquet").write_text("earlier results")

    class Forgetful(PredictionWriter):
        def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
            if (batch_idx, dataloader_idx) != (1, 1):
                super().on_test_batch_end(trainer, module, outputs, batch, batch_idx, dataloader_idx)

    with pytest.raises(MllmSrecError, match=r"have no score.*nothing is written"):
        trainer(tmp_path, Forgetful(folder)).test(copy.copy(model), make_datamodule(), verbose=False)
    assert [path.name for path in folder.iterdir()] == ["test.parquet"]
    assert (folder / "test.parquet").read_text() == "earlier results"


def test_parts_of_a_killed_run_with_more_processes_are_not_taken(model, make_datamodule, tmp_path):
    parts = tmp_path / "predictions/.parts"
    parts.mkdir(parents=True)
    for name in ("test-0", "test-1", "test_pairs-7"):
        (parts / f"{name}.parquet").write_text("left by a kill")
    trainer(tmp_path, PredictionWriter(tmp_path / "predictions")).predict(
        model, make_datamodule(), return_predictions=False
    )
    table = pl.read_parquet(tmp_path / "predictions/test.parquet")
    assert table["group_id"].n_unique() == 11
    assert not parts.exists()


def test_undefined_metrics_become_null():
    values = {"test/auc": torch.tensor(0.5), "test/auc_disliked": float("nan"), "test/n_users": 3.0, "val/auc": 1.0}
    found = stage_metrics(values, "test")
    assert found == {"test/auc": 0.5, "test/auc_disliked": None, "test/n_users": 3}
    assert json.dumps(found) == '{"test/auc": 0.5, "test/auc_disliked": null, "test/n_users": 3}'
