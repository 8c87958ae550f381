"""Rules of a shop: how they are drawn, what is shown by them, and that default shops are those of versions without."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mllm_srec.data.demo.rules import Exposure, draw_complements, draw_house, draw_shown
from mllm_srec.data.demo.shop import CATEGORY, draw_interactions, generate_demo, simulate
from mllm_srec.data.demo.truth import TasteModel
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import CandidateSettings, DemoSettings, PrepareSettings
from mllm_srec.types import ConfigError

SMALL = DemoSettings(n_users=40, n_items=60, n_interactions=12, image_size=8)
RULED = replace(SMALL, order=0.6, house=0.3)
KINDS = np.repeat(np.arange(6), 10)

# --- without rules nothing changes ------------------------------------------------------------------------------------

BEFORE = {  # of the last version without rules
    "random": {
        "items": "346f1324a14abf93",
        "interactions": "82cebf697ed040e2",
        "users": "47fc775d8a2d1e9b",
        "groups": "9c3ca183c323df5f",
        "samples": "ed7151148cd0d50e",
        "candidates": "5b4a7d79334a0f16",
        "ceilings": "12b4a2cc765f50c2",
    },
    "leave_one_out": {
        "items": "346f1324a14abf93",
        "interactions": "7a1f45afa5a31641",
        "users": "47fc775d8a2d1e9b",
        "groups": "462663ee6c88ba77",
        "samples": "f39e5787c468e537",
        "candidates": "4f043cc5c377b02f",
        "ceilings": "017ee61b538b5c7e",
    },
}


@pytest.mark.parametrize("split", BEFORE)
def test_a_shop_without_rules_has_the_tables_that_it_always_had(tmp_path, split):
    prepare_dataset(
        tmp_path / "shop", PrepareSettings(source="demo", split=split, demo=SMALL), CandidateSettings(n_negatives=10)
    )
    found = {
        name: hashlib.sha256(repr(pl.read_parquet(tmp_path / "shop" / f"{name}.parquet").rows()).encode()).hexdigest()
        for name in BEFORE[split]
    }
    assert {name: value[:16] for name, value in found.items()} == BEFORE[split]


# --- drawn per shop ---------------------------------------------------------------------------------------------------


def test_complements_are_one_cycle_that_differs_between_shops():
    maps = [draw_complements(replace(RULED, seed=seed)) for seed in range(40)]
    for complements in maps:
        at, seen = 0, []
        for _ in range(6):
            seen.append(at)
            at = int(complements[at])
        assert sorted(seen) == list(range(6))
        assert at == 0
    assert len({tuple(complements) for complements in maps}) > 20
    assert draw_complements(replace(RULED, n_users=7, order=0.1)).tolist() == maps[0].tolist()


def test_the_house_favours_a_third_of_brands_and_materials_and_disfavours_as_many():
    assert draw_house(SMALL) == {}
    houses = [draw_house(replace(RULED, seed=seed)) for seed in range(20)]
    for house in houses:
        assert sorted(house["brand"]) == [-0.3, -0.3, 0, 0, 0.3, 0.3]
        assert sorted(house["material"]) == [-0.3, 0, 0, 0.3]
    assert len({house["brand"] for house in houses}) > 10


def test_rules_leave_items_and_the_first_tastes_alone():
    plain, ruled = simulate(SMALL), simulate(RULED)
    assert (plain.values == ruled.values).all()
    assert (plain.tastes[:, 0] == ruled.tastes[:, 0]).all()
    assert (plain.first_day == ruled.first_day).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 1.2}, r"order=1\.2: out of range; give a number from 0 to 1"),
        ({"house": -0.1}, r"house=-0\.1: too small; give 0"),
        ({"last_likes": -1}, r"last_likes=-1: too small; give 0"),
    ],
)
def test_rules_out_of_range_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        simulate(replace(SMALL, **changes))


def test_the_share_of_liked_items_stays_about_what_was_asked_for():
    for house in (0.0, 0.1, 0.3, 0.6):
        model = TasteModel.from_settings(replace(SMALL, house=house, noise=0.0))
        assert model.expected_like_share == pytest.approx(0.125, abs=0.04)


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("liked", [[], [2], [0, 2], [5, 2, 2], [1, 0, 2]])
@pytest.mark.parametrize("gone", [[], [*range(30, 38)], [*range(30, 40)], [*range(10, 20), *range(41, 50)]])
def test_items_are_drawn_as_often_as_the_readers_believe(liked, gone):
    n, complements = 60_000, np.array([1, 3, 4, 5, 0, 2])
    free = np.ones(60, dtype=bool)
    free[gone] = False
    newest = ([*liked[::-1], -1, -1])[:2]
    drawn = draw_shown(
        complements, 0.6, KINDS, np.tile(free, (n, 1)), np.tile(newest, (n, 1)), np.random.default_rng(0).random((n, 3))
    )
    share = np.bincount(drawn, minlength=60) / n
    n_free = np.bincount(KINDS[free], minlength=6)
    ratio = Exposure(0.6, np.eye(6)[complements]).of_categories(liked, n_free)
    expected = np.where(free, ratio[KINDS], 0) / free.sum()
    assert expected.sum() == pytest.approx(1)
    assert share == pytest.approx(expected, abs=5 * (expected.max() / n) ** 0.5)
    assert (drawn != gone[0]).all() if gone else True


def test_whoever_does_not_know_the_shop_believes_in_the_mean_over_all_shops():
    n_free = np.array([4, 7, 0, 9, 2, 5])
    cycles = set()
    for cycle in itertools.permutations(range(6)):
        complements = [0] * 6
        for kind, following in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            complements[kind] = following
        cycles.add(tuple(complements))
    assert len(cycles) == 120
    stranger = Exposure.of_any_shop(RULED)
    for liked in ([], [3], [1, 3], [0, 4, 4]):
        of_each = [Exposure(0.6, np.eye(6)[list(c)]).of_categories(liked, n_free) for c in cycles]
        assert stranger.of_categories(liked, n_free)[n_free > 0] == pytest.approx(np.mean(of_each, axis=0)[n_free > 0])


def test_without_likes_or_without_order_everything_is_as_likely():
    assert Exposure.of_shop(SMALL).of_categories([1, 2], np.full(6, 3)).tolist() == [1.0] * 6
    assert Exposure.of_shop(RULED).of_categories([], np.full(6, 3)).tolist() == [1.0] * 6


# --- simulated histories ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walks():
    """Every view of a larger shop: kind shown, P(each kind shown | reports before), taste state of the category."""
    settings = replace(RULED, n_users=600, n_interactions=10, drift=0.02, noise=0.1)
    simulation, exposure = simulate(settings), Exposure.of_shop(settings)
    kinds = simulation.values[:, CATEGORY]
    shown, expected, states, seen_before = [], [], [], []
    for user in range(settings.n_users):
        n_free, liked = np.bincount(kinds, minlength=6), []
        for day, item in enumerate(simulation.views[user]):
            if simulation.reported[user, :day].sum() >= 10:
                break
            shown.append(kinds[item])
            expected.append(exposure.of_categories(liked, n_free) * n_free / n_free.sum())
            states.append(simulation.tastes[user, day, CATEGORY])
            if simulation.reported[user, day]:
                n_free[kinds[item]] -= 1
                seen_before.append((user, item))
                if simulation.ratings[user, day] >= 4:
                    liked.append(int(kinds[item]))
    assert len(set(seen_before)) == len(seen_before), "an item was reported twice"
    return np.array(shown), np.array(expected), np.array(states)


def test_the_next_item_follows_the_rule(walks):
    shown, expected, _ = walks
    assert len(shown) > 20_000
    for low, high in ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 1.0)):
        chosen = (expected >= low) & (expected < high)
        hits = (np.arange(6) == shown[:, None])[chosen]
        assert chosen.sum() > 500
        assert hits.mean() == pytest.approx(expected[chosen].mean(), abs=4 * (hits.var() / hits.size) ** 0.5)


def test_what_is_shown_does_not_depend_on_taste_given_the_reports_before(walks):
    """Beyond what the rule says of likes, no taste state sees more or less of any kind; without it, it would."""
    shown, expected, states = walks
    hits = np.arange(6) == shown[:, None]
    scores, raw = [], []
    for state in range(6):
        here = states == state
        excess = hits[here] - expected[here]
        scores.append(excess.sum(axis=0) / np.sqrt((expected[here] * (1 - expected[here])).sum(axis=0)))
        raw.append((hits[here].mean(axis=0) - hits.mean(axis=0)) / np.sqrt(hits.var(axis=0) / here.sum()))
    assert np.abs(scores).max() < 4
    assert np.abs(raw).max() > 6, "likes follow taste, so exposure does, too, where reports are left aside"


def test_the_same_settings_give_the_same_shop_and_every_item_is_reported_once(tmp_path):
    raw = generate_demo(RULED, tmp_path)
    assert raw.interactions.equals(draw_interactions(RULED))
    assert raw.interactions.select("user_id", "item_id").is_unique().all()
    counts = raw.interactions["user_id"].value_counts()["count"]
    assert counts.max() == 12
    assert counts.mean() > 11.5


def test_what_the_house_favours_is_liked_more():
    settings = replace(RULED, n_users=400, order=0.0)
    simulation, house = simulate(settings), draw_house(settings)
    for column, name in ((3, "brand"), (4, "material")):
        seen = simulation.values[simulation.views][..., column]
        offset = np.array(house[name])[seen]
        likes = [(simulation.ratings >= 4)[offset == level].mean() for level in (-0.3, 0, 0.3)]
        assert likes[0] + 0.03 < likes[1] < likes[2] - 0.03
