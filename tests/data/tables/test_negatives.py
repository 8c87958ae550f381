import hashlib
import itertools
from collections import Counter

import numpy as np
import polars as pl
import pytest

from mllm_srec.data.manifest import candidates_hash
from mllm_srec.data.tables import negatives
from mllm_srec.data.tables.negatives import draw_users, random_stream, sample_negatives

ITEMS = pl.Series([f"i{n:02}" for n in range(40)])


def lists(users):
    return pl.DataFrame({"group_id": range(100, 100 + len(users)), "user_id": users})


def excluded(pairs):
    return pl.DataFrame(pairs, schema={"user_id": pl.String, "item_id": pl.String}, orient="row")


def draw(users, pairs, n, seed=0, items=ITEMS):
    return sample_negatives(lists(users), excluded(pairs), items, n, np.random.default_rng(seed))


@pytest.mark.parametrize("n", [0, 1, 3, 10, 30, 40, 100])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_shuffled", [0, 10**9], ids=["from the rest", "from all"])
def test_lists_are_full_distinct_and_allowed(n, seed, max_shuffled, monkeypatch):
    monkeypatch.setattr("mllm_srec.data.tables.negatives.MAX_SHUFFLED", max_shuffled)
    rng = np.random.default_rng(seed)
    pairs = [(f"u{user}", str(item)) for user in range(8) for item in rng.choice(ITEMS, 6 * user, replace=user > 6)]
    users = [f"u{user}" for user in rng.integers(9, size=30)]  # u8 has no exclusions
    drawn = draw(users, [*pairs, ("u0", "not in the catalogue"), ("nobody", "i00")], n, seed)
    for group, user in enumerate(users, start=100):
        own = drawn.filter(pl.col("group_id") == group)
        forbidden = {item for name, item in pairs if name == user}
        assert own["item_id"].n_unique() == own.height == min(n, 40 - len(forbidden))
        assert not forbidden & set(own["item_id"])
        assert set(own["user_id"]) <= {user}
        assert own["position"].to_list() == list(range(1, own.height + 1))
    assert drawn["group_id"].is_sorted()


def test_the_same_seed_gives_the_same_lists_and_another_seed_others():
    users = ["u", "v"] * 10
    assert draw(users, [("u", "i00")], 5).equals(draw(users, [("u", "i00")], 5))
    assert not draw(users, [("u", "i00")], 5).equals(draw(users, [("u", "i00")], 5, seed=1))


# (catalogue, exclusions, n): the first draws one item after another, the others shuffle the whole catalogue
@pytest.mark.parametrize("max_shuffled", [0, 10**9], ids=["from the rest", "from all"])
@pytest.mark.parametrize(("size", "taken", "n"), [(12, 2, 3), (12, 8, 2), (6, 1, 3)])
def test_every_ordered_selection_is_equally_likely(size, taken, n, max_shuffled, monkeypatch):
    monkeypatch.setattr("mllm_srec.data.tables.negatives.MAX_SHUFFLED", max_shuffled)
    allowed = ITEMS[taken:size].to_list()
    ways = list(itertools.permutations(allowed, n))
    n_lists = 60 * len(ways)
    drawn = draw(["u"] * n_lists, [("u", item) for item in ITEMS[:taken]], n, 3, ITEMS[:size])
    found = Counter(tuple(own) for own in drawn["item_id"].reshape((n_lists, n)).to_list())
    assert set(found) <= set(ways)
    chi_square = sum((found[way] - 60) ** 2 / 60 for way in ways)
    freedom = len(ways) - 1
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)  # four standard deviations


def test_popular_and_rare_items_are_drawn_alike_by_users_with_different_exclusions():
    users = [f"u{n % 4}" for n in range(20_000)]
    pairs = [(f"u{user}", ITEMS[item]) for user in range(4) for item in range(user, user + 8)]
    drawn = draw(users, pairs, 6, 5)
    for user in range(4):
        counts = drawn.filter(pl.col("user_id") == f"u{user}")["item_id"].value_counts()["count"].to_numpy()
        expected = 5_000 * 6 / 32
        assert counts.size == 32
        # draws of a list exclude each other, so the variance is smaller than that of 31 degrees of freedom
        assert ((counts - expected) ** 2 / expected).sum() < 61.1  # p = .001


