"""Predictions: every row once, the columns of the contract, and metrics recomputed from them by other code."""

import copy
import json
import math
import shutil
from collections import Counter

import lightning.pytorch as lightning
import numpy as np
import polars as pl
import pytest
import torch
from filelock import FileLock
from sklearn.metrics import roc_auc_score

from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.loading.ranking_datamodule import ServedInputs
from mllm_srec.data.settings import PictureSettings
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.evaluation.prediction_tables import pairs_table, target_table
from mllm_srec.pipeline.evaluation.prediction_writer import PredictionWriter
from mllm_srec.pipeline.evaluation.references import protocol, references, split_metrics
from mllm_srec.pipeline.evaluation.retrieval import retrieved_lists
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import ConfigError, MllmSrecError

SCHEMA = {
    "group_id": pl.Int64, "user_id": pl.String, "item_id": pl.String, "label": pl.Int8, "kind": pl.String,
    "score": pl.Float32, "yes_logit": pl.Float32, "no_logit": pl.Float32,
}  # fmt: skip
KEYS = ["group_id", "user_id", "item_id", "label", "kind"]
FILES = ("test_pairs", "test")


class TiedRecommender(MLLMRecommender):
    """Scores rounded, so that many are tied."""

    def scored(self, batch, with_mass=False):
        found = super().scored(batch, with_mass)
        return {**found, "scores": (found["scores"] * 20).round() / 20}


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


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
    return folder / "predictions", split_metrics(model.results, "test")


def test_every_row_once_in_the_agreed_columns(tested, shop):
    folder, _ = tested
    pairs, lists = (pl.read_parquet(folder / f"{name}.parquet") for name in FILES)
    assert dict(pairs.schema) == {**SCHEMA, "yes_no_mass": pl.Float32}
    assert dict(lists.schema) == SCHEMA
    for table in (pairs, lists):
        assert not any(table.null_count().row(0))
        assert table.n_unique(["group_id", "item_id"]) == table.height
    samples = shop.samples.filter(pl.col("split") == "test")
    candidates = shop.candidates.filter((pl.col("split") == "test") & (pl.col("position") <= 4))
    assert pairs.select(KEYS).sort(KEYS).rows() == samples.select(KEYS).sort(KEYS).rows()
    assert lists.select(KEYS).sort(KEYS).rows() == candidates.select(KEYS).sort(KEYS).rows()
    assert visible(folder) == ["test.parquet", "test_pairs.parquet", "test_users.parquet"]


def test_the_score_is_the_difference_of_the_logits(tested):
    table = pl.read_parquet(tested[0] / "test.parquet")
    difference = table["yes_logit"] - table["no_logit"]
    np.testing.assert_allclose(table["score"], (difference * 20).round() / 20, atol=1e-4)


def ranking(rows, k):
    """HR, Recall, NDCG and MRR at k of one list, averaged over many orders of the ties, in plain Python."""
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


def test_values_of_users_are_those_of_their_lists(tested, shop):
    folder, metrics = tested
    users, lists = (pl.read_parquet(folder / f"{name}.parquet") for name in ("test_users", "test"))
    assert users["group_id"].to_list() == lists["group_id"].unique(maintain_order=True).to_list()
    for row in users.iter_rows(named=True):
        rows = lists.filter(pl.col("group_id") == row["group_id"])
        assert row["user_id"] == rows["user_id"][0]
        assert row["user_auc"] == pytest.approx(roc_auc_score(rows["label"], rows["score"]), abs=1e-12)
    for name in [*(f"{name}@{k}" for name in ("hr", "ndcg_worst", "mrr") for k in (5, 20)), "user_auc"]:
        assert users[name].mean() == pytest.approx(metrics[f"test/{name}"], abs=1e-9), name


def test_calibration_from_the_files(tested):
    folder, metrics = tested
    pairs = pl.read_parquet(folder / "test_pairs.parquet")
    logit = (pairs["yes_logit"] - pairs["no_logit"]).cast(pl.Float64)
    probability = 1 / (1 + (-logit).exp())
    assert metrics["test/mean_probability"] == pytest.approx(probability.mean(), abs=1e-6)
    assert metrics["test/share_liked"] == pytest.approx(pairs["label"].mean(), abs=1e-12)
    assert metrics["test/yes_no_mass"] == pytest.approx(pairs["yes_no_mass"].mean(), abs=1e-6)
    assert 0 < pairs["yes_no_mass"].min() <= pairs["yes_no_mass"].max() < 0.1, "of a random net with many tokens"


