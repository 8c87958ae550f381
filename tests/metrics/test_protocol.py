"""The evaluation protocol as a whole: ways of counting that share a name, identities, and what may not change a number.

Values are written out by hand or follow from another way to compute them, never from our own code.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mllm_srec.metrics.functional import auc, hit_rate, ndcg, ranking_metrics, recall, user_auc
from mllm_srec.metrics.pair_auc import PairAUC
from mllm_srec.metrics.ranking import RankingMetrics
from mllm_srec.types import KINDS

INF = math.inf
SEEDS = st.integers(0, 2**32 - 1)
POLICIES = ("expected", "worst", "best")
NAMES = ("hr", "recall", "ndcg", "mrr")


def list_with_positives_at(*ranks, n):
    """Scores without ties, best first, and labels with the positives at the given ranks: both `(1, n)`."""
    return torch.arange(n, 0, -1.0)[None], torch.tensor([[int(i + 1 in ranks) for i in range(n)]])


def random_lists(seed, n_lists=40, n_candidates=30, n_levels=8, relevant=0.1):
    """Scores with ties and infinities, labels and mask `(n_lists, n_candidates)` as tensors."""
    rng = np.random.default_rng(seed)
    shape = (n_lists, n_candidates)
    scores = np.where(rng.random(shape) < 0.1, rng.choice([-INF, INF], size=shape), rng.integers(n_levels, size=shape))
    return tuple(map(torch.tensor, (scores, (rng.random(shape) < relevant).astype(int), rng.random(shape) < 0.9)))


def result_of(metric, *batches):
    for batch in batches:
        metric.update(*batch)
    return {key: value.item() for key, value in metric.compute().items()}


# --- several held-out positives: which of the counts of that name is ours -------------------------------------------


def test_one_list_per_positive_is_the_list_of_the_user_without_the_other_positives():
    """Positives at ranks 1, 4 and 12; with the others masked they stand at 1, 3 and 10."""
    scores, relevance = list_with_positives_at(1, 4, 12, n=25)
    places = relevance[0].nonzero().flatten()
    rows = torch.nn.functional.one_hot(places, 25)  # (3, 25) one positive each
    mask = (rows == 1) | (relevance == 0)
    args = scores.expand(3, 25), rows, mask
    assert ndcg(*args, top_k=20).tolist() == pytest.approx([1 / math.log2(rank + 1) for rank in (1, 3, 10)])
    expected = {5: (0.666667, 0.500000), 10: (1.0, 0.596355), 20: (1.0, 0.596355)}
    for top_k, (hit, gain) in expected.items():
        assert hit_rate(*args, top_k=top_k).mean().item() == pytest.approx(hit, abs=1e-6)
        assert recall(*args, top_k=top_k).mean().item() == pytest.approx(hit, abs=1e-6)
        assert ndcg(*args, top_k=top_k).mean().item() == pytest.approx(gain, abs=1e-6)


def test_means_weigh_lists_alike_so_the_unit_of_a_list_decides():
    """A user with positives at 1, 4, 12 and one with a positive at 2: mean over two users, or over four positives."""
    heavy, light = list_with_positives_at(1, 4, 12, n=25), list_with_positives_at(2, n=25)
    by_user = result_of(RankingMetrics(), heavy, light)
    assert by_user["ndcg@10"] == pytest.approx((0.671386 + 1 / math.log2(3)) / 2, abs=1e-6)
    assert by_user["recall@5"] == pytest.approx((2 / 3 + 1) / 2)  # hits over positives of everyone would be 3 / 4
    assert (by_user["hr@5"], by_user["n_users"]) == (1.0, 2)
    by_positive = result_of(RankingMetrics(), *(list_with_positives_at(rank, n=23) for rank in (1, 3, 10)), light)
    assert by_positive["ndcg@10"] == pytest.approx((3 * 0.596355 + 1 / math.log2(3)) / 4, abs=1e-6)
    assert by_positive["recall@5"] == by_positive["hr@5"] == 0.75
    assert by_positive["n_users"] == 4


@pytest.mark.parametrize("rank", [1, 3, 10, 20])
def test_ndcg_of_one_positive_does_not_fall_when_the_list_is_cut_later(rank):
    """Dividing by the sum over all K ranks, a known bug, gives 1.88 at 5 and 1.04 at 20 where it should rise."""
    values = [ndcg(*list_with_positives_at(rank, n=25), top_k=k).item() for k in (5, 10, 20)]
    assert values == sorted(values)
    assert values == pytest.approx([1 / math.log2(rank + 1) if rank <= k else 0 for k in (5, 10, 20)], abs=1e-12)


@pytest.mark.parametrize("n_relevant", [5, 7, 12])
def test_more_positives_than_ranks_can_reach_one(n_relevant):
    scores, relevance = list_with_positives_at(*range(1, n_relevant + 1), n=12)
    assert ndcg(scores, relevance, top_k=5).item() == pytest.approx(1.0, abs=1e-12)
    assert recall(scores, relevance, top_k=5).item() == pytest.approx(5 / n_relevant)


# --- identities, on 4000 lists each ---------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.sampled_from([0.02, 0.1, 0.5, 1.0]), st.sampled_from([1, 3, 8, 1000]))
def test_identities_at_every_cut_off(seed, relevant, n_levels):
    scores, relevance, mask = random_lists(seed, relevant=relevant, n_levels=n_levels)
    cuts = (1, 2, 5, 10, 20, 29, 30, 31, 500)
    found = ranking_metrics(scores, relevance, mask, cuts, POLICIES)
    n_relevant = (relevance.bool() & mask).sum(dim=1)
    has, one = n_relevant > 0, n_relevant == 1
    for tie in ("", "_worst", "_best"):
        for k in cuts:
            hr, rec, gain, rr = (found[f"{name}{tie}@{k}"] for name in NAMES)
            assert all((x[has] >= 0).all() and (x[has] <= 1 + 1e-12).all() for x in (hr, rec, gain, rr))
            assert (rec[has] <= hr[has] + 1e-12).all()
            assert (rr[has] <= hr[has] + 1e-12).all()
            torch.testing.assert_close(hr[one], rec[one], atol=1e-12, rtol=0)
            for other in (rec, gain, rr):
                assert ((other[has] > 1e-12) == (hr[has] > 1e-12)).all()
            assert all(x[~has].isnan().all() for x in (hr, rec, gain, rr))
        for name in ("hr", "recall", "mrr"):  # NDCG may fall: more ranks are wanted of it
            later = torch.stack([found[f"{name}{tie}@{k}"][has] for k in cuts])
            assert (later.diff(dim=0) >= -1e-12).all(), name
    for name in NAMES:
        for k in cuts:
            worst, mean, best = (found[f"{name}{tie}@{k}"][has] for tie in ("_worst", "", "_best"))
            assert (worst <= mean + 1e-12).all()
            assert (mean <= best + 1e-12).all()


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.integers(1, 40), st.integers(1, 45))
def test_one_positive_without_ties(seed, n_candidates, top_k):
    """HR = Recall, NDCG = 1 / log2(rank + 1), MRR = 1 / rank within the cut-off, and AUC counts who is below."""
    rng = np.random.default_rng(seed)
    scores = torch.tensor(rng.permuted(np.tile(rng.normal(size=n_candidates), (40, 1)), axis=1))
    relevance = torch.nn.functional.one_hot(torch.tensor(rng.integers(n_candidates, size=40)), n_candidates)
    rank = 1 + (scores > scores[relevance == 1][:, None]).sum(dim=1).double()
    hit = rank <= top_k
    found = ranking_metrics(scores, relevance, None, (top_k,), POLICIES)
    for tie in ("", "_worst", "_best"):
        for name, gain in (("hr", rank**0), ("recall", rank**0), ("ndcg", 1 / torch.log2(rank + 1)), ("mrr", 1 / rank)):
            torch.testing.assert_close(found[f"{name}{tie}@{top_k}"], gain * hit, atol=1e-12, rtol=0)
    within = user_auc(scores, relevance)
    torch.testing.assert_close(within, (n_candidates - rank) / (n_candidates - 1), equal_nan=True, atol=1e-12, rtol=0)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([3, 1000]))
def test_only_the_order_of_scores_counts(seed, n_levels):
    """Any rising function leaves every number as it is; infinities stay where they are."""
    lists = random_lists(seed, n_levels=n_levels)
    expected = {**ranking_metrics(*lists, policies=POLICIES), "auc": user_auc(*lists)}
    scores, relevance, mask = lists
    ranks = torch.tensor(np.unique(scores.numpy(), return_inverse=True)[1].reshape(scores.shape)).double()
    ranks = torch.where(scores == -INF, -INF, ranks)  # missed is missed
    for changed in (scores * 3 - 7, (scores / 50).exp().where(scores > -INF, -INF), ranks * 1e-310, ranks * 1e300):
        found = {**ranking_metrics(changed, relevance, mask, policies=POLICIES), "auc": user_auc(changed, *lists[1:])}
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-12, rtol=0, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_narrow_scores_count_as_the_numbers_they_are(seed, dtype):
    """A score is widened, never rounded: what differs in its own type is no tie, what is equal there is one."""
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randn(40, 30, generator=generator) * 4).to(dtype)
    relevance = (torch.rand(40, 30, generator=generator) < 0.1).long()
    narrow, wide = ({**ranking_metrics(x, relevance), "auc": user_auc(x, relevance)} for x in (scores, scores.double()))
    for key, value in wide.items():
        assert narrow[key].dtype == torch.float64
        torch.testing.assert_close(narrow[key], value, atol=0, rtol=0, equal_nan=True)


def test_the_smallest_differences_are_no_ties_and_two_zeros_are_one():
    """Neighbours of float32 and float64, denormal numbers among them."""
    for dtype in (torch.float32, torch.float64):
        for value in (0.0, 1.0, -20.0, torch.finfo(dtype).tiny, torch.finfo(dtype).max / 2):
            here = torch.tensor(value, dtype=dtype)
            above = torch.nextafter(here, torch.tensor(INF, dtype=dtype))
            scores = torch.stack([above, here])[None]
            for label in ([1, 0], [0, 1]):
                expected = float(label[0])
                assert hit_rate(scores, torch.tensor([label]), top_k=1).item() == expected
                assert user_auc(scores, torch.tensor([label])).item() == expected
    zeros = torch.tensor([[0.0, -0.0]])
    assert hit_rate(zeros, torch.tensor([[1, 0]]), top_k=1).item() == 0.5
    assert user_auc(zeros, torch.tensor([[1, 0]])).item() == 0.5


# --- logits, not probabilities --------------------------------------------------------------------------------------


def test_probabilities_saturate_where_logits_still_rank():
    """The positive is best by logit; its float32 probability is 1, as that of two negatives, or 0 as all others."""
    logits, relevance = torch.tensor([[40.0, 30.0, 20.0, -4.0]]), torch.tensor([[1, 0, 0, 0]])
    assert hit_rate(logits, relevance, top_k=1).item() == 1.0
    assert user_auc(logits, relevance).item() == 1.0
    assert hit_rate(logits.sigmoid(), relevance, top_k=1).item() == pytest.approx(1 / 3)
    assert user_auc(logits.sigmoid(), relevance).item() == pytest.approx((0.5 + 0.5 + 1) / 3)


# --- a retriever's misses -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([20, 50]), st.sampled_from([0.02, 0.2]))
def test_reranking_what_the_same_scorer_retrieved_equals_the_full_ranking(seed, n_retrieved, relevant):
    """The first N of the catalogue, the rest missed: at K <= N nothing changes, since a miss has no rank at all."""
    rng = np.random.default_rng(seed)
    scores = torch.tensor(rng.permuted(np.tile(np.arange(120.0), (40, 1)), axis=1))
    relevance = torch.tensor((rng.random((40, 120)) < relevant).astype(int))
    retrieved = scores >= 120 - n_retrieved
    missed = torch.where(retrieved, scores, -INF)
    cuts = (1, 5, 10, 20)
    full, reranked = ranking_metrics(scores, relevance, None, cuts), ranking_metrics(missed, relevance, None, cuts)
    for key, value in full.items():
        torch.testing.assert_close(reranked[key], value, atol=1e-12, rtol=0, equal_nan=True)
    ceiling = (relevance.bool() & retrieved).sum(dim=1) / relevance.sum(dim=1)
    anything = torch.where(retrieved, torch.tensor(rng.normal(size=(40, 120))), -INF)
    found = recall(anything, relevance, top_k=500)  # all that was retrieved is reached, and no more
    torch.testing.assert_close(found, ceiling.double(), atol=1e-7, rtol=0, equal_nan=True)


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_two_users_of_one_auc_and_three_quarters():
    """0.9 before 0.8 and 0.2 before 0.1: perfect within users, but 0.2 of one stands below 0.8 of the other."""
    scores, relevance = torch.tensor([[0.9, 0.8], [0.2, 0.1]]), torch.tensor([[1, 0], [1, 0]])
    assert result_of(RankingMetrics(), (scores, relevance))["user_auc"] == 1.0
    for negative in ("sampled", "disliked"):
        kind = torch.tensor([[0, KINDS.index(negative)]] * 2)
        pairs = result_of(PairAUC(), (scores, relevance, kind))
        key, other = ("auc", "auc_disliked") if negative == "sampled" else ("auc_disliked", "auc")
        assert pairs[key] == 0.75
        assert math.isnan(pairs[other])  # the other kind of negative never lends its numbers


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.integers(0, 60), st.integers(1, 12), st.sampled_from([0.0, 0.3]), st.integers(1, 5))
def test_pair_auc_equals_scikit_learn_on_6000_targets(seed, n_groups, n_levels, infinite, n_batches):
    """Ties, infinities, padding, one class absent; in batches of any size, also empty ones."""
    rng = np.random.default_rng(seed)
    shape = (n_groups, 2)
    scores = np.where(
        rng.random(shape) < infinite, rng.choice([-INF, INF], size=shape), rng.integers(n_levels, size=shape)
    )
    kind, mask = rng.integers(3, size=shape), rng.random(shape) < 0.8
    arrays = (scores, (kind == 0).astype(int), np.where(mask, kind, -1), mask)
    tensors = [torch.tensor(x) for x in arrays]
    cuts = np.sort(rng.integers(0, n_groups + 1, size=n_batches - 1)).tolist()
    parts = zip(*(torch.tensor_split(x, cuts) for x in tensors), strict=True)
    metric = PairAUC()
    for part in parts:
        metric.update(*part)
    result = {key: value.item() for key, value in metric.compute().items()}
    for key, negative in (("auc", 2), ("auc_disliked", 1)):
        chosen = mask & ((kind == 0) | (kind == negative))
        labels, finite = (kind == 0)[chosen], np.clip(scores[chosen], -1, n_levels)  # it takes no infinities
        expected = roc_auc_score(labels, finite) if len(set(labels.tolist())) == 2 else math.nan
        assert result[key] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert result["n_pairs"] == mask.sum()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_user_auc_is_auc_within_a_list_and_turns_with_the_scores(seed):
    scores, relevance, mask = random_lists(seed, relevant=0.3)
    within = user_auc(scores, relevance, mask)
    alone = torch.stack([auc(s[m], r[m]) for s, r, m in zip(scores, relevance, mask, strict=True)])
    torch.testing.assert_close(within, alone, atol=1e-12, rtol=0, equal_nan=True)
    torch.testing.assert_close(user_auc(-scores, relevance, mask), 1 - within, atol=1e-12, rtol=0, equal_nan=True)
    torch.testing.assert_close(user_auc(scores, 1 - relevance, mask), 1 - within, atol=1e-12, rtol=0, equal_nan=True)
