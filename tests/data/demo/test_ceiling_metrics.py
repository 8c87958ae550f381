from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import ndcg_score, roc_auc_score

from mllm_srec.metrics import functional
from tests.data.demo.ceiling_metrics import auc, ceiling_metrics, expected_hit_and_ndcg


def test_auc_counts_ties_half():
    assert auc(np.array([0.9, 0.5]), np.array([0.5, 0.1])) == 0.875
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 200).astype(float), rng.integers(0, 2, 200)
    assert auc(scores[labels == 1], scores[labels == 0]) == pytest.approx(roc_auc_score(labels, scores))


def test_auc_of_nothing_is_unknown():
    assert auc(np.array([]), np.array([1.0])) is None
    assert auc(np.array([1.0]), np.array([])) is None


def test_list_metrics_are_means_over_the_orders_of_ties():
    scores, labels, top_k = np.array([3.0, 2, 2, 2, 1, 1]), np.array([0, 1, 0, 1, 0, 1]), 3
    hits, gains = [], []
    for order in itertools.permutations(range(6)):
        if all(scores[i] >= scores[j] for i, j in itertools.pairwise(order)):
            top = labels[list(order[:top_k])]
            hits.append(float(top.any()))
            gains.append(sum(top / np.log2(np.arange(2, 2 + top_k))) / sum(1 / np.log2(np.arange(2, 5))))
    hit, ndcg = expected_hit_and_ndcg(scores, labels, top_k)
    assert len(hits) == 12
    assert hit == pytest.approx(np.mean(hits))
    assert ndcg == pytest.approx(np.mean(gains))


def test_list_metrics_equal_those_that_models_are_measured_with():
    rng = np.random.default_rng(1)
    for _ in range(50):
        scores, labels = rng.integers(0, 8, 23).astype(float), np.zeros(23, dtype=np.int64)
        labels[: rng.integers(1, 7)] = 1
        theirs = functional.ranking_metrics(torch.tensor(scores)[None], torch.tensor(labels)[None])
        for k in (5, 10, 20):
            hit, ndcg = expected_hit_and_ndcg(scores, labels, k)
            assert hit == pytest.approx(theirs[f"hr@{k}"].item())
            assert ndcg == pytest.approx(theirs[f"ndcg@{k}"].item())


def test_ndcg_without_ties_equals_scikit_learn():
    scores, labels = np.random.default_rng(2).permutation(30).astype(float), np.array([1, 1, 1] + [0] * 27)
    assert expected_hit_and_ndcg(scores, labels, 10)[1] == pytest.approx(ndcg_score([labels], [scores], k=10))


def test_ceiling_metrics_of_a_table_by_hand():
    rows = [
        ("samples", 0, 1, "liked", 0, 0.9),
        ("samples", 0, 0, "sampled", 0, 0.2),
        ("samples", 1, 1, "liked", 0, 0.4),
        ("samples", 1, 0, "sampled", 0, 0.4),
        ("samples", 2, 0, "disliked", 0, 0.5),
        ("candidates", 3, 1, "liked", 0, 0.6),
        ("candidates", 3, 0, "sampled", 1, 0.7),
        ("candidates", 3, 0, "sampled", 2, 0.1),
        ("candidates", 3, 0, "sampled", 3, 0.9),  # beyond the first two negatives
    ]
    scored = pl.DataFrame(rows, ["table", "group_id", "label", "kind", "position", "score"], orient="row")
    metrics = ceiling_metrics(scored, "score", n_negatives=2)
    assert metrics["auc"] == 0.875
    assert metrics["auc_disliked"] == 0.5
    assert metrics["user_auc"] == 0.5
    assert metrics["hr@5"] == 1.0
    assert metrics["ndcg@10"] == pytest.approx(1 / np.log2(3))
    assert {k: metrics[k] for k in metrics if k.startswith("n_")} == {
        "n_liked": 2,
        "n_sampled": 2,
        "n_disliked": 1,
        "n_lists": 1,
        "n_negatives": 2,
    }


def test_nothing_to_compare_is_null():
    empty = pl.DataFrame(
        schema={"table": str, "group_id": int, "label": int, "kind": str, "position": int, "score": float}
    )
    metrics = ceiling_metrics(empty, "score", 20)
    assert (metrics["auc"], metrics["user_auc"], metrics["ndcg@5"], metrics["n_lists"]) == (None, None, None, 0)
