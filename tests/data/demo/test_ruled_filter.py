"""The exact filter in a shop with rules, against enumeration of all that could have happened in a tiny one.

The tiny shop is told here once more in plain code: two attributes, of which `b` has a house taste, six items, an order,
every rating reported. All is enumerated: tastes on every day, what is shown and its rating.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mllm_srec.data.demo.rules import Exposure
from mllm_srec.data.demo.taste_filter import ReaderLaw, TasteFilter
from mllm_srec.data.demo.truth import TasteModel

SIZES, WEIGHTS, HOUSE = (3, 2), (0.6, 0.4), (0.35, -0.35)
NOISE, DRIFT, ORDER = 0.3, 0.15, 0.5
COMPLEMENTS = (1, 2, 0)
ITEMS = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
MODEL = TasteModel(
    dict(zip("ab", SIZES, strict=True)),
    dict(zip("ab", WEIGHTS, strict=True)),
    noise=NOISE,
    drift=DRIFT,
    like_share=0.3,
    house={"b": HOUSE},
)
# (item, rating) of days 0, 1, 2, ...; every day is reported, and the reader is asked on the day after
HISTORIES = [[(0, 5), (2, 1), (5, 4)], [(3, 4), (4, 5), (1, 2)], [(1, 1), (0, 4)], [(5, 3)], []]


def utility(taste, item):
    bits = [(value - state) % n < n // 2 for value, state, n in zip(ITEMS[item], taste, SIZES, strict=True)]
    return sum(w if bit else -w for w, bit in zip(WEIGHTS, bits, strict=True)) + HOUSE[ITEMS[item][1]]


def cut_offs():
    """That of a like parts all (taste, item) as nearly as can be into 3 of 10 above and the rest below."""
    chances = {}
    for bit_a, bit_b, value in itertools.product((0, 1), (0, 1), (0, 1)):
        level = round((2 * bit_a - 1) * 0.6 + (2 * bit_b - 1) * 0.4 + HOUSE[value], 9)
        chances[level] = chances.get(level, 0) + (1 / 3 if bit_a else 2 / 3) / 4
    levels = sorted(chances)
    middles = [(low + high) / 2 for low, high in itertools.pairwise(levels)]
    like = min(middles, key=lambda m: abs(sum(p for level, p in chances.items() if level > m) - 0.3))
    return [like - 0.77, like - 0.33, like, like + 0.11]


CUTS = cut_offs()


def rated(taste, item, rating):
    above = [1.0, *(1 / (1 + math.exp(-(utility(taste, item) - cut) / NOISE)) for cut in CUTS), 0.0]
    return above[rating - 1] - above[rating]


def shown(item, liked, gone):
    """P(the item is shown), from likes and reports: half of the time one of the last two likes leads to its kind."""
    free = [i for i in range(len(ITEMS)) if i not in gone]
    if item not in free:
        return 0.0
    leads, p = liked[-2:], 0.0
    for lead in leads:
        kind = COMPLEMENTS[ITEMS[lead][0]]
        pool = [i for i in free if ITEMS[i][0] == kind] or free
        p += ORDER / len(leads) * (item in pool) / len(pool)
    return p + (1 - ORDER if leads else 1) / len(free)


def moved(before, after):
    p = 1.0
    for n, one, other in zip(SIZES, before, after, strict=True):
        p *= (1 - DRIFT) * (one == other) + DRIFT / 2 * (((one + 1) % n == other) + ((one - 1) % n == other))
    return p


def enumerated(history, sees_b):
    """P(taste on the day after, and all that was seen), up to scale: whatever was not seen is summed over."""
    states = list(itertools.product(*map(range, SIZES)))
    posterior = dict.fromkeys(states, 0.0)
    n_days = len(history) + 1
    if sees_b:
        versions = [tuple(item for item, _ in history)]
    else:  # the reader sees kinds; each item's b was drawn, uniformly
        versions = list(itertools.product(*([ITEMS.index((ITEMS[i][0], b)) for b in (0, 1)] for i, _ in history)))
    for path in itertools.product(states, repeat=n_days):
        p = 1 / len(states) * math.prod(itertools.starmap(moved, itertools.pairwise(path)))
        for version in versions if p else ():
            q, liked, gone = p, [], set()
            for day, (item, (_, rating)) in enumerate(zip(version, history, strict=True)):
                q *= rated(path[day], item, rating)
                if sees_b:
                    q *= shown(item, liked, gone)
                gone.add(item)
                liked += [item] if rating >= 4 else []
            posterior[path[-1]] += q
    return np.array([posterior[state] for state in states])


def filtered(history, law):
    tastes, columns = TasteFilter(law, 1), ["ab".index(name) for name in law.visible]
    for item, rating in history:
        tastes.update(np.array([0]), np.array([ITEMS[item]])[:, columns], np.array([rating]))
        tastes.predict(np.array([0]), np.array([1]))
    return tastes.belief[0]


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("visible", [("a", "b"), ("a",)])
def test_belief_is_that_of_enumerating_tastes_views_and_ratings(history, visible):
    """What is shown cancels: it follows from the reports. Of what is not seen, the house still tells something."""
    law = ReaderLaw(MODEL, visible)
    assert law.attributes == ("a", "b")  # the states of b are filtered even where no b is seen
    expected = enumerated(history, "b" in visible)
    assert filtered(history, law) == pytest.approx(expected / expected.sum(), abs=1e-12)


def test_ratings_tell_of_the_taste_in_what_is_not_seen():
    """Two likes of whatever brand are likelier for one whose taste the house shares."""
    belief = filtered([(0, 5), (2, 5)], ReaderLaw(MODEL, ("a",))).reshape(SIZES).sum(axis=0)
    assert belief[0] > belief[1] + 0.01
    plain = TasteModel(MODEL.n_values, MODEL.weights, NOISE, DRIFT, 0.3)
    assert ReaderLaw(plain, ("a",)).attributes == ("a",)


@pytest.mark.parametrize("history", HISTORIES)
def test_a_candidate_scores_its_share_of_views_times_its_chance_of_a_like(history):
    """P(shown next and liked), from enumeration, is ratio / free items * posterior mean, for every item."""
    weights = enumerated(history, sees_b=True)
    states = list(itertools.product(*map(range, SIZES)))
    liked, gone = [item for item, rating in history if rating >= 4], {item for item, _ in history}
    n_free = np.bincount([ITEMS[i][0] for i in range(6) if i not in gone], minlength=3)
    exposure = Exposure(ORDER, np.eye(3)[list(COMPLEMENTS)])
    ratio = exposure.of_categories([ITEMS[item][0] for item in liked], n_free)
    law = ReaderLaw(MODEL, ("a", "b"))
    chance = law.likes(np.array(ITEMS)) @ filtered(history, law)
    for item in range(6):
        exact = sum(
            w * shown(item, liked, gone) * (rated(taste, item, 4) + rated(taste, item, 5))
            for w, taste in zip(weights, states, strict=True)
        )
        found = 0 if item in gone else ratio[ITEMS[item][0]] / n_free.sum() * chance[item]
        assert found == pytest.approx(exact / weights.sum(), abs=1e-12)


def test_whoever_does_not_know_the_house_reads_by_the_mean_law():
    stranger = ReaderLaw(MODEL, ("a", "b"), knows_house=False)
    for rating in (1, 4):
        for taste in itertools.product(*map(range, SIZES)):
            for value in range(3):
                of_each = []  # the value of b that pleases the user, in houses that favour it and that do not
                for sign in (1, -1):
                    bits = [(value - taste[0]) % 3 < 1, True]
                    level = sum(w if bit else -w for w, bit in zip(WEIGHTS, bits, strict=True)) + sign * HOUSE[0]
                    above = [1.0, *(1 / (1 + math.exp(-(level - cut) / NOISE)) for cut in CUTS), 0.0]
                    of_each.append(above[rating - 1] - above[rating])
                found = stranger.likelihood(np.array([[value, taste[1]]]), np.array([rating]))
                assert found[0].reshape(SIZES)[taste] == pytest.approx(np.mean(of_each), abs=1e-12)


def test_a_lapse_leaves_nothing_impossible():
    sure = TasteModel({"a": 2}, {"a": 1.0}, noise=0.0, drift=0.0, like_share=0.5)
    tastes = TasteFilter(ReaderLaw(sure, ("a",), lapse=0.01), 1)
    tastes.update(np.array([0]), np.array([[0]]), np.array([5]))
    tastes.update(np.array([0]), np.array([[0]]), np.array([1]))
    assert tastes.belief[0] == pytest.approx([0.5, 0.5])
    assert ReaderLaw(sure, ("a",), lapse=0.01)._tables[..., :5].sum(axis=-1) == pytest.approx(np.ones((1, 2)))
