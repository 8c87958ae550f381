"""Reference rows: chance by its formula, and ceilings that equal those computed where the truth is known."""

import math

import numpy as np
import polars as pl
import pytest

from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import CandidateSettings, DemoSettings, PictureSettings, PrepareSettings
from mllm_srec.pipeline.evaluation.references import CEILINGS, measure, protocol, references
from mllm_srec.prompts.templates import PromptSettings
from tests.data.demo.ceiling_metrics import read_ceilings


@pytest.fixture(scope="module")
def demo_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    settings = PrepareSettings(
        source="demo", k_core=1, demo=DemoSettings(n_users=20, n_items=160, n_interactions=45, image_size=28)
    )
    prepare_dataset(root / "demo", settings, CandidateSettings(n_negatives=30))
    return root


@pytest.fixture
def module(demo_root):
    return PromptDataModule(str(demo_root), "demo", n_negatives=20)


def hypergeometric_chance(sizes, k):
    """Expected HR, Recall, NDCG and MRR at k of random orders, from the numbers of positives and candidates."""
    hr, recall, ndcg, mrr = [], [], [], []
    for n_positive, n in sizes:
        cut = min(k, n)
        none_before = [math.comb(n - place, n_positive) / math.comb(n, n_positive) for place in range(cut + 1)]
        hr.append(1 - none_before[cut])
        recall.append(cut / n)
        ideal = sum(1 / math.log2(place + 2) for place in range(min(n_positive, k)))
        ndcg.append(n_positive / n * sum(1 / math.log2(place + 2) for place in range(cut)) / ideal)
        mrr.append(sum((none_before[place] - none_before[place + 1]) / (place + 1) for place in range(cut)))
    return {f"{name}@{k}": np.mean(values) for name, values in zip(
        ("hr", "recall", "ndcg", "mrr"), (hr, recall, ndcg, mrr), strict=True)}  # fmt: skip


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("k", [5, 10, 20])
def test_chance_is_its_formula(module, split, k):
    lists = module.data.candidates.filter((pl.col("split") == split) & (pl.col("position") <= 20))
    sizes = [(rows["label"].sum(), rows.height) for _, rows in lists.group_by("group_id")]
    assert len({n for n, _ in sizes}) > 1, "lists with one positive only would prove less"
    chance = references(module, split)["chance"]
    for name, value in hypergeometric_chance(sizes, k).items():
        assert chance[name] == pytest.approx(value, abs=1e-9), name
    assert (chance["auc"], chance["auc_disliked"], chance["user_auc"]) == (0.5, 0.5, 0.5)


def test_ceilings_equal_those_of_plain_code(module, demo_root):
    """Scores in `ceilings.parquet`, through the metric code of models, against plain code of these tests."""
    stored = read_ceilings(demo_root / "demo")
    rows = references(module, "test")
    assert list(rows) == ["chance", "popularity", *(name.replace("_", ", ") for name in stored)]
    assert {"oracle, both", "reader, both", "reader, text", "reader, image"} <= set(rows)
    compared = 0
    for name, values in stored.items():
        found = rows[name.replace("_", ", ")]
        for metric in set(values) & set(found):
            assert found[metric] == pytest.approx(values[metric], abs=1e-6), f"{name} {metric}"
            compared += 1
    assert compared >= 6 * len(stored)
    assert rows["oracle, both"]["auc"] > rows["reader, both"]["auc"] > 0.5


def test_validation_has_no_ceilings(module):
    assert list(references(module, "val")) == ["chance", "popularity"]


def test_data_without_truth_have_no_ceilings(make_datamodule):
    assert list(references(make_datamodule(), "test")) == ["chance", "popularity"]


def test_a_perfect_and_an_upside_down_scorer(module):
    pairs, lists = module.eval_examples("test")
    perfect = measure(pairs, lists, lambda examples: examples.relevance.astype(float))
    assert (perfect["auc"], perfect["user_auc"], perfect["hr@5"], perfect["mrr@20"]) == (1, 1, 1, 1)
    worst = measure(pairs, lists, lambda examples: -examples.relevance.astype(float))
    assert (worst["auc"], worst["auc_disliked"], worst["user_auc"], worst["hr@5"]) == (0, 0, 0, 0)


def test_a_ceiling_missing_for_a_row_is_not_measured_as_a_number(module, demo_root, tmp_path):
    """A left join gives null; it must not pass as a score."""
    table = pl.read_parquet(demo_root / "demo" / CEILINGS)
    assert table.select(pl.selectors.starts_with("oracle_")).null_count().sum_horizontal().item() == 0
    lists = module.data.candidates.filter(pl.col("split") == "test")
    keys = ["group_id", "item_id"]
    assert lists.join(table, on=keys, how="anti").height == 0
    samples = module.data.samples.filter(pl.col("split") == "test")
    assert samples.join(table, on=keys, how="anti").height == 0


# --- protocol -----------------------------------------------------------------------------------------------------


def test_protocol(module):
    found = protocol(module, "test", "logit", "best.ckpt")
    assert found.pop("prompt").startswith(module.prompt.version + "/")
    assert found == {
        "evaluator": "sampled@20", "candidates_hash": module.data.candidates_hash, "m": 20, "retriever": None,
        "corruption": None, "lists_hash": None, "max_groups": None,
        "groups_seed": None, "split": "test", "ties": "expected", "score": "logit", "checkpoint": "best.ckpt",
    }  # fmt: skip


def test_limits_of_fit_and_of_the_others(demo_root):
    module = PromptDataModule(str(demo_root), "demo", max_eval_groups=3, max_test_groups=5, seed=9)
    fitting = protocol(module, "val", "logit", None, fitting=True)
    assert (fitting["max_groups"], fitting["groups_seed"]) == (3, 9)
    assert protocol(module, "val", "logit", None)["max_groups"] == 5


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"pictures": PictureSettings(serve="features")}, True),  # equal by construction
        ({"num_workers": 3}, True),
        ({"pictures": PictureSettings(serve="none")}, False),
        ({"pictures": PictureSettings(max_pixels=9999)}, False),
        ({"prompt": PromptSettings(brand=True)}, False),
        ({"max_length": 99}, False),
    ],
)
def test_the_prompt_label_names_what_a_model_sees(change, same, demo_root):
    label = PromptDataModule(str(demo_root), "demo").inputs_label
    assert (PromptDataModule(str(demo_root), "demo", **change).inputs_label == label) is same


def test_the_examples_of_a_split_are_computed_once_for_all_who_ask(demo_root, monkeypatch):
    """Loaders, protocol, references and the writer of predictions all need them; they are joins over all candidates."""
    from mllm_srec.data.loading import ranking_datamodule

    calls = []
    plain = ranking_datamodule.pair_examples
    monkeypatch.setattr(ranking_datamodule, "pair_examples", lambda *given: calls.append(1) or plain(*given))
    module = PromptDataModule(str(demo_root), "demo", max_test_groups=5)
    pairs, lists = module.eval_examples("test")
    protocol(module, "test", "logit", None)
    references(module, "test")
    module.use(ranking_datamodule.ServedInputs(scored=(frozenset(), frozenset())))
    assert module.eval_examples("test") == (pairs, lists)
    assert len(calls) == 1
    module.eval_examples("val")
    module.n_negatives = 7  # what decides the examples is a part of their key
    assert module.eval_examples("test")[1].n_targets < lists.n_targets
    assert len(calls) == 3