def test_predict_gives_the_lists_of_the_test(tested, model, make_datamodule, tmp_path):
    trainer(tmp_path, PredictionWriter(tmp_path / "again")).predict(model, make_datamodule(), return_predictions=False)
    assert visible(tmp_path / "again") == ["test.parquet", "test_users.parquet"]
    assert pl.read_parquet(tmp_path / "again/test.parquet").equals(pl.read_parquet(tested[0] / "test.parquet"))


# --- rows that are missing or duplicate ---------------------------------------------------------------------------


@pytest.fixture
def scored(make_datamodule):
    """Data module, pair groups and scores of all pairs, as processes collect them."""
    module = make_datamodule()
    examples = module.eval_examples("test")[0]
    rows = target_table(examples, module.data)
    numbers = pl.arange(rows.height, eager=True).cast(pl.Float32)
    names = ("score", "yes_logit", "no_logit", "yes_no_mass")
    found = rows.select("group_id", "item_index", relevance="label").with_columns(numbers.alias(n) for n in names)
    return module, examples, found


def test_parts_join_in_any_order(scored):
    module, examples, rows = scored
    joined = pairs_table(examples, pl.concat([rows[7:].reverse(), rows[:0], rows[:7]]), module.data)
    assert joined["score"].to_list() == list(range(rows.height))


def double(rows):
    return pl.concat([rows, rows[3:4]])


WRONG = {
    "missing": (lambda rows: rows[2:], "2 have no score; 0 scores are duplicates and 0 belong to no row"),
    "double": (double, "0 have no score; 1 scores are duplicates and 0 belong to no row"),
    "double for missing": (lambda rows: double(rows)[1:], "1 have no score; 1 scores are duplicates"),
    "unknown": (
        lambda rows: pl.concat([rows, rows[:1].with_columns(group_id=pl.lit(999_999, pl.Int64))]),
        "1 belong to no row",
    ),
    "none": (lambda rows: rows[:0], "have no score"),
}


