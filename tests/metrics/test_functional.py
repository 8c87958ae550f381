"""Ranking metrics and AUC against written-out values, a brute force over all tie orders, and two other libraries."""

import doctest
import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from mllm_srec.metrics import auc as auc_module
from mllm_srec.metrics import functional
from mllm_srec.metrics.functional import auc, hit_rate, mrr, ndcg, ranking_metrics, recall, user_auc

INF = math.inf
METRICS = {"hr": hit_rate, "recall": recall, "ndcg": ndcg, "mrr": mrr}


def values(scores, relevance, top_k, ties="expected", mask=None):
    """All four metrics of one list."""
    mask = None if mask is None else torch.tensor([mask])
    args = (torch.tensor([scores], dtype=torch.float32), torch.tensor([relevance]), mask)
    return {name: metric(*args, top_k=top_k, ties=ties).item() for name, metric in METRICS.items()}


def list_with_positives_at(*ranks, n):
    """Scores without ties, best first, and labels with the positives at the given ranks."""
    return [float(n - i) for i in range(n)], [int(i + 1 in ranks) for i in range(n)]


# --- written-out values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (5, {"hr": 1.0, "recall": 0.666667, "ndcg": 0.671386, "mrr": 1.0}),
        (10, {"hr": 1.0, "recall": 0.666667, "ndcg": 0.671386, "mrr": 1.0}),
        (20, {"hr": 1.0, "recall": 1.0, "ndcg": 0.798203, "mrr": 1.0}),
    ],
)
def test_one_list_with_positives_at_ranks_1_4_and_12(top_k, expected):
    assert values(*list_with_positives_at(1, 4, 12, n=25), top_k) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("top_k", "hit", "gain"), [(5, 0.666667, 0.500000), (10, 1.0, 0.596355), (20, 1.0, 0.596355)])
def test_the_same_user_with_one_list_per_positive(top_k, hit, gain):
    lists = [list_with_positives_at(rank, n=23) for rank in (1, 3, 10)]
    scores, relevance = (torch.tensor([x[i] for x in lists]) for i in (0, 1))
    assert hit_rate(scores, relevance, top_k=top_k).mean().item() == pytest.approx(hit, abs=1e-6)
    assert recall(scores, relevance, top_k=top_k).mean().item() == pytest.approx(hit, abs=1e-6)
    assert ndcg(scores, relevance, top_k=top_k).mean().item() == pytest.approx(gain, abs=1e-6)


def test_seven_positives_on_top_of_a_list_cut_at_five():
    result = values(*list_with_positives_at(*range(1, 8), n=12), 5)
    assert result == pytest.approx({"hr": 1.0, "recall": 0.714286, "ndcg": 1.0, "mrr": 1.0}, abs=1e-6)
    assert result["recall"] * 7 / min(7, 5) == pytest.approx(1.0)  # capped recall


def test_one_positive_tied_with_two_negatives_below_one():
    scores, relevance = [2, 3, 2, 2, 1], [1, 0, 0, 0, 0]
    at_2, at_3 = values(scores, relevance, 2), values(scores, relevance, 3)
    assert (at_2["hr"], at_2["ndcg"]) == pytest.approx((0.333333, 0.210310), abs=1e-6)
    assert (at_3["hr"], at_3["ndcg"]) == pytest.approx((0.666667, 0.376977), abs=1e-6)
    assert at_3["mrr"] == pytest.approx((1 / 2 + 1 / 3) / 3)
    assert values(scores, relevance, 3, "best")["ndcg"] == pytest.approx(0.63093, abs=1e-5)
    assert values(scores, relevance, 3, "worst") == {"hr": 0, "recall": 0, "ndcg": 0, "mrr": 0}


