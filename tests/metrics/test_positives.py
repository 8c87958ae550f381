"""Each positive by itself: over all orders of ties, and that positives make up their list."""

import itertools

import numpy as np
import pytest
import torch

from mllm_srec.metrics.auc import user_auc
from mllm_srec.metrics.functional import recall
from mllm_srec.metrics.positives import positive_ranks, ranks_from_counts


def by_orders(scores, index, top_k):
    """Share of all orders of the tied candidates in which candidate `index` is within the cut-off."""
    orders = [
        o for o in itertools.permutations(range(len(scores))) if sorted(scores, reverse=True) == [scores[i] for i in o]
    ]
    return np.mean([o.index(index) < top_k for o in orders])  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_one_list_by_all_orders(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 3, 6).tolist(), [1, 1, 0, 0, 0, 0]
    ranks = positive_ranks(scores, labels, [0] * 6)
    for top_k in (1, 3, 6, 9):
        assert ranks.recall(top_k).tolist() == pytest.approx([by_orders(scores, i, top_k) for i in (0, 1)])
    for index, value in enumerate(ranks.auc()):
        assert value == pytest.approx(np.mean([(scores[index] > s) + 0.5 * (scores[index] == s) for s in scores[2:]]))


def lists_world(seed, n_lists=25, length=12):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (n_lists, length)).astype(float)
    labels = (rng.random((n_lists, length)) < 0.25).astype(int)
    labels[:, 0], labels[:, 1] = 1, 0
    missed = (labels == 1) & (rng.random((n_lists, length)) < 0.2)
    return np.where(missed, -np.inf, scores), labels


@pytest.mark.parametrize("seed", range(4))
def test_positives_make_up_their_list(seed):
    """Their means are the list's recall and user AUC, with ties, several positives and missed ones."""
    scores, labels = lists_world(seed)
    index = np.repeat(np.arange(25), 12)
    order = np.random.default_rng(seed).permutation(300)
    ranks = positive_ranks(scores.ravel()[order], labels.ravel()[order], index[order])
    own = index[order][labels.ravel()[order] == 1]
    n = np.bincount(own)
    for top_k in (1, 5, 10, 20):
        expected = recall(torch.tensor(scores), torch.tensor(labels), top_k=top_k)
        assert (np.bincount(own, ranks.recall(top_k)) / n).tolist() == pytest.approx(expected.tolist())
    expected = user_auc(torch.tensor(scores), torch.tensor(labels))
    assert (np.bincount(own, ranks.auc()) / n).tolist() == pytest.approx(expected.tolist())


def test_ranks_from_stored_counts_are_the_same():
    """Of a whole catalogue only counts are stored; here are both."""
    scores, labels = lists_world(9)
    index, scores, labels = np.repeat(np.arange(25), 12), np.maximum(scores, -1).ravel(), labels.ravel()
    whole = positive_ranks(scores, labels, index)
    own = labels == 1
    above = np.array([((scores > s) & (index == i)).sum() for s, i in zip(scores[own], index[own], strict=True)])
    tied = np.array([((scores == s) & (index == i)).sum() for s, i in zip(scores[own], index[own], strict=True)])
    kept = ranks_from_counts(scores[own], index[own], above, tied, whole.n_negatives)
    for name in vars(whole):
        assert getattr(kept, name).tolist() == getattr(whole, name).tolist(), name


def test_no_negatives_no_area_and_nothing_at_all():
    ranks = positive_ranks([1.0, -np.inf], [1, 1], [0, 0])
    assert np.isnan(ranks.auc()).all()
    assert ranks.recall(5).tolist() == [1.0, 0.0]
    assert positive_ranks([], [], []).auc().tolist() == []
    with pytest.raises(ValueError, match="scores=nan: 1 of 2 rows have no score"):
        positive_ranks([np.nan, 0.0], [1, 0], [0, 0])
