"""The exact filter against enumeration of every path of tastes (and of everything hidden) on tiny models."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mllm_srec.data.demo.taste_filter import ReaderLaw, TasteFilter
from mllm_srec.data.demo.truth import TasteModel

MODEL = TasteModel({"a": 3, "b": 2}, {"a": 0.6, "b": 0.4}, noise=0.3, drift=0.15, like_share=0.3)
# (day, (value of a, value of b), rating) of two users, and the day at which they are asked
HISTORIES = {0: ([(0, (0, 1), 5), (1, (2, 0), 1), (3, (0, 0), 3)], 4), 1: ([(1, (1, 1), 4), (4, (2, 1), 2)], 4)}


def moving(n, before, after):
    """One day of one attribute, by the definition: stay, or to one of two neighbours with drift / 2 each."""
    p = (1 - MODEL.drift) * (before == after)
    return p + MODEL.drift / 2 * ((before + 1) % n == after) + MODEL.drift / 2 * ((before - 1) % n == after)


def likes(n, state, value):
    return (value - state) % n < n // 2


def rating_probability(taste, item, rating):
    return MODEL.rating_table()[2 * likes(3, taste[0], item[0]) + likes(2, taste[1], item[1]), rating - 1]


def all_paths(n_days):
    """Every path of the joint taste over days 0 .. n_days - 1, with its probability."""
    states = list(itertools.product(range(3), range(2)))
    for path in itertools.product(states, repeat=n_days):
        p = 1 / len(states)
        for before, after in itertools.pairwise(path):
            p *= moving(3, before[0], after[0]) * moving(2, before[1], after[1])
        if p > 0:
            yield path, p


def enumerated(history, n_days, visible_b):
    """P(taste on the last day | history): of (a, b), or of a alone where b of the items is not seen."""
    posterior = np.zeros((3, 2))
    for path, p in all_paths(n_days):
        for day, item, rating in history:
            if visible_b:
                p *= rating_probability(path[day], item, rating)
            else:  # the item's b was drawn uniformly
                p *= np.mean([rating_probability(path[day], (item[0], b), rating) for b in range(2)])
        posterior[path[-1]] += p
    posterior /= posterior.sum()
    return posterior.ravel() if visible_b else posterior.sum(axis=1)


def filtered(visible):
    """Both users at once, day by day, in a filter of three users of whom one does nothing."""
    tastes = TasteFilter(ReaderLaw(MODEL, visible), n_users=3)
    last = {0: 0, 1: 0}
    columns = [MODEL.attributes.index(name) for name in visible]
    for turn in range(3):
        active = [u for u, (history, _) in HISTORIES.items() if turn < len(history)]
        rows = [HISTORIES[u][0][turn] for u in active]
        tastes.predict(np.array(active), np.array([row[0] - last[u] for u, row in zip(active, rows, strict=True)]))
        items = np.array([row[1] for row in rows])[:, columns]
        tastes.update(np.array(active), items, np.array([row[2] for row in rows]))
        last |= {u: row[0] for u, row in zip(active, rows, strict=True)}
    tastes.predict(np.array([0, 1]), np.array([asked - last[u] for u, (_, asked) in HISTORIES.items()]))
    return tastes


@pytest.mark.parametrize("visible", [("a", "b"), ("a",)])
def test_belief_equals_enumeration_of_all_taste_paths(visible):
    tastes = filtered(visible)
    for user, (history, asked) in HISTORIES.items():
        expected = enumerated(history, asked + 1, visible_b="b" in visible)
        assert tastes.belief[user] == pytest.approx(expected, abs=1e-12)
        assert np.ptp(expected) > 0.05  # the histories do tell something
    assert tastes.belief[2] == pytest.approx(np.full_like(tastes.belief[2], 1 / tastes.belief.shape[1]))


def test_expected_likes_are_the_posterior_mean():
    tastes = filtered(("a", "b"))
    items = np.array([(0, 0), (2, 1)])
    expected = tastes.belief @ tastes.law.likes(items).T
    posterior = enumerated(*HISTORIES[0][:1], 5, True).reshape(3, 2)
    for column, item in enumerate(items):
        mean = sum(
            posterior[a, b] * (rating_probability((a, b), item, 4) + rating_probability((a, b), item, 5))
            for a in range(3)
            for b in range(2)
        )
        assert expected[0, column] == pytest.approx(mean)


def test_without_drift_the_order_of_ratings_does_not_matter():
    model = TasteModel({"a": 4}, {"a": 1.0}, noise=0.5, drift=0.0, like_share=0.5)
    forward, backward = (TasteFilter(ReaderLaw(model, ("a",)), 1) for _ in range(2))
    story = [(0, 5), (1, 2), (3, 4)]
    for tastes, order in ((forward, story), (backward, story[::-1])):
        for value, rating in order:
            tastes.update(np.array([0]), np.array([[value]]), np.array([rating]))
            tastes.predict(np.array([0]), np.array([7]))
    assert forward.belief == pytest.approx(backward.belief)


def test_an_impossible_rating_is_an_error():
    model = TasteModel({"a": 2}, {"a": 1.0}, noise=0.0, drift=0.0, like_share=0.5)
    tastes = TasteFilter(ReaderLaw(model, ("a",)), 1)
    tastes.update(np.array([0]), np.array([[0]]), np.array([5]))
    with pytest.raises(ValueError, match="impossible after the others"):
        tastes.update(np.array([0]), np.array([[0]]), np.array([1]))