def test_two_positives_tied_with_two_negatives_below_one():
    result = values([5, 1, 1, 1, 1], [0, 1, 1, 0, 0], 3)
    assert result["hr"] == pytest.approx(0.833333, abs=1e-6)
    assert result["recall"] == pytest.approx(0.5)
    assert result["ndcg"] == pytest.approx(0.346713, abs=1e-6)
    assert result["mrr"] == pytest.approx(1 / 2 * 1 / 2 + 1 / 3 * 1 / 3)  # rank 2 with 1/2, rank 3 with 1/3


@pytest.mark.parametrize("place", [0, 7, 20])
@pytest.mark.parametrize(("top_k", "hit"), [(5, 5 / 21), (10, 10 / 21), (20, 20 / 21)])
def test_a_constant_scorer_is_at_chance_wherever_the_positive_stands(place, top_k, hit):
    relevance = [int(i == place) for i in range(21)]
    result = values([0.5] * 21, relevance, top_k)
    assert result["hr"] == pytest.approx(hit)
    assert result["recall"] == pytest.approx(hit)
    assert result["ndcg"] == pytest.approx(sum(1 / math.log2(r + 1) for r in range(1, top_k + 1)) / 21)
    assert result["mrr"] == pytest.approx(sum(1 / r for r in range(1, top_k + 1)) / 21)
    assert values([0.5] * 21, relevance, top_k, "worst") == {"hr": 0, "recall": 0, "ndcg": 0, "mrr": 0}
    assert values([0.5] * 21, relevance, top_k, "best") == {"hr": 1, "recall": 1, "ndcg": 1, "mrr": 1}


@pytest.mark.parametrize(("n", "chance"), [(21, 0.2164), (100, 0.0454), (101, 0.0450)])
def test_chance_level_of_ndcg_at_ten(n, chance):
    assert values([0.0] * n, [1] + [0] * (n - 1), 10)["ndcg"] == pytest.approx(chance, abs=5e-5)


def test_oracle_and_anti_oracle():
    relevance = [1, 0, 1] + [0] * 10
    assert values(relevance, relevance, 5) == {"hr": 1, "recall": 1, "ndcg": 1, "mrr": 1}
    assert values([-x for x in relevance], relevance, 5) == {"hr": 0, "recall": 0, "ndcg": 0, "mrr": 0}


# --- all orders of all ties ---------------------------------------------------------------------------------------


def of_one_order(relevance, n_relevant, top_k):
    """The textbook formulas for labels in ranked order."""
    ranks = [i + 1 for i, label in enumerate(relevance) if label and i < top_k]
    ideal = sum(1 / math.log2(j + 1) for j in range(1, min(n_relevant, top_k) + 1))
    return {
        "hr": float(bool(ranks)),
        "recall": len(ranks) / n_relevant,
        "ndcg": sum(1 / math.log2(r + 1) for r in ranks) / ideal,
        "mrr": 1 / ranks[0] if ranks else 0.0,
    }


def brute_force(scores, relevance, top_k):
    """Mean, worst and best of each metric over every order that the scores allow."""
    ranked = [i for i, s in enumerate(scores) if s > -INF]
    allowed = [
        of_one_order([relevance[i] for i in order], sum(relevance), top_k)
        for order in itertools.permutations(ranked)
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    columns = {name: [x[name] for x in allowed] for name in METRICS}
    return {
        "expected": {name: sum(x) / len(x) for name, x in columns.items()},
        "worst": {name: min(x) for name, x in columns.items()},
        "best": {name: max(x) for name, x in columns.items()},
    }


LISTS = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0, -INF, INF]), st.integers(0, 1)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(LISTS.filter(lambda x: any(label for _, label in x)), st.integers(1, 8))
def test_closed_forms_equal_the_enumeration_of_all_tie_orders(candidates, top_k):
    scores, relevance = [s for s, _ in candidates], [r for _, r in candidates]
    for ties, expected in brute_force(scores, relevance, top_k).items():
        assert values(scores, relevance, top_k, ties) == pytest.approx(expected, abs=1e-12), ties