def test_streams_are_separate():
    numbers = {
        (seed, purpose, split): random_stream(seed, purpose, split).integers(2**60)
        for seed in (0, 1)
        for purpose in ("pair", "rank")
        for split in ("train", "val", "test")
    }
    assert len(set(numbers.values())) == 12
    assert random_stream(1, "rank", "test").integers(2**60) == numbers[1, "rank", "test"]


def test_twenty_thousand_users_with_a_hundred_negatives():
    rng = np.random.default_rng(0)
    users = [f"u{n}" for n in range(20_000)]
    items = pl.Series([f"i{n}" for n in range(10_000)])
    known = pl.DataFrame(
        {"user_id": rng.choice(users, 180_000), "item_id": items.gather(rng.integers(10_000, size=180_000))}
    )
    drawn = sample_negatives(lists(users), known, items, 100, np.random.default_rng(0))
    assert drawn.height == 2_000_000
    assert drawn.join(known, on=["user_id", "item_id"], how="semi").is_empty()
    assert drawn.select("group_id", "item_id").is_duplicated().sum() == 0


def test_draw_users_takes_whole_users_without_regard_to_order():
    groups = lists([f"u{n // 2}" for n in range(40)])
    few = draw_users(groups, 7, np.random.default_rng(1))
    assert few["user_id"].n_unique() == 7
    assert few.height == 14
    again = draw_users(groups.reverse(), 7, np.random.default_rng(1))
    assert again.sort("group_id").equals(few)
    assert draw_users(groups, None, np.random.default_rng(1)).equals(groups)
    assert draw_users(groups, 20, np.random.default_rng(1)).equals(groups)


def rank_tables():
    groups = pl.DataFrame(
        {
            "group_id": [0, 1, 2],
            "purpose": ["pair", "rank", "rank"],
            "user_id": ["u", "u", "w"],
            "history": [["a"], ["a"], []],
        },
        schema_overrides={"history": pl.List(pl.String)},
    )
    candidates = pl.DataFrame(
        {"group_id": [1, 1, 2], "item_id": ["b", "c", "b"], "label": [1, 0, 1], "position": [0, 1, 0]}
    )
    return groups, candidates


def test_candidates_hash_sees_lists_and_contexts_but_not_order_or_pairs():
    groups, candidates = rank_tables()
    digest = candidates_hash(groups, candidates)
    assert len(digest) == 64
    assert digest == candidates_hash(groups[1:].reverse(), candidates.reverse().select(sorted(candidates.columns)))
    other_item = candidates.with_columns(item_id=pl.Series(["b", "d", "b"]))
    other_history = groups.with_columns(history=pl.Series([["a"], ["x"], []], dtype=pl.List(pl.String)))
    assert len({digest, candidates_hash(groups, other_item), candidates_hash(other_history, candidates)}) == 3


def test_a_user_of_fifty_thousand_interactions_shuffles_no_catalogue(monkeypatch):
    """40,000 lists over 60,000 items: shuffled for each list they would be 2,400 million, some minutes."""
    items = pl.Series([f"i{n:05}" for n in range(60_000)])
    known = items.head(50_000)
    pairs = pl.DataFrame({"user_id": ["heavy"] * 50_000, "item_id": known})
    many = pl.DataFrame({"group_id": range(40_001), "user_id": ["heavy"] * 40_000 + ["light"]})
    monkeypatch.setattr(negatives, "_shuffle_catalogue", lambda *args: pytest.fail("a catalogue was shuffled"))
    drawn = sample_negatives(many, pairs, items, 2, np.random.default_rng(0))
    assert drawn.height == 80_002
    heavy = drawn.filter(user_id="heavy")
    assert heavy.filter(pl.col("item_id").is_in(known.to_list())).is_empty()
    assert heavy["item_id"].n_unique() > 9_900
    assert drawn.group_by("group_id").agg(pl.col("item_id").n_unique())["item_id"].unique().to_list() == [2]


@pytest.mark.parametrize(("n", "digest"), [(30, "28de25b9e6a530f3"), (3, "329a0dc785d9e2ee")])
def test_draws_are_those_of_frozen_lists(n, digest):
    """Hashes from before lists were drawn from what users left: small data sets keep their candidates."""
    rng = np.random.default_rng(7)
    pairs = [(f"u{user}", str(item)) for user in range(9) for item in rng.choice(ITEMS, 4 * user, replace=False)]
    drawn = draw([f"u{index % 10}" for index in range(60)], pairs, n, 5)
    assert hashlib.sha256(drawn.write_ndjson().encode()).hexdigest()[:16] == digest
