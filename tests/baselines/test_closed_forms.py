"""iALS, EASE-R and two hops against plain NumPy and scikit-learn, written from the papers' equations."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from mllm_srec.baselines import ease, ials
from mllm_srec.baselines.ease import EASE
from mllm_srec.baselines.ials import IALS
from mllm_srec.baselines.two_hop import TwoHop, TwoHopFeatures
from tests.baselines.conftest import item_batch, train_data
from tests.baselines.graph_world import features_of

N, USERS = 14, 30
HISTORIES = [[1, 2, 3], [4], [9, 1, 13, 5], [2, 7, 8, 6, 10]]


@pytest.fixture
def sequences():
    random = np.random.default_rng(4)
    weights = 1 / np.arange(2, N + 1)
    sizes = random.integers(1, 8, USERS)
    return [(random.choice(N - 1, size, replace=False, p=weights / weights.sum()) + 1).tolist() for size in sizes]


def matrix(sequences):
    """Likes (U, N) as 0 and 1."""
    x = np.zeros((len(sequences), N))
    for user, sequence in enumerate(sequences):
        x[user, np.array(sequence, int) - 1] = 1
    return x


def attached(model, sequences, seed=0, features=None):
    model.attach(train_data(sequences, N, features, disliked=[(1, N)]), seed)
    return model.eval()


def scores_of(model, histories=HISTORIES):
    return model.score_all(item_batch(histories, n_items=N)).numpy()


# --- EASE-R -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [4, 256])
@pytest.mark.parametrize("reg", [0.5, 20.0])
def test_weights_of_ease_are_ridge_regressions_on_all_other_items(sequences, reg, chunk, monkeypatch):
    """Column j is the ridge regression of item j on the others: scikit-learn's, which knows no closed form of EASE."""
    monkeypatch.setattr(ease, "CHUNK", chunk)
    x, b = matrix(sequences), np.zeros((N, N))
    for j in range(N):
        others = [i for i in range(N) if i != j]
        b[others, j] = Ridge(alpha=reg, fit_intercept=False, solver="cholesky").fit(x[:, others], x[:, j]).coef_
    model = attached(EASE(reg=reg), sequences)
    assert model.weights[1:, 1:].numpy() == pytest.approx(b, abs=1e-6)
    by_hand = np.array([b[np.array(history) - 1].sum(0) for history in HISTORIES])
    assert scores_of(model) == pytest.approx(by_hand, abs=1e-6)
    assert not model.weights[0].any()
    assert not model.weights[:, 0].any()


def test_weights_of_two_items_by_hand():
    """Two of three users like both: G = [[3, 2], [2, 2]], so with lambda = 1 the weights are 2 / 4 and 2 / 3."""
    model = EASE(reg=1.0)
    model.attach(train_data([[1, 2], [2, 1], [1]], 2))
    assert model.weights[1:, 1:].tolist() == [[0.0, pytest.approx(2 / 4)], [pytest.approx(2 / 3), 0.0]]


# --- iALS ---------------------------------------------------------------------------------------------------------


def objective(x, w, h, reg, unobserved, nu):
    """The sum of the paper, over a table of all pairs; only users who like something count."""
    liked = x.sum(1) > 0
    scale_w = (x.sum(1) + unobserved * x.shape[1]) ** nu
    scale_h = (x.sum(0) + unobserved * liked.sum()) ** nu
    fit = (x * (1 - w @ h.T) ** 2).sum() + unobserved * ((w @ h.T) ** 2).sum()
    return fit + reg * ((scale_w * (w**2).sum(1))[liked].sum() + (scale_h * (h**2).sum(1)).sum())


def solved(x, others, reg, unobserved, nu, n_others):
    """One side given the other: weighted least squares over all pairs, row by row, as a plain linear system."""
    rows = []
    for likes in x:
        weight = np.diag(unobserved + likes)  # 1 for a like, with target 1, and alpha0 for every pair, with target 0
        ridge = reg * (likes.sum() + unobserved * n_others) ** nu * np.eye(others.shape[1])
        rows.append(np.linalg.solve(others.T @ weight @ others + ridge, others.T @ likes))
    return np.array(rows)


def by_hand(x, h, reg, unobserved, nu, epochs):
    n_users = (x.sum(1) > 0).sum()
    for _ in range(epochs):
        w = solved(x, h, reg, unobserved, nu, x.shape[1])
        h = solved(x.T, w, reg, unobserved, nu, n_users)
    return w, h


