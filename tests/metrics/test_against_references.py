"""Ranking metrics and AUC on thousands of random lists, each against references that share nothing with our code.

A case is a seed and the make-up of its lists: how long, how many tied, relevant, padded or missed. It is drawn by
hypothesis, so that the odd corners come up and a failure prints the smallest case that shows it.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import ndcg_score, roc_auc_score
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from mllm_srec.metrics.functional import auc, ranking_metrics, user_auc

INF = math.inf
NAMES = ("hr", "recall", "ndcg", "mrr")
SEEDS = st.integers(0, 2**32 - 1)
SHARES = st.sampled_from([0.0, 0.1, 0.4, 0.9, 1.0])


def discount(rank):
    return 1 / math.log2(rank + 1)


def draw_lists(seed, n_lists, n_candidates, n_levels, relevant, kept=1.0, infinite=0.0):
    """Scores of `n_levels` values, some infinite, labels and mask: numpy arrays `(n_lists, n_candidates)`."""
    rng = np.random.default_rng(seed)
    shape = (n_lists, n_candidates)
    scores = rng.integers(n_levels, size=shape) / 2 - 1
    scores = np.where(rng.random(shape) < infinite, rng.choice([-INF, INF], size=shape, p=[0.8, 0.2]), scores)
    mask = rng.random(shape) < kept
    relevance = (rng.random(shape) < relevant).astype(int)
    scores[~mask] = rng.choice([np.nan, INF, -INF, 0.0, 99.0], size=(~mask).sum())  # padding may hold anything
    return scores, relevance, mask


def ours(scores, relevance, mask, top_k, policies=("expected",)):
    tensors = (torch.tensor(x) for x in (scores, relevance, mask))
    return {key: value.numpy() for key, value in ranking_metrics(*tensors, [top_k], policies).items()}


def lists_of(scores, relevance, mask):
    """The unpadded lists as (scores, labels)."""
    return [(s[m], r[m]) for s, r, m in zip(scores, relevance, mask, strict=True)]


# --- every order of every tie -------------------------------------------------------------------------------------


def all_placements(scores, labels):
    """Ranks of the relevant candidates, for every way to place them within the ties; all are equally probable."""
    places, start = [], 0
    for value in sorted(set(scores[scores > -INF]), reverse=True):
        tied = labels[scores == value]
        places.append([[start + 1 + i for i in x] for x in itertools.combinations(range(len(tied)), tied.sum())])
        start += len(tied)
    return [list(itertools.chain(*choice)) for choice in itertools.product(*places)]


def of_ranks(ranks, n_relevant, top_k):
    """The textbook formulas for relevant candidates at these ranks."""
    hits = [rank for rank in ranks if rank <= top_k]
    ideal = sum(discount(j) for j in range(1, min(n_relevant, top_k) + 1))
    return [bool(hits), len(hits) / n_relevant, sum(map(discount, hits)) / ideal, 1 / min(hits) if hits else 0]


@settings(max_examples=120, deadline=None)
@given(
    SEEDS,
    st.integers(0, 7),
    st.integers(1, 5),
    SHARES,
    st.sampled_from([0.3, 0.8, 1.0]),
    st.sampled_from([0, 0.3, 1]),
    st.integers(1, 10),
)
def test_all_placements_of_ties(seed, n_candidates, n_levels, relevant, kept, infinite, top_k):
    """3000 lists: ties, no relevant one, several, all; shorter than the cut-off, padded, empty, missed by retrieval."""
    lists = draw_lists(seed, 25, n_candidates, n_levels, relevant, kept, infinite)
    results = ours(*lists, top_k, ("expected", "worst", "best"))
    for row, (scores, labels) in enumerate(lists_of(*lists)):
        got = {p: [results[f"{name}{p}@{top_k}"][row] for name in NAMES] for p in ("", "_worst", "_best")}
        if not labels.any():
            assert np.isnan(list(got.values())).all()
            continue
        placements = all_placements(scores, labels)
        of_all = np.array([of_ranks(ranks, labels.sum(), top_k) for ranks in placements], dtype=float)
        for ties, expected in (
            ("", of_all.mean(axis=0)),
            ("_worst", of_all.min(axis=0)),
            ("_best", of_all.max(axis=0)),
        ):
            np.testing.assert_allclose(got[ties], expected, atol=1e-12, rtol=0, err_msg=ties)


# --- the walk over score groups, for long lists -------------------------------------------------------------------


def walked(scores, labels, top_k):
    """E[HR], E[Recall], E[NDCG], E[MRR] by a walk over the places of tied candidates, with binomial coefficients."""
    hits = dcg = rr = 0.0
    no_hit, start, n_relevant = 1.0, 0, int(labels.sum())
    for value in sorted(set(scores.tolist()), reverse=True):
        tied = labels[scores == value]
        t, p = len(tied), int(tied.sum())
        reached = min(max(top_k - start, 0), t)
        hits += p * reached / t
        dcg += p / t * sum(discount(start + j) for j in range(1, reached + 1))
        for j in range(1, reached + 1):  # the first relevant one is the j-th of this group
            first = math.comb(t - p, j - 1) / math.comb(t, j - 1) - math.comb(t - p, j) / math.comb(t, j)
            rr += no_hit * first / (start + j)
        no_hit *= math.comb(t - p, reached) / math.comb(t, reached)
        start += t
    ideal = sum(discount(j) for j in range(1, min(n_relevant, top_k) + 1))
    return [1 - no_hit, hits / n_relevant, dcg / ideal, rr]


@settings(max_examples=40, deadline=None)
@given(
    SEEDS,
    st.integers(8, 150),
    st.sampled_from([1, 2, 5, 40, 10_000]),
    st.sampled_from([0.01, 0.1, 0.5]),
    st.sampled_from([1, 5, 10, 20, 200]),
)
def test_the_walk_over_score_groups_of_long_lists(seed, n_candidates, n_levels, relevant, top_k):
    lists = draw_lists(seed, 12, n_candidates, n_levels, relevant, kept=0.9)
    results = ours(*lists, top_k)
    for row, (scores, labels) in enumerate(lists_of(*lists)):
        got = [results[f"{name}@{top_k}"][row] for name in NAMES]
        expected = walked(scores, labels, top_k) if labels.any() else [math.nan] * 4
        np.testing.assert_allclose(got, expected, atol=1e-12, rtol=0)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(2, 110), st.integers(1, 30), st.integers(1, 25))
def test_one_positive_in_closed_form(seed, n_candidates, n_levels, top_k):
    """With a negatives above and b tied, E[HR@K] = clip(K - a, 0, b + 1) / (b + 1)."""
    scores, _, mask = draw_lists(seed, 50, n_candidates, n_levels, 0)
    relevance = np.zeros_like(scores, dtype=int)
    relevance[np.arange(50), np.random.default_rng(seed).integers(n_candidates, size=50)] = 1
    positive = scores[relevance == 1][:, None]
    above, tied = (scores > positive).sum(axis=1), (scores == positive).sum(axis=1) - 1
    results = ours(scores, relevance, mask, top_k, ("expected", "worst"))
    hit = np.clip(top_k - above, 0, tied + 1) / (tied + 1)
    np.testing.assert_allclose(results[f"hr@{top_k}"], hit, atol=1e-12)
    np.testing.assert_allclose(results[f"recall@{top_k}"], hit, atol=1e-12)
    worst_rank = above + tied + 1
    np.testing.assert_array_equal(results[f"hr_worst@{top_k}"], worst_rank <= top_k)
    expected = np.where(worst_rank <= top_k, 1 / np.log2(worst_rank + 1), 0)
    np.testing.assert_allclose(results[f"ndcg_worst@{top_k}"], expected, atol=1e-12)


# --- other libraries ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(2, 60), st.sampled_from([1, 2, 6, 50, 10_000]), SHARES, st.integers(1, 70))
def test_ndcg_equals_scikit_learn_under_ties(seed, n_candidates, n_levels, relevant, top_k):
    """Its NDCG is the mean over the orders of ties too; a list without a relevant candidate counts as 0 there."""
    scores, relevance, mask = draw_lists(seed, 20, n_candidates, n_levels, relevant)
    expected = ndcg_score(relevance, scores, k=top_k)
    result = ours(scores, relevance, mask, top_k)[f"ndcg@{top_k}"]
    assert np.nansum(result) / 20 == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(np.isnan(result), relevance.sum(axis=1) == 0)


TORCHMETRICS = (retrieval_hit_rate, retrieval_recall, retrieval_normalized_dcg, retrieval_reciprocal_rank)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 30), SHARES, st.sampled_from([0.5, 1.0]), st.integers(1, 40))
def test_equal_to_torchmetrics_where_nothing_is_tied(seed, n_candidates, relevant, kept, top_k):
    """600 lists; lists without a relevant candidate are 0 there, so they are left out, as they are NaN here."""
    _, relevance, mask = draw_lists(seed, 10, n_candidates, 1, relevant, kept)
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(1.0, n_candidates + 1), (10, 1)), axis=1)  # it drops hits scored <= 0
    results = ours(scores, relevance, mask, top_k, ("expected", "worst", "best"))
    for row, (s, r) in enumerate(lists_of(scores, relevance, mask)):
        for name, other in zip(NAMES, TORCHMETRICS, strict=True):
            got = {results[f"{name}{ties}@{top_k}"][row] for ties in ("", "_worst", "_best")}
            if r.any():
                value = other(torch.tensor(s), torch.tensor(r), top_k=min(top_k, len(s))).item()
                assert list(got) == pytest.approx([value] * len(got), abs=1e-6), name
            else:
                assert np.isnan(list(got)).all()


# --- AUC ----------------------------------------------------------------------------------------------------------


def mid_rank_auc(scores, labels):
    """U = sum of mid-ranks of the positives - P (P + 1) / 2; AUC = U / (P N)."""
    p, n = int((labels == 1).sum()), int((labels == 0).sum())
    if p == 0 or n == 0:
        return math.nan
    return (rankdata(scores)[labels == 1].sum() - p * (p + 1) / 2) / (p * n)


def counted_auc(scores, labels):
    """Wins and half the ties over all pairs, by counting."""
    positives, negatives = scores[labels == 1].tolist(), scores[labels == 0].tolist()
    wins = [(a > b) + (a == b) / 2 for a in positives for b in negatives]
    return sum(wins) / len(wins) if wins else math.nan


@settings(max_examples=120, deadline=None)
@given(
    SEEDS, st.integers(0, 12), st.integers(1, 6), SHARES, st.sampled_from([0.3, 0.8, 1.0]), st.sampled_from([0, 0.3, 1])
)
def test_auc_equals_mid_ranks_and_counted_pairs(seed, n_candidates, n_levels, relevant, kept, infinite):
    """3000 lists, and each batch as one set of pairs: ties, infinities, padding, one class, empty."""
    lists = draw_lists(seed, 25, n_candidates, n_levels, relevant, kept, infinite)
    within = user_auc(*(torch.tensor(x) for x in lists)).tolist()
    unpadded = lists_of(*lists)
    assert within == pytest.approx([mid_rank_auc(*x) for x in unpadded], abs=1e-12, nan_ok=True)
    assert within == pytest.approx([counted_auc(*x) for x in unpadded], abs=1e-12, nan_ok=True)
    scores, labels = (np.concatenate(x) for x in zip(*unpadded, strict=True))
    over_all = auc(torch.tensor(scores), torch.tensor(labels)).item()
    assert over_all == pytest.approx(mid_rank_auc(scores, labels), abs=1e-12, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 120), st.sampled_from([1, 3, 20, 10_000]), st.sampled_from([0.05, 0.5, 0.95]))
def test_user_auc_equals_scikit_learn(seed, n_candidates, n_levels, relevant):
    lists = draw_lists(seed, 10, n_candidates, n_levels, relevant, kept=0.8)
    expected = [
        roc_auc_score(labels, scores) if len(set(labels.tolist())) == 2 else math.nan
        for scores, labels in lists_of(*lists)
    ]
    assert user_auc(*(torch.tensor(x) for x in lists)).tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)


# --- chance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [21, 100, 101])
@pytest.mark.parametrize("top_k", [5, 10, 20])
def test_a_random_scorer_is_at_the_chance_level_of_a_constant_one(n, top_k):
    """One positive: HR = Recall = K / C, exactly if scores are constant, on average if random."""
    relevance = np.zeros((20_000, n), dtype=int)
    relevance[:, 0] = 1
    everything = np.ones_like(relevance, dtype=bool)
    constant = ours(np.zeros((1, n)), relevance[:1], everything[:1], top_k)
    assert constant[f"hr@{top_k}"].item() == pytest.approx(top_k / n, abs=1e-12)
    assert constant[f"recall@{top_k}"].item() == pytest.approx(top_k / n, abs=1e-12)
    drawn = ours(np.random.default_rng(n).random((20_000, n)), relevance, everything, top_k)
    for key, value in constant.items():
        error = drawn[key].std() / math.sqrt(20_000)
        assert drawn[key].mean() == pytest.approx(value.item(), abs=4 * error), key


@pytest.mark.parametrize("n_relevant", [1, 3, 9])
def test_chance_of_recall_is_the_same_for_any_number_of_positives_and_that_of_hr_is_not(n_relevant):
    relevance = np.array([[1] * n_relevant + [0] * (100 - n_relevant)])
    result = ours(np.full((1, 100), 0.5), relevance, relevance >= 0, 10)
    assert result["recall@10"].item() == pytest.approx(0.1)
    miss = math.comb(100 - n_relevant, 10) / math.comb(100, 10)
    assert result["hr@10"].item() == pytest.approx(1 - miss)