@settings(max_examples=100, deadline=None)
@given(LISTS.filter(lambda x: any(label for _, label in x)), st.integers(1, 8), st.sampled_from(["expected", "worst"]))
def test_identities(candidates, top_k, ties):
    result = values([s for s, _ in candidates], [r for _, r in candidates], top_k, ties)
    assert all(0 <= x <= 1 + 1e-12 for x in result.values())
    assert result["recall"] <= result["hr"] + 1e-12
    assert result["mrr"] <= result["hr"] + 1e-12
    assert len({x > 1e-12 for x in result.values()}) == 1  # all zero or none
    if sum(r for _, r in candidates) == 1:
        assert result["hr"] == pytest.approx(result["recall"], abs=1e-12)


def test_with_one_positive_and_no_ties_ndcg_is_the_discount_of_its_rank():
    for rank in range(1, 9):
        result = values(*list_with_positives_at(rank, n=9), 8)
        assert result == pytest.approx({"hr": 1, "recall": 1, "ndcg": 1 / math.log2(rank + 1), "mrr": 1 / rank})


# --- other libraries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 3, 10, 50])
def test_equal_to_torchmetrics_where_nothing_is_tied(top_k):
    generator = torch.Generator().manual_seed(3)
    scores = 1 + torch.rand(40, 25, generator=generator).argsort(dim=-1).float()  # torchmetrics drops hits scored <= 0
    relevance = (torch.rand(40, 25, generator=generator) < 0.2).long()
    relevance[:, 0] = 1
    others = [retrieval_hit_rate, retrieval_recall, retrieval_normalized_dcg, retrieval_reciprocal_rank]
    for ours, other in zip(METRICS.values(), others, strict=True):
        expected = torch.stack([other(s, r, top_k=min(top_k, 25)) for s, r in zip(scores, relevance, strict=True)])
        torch.testing.assert_close(ours(scores, relevance, top_k=top_k), expected.double(), atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), min_size=2, max_size=40))
def test_auc_equals_scikit_learn_under_ties(pairs):
    scores, labels = [float(s) for s, _ in pairs], [label for _, label in pairs]
    result = auc(torch.tensor(scores), torch.tensor(labels)).item()
    if len(set(labels)) == 1:
        assert math.isnan(result)
    else:
        assert result == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_of_many_scores_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(20_000, generator=generator).half(), torch.randint(2, (20_000,), generator=generator)
    assert auc(scores, labels).item() == pytest.approx(roc_auc_score(labels, scores.float()), abs=1e-12)


def test_pair_auc_and_user_auc_answer_different_questions():
    scores, labels = torch.tensor([[0.9, 0.8], [0.2, 0.1]]), torch.tensor([[1, 0], [1, 0]])
    assert user_auc(scores, labels).tolist() == [1.0, 1.0]
    assert auc(scores.flatten(), labels.flatten()).item() == 0.75


def test_user_auc_by_hand_with_padding_ties_infinities_and_missing_classes():
    scores = torch.tensor([[2, 1, 2, 9], [INF, INF, 1, 0], [-INF, -INF, 1, 0], [1, 2, 3, 4], [1, 2, 3, 4]]).float()
    relevance = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]).bool()
    expected = torch.tensor([0.75, 0.75, 1 / 6, math.nan, math.nan], dtype=torch.float64)
    torch.testing.assert_close(user_auc(scores, relevance, mask), expected, equal_nan=True)


# --- what must not matter -----------------------------------------------------------------------------------------


def test_the_order_of_candidates_does_not_matter():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(0, 6, (30, 40), generator=generator).float()
    relevance = (torch.rand(30, 40, generator=generator) < 0.15).long()
    mask = torch.rand(30, 40, generator=generator) < 0.8
    shuffled = torch.stack([torch.randperm(40, generator=generator) for _ in range(30)])
    moved = [x.gather(1, shuffled) for x in (scores, relevance, mask)]
    both = ("expected", "worst")
    before, after = ranking_metrics(scores, relevance, mask, policies=both), ranking_metrics(*moved, policies=both)
    for key in before:
        torch.testing.assert_close(after[key], before[key], atol=1e-9, rtol=0, equal_nan=True)
    torch.testing.assert_close(user_auc(*moved), user_auc(scores, relevance, mask), atol=1e-9, rtol=0, equal_nan=True)