@pytest.mark.parametrize(("damage", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_rows(scored, damage, message):
    module, examples, rows = scored
    with pytest.raises(MllmSrecError, match=message):
        pairs_table(examples, damage(rows), module.data)


class Broken(PredictionWriter):
    """Dies before it writes batch `at` of the whole evaluation, as a killed process would."""

    at = 3

    def _write_part(self, name, found, batch):
        if self._n_written == self.at:
            raise KeyboardInterrupt
        super()._write_part(name, found, batch)


class Counting(TiedRecommender):
    """Records the groups that it scored."""

    def scored(self, batch, with_mass=False):
        self.asked = [*getattr(self, "asked", []), *batch["group_id"].tolist()]
        return super().scored(batch, with_mass)


@pytest.fixture
def counting(model):
    copied = copy.copy(model)
    copied.__class__ = Counting
    copied.asked = []
    return copied


def broken_off(model, data, folder, at, identity="a"):
    writer = Broken(folder, identity)
    writer.at = at
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(folder.parent, writer).test(model, data, verbose=False)


@pytest.mark.parametrize("at", [0, 1, 3, 6])
def test_a_broken_evaluation_continues(tested, counting, make_datamodule, tmp_path, at, capsys):
    """Finished batches are not scored again, and every number and file is that of an unbroken evaluation."""
    folder = tmp_path / "predictions"
    broken_off(counting, make_datamodule(), folder, at)
    assert not visible(folder)
    asked, counting.asked = counting.asked, []
    counting.metrics_of("test").reset()
    trainer(tmp_path, PredictionWriter(folder, "a")).test(counting, make_datamodule(), verbose=False)
    for name in (*FILES, "test_users"):
        assert pl.read_parquet(folder / f"{name}.parquet").equals(pl.read_parquet(tested[0] / f"{name}.parquet")), name
    found = split_metrics(counting.results, "test")
    assert found == pytest.approx(tested[1], abs=1e-9)
    n_groups = sum(map(len, make_datamodule().eval_examples("test")))
    n_kept = n_groups - len(counting.asked)
    assert (n_kept > 0) == (at > 0)
    assert len(asked) >= n_kept
    assert ("continuing an interrupted evaluation" in capsys.readouterr().out) == (at > 0)
    assert not list(folder.glob(".test-*"))


def test_a_process_that_outlived_the_kill_is_not_counted(counting, tested, make_datamodule, tmp_path):
    """It goes on to write what the next attempt scores itself."""
    folder = tmp_path / "predictions"
    broken_off(counting, make_datamodule(), folder, 4)
    part = sorted(folder.glob(".test-*/*.parquet"))[0]

    class Haunted(PredictionWriter):
        def _write_part(self, name, found, batch):
            super()._write_part(name, found, batch)
            shutil.copy(part, part.with_name(part.name.replace("-0-00", "-1-00")))

    counting.metrics_of("test").reset()
    trainer(tmp_path, Haunted(folder, "a")).test(counting, make_datamodule(), verbose=False)
    assert pl.read_parquet(folder / "test.parquet").equals(pl.read_parquet(tested[0] / "test.parquet"))


def test_parts_of_another_evaluation_are_not_taken(counting, make_datamodule, tmp_path):
    folder = tmp_path / "predictions"
    broken_off(counting, make_datamodule(), folder, 4)
    n_groups = sum(map(len, make_datamodule().eval_examples("test")))
    for identity in ("b", None, None):
        counting.asked = []
        counting.metrics_of("test").reset()
        trainer(tmp_path, PredictionWriter(folder, identity)).test(counting, make_datamodule(), verbose=False)
        assert len(counting.asked) == n_groups


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
    assert visible(folder) == ["test.parquet"]
    assert (folder / "test.parquet").read_text() == "earlier results"


def test_two_evaluations_at_once_are_refused(model, make_datamodule, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(ConfigError, match="another process is evaluating into"):
        trainer(tmp_path, PredictionWriter(tmp_path)).test(model, make_datamodule(), verbose=False)


# --- other evaluators ---------------------------------------------------------------------------------------------


def evaluated(model, data, folder, split="test"):
    """Tables of one evaluation, and its metrics."""
    model = copy.copy(model)
    run = trainer(folder, PredictionWriter(folder, "x"))
    (run.test if split == "test" else run.validate)(model, data, verbose=False)
    return {name: pl.read_parquet(folder / f"{name}.parquet") for name in (split, f"{split}_users")}, split_metrics(
        model.results, split
    )


def unknown_items(shop, user_id, splits):
    """Items of the catalogue that the user has no interaction with in these splits, in plain Python."""
    rows = shop.interactions.rows(named=True)
    known = {row["item_id"] for row in rows if row["user_id"] == user_id and row["split"] in splits}
    return set(shop.items["item_id"]) - known


@pytest.mark.parametrize(("split", "visible_splits"), [("test", ("train", "val")), ("val", ("train",))])
def test_full_ranks_everything_the_user_does_not_know(model, make_datamodule, shop, tmp_path, split, visible_splits):
    tables, metrics = evaluated(model, make_datamodule(evaluator="full"), tmp_path, split)
    table, users = tables[split], tables[f"{split}_users"]
    held_out = {
        row["group_id"]: row["item_id"] for row in shop.candidates.rows(named=True)
        if row["split"] == split and row["label"] == 1
    }  # fmt: skip
    for rows in table.partition_by("group_id"):
        expected = unknown_items(shop, rows["user_id"][0], visible_splits)
        assert set(rows["item_id"]) == expected, "lists shorter than what is kept are kept whole"
        assert rows.filter(pl.col("label") == 1)["item_id"].to_list() == [held_out[rows["group_id"][0]]]
        assert rows["n_candidates"].to_list() == [len(expected)] * rows.height
        scores = rows["score"].to_numpy()
        assert rows["n_above"].to_list() == [(scores > score).sum() for score in scores]
        assert rows["n_tied"].to_list() == [(scores == score).sum() for score in scores]
        assert rows["rank"].to_list() == list(range(1, rows.height + 1))
        assert (np.diff(scores) <= 0).all()
    groups = table.partition_by("group_id", maintain_order=True)
    expected = np.mean([ranking(rows, 5) for rows in groups], axis=0)
    for name, value in zip(("hr", "recall", "ndcg", "mrr"), expected, strict=True):
        assert metrics[f"{split}/{name}@5"] == pytest.approx(value, abs=0.01), name
    assert metrics[f"{split}/user_auc"] == pytest.approx(
        np.mean([roc_auc_score(rows["label"], rows["score"]) for rows in groups]), abs=1e-9
    )
    assert users["user_auc"].mean() == pytest.approx(metrics[f"{split}/user_auc"], abs=1e-9)
    assert users["ndcg@10"].mean() == pytest.approx(metrics[f"{split}/ndcg@10"], abs=1e-9)


@pytest.mark.parametrize("n", [3, 1000])
def test_rerank_counts_what_the_retriever_missed(model, make_datamodule, shop, tmp_path, n):
    data = make_datamodule(evaluator="rerank", n_retrieved=n)
    data.use(ServedInputs(retrieved={"test": retrieved_lists("popularity", shop, "test", n)}))
    tables, metrics = evaluated(model, data, tmp_path)
    likes = Counter(
        row["item_id"] for row in shop.interactions.rows(named=True) if row["split"] == "train" and row["rating"] >= 4
    )
    hits, missed = [], 0
    for rows in tables["test"].partition_by("group_id", maintain_order=True):
        found = rows.filter(pl.col("score").is_not_null())
        known = unknown_items(shop, rows["user_id"][0], ("train", "val"))
        counts = sorted((likes[item] for item in known), reverse=True)
        assert sorted((likes[item] for item in found["item_id"]), reverse=True) == counts[:n]
        assert set(found["item_id"]) <= known
        behind = rows.filter(pl.col("score").is_null())
        assert behind["label"].to_list() == [1] * behind.height
        missed += behind.height
        hits.append(ranking(found, 5)[0] if found["label"].sum() else 0.0)
    assert (missed > 0) == (n == 3)
    assert metrics["test/hr@5"] == pytest.approx(np.mean(hits), abs=0.01)
    assert "test/user_auc" not in metrics, "a guess is at 0.5 there, and not where positives were missed"
    assert tables["test_users"]["user_auc_reranked"].mean() == pytest.approx(
        metrics["test/user_auc_reranked"], abs=1e-9
    )
    rows = references(data, "test")
    assert all("user_auc_reranked" in of and "user_auc" not in of for of in rows.values())
    assert rows["chance"]["user_auc_reranked"] < 0.45 if n == 3 else rows["chance"]["user_auc_reranked"] == 0.5
    assert rows["retriever, best order"]["recall@20"] == pytest.approx(1 - missed / len(hits))
    assert rows["chance"]["hr@5"] <= rows["retriever, best order"]["hr@5"] == pytest.approx(1 - missed / len(hits))


@pytest.mark.parametrize("evaluator", ["full", "rerank"])
def test_other_evaluators_continue_too(model, make_datamodule, shop, tmp_path, evaluator):
    def data():
        module = make_datamodule(evaluator=evaluator, n_retrieved=3, eval_batch_size=2)
        module.use(ServedInputs(retrieved={"test": retrieved_lists("popularity", shop, "test", 3)}))
        return module

    whole, metrics = evaluated(model, data(), tmp_path / "whole")
    broken_off(copy.copy(model), data(), tmp_path / "broken", 9, "x")
    copied = copy.copy(model)
    copied.metrics_of("test").reset()
    tables, again = evaluated(copied, data(), tmp_path / "broken")
    assert again == pytest.approx(metrics, abs=1e-9)
    assert all(tables[name].equals(whole[name]) for name in whole)


def test_a_run_that_ranked_everything_is_a_retriever(model, make_datamodule, shop, tmp_path):
    run = RunFolder(tmp_path / "retriever")
    data = make_datamodule(evaluator="full")
    tables, _ = evaluated(model, data, run.predictions)
    run.merge_metrics("test", {}, protocol(data, "test", "logit", None))
    lists = retrieved_lists(str(run.path), shop, "test", 4)
    expected = tables["test"].filter(pl.col("rank") <= 4).select("group_id", "item_id", "rank")
    assert lists.equals(expected)
    with pytest.raises(ConfigError, match="evaluator None"):
        retrieved_lists(str(run.path), shop, "val", 4)
    metrics = run.read_metrics()
    run.metrics.write_text(json.dumps({**metrics, "test/candidates_hash": "77"}))
    with pytest.raises(ConfigError, match=r"ranked lists with candidates_hash 77"):
        retrieved_lists(str(run.path), shop, "test", 4)


def test_lists_that_do_not_fit_are_refused(make_datamodule, shop):
    data = make_datamodule(evaluator="rerank", n_retrieved=3)
    with pytest.raises(ConfigError, match="the retriever's lists of the test split are missing"):
        data.eval_examples("test")
    lists = retrieved_lists("popularity", shop, "test", 3)
    group = lists["group_id"][0]
    user = shop.groups.filter(pl.col("group_id") == group)["user_id"][0]
    known = shop.interactions.filter((pl.col("user_id") == user) & (pl.col("split") == "train"))["item_id"][0]
    wrong = pl.when(pl.col("group_id") == group).then(pl.lit(known)).otherwise("item_id")
    data.use(ServedInputs(retrieved={"test": lists.with_columns(item_id=wrong)}))
    with pytest.raises(ConfigError, match=r"3 retrieved items that the user knew.*2 items retrieved twice"):
        data.eval_examples("test")
    data.use(ServedInputs(retrieved={"test": lists.filter(pl.col("group_id") != group)}))
    with pytest.raises(ConfigError, match="1 lists without any retrieved item"):
        data.eval_examples("test")


def test_undefined_metrics_become_null():
    values = {"test/auc": torch.tensor(0.5), "test/auc_disliked": float("nan"), "test/n_users": 3.0, "val/auc": 1.0}
    found = split_metrics(values, "test")
    assert found == {"test/auc": 0.5, "test/auc_disliked": None, "test/n_users": 3}
    assert json.dumps(found) == '{"test/auc": 0.5, "test/auc_disliked": null, "test/n_users": 3}'
