"""Scores and losses against formulas written out."""

import math

import pytest
import torch

from mllm_srec.models.scoring import gather_answers, literal_score, score, yes_no_logits

HEAD = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5]])
HIDDEN = torch.tensor([[[0.3, -0.2], [2.0, 1.0]]])


def test_logits_are_two_rows_of_the_head():
    logits = yes_no_logits(HIDDEN, HEAD, yes_id=2, no_id=1)
    torch.testing.assert_close(logits, torch.tensor([[[0.1, -0.2], [3.0, 1.0]]]))
    torch.testing.assert_close(score(logits), torch.tensor([[0.3, 2.0]]))


def test_sigmoid_of_the_score_is_the_two_way_softmax():
    logits = yes_no_logits(HIDDEN, HEAD, 2, 1)
    yes = math.exp(0.1) / (math.exp(0.1) + math.exp(-0.2))
    assert score(logits).sigmoid()[0, 0].item() == pytest.approx(yes, abs=1e-6)


def test_literal_score_is_the_difference_of_vocabulary_probabilities():
    exponents = [math.exp(0.3), math.exp(-0.2), math.exp(0.1), math.exp(-0.4)]
    expected = (exponents[2] - exponents[1]) / sum(exponents)
    assert literal_score(HIDDEN, HEAD, 2, 1)[0, 0].item() == pytest.approx(expected, abs=1e-6)


def test_the_two_scores_can_order_differently():
    """The difference of probabilities depends on how much mass lies on yes and no at all."""
    head = torch.eye(3)
    hidden = torch.tensor([[[1.0, 0.0, 8.0], [0.5, 0.0, 0.0]]])
    by_logit = score(yes_no_logits(hidden, head, 0, 1))
    literal = literal_score(hidden, head, 0, 1)
    assert by_logit[0, 0] > by_logit[0, 1]
    assert literal[0, 0] < literal[0, 1]


def test_on_a_vocabulary_of_two_answers_both_scores_order_alike():
    """P_yes + P_no = 1 there, so that the literal score is tanh(score / 2), which rises with the score."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(50, 4, 8, generator=generator), torch.randn(2, 8, generator=generator)
    by_logit, literal = score(yes_no_logits(hidden, head, 0, 1)), literal_score(hidden, head, 0, 1)
    torch.testing.assert_close(literal, (by_logit / 2).tanh(), atol=1e-6, rtol=0)
    assert torch.equal(literal.argsort(dim=-1), by_logit.argsort(dim=-1))


def test_the_literal_probability_stays_between_its_ends():
    """Eq. 4 on probabilities: at most sigmoid(1), however sure the model is."""
    certain = torch.tensor([[[99.0, 0.0, 0.0], [0.0, 99.0, 0.0]]])
    ends = literal_score(certain, torch.eye(3), 0, 1).sigmoid()[0].tolist()
    assert ends == pytest.approx([0.731, 0.269], abs=5e-4)


def test_bfloat16_hidden_states_keep_float32_logits():
    """Near 20 a bfloat16 product has steps of 0.125; two candidates 0.01 apart must not tie, under autocast either."""
    hidden = torch.tensor([[[20.0, 1.0], [20.0, 1.0078125]]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = yes_no_logits(hidden, HEAD, 2, 0)
    assert logits.dtype == torch.float32
    assert logits[0, 0, 0] != logits[0, 1, 0]


def test_gather_takes_row_and_token():
    hidden = torch.arange(2 * 3 * 1.0).reshape(2, 3, 1)
    index = torch.tensor([[[1, 2], [0, 1]]])
    assert gather_answers(hidden, index).tolist() == [[[5.0], [1.0]]]
