"""Weighted areas by scikit-learn and pair by pair; weights that match popularity, by hand and by their purpose."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mllm_srec.metrics.auc import auc
from mllm_srec.metrics.bins import bin_of
from mllm_srec.metrics.weighted_auc import SortedRows, matching_weights, popularity_edges


def world(n=200, seed=0, levels=12):
    """Scores with many ties, labels, weights with zeros, lists."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, n) / 3.0
    return scores, rng.integers(0, 2, n), rng.integers(0, 4, n) * rng.random(n), rng.integers(0, 15, n)


def by_pairs(scores, labels, weights):
    """Every pair of a positive and a negative, one at a time."""
    wins = total = 0.0
    rows = list(zip(scores, labels, weights, strict=True))
    for (s, y, v), (t, z, w) in itertools.product(rows, rows):
        if y == 1 and z == 0:
            wins += v * w * ((s > t) + 0.5 * (s == t))
            total += v * w
    return wins / total if total else np.nan


@pytest.mark.parametrize("seed", range(5))
def test_pooled_by_scikit_learn_and_by_pairs(seed):
    scores, labels, weights, _ = world(seed=seed)
    found = SortedRows.of(scores, labels).auc(weights)[0]
    assert found == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    assert found == pytest.approx(by_pairs(scores, labels, weights), abs=1e-12)
    ones = SortedRows.of(scores, labels).auc(np.ones(200))[0]
    assert ones == pytest.approx(auc(torch.tensor(scores), torch.tensor(labels)).item(), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_lists_by_pairs(seed):
    scores, labels, weights, lists = world(120, seed)
    labels[lists == 2], weights[lists == 4] = 0, 0.0
    found = SortedRows.of(scores, labels, lists, n_lists=17).auc(weights)
    for index in range(17):
        own = lists == index
        assert found[index] == pytest.approx(by_pairs(scores[own], labels[own], weights[own]), abs=1e-12, nan_ok=True)
    assert np.isnan(found[[2, 4, 15, 16]]).all()


def test_missed_positives_lose_against_everything_and_tie_with_each_other():
    scores = [-np.inf, -np.inf, -5.0, 1.0]
    assert SortedRows.of(scores, [1, 0, 0, 1]).auc([1, 1, 1, 1])[0] == pytest.approx((0.5 + 0 + 1 + 1) / 4)


def test_nothing_is_no_number():
    assert np.isnan(SortedRows.of([], []).auc([])).all()
    assert np.isnan(SortedRows.of([1.0, 2.0], [1, 1]).auc([1, 1])).all()


def test_rows_that_cannot_be_sorted_are_refused():
    with pytest.raises(ValueError, match="NaN, or labels other than 0 and 1"):
        SortedRows.of([np.nan, 1.0], [1, 0])
    with pytest.raises(ValueError, match="NaN, or labels"):
        SortedRows.of([0.0, 1.0], [2, 0])
    with pytest.raises(ValueError, match=r"shapes \(2,\), \(1,\) and \(2,\)"):
        SortedRows.of([0.0, 1.0], [1])


# --- popularity -------------------------------------------------------------------------------------------------------


def test_bins_hold_about_as_many_positives_each():
    likes = np.random.default_rng(0).permutation(1000) + 1
    edges = popularity_edges(likes, 10)
    assert edges[0] == 0
    assert np.bincount(bin_of(likes, edges)).tolist() == [100] * 10
    assert popularity_edges([4, 4, 4, 4], 5) == [0, 4]
    assert popularity_edges([0, 0, 0], 5) == [0]
    assert popularity_edges([], 5) == [0]
    with pytest.raises(ValueError, match="n_bins=0"):
        popularity_edges(likes, 0)


def popular_world(seed, n=1500):
    """Positives drawn by popularity, negatives uniformly: what every data set looks like."""
    rng = np.random.default_rng(seed)
    likes = rng.geometric(0.12, 300) - 1
    positive = likes[rng.choice(300, n, p=(likes + 0.1) / (likes + 0.1).sum())]
    negative = likes[rng.integers(0, 300, n)]
    return np.concatenate([positive, negative]), np.repeat([1, 0], n)


@pytest.mark.parametrize("seed", range(3))
def test_weights_bin_by_bin(seed):
    likes, labels = popular_world(seed, 150)
    edges = popularity_edges(likes[labels == 1], 6)
    weights, bins = matching_weights(likes, labels, edges), bin_of(likes, edges)
    for row in range(len(likes)):
        mine = bins == bins[row]
        n_positive, n_negative = (labels[mine] == 1).sum(), (labels[mine] == 0).sum()
        expected = float(n_negative > 0) if labels[row] == 1 else n_positive / n_negative
        assert weights[row] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_matched_negatives_are_as_popular_as_positives(seed):
    """The bin as a score: no more than chance, where popularity alone got far more."""
    likes, labels = popular_world(seed)
    edges = popularity_edges(likes[labels == 1], 20)
    weights = matching_weights(likes, labels, edges)
    assert SortedRows.of(likes, labels).auc(np.ones(3000))[0] > 0.65
    assert SortedRows.of(bin_of(likes, edges), labels).auc(weights)[0] == pytest.approx(0.5, abs=1e-12)
    assert SortedRows.of(likes, labels).auc(weights)[0] == pytest.approx(0.5, abs=0.02)
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 1].sum())


def test_matched_auc_is_that_of_negatives_drawn_by_popularity():
    """Brute force: draw a negative of the same bin for every positive, many times."""
    likes, labels = popular_world(7, 400)
    scores = likes * 0.1 + labels * 0.5 + np.random.default_rng(8).normal(size=800)
    edges = popularity_edges(likes[labels == 1], 8)
    found = SortedRows.of(scores, labels).auc(matching_weights(likes, labels, edges))[0]
    rng, bins = np.random.default_rng(9), bin_of(likes, edges)
    pools = {b: scores[(bins == b) & (labels == 0)] for b in set(bins)}
    positives = [(s, b) for s, b in zip(scores[labels == 1], bins[labels == 1], strict=True) if len(pools[b])]
    kept = np.array([s for s, _ in positives])
    both = np.repeat([1, 0], len(kept))
    negatives = [[rng.choice(pools[b]) for _, b in positives] for _ in range(150)]
    drawn = [roc_auc_score(both, np.concatenate([kept, chosen])) for chosen in negatives]
    assert found == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(150))


def test_a_positive_without_a_counterpart_weighs_nothing():
    likes, labels = [9, 9, 1, 1], [1, 1, 1, 0]
    assert matching_weights(likes, labels, [0, 5]).tolist() == [0, 0, 1, 1]
    assert np.isnan(SortedRows.of([1.0, 2.0], [1, 0]).auc(matching_weights([9, 0], [1, 0], [0, 5]))[0])
