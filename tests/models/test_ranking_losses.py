"""Losses that rank: values by hand, the papers' formulas in plain Python, gradients, and what must not matter."""

import math

import pytest
import torch

from mllm_srec.models.losses import comparable, dpo, listwise, mean_of_comparable, pairwise, softmax_dpo

BETA = 0.5
LOSSES = {
    "pairwise": pairwise,
    "listwise": listwise,
    "dpo": lambda scores, relevance, mask: dpo(scores, REFERENCE.to(scores), relevance, mask, BETA),
    "softmax_dpo": lambda scores, relevance, mask: softmax_dpo(scores, REFERENCE.to(scores), relevance, mask, BETA),
}

# Three groups: a like before one and before two others, and a like that is already far ahead; then those that teach
# nothing: a like alone, a dislike alone, and two likes.
SCORES = torch.tensor([
    [0.0, 0.0, 9.0], [math.log(3), math.log(2), 0.0], [0.0, math.log(9), 7.0], [1.5, 7.0, 7.0], [-2.0, 7.0, 7.0],
    [1.0, 3.0, 7.0],
], dtype=torch.float64)  # fmt: skip
RELEVANCE = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]])
MASK = torch.tensor([
    [True, True, False], [True, True, True], [True, True, False], [True, False, False], [True, False, False],
    [True, True, False],
])  # fmt: skip
REFERENCE = torch.tensor([
    [2.0, 0.0, 4.0], [math.log(3), 0.0, math.log(4)], [0.0, 0.0, 4.0], [0.5, 4.0, 4.0], [1.0, 4.0, 4.0],
    [0.0, 1.0, 4.0],
], dtype=torch.float64)  # fmt: skip

# Rewards are half of score minus reference: [-1, 0]; [0, log 2 / 2, -log 2]; [0, log 3].
ROOT = math.sqrt(2)
BY_HAND = {
    # sigmoid(log a) = a / (1 + a)
    "pairwise": [math.log(2), -(math.log(2 / 5) + math.log(2 / 3)) / 2, math.log(10 / 9)],
    "listwise": [math.log(2), math.log(6 / 2), math.log(10 / 9)],
    "dpo": [
        math.log(1 + math.e),
        (math.log((ROOT + 1) / ROOT) + math.log((2 * ROOT + 1) / (2 * ROOT))) / 2,
        math.log(4 / 3),
    ],
    "softmax_dpo": [math.log(1 + math.e), math.log((ROOT + 1 + 0.5) / ROOT), math.log(4 / 3)],
}


def in_plain_python(name, scores, reference, relevance):
    """The loss of one group without padding, term by term as in its paper."""
    liked = [i for i, label in enumerate(relevance) if label]
    others = [j for j, label in enumerate(relevance) if not label]
    if not liked or not others:
        return 0.0
    ratio = [BETA * (a - b) for a, b in zip(scores, reference, strict=True)]
    terms = {
        "pairwise": lambda: [math.log1p(math.exp(scores[j] - scores[i])) for i in liked for j in others],
        "listwise": lambda: [math.log(sum(map(math.exp, scores))) - scores[i] for i in liked],
        "dpo": lambda: [-math.log(1 / (1 + math.exp(-(ratio[i] - ratio[j])))) for i in liked for j in others],
        "softmax_dpo": lambda: [
            -math.log(1 / (1 + math.exp(math.log(sum(math.exp(ratio[j] - ratio[i]) for j in others))))) for i in liked
        ],
    }[name]()
    return sum(terms) / len(terms)