def initial(hidden, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (torch.randn(N + 1, hidden, dtype=torch.float64) * 0.1 / hidden**0.5).numpy()[1:]


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("max_values", [1, 200, 2**23])
def test_ials_alternates_between_exact_solutions(sequences, nu, max_values, monkeypatch):
    monkeypatch.setattr(ials, "MAX_VALUES", max_values)
    sequences = [*sequences, []]  # a user without likes
    reg, unobserved = 0.05, 0.2
    model = attached(IALS(hidden=3, reg=reg, unobserved=unobserved, exponent=nu, n_epochs=3), sequences)
    x = matrix(sequences)
    _, h = by_hand(x, initial(3), reg, unobserved, nu, 3)
    assert model.vectors[1:].numpy() == pytest.approx(h, abs=1e-6)
    assert abs(h).max() > 0.1
    queries = solved(matrix(HISTORIES), h, reg, unobserved, nu, N)
    assert scores_of(model) == pytest.approx(queries @ h.T, abs=1e-5)


def test_vectors_of_ials_are_a_stationary_point_of_the_objective(sequences):
    """After many epochs no small step makes the paper's sum smaller: neither of users nor of items."""
    reg, unobserved = 0.05, 0.2
    x = matrix(sequences)
    model = attached(IALS(hidden=3, reg=reg, unobserved=unobserved, n_epochs=300), sequences)
    h = model.vectors[1:].double().numpy()
    w = solved(x, h, reg, unobserved, 1.0, N)
    best, random = objective(x, w, h, reg, unobserved, 1.0), np.random.default_rng(0)
    assert best < objective(x, 0 * w, 0 * h, reg, unobserved, 1.0) * 0.8
    for _ in range(50):
        step_w, step_h = random.normal(0, 1e-3, w.shape), random.normal(0, 1e-3, h.shape)
        assert objective(x, w + step_w, h, reg, unobserved, 1.0) > best
        assert objective(x, w, h + step_h, reg, unobserved, 1.0) > best


def test_a_unit_of_one_user_and_one_item_by_hand():
    """One like, D = 1: with w = h the solution is w^2 (1 + alpha0) = 1 - lambda (1 + alpha0)."""
    model = IALS(hidden=1, reg=0.1, unobserved=0.5, n_epochs=200)
    model.attach(train_data([[1]], 1))
    assert model.vectors[1, 0].item() ** 2 == pytest.approx((1 - 0.1 * 1.5) / 1.5, rel=1e-4)


# --- two hops -----------------------------------------------------------------------------------------------------


def transitions(sequences):
    """Shares (N, N): of what was liked right after the row's item."""
    counts = np.zeros((N, N))
    for sequence in sequences:
        for before, after in pairwise(sequence):
            counts[before - 1, after - 1] += 1
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def begins(n_last):
    start = np.zeros((len(HISTORIES), N))
    for row, history in enumerate(HISTORIES):
        for k, item in enumerate(reversed(history[-n_last:]), start=1):
            start[row, item - 1] = 1 / k
    return start


@pytest.mark.parametrize(("n_last", "n_hops", "hop_weight"), [(1, 1, 0.5), (2, 2, 0.5), (3, 3, 0.2)])
def test_shares_of_transitions_are_summed_over_hops(sequences, n_last, n_hops, hop_weight):
    a = transitions(sequences)
    expected = sum(hop_weight**h * begins(n_last) @ np.linalg.matrix_power(a, h + 1) for h in range(n_hops))
    model = attached(TwoHop(n_last=n_last, n_hops=n_hops, hop_weight=hop_weight), sequences)
    assert scores_of(model) == pytest.approx(expected, abs=1e-6)
    assert expected.max() > 0.2


def test_what_is_reached_is_ranked_by_features(sequences):
    features = features_of(N)
    a, start = transitions(sequences), begins(2)
    reached = (start @ a + start @ a @ a) > 0
    start /= start.sum(1, keepdims=True)
    image, text = features.image[1:].astype(np.float64), features.text[1:].astype(np.float64)
    similarity = start @ (image @ image.T + text @ text.T) / 2
    scores = scores_of(attached(TwoHopFeatures(), sequences, features=features))
    assert scores == pytest.approx(np.where(reached, 2 + similarity, 0), abs=1e-5)
    assert reached.any()
    assert not reached.all()


def test_likes_of_different_users_do_not_follow_each_other():
    model = TwoHop()
    model.attach(train_data([[1, 2], [3, 4]], 4))
    assert model.score_all(item_batch([[2], [4]], n_items=4)).any() == torch.tensor(False)
