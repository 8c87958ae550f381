"""The metrics of a stage together: what goes where, missed positives, and models without probabilities."""

import math

import pytest
import torch

from mllm_srec.metrics.evaluation import CALIBRATION, EvaluationMetrics, with_missed
from mllm_srec.metrics.pair_auc import PairAUC
from mllm_srec.metrics.ranking import RankingMetrics

SCORES = torch.tensor([[2.0, 1.0, 0.5], [1.0, 3.0, 9.0]])
RELEVANCE = torch.tensor([[1, 0, 0], [1, 0, 0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])
KIND = torch.tensor([[0, 2, 1], [0, 2, -1]])


def numbers(metrics):
    return {name: float(value) for name, value in metrics.compute().items()}


def test_pairs_and_lists_go_to_their_metrics():
    metrics, auc, ranking = EvaluationMetrics(), PairAUC(), RankingMetrics()
    metrics.add_pairs(SCORES, RELEVANCE, KIND, MASK)
    metrics.add_lists(SCORES, RELEVANCE, MASK)
    auc.update(SCORES, RELEVANCE, KIND, MASK)
    ranking.update(SCORES, RELEVANCE, MASK)
    assert numbers(metrics) == {name: float(v) for name, v in {**auc.compute(), **ranking.compute()}.items()}
    metrics.reset()
    assert numbers(metrics)["n_users"] == numbers(metrics)["n_pairs"] == 0


def test_a_missed_positive_counts_in_recall_and_is_no_hit():
    metrics = EvaluationMetrics()
    metrics.add_lists(SCORES, RELEVANCE, MASK, torch.tensor([2, 0]))
    found = numbers(metrics)
    assert found["recall@5"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["hr@5"] == 1
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["ndcg@5"] == pytest.approx((1 / ideal + 1 / math.log2(3)) / 2)


def test_a_list_whose_every_positive_was_missed():
    metrics = EvaluationMetrics()
    metrics.add_lists(SCORES[:1], torch.zeros(1, 3, dtype=torch.long), MASK[:1], torch.tensor([1]))
    found = numbers(metrics)
    assert [found[name] for name in ("hr@20", "recall@20", "ndcg@20", "mrr@20", "user_auc")] == [0] * 5
    assert (found["n_users"], found["n_skipped"]) == (1, 0)


def test_missed_positives_stand_below_everything_in_lists_of_any_length():
    scores, relevance, mask = with_missed(SCORES, RELEVANCE, MASK, torch.tensor([0, 2]))
    assert scores[0].tolist() == [2.0, 1.0, 0.5, -math.inf, -math.inf]
    assert relevance.tolist() == [[1, 0, 0, 0, 0], [1, 0, 0, 1, 1]]
    assert mask.tolist() == [[True, True, True, False, False], [True, True, False, True, True]]
    given = (SCORES, RELEVANCE, MASK)
    for nothing in (None, torch.zeros(2, dtype=torch.long)):
        assert all(a is b for a, b in zip(with_missed(*given, nothing), given, strict=True))


def test_probabilities_are_measured_where_they_are_stated():
    metrics = EvaluationMetrics(probabilities=True)
    metrics.add_pairs(SCORES, RELEVANCE, KIND, MASK, logits=SCORES, mass=torch.full((2, 3), 0.5))
    found = numbers(metrics)
    assert set(CALIBRATION) <= set(found)
    assert (found["yes_no_mass"], found["n_mass"], found["share_liked"]) == (0.5, 5, 0.4)
    with pytest.raises(ValueError, match="logits=None: this model predicts probabilities"):
        metrics.add_pairs(SCORES, RELEVANCE, KIND, MASK)
    assert not set(CALIBRATION) & set(numbers(EvaluationMetrics()))