@pytest.mark.parametrize("name", LOSSES)
def test_values_by_hand(name):
    found = LOSSES[name](SCORES, RELEVANCE, MASK)
    assert found.tolist() == pytest.approx([*BY_HAND[name], 0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_the_papers_formulas_on_drawn_groups(name, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(40, 6, generator=generator, dtype=torch.float64) * 3
    reference = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    relevance = (torch.rand(40, 6, generator=generator) < 0.35).long()
    mask = torch.arange(6) < torch.randint(1, 7, (40, 1), generator=generator)
    monkeypatch.setitem(globals(), "REFERENCE", reference)
    expected = [
        in_plain_python(name, s[m].tolist(), r[m].tolist(), labels[m].tolist())
        for s, r, labels, m in zip(scores, reference, relevance, mask, strict=True)
    ]
    assert sum(value > 0 for value in expected) > 15
    assert LOSSES[name](scores, relevance, mask).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    scores = SCORES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: LOSSES[name](values, RELEVANCE, MASK), (scores,))
    LOSSES[name](scores, RELEVANCE, MASK).sum().backward()
    learns = comparable(RELEVANCE, MASK)
    assert (scores.grad[learns] != 0).equal(MASK[learns])  # every target of these groups, and no padding
    assert (scores.grad[~learns] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_neither_order_nor_padding_matters(name, monkeypatch):
    expected = LOSSES[name](SCORES, RELEVANCE, MASK)
    order = torch.tensor([2, 0, 1])
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "REFERENCE", REFERENCE[:, order])
        moved = LOSSES[name](SCORES[:, order], RELEVANCE[:, order], MASK[:, order])
    torch.testing.assert_close(moved, expected, atol=1e-14, rtol=0)
    reference = REFERENCE.masked_fill(~MASK, math.nan)
    for junk in (math.nan, math.inf, -1e30):
        wide = torch.cat([SCORES.masked_fill(~MASK, junk), torch.full((6, 2), junk)], dim=1).requires_grad_()
        none = torch.zeros(6, 2, dtype=torch.long)
        monkeypatch.setitem(globals(), "REFERENCE", torch.cat([reference, torch.full((6, 2), junk)], dim=1))
        found = LOSSES[name](wide, torch.cat([RELEVANCE, none], dim=1), torch.cat([MASK, none.bool()], dim=1))
        torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)
        found.sum().backward()
        assert wide.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_group_of_one_target_gives_zero_and_a_zero_gradient(name, monkeypatch):
    monkeypatch.setitem(globals(), "REFERENCE", torch.zeros(2, 1))
    scores = torch.tensor([[4.0], [-90.0]], requires_grad=True)
    found = LOSSES[name](scores, torch.tensor([[1], [0]]), torch.ones(2, 1, dtype=torch.bool))
    mean = mean_of_comparable(found, torch.tensor([[1], [0]]), torch.ones(2, 1, dtype=torch.bool))
    mean.backward()
    assert found.tolist() == [0, 0]
    assert mean.item() == 0
    assert scores.grad.tolist() == [[0], [0]]


@pytest.mark.parametrize("name", LOSSES)
def test_a_disliked_item_alone_adds_nothing_to_the_mean(name):
    three = slice(0, 3)
    alone = mean_of_comparable(LOSSES[name](SCORES, RELEVANCE, MASK), RELEVANCE, MASK)
    assert alone.item() == pytest.approx(sum(BY_HAND[name]) / 3, abs=1e-12)
    assert comparable(RELEVANCE, MASK).tolist() == [True, True, True, False, False, False]
    assert comparable(RELEVANCE[three], MASK[three]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_scores_far_apart_stay_finite(name, monkeypatch):
    monkeypatch.setitem(globals(), "REFERENCE", torch.zeros(2, 3))
    scores = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 0.0]], requires_grad=True)
    relevance = torch.tensor([[1, 0, 0], [1, 0, 0]])
    found = LOSSES[name](scores, relevance, torch.ones(2, 3, dtype=torch.bool))
    found.sum().backward()
    assert found.isfinite().all()
    assert found[0] > 1e3
    assert found[1] == 0
    assert scores.grad.isfinite().all()


def test_the_reference_gets_no_gradient_and_at_it_dpo_begins_at_log_two():
    scores, reference = SCORES[:3].clone().requires_grad_(), SCORES[:3].clone().requires_grad_()
    loss = dpo(scores, reference, RELEVANCE[:3], MASK[:3], BETA)
    assert loss.tolist() == pytest.approx([math.log(2)] * 3)
    loss.sum().backward()
    assert reference.grad is None
    assert (scores.grad[MASK[:3]] != 0).all()


def test_with_one_negative_both_forms_of_dpo_are_one():
    one = [0, 2]  # the groups of two targets
    found = [loss(SCORES[one], REFERENCE[one], RELEVANCE[one], MASK[one], BETA) for loss in (dpo, softmax_dpo)]
    torch.testing.assert_close(found[0], found[1], atol=1e-14, rtol=0)