@pytest.mark.parametrize("junk", [math.nan, INF, 100.0, -INF])
def test_padding_counts_nowhere(junk):
    short = values([3, 1, 2], [0, 1, 1], 2)
    assert values([3, 1, 2, junk, junk], [0, 1, 1, 1, 0], 2, mask=[True, True, True, False, False]) == short
    discount = 1 / math.log2(3)
    assert short == pytest.approx({"hr": 1, "recall": 0.5, "ndcg": discount / (1 + discount), "mrr": 0.5})


def test_lists_of_a_batch_do_not_see_each_other():
    lists = [([1.0, 1.0, 0.0], [0, 1, 0]), ([0.0, 2.0, 2.0], [1, 0, 1])]
    scores, relevance = (torch.tensor([x[i] for x in lists]) for i in (0, 1))
    together = ranking_metrics(scores, relevance, top_k=(1, 2))
    for row, (s, r) in enumerate(lists):
        alone = ranking_metrics(torch.tensor([s]), torch.tensor([r]), top_k=(1, 2))
        assert {k: v[row].item() for k, v in together.items()} == {k: v.item() for k, v in alone.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scores_of_any_float_type_give_float64(dtype):
    result = ranking_metrics(torch.tensor([[1, 2, 3]], dtype=dtype), torch.tensor([[0.0, 1.0, 0.0]]), top_k=(1, 2))
    assert {x.dtype for x in result.values()} == {torch.float64}
    assert [result["hr@1"].item(), result["hr@2"].item()] == [0.0, 1.0]


# --- edges and errors ---------------------------------------------------------------------------------------------


def test_a_list_shorter_than_the_cut_off():
    assert values([1, 2], [1, 0], 20) == pytest.approx({"hr": 1, "recall": 1, "ndcg": 1 / math.log2(3), "mrr": 0.5})


def test_a_positive_that_the_retriever_missed_is_a_miss_but_counts_as_relevant():
    assert values([-INF, 1, 0], [1, 0, 0], 10) == {"hr": 0, "recall": 0, "ndcg": 0, "mrr": 0}
    assert values([-INF, -INF], [1, 0], 10) == {"hr": 0, "recall": 0, "ndcg": 0, "mrr": 0}
    half = values([-INF, 1, 0], [1, 1, 0], 10)
    assert half == pytest.approx({"hr": 1, "recall": 0.5, "ndcg": 1 / (1 + 1 / math.log2(3)), "mrr": 1})


@pytest.mark.parametrize(
    "lists", [(torch.zeros(2, 3), torch.zeros(2, 3)), (torch.zeros(2, 0), torch.zeros(2, 0))], ids=["none", "empty"]
)
@pytest.mark.parametrize("ties", ["expected", "worst", "best"])
def test_lists_without_a_relevant_candidate_have_no_value(lists, ties):
    for key, value in ranking_metrics(*lists, policies=[ties]).items():
        assert value.shape == (2,), key
        assert value.isnan().all(), key
    assert user_auc(*lists).isnan().all()


def test_no_lists_at_all():
    assert [x.shape for x in ranking_metrics(torch.zeros(0, 4), torch.zeros(0, 4), top_k=(5,)).values()] == [(0,)] * 4
    assert auc(torch.zeros(0), torch.zeros(0)).isnan()


def test_keys_name_cut_off_and_tie_policy():
    one = (torch.zeros(1, 3), torch.eye(3)[:1])
    assert list(ranking_metrics(*one, top_k=(5, 10))) == [
        "hr@5", "recall@5", "ndcg@5", "mrr@5", "hr@10", "recall@10", "ndcg@10", "mrr@10",
    ]  # fmt: skip
    assert list(ranking_metrics(*one, top_k=(5,), policies=("worst",))) == [
        "hr_worst@5", "recall_worst@5", "ndcg_worst@5", "mrr_worst@5",
    ]  # fmt: skip


@pytest.mark.parametrize("metric", [*METRICS.values(), user_auc])
def test_a_nan_score_is_an_error_and_not_a_rank(metric):
    scores = torch.tensor([[1.0, 2.0, 0.0], [1.0, math.nan, 0.0]])
    with pytest.raises(ValueError, match=r"scores=nan: 1 of 6 candidates have no score, the first at \(1, 1\)"):
        metric(scores, torch.tensor([[1, 0, 0], [1, 0, 0]]))


@pytest.mark.parametrize("metric", METRICS.values())
def test_a_cut_off_below_one_is_refused(metric):
    with pytest.raises(ValueError, match="top_k=0: not a positive integer; give 1 or more"):
        metric(torch.zeros(1, 2), torch.tensor([[1, 0]]), top_k=0)


@pytest.mark.parametrize("metric", METRICS.values())
@pytest.mark.parametrize("top_k", [2.5, 0.5, math.nan, INF])
def test_a_cut_off_between_two_ranks_is_refused(metric, top_k):
    """Half a rank would be reached by half a candidate: recall and MRR would come out, and be wrong."""
    with pytest.raises(ValueError, match=rf"top_k={top_k}: not a positive integer; give 1 or more"):
        metric(torch.tensor([[3.0, 2.0, 2.0]]), torch.tensor([[0, 1, 0]]), top_k=top_k)


@pytest.mark.parametrize("top_k", [10**12, 2**70])
def test_a_huge_cut_off_costs_no_more_than_the_list_is_long(top_k):
    scores, relevance = [[1.0, 1.0, 0.0, -INF], [1.0, 2.0, 3.0, 4.0]], [[0, 1, 1, 1], [1, 0, 0, 0]]
    tensors = torch.tensor(scores), torch.tensor(relevance)
    huge = ranking_metrics(*tensors, top_k=(top_k,), policies=("expected", "worst", "best"))
    whole = ranking_metrics(*tensors, top_k=(4,), policies=("expected", "worst", "best"))
    assert [x.tolist() for x in huge.values()] == [x.tolist() for x in whole.values()]


def test_views_of_any_layout_pass_without_a_warning():
    generator = torch.Generator().manual_seed(2)
    scores, relevance = torch.randn(7, 5, generator=generator), torch.eye(7)[:, :5]
    copied = [x.T.contiguous() for x in (scores, relevance)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert user_auc(scores.T, relevance.T).tolist() == user_auc(*copied).tolist()
        assert ndcg(scores.T, relevance.T).tolist() == ndcg(*copied).tolist()
        assert ndcg(scores[:1].expand(5, 5), torch.eye(5)).shape == (5,)


def test_wrong_arguments_are_refused():
    scores, relevance = torch.zeros(2, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"shapes \(2, 3\), \(3, 2\), \(2, 3\)"):
        ndcg(scores, relevance.T)
    with pytest.raises(ValueError, match=r"shapes \(3,\), \(3,\), \(3,\) must be the same \(lists,"):
        ndcg(scores[0], relevance[0])
    with pytest.raises(ValueError, match=r"mask: dtype torch.int64 is not torch.bool"):
        ndcg(scores, relevance, torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"relevance=5.0: not binary; turn ratings into labels 0 and 1"):
        ndcg(scores, relevance + 5)
    with pytest.raises(ValueError, match="ties='mean': unknown; give one of expected, worst, best"):
        ndcg(scores, relevance, ties="mean")
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(2, 3\) must be the same \(N,\)"):
        auc(scores, relevance)


@pytest.mark.parametrize("module", [functional, auc_module])
def test_the_examples_in_docstrings_hold(module):
    result = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
