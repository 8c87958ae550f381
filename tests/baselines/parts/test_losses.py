"""Losses against numpy, position by position, from the papers' formulas."""

import itertools
import math

import numpy as np
import pytest
import torch

from mllm_srec.baselines.parts import losses

P, K, N, D = 7, 5, 40, 6


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.fixture
def scores():
    random = np.random.default_rng(3)
    return random.normal(0, 2, P), random.normal(0, 2, (P, K))


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float64, requires_grad=array.dtype == float) for array in arrays]


def test_bce(scores):
    positive, negatives = scores
    terms = [
        -math.log(sigmoid(x)) - sum(math.log(1 - sigmoid(y)) for y in ys)
        for x, ys in zip(positive, negatives, strict=True)
    ]
    assert losses.bce(*tensors(positive, negatives)).item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_bce_stays_finite_where_the_logistic_function_is_0_or_1():
    far = torch.tensor([-500.0, 500.0])
    assert losses.bce(far, far[:, None]).item() == pytest.approx((500 + 500) / 2)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.75, 1.0])
def test_gbce(scores, t):
    positive, negatives = scores
    a = K / (N - 1)
    power = a * (t * (1 - 1 / a) + 1 / a)  # the paper's way of writing it
    terms = [
        -(math.log(sigmoid(x) ** power) + sum(math.log(1 - sigmoid(y)) for y in ys)) / (K + 1)
        for x, ys in zip(positive, negatives, strict=True)
    ]
    assert losses.gbce(*tensors(positive, negatives), N, t).item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_gbce_with_one_negative_and_no_calibration_is_half_of_bce(scores):
    positive, negatives = tensors(scores[0], scores[1][:, :1])
    halved = losses.bce(positive, negatives).item() / 2
    assert losses.gbce(positive, negatives, N, 0.0).item() == pytest.approx(halved, rel=1e-12)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_best_scores_under_gbce_say_the_true_probability_if_calibrated(t):
    """Four items of known probability, two of the other three as negatives in all ways: t = 1 gives s(score) = p, and
    t = 0 the overestimate p / (p + (1 - p) K / (N - 1)) that gSASRec was made for."""
    truth, rate = np.array([0.1, 0.2, 0.3, 0.4]), 2 / 3
    draws = [(i, *pair) for i in range(4) for pair in itertools.combinations([j for j in range(4) if j != i], 2)]
    scores = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def expected_loss():
        optimizer.zero_grad()
        value = sum(truth[i] / 3 * losses.gbce(scores[[i]], scores[[j, k]][None], 4, t) for i, j, k in draws)
        value.backward()
        return value

    optimizer.step(expected_loss)
    expected = truth if t == 1 else truth / (truth + (1 - truth) * rate)
    np.testing.assert_allclose([sigmoid(score) for score in scores.tolist()], expected, atol=1e-6)


def test_sampled_softmax(scores):
    positive, negatives = scores
    hits = np.zeros((P, K), dtype=bool)
    hits[2, 1] = hits[4, 0] = True
    terms = []
    for row in range(P):
        weighed = [math.exp(s) * N / K for s, hit in zip(negatives[row], hits[row], strict=True) if not hit]
        terms.append(-math.log(math.exp(positive[row]) / (math.exp(positive[row]) + sum(weighed))))
    found = losses.sampled_softmax(*tensors(positive, negatives), torch.tensor(hits), N)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_sampled_normaliser_is_right_on_average():
    """A mean of exp(loss) over draws is the full normaliser over exp(positive); without the correction it is not."""
    random = np.random.default_rng(0)
    catalogue, n_draws, target = random.normal(0, 1, N), 20_000, 11
    drawn = random.integers(0, N, (n_draws, K))
    positive = torch.full((1,), catalogue[target], dtype=torch.float64)
    each = [
        losses.sampled_softmax(positive, torch.tensor(catalogue[row])[None], torch.tensor(row == target)[None], N)
        for row in drawn[:2000]
    ]
    ratio = np.exp([loss.item() for loss in each])
    truth = np.exp(catalogue).sum() / math.exp(catalogue[target])
    assert abs(ratio.mean() - truth) < 4 * ratio.std() / math.sqrt(len(ratio))
    assert ratio.std() / math.sqrt(len(ratio)) < 0.05 * truth


@pytest.mark.parametrize("with_left_out", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_full_cross_entropy(with_bias, with_left_out):
    random = np.random.default_rng(1)
    queries, items, bias = random.normal(size=(P, D)), random.normal(size=(N, D)), random.normal(size=N)
    targets = random.integers(0, N, P)
    left_out = random.random((P, N)) < 0.5  # some targets too, which compete all the same
    terms = []
    for row, target in enumerate(targets):
        logits = [queries[row] @ items[i] + with_bias * bias[i] for i in range(N)]
        competing = [i for i in range(N) if i == target or not (with_left_out and left_out[row, i])]
        terms.append(math.log(sum(math.exp(logits[i]) for i in competing)) - logits[target])
    given = tensors(queries, items, targets, bias)
    mask = torch.tensor(left_out) if with_left_out else None
    found = losses.full_cross_entropy(given[0], given[1], given[2].long(), given[3] if with_bias else None, mask)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-9)


@pytest.mark.parametrize("max_logits", [1, N, 3 * N + 1, P * N - 1])
def test_chunks_change_neither_loss_nor_gradients(max_logits):
    random = np.random.default_rng(1)
    arrays = random.normal(size=(P, D)), random.normal(size=(N, D)), random.normal(size=N)
    targets = torch.tensor(random.integers(0, N, P))
    left_out = torch.tensor(random.random((P, N)) < 0.5)
    results = []
    for limit in (P * N, max_logits):
        queries, items, bias = tensors(*arrays)
        loss = losses.full_cross_entropy(queries, items, targets, bias, left_out, max_logits=limit)
        loss.backward()
        results.append((loss.detach(), queries.grad, items.grad, bias.grad))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-10, atol=1e-12)


def test_chunks_hold_no_more_logits_than_asked_for():
    """The largest tensor that autograd keeps stays below the limit; without chunks it is P x N."""
    largest = {}
    for limit in (3 * N, P * N):
        kept = []
        queries, items = torch.randn(P, D, requires_grad=True), torch.randn(N, D, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            losses.full_cross_entropy(queries, items, torch.zeros(P, dtype=torch.long), max_logits=limit)
        largest[limit] = max(kept)
    assert largest[P * N] == P * N
    assert largest[3 * N] <= N * D


def test_no_position_costs_nothing_and_has_gradients_of_zero():
    queries = torch.randn(0, D, requires_grad=True)
    items = torch.randn(N, D, requires_grad=True)
    positive, negatives = queries.sum(dim=1), queries[:, :1] + torch.zeros(0, K)
    nothing = torch.zeros(0, dtype=torch.long)
    found = [
        losses.bce(positive, negatives),
        losses.gbce(positive, negatives, N, 0.75),
        losses.sampled_softmax(positive, negatives, torch.zeros(0, K, dtype=torch.bool), N),
        losses.full_cross_entropy(queries, items, nothing),
    ]
    assert [loss.item() for loss in found] == [0, 0, 0, 0]
    sum(found).backward()
    assert items.grad.abs().max() == 0
