import numpy as np
import polars as pl
import pytest

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.ratings import RatingRule
from mllm_srec.data.settings import CandidateSettings, PrepareSettings
from mllm_srec.data.tables.targets import CANDIDATE_SCHEMA, GROUP_SCHEMA, SAMPLE_SCHEMA, build_tables
from mllm_srec.types import DataError

CATALOGUE = pl.Series([f"i{n:02}" for n in range(30)])


def table(rows):
    """Rows of (user, item, rating, timestamp, order, split)."""
    names = ["user_id", "item_id", "rating", "timestamp", "order", "split"]
    types = {"timestamp": pl.Int64, "order": pl.Int64}
    return RatingRule().mark(pl.DataFrame(rows, schema=names, orient="row", schema_overrides=types))


def random_table(seed, n_users=14, most=20, first=1):
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        for item in rng.choice(CATALOGUE, size=rng.integers(first, most), replace=False):
            split = str(rng.choice(["train", "val", "test"], p=[0.6, 0.2, 0.2]))
            rows.append((f"u{user:02}", str(item), float(rng.integers(1, 6)), int(rng.integers(4)), len(rows), split))
    return table(rows)


def build(interactions, catalogue=CATALOGUE, report=None, max_history=50, **candidates):
    settings = PrepareSettings(max_history=max_history)
    report = PrepareReport() if report is None else report
    return build_tables(interactions, catalogue, settings, CandidateSettings(**candidates), report)


def test_tables_written_out():
    # three items: each user has at most one item left, so nothing is left to chance
    interactions = table(
        [
            ("u", "a", 5.0, 1, 0, "train"),
            ("u", "b", 4.0, 2, 1, "test"),
            ("w", "c", 1.0, 1, 2, "train"),
            ("w", "a", 5.0, 3, 3, "val"),
            ("x", "a", 5.0, 4, 4, "train"),
            ("x", "c", 3.0, 4, 5, "train"),
            ("x", "b", 5.0, 4, 6, "test"),
        ]
    )
    report = PrepareReport()
    tables = build(interactions, pl.Series(["a", "b", "c"]), report, n_negatives=2)
    assert tables.groups.rows() == [
        (0, "pair", "u", "train", 1, 0, [], []),
        (1, "pair", "w", "train", 1, 2, [], []),
        (2, "pair", "x", "train", 4, 4, [], []),
        (3, "pair", "x", "train", 4, 5, ["a"], []),
        (4, "pair", "w", "val", 3, 3, [], ["c"]),
        (5, "pair", "u", "test", 2, 1, ["a"], []),
        (6, "pair", "x", "test", 4, 6, ["a"], ["c"]),
        (7, "rank", "w", "val", 3, 3, [], ["c"]),
        (8, "rank", "u", "test", 2, 1, ["a"], []),
        (9, "rank", "x", "test", 4, 6, ["a"], ["c"]),
    ]
    negative_of_u = tables.samples.row(1)[3]
    assert negative_of_u in {"b", "c"}  # the held-out b is allowed in train
    assert tables.samples.rows() == [
        (0, 0, "u", "a", 1, "liked", "train"),
        (1, 0, "u", negative_of_u, 0, "sampled", "train"),
        (2, 1, "w", "c", 0, "disliked", "train"),
        (3, 2, "x", "a", 1, "liked", "train"),
        (4, 2, "x", "b", 0, "sampled", "train"),  # x's only item outside train, held out or not
        (5, 3, "x", "c", 0, "disliked", "train"),
        (6, 4, "w", "a", 1, "liked", "val"),
        (7, 4, "w", "b", 0, "sampled", "val"),
        (8, 5, "u", "b", 1, "liked", "test"),
        (9, 5, "u", "c", 0, "sampled", "test"),
        (10, 6, "x", "b", 1, "liked", "test"),  # x knows everything: no negative
    ]
    assert tables.candidates.rows() == [
        (7, "w", "a", 1, "liked", 0, "val"),
        (7, "w", "b", 0, "sampled", 1, "val"),
        (8, "u", "b", 1, "liked", 0, "test"),
        (8, "u", "c", 0, "sampled", 1, "test"),
        (9, "x", "b", 1, "liked", 0, "test"),
    ]
    assert report.counts == {
        "groups": {"pair train: no history": 3, "pair val: no history": 1, "rank val: no history": 1},
        "samples": {"test: no item left for a negative": 1},
        "candidates": {
            "val: list with fewer than 2 negatives": 1,
            "test: list with fewer than 2 negatives": 2,
        },
    }
    assert report.facts == {
        "groups, pair train": 4, "groups, pair val": 1, "groups, pair test": 2, "groups, rank val": 1,
        "groups, rank test": 2,
    }  # fmt: skip


@pytest.mark.parametrize("unit", ["user", "instance"])
@pytest.mark.parametrize("seed", range(4))
def test_negatives_against_the_definition(seed, unit):
    interactions = random_table(seed)
    rows = interactions.rows()
    tables = build(interactions, seed=seed, n_negatives=12, unit=unit)
    split_of_group = dict(tables.groups.select("group_id", "split").rows())
    for group, user, item, kind in tables.samples.select("group_id", "user_id", "item_id", "kind").rows():
        if kind == "sampled":
            avoided = {
                row[1] for row in rows if row[0] == user and (row[5] == "train" or split_of_group[group] != "train")
            }
            assert item not in avoided
    for group in tables.groups.filter(pl.col("purpose") == "rank").iter_rows(named=True):
        user, split = group["user_id"], group["split"]
        known = {row[1] for row in rows if row[0] == user}
        own = tables.candidates.filter(pl.col("group_id") == group["group_id"])
        negatives = own.filter(pl.col("kind") == "sampled")
        assert negatives.height == min(12, 30 - len(known)) == negatives["item_id"].n_unique()
        assert not known & set(negatives["item_id"])
        assert negatives["position"].to_list() == list(range(1, negatives.height + 1))
        held = sorted((row[3], row[4], row[1]) for row in rows if row[0] == user and row[5] == split and row[2] >= 4)
        if unit == "instance":
            held = [entry for entry in held if entry[:2] == (group["timestamp"], group["order"])]
        assert held[0][:2] == (group["timestamp"], group["order"])
        positives = own.filter(pl.col("position") == 0)
        assert positives["item_id"].to_list() == [item for _, _, item in held]
        assert set(positives.select("label", "kind", "split").rows()) == {(1, "liked", split)}


@pytest.mark.parametrize("seed", range(4))
def test_every_interaction_has_its_pair_group(seed):
    interactions = random_table(seed)
    tables = build(interactions)
    observed = tables.samples.filter(pl.col("kind") != "sampled").join(
        tables.groups, on=["group_id", "user_id", "split"]
    )
    key = ["user_id", "item_id", "timestamp", "order", "split"]
    assert sorted(observed.select(key).rows()) == sorted(interactions.select(key).rows())
    liked = interactions.filter(pl.col("rating") >= 4).height
    assert tables.samples["kind"].value_counts().sort("kind").rows() == [
        ("disliked", interactions.height - liked), ("liked", liked), ("sampled", liked),
    ]  # fmt: skip
    users = {split: set(interactions.filter((pl.col("split") == split) & (pl.col("rating") >= 4))["user_id"])
             for split in ("val", "test")}  # fmt: skip
    ranked = tables.groups.filter(pl.col("purpose") == "rank")
    assert sorted(ranked.select("split", "user_id").rows()) == sorted(
        (split, user) for split in users for user in users[split]
    )


def test_schema_ids_and_order():
    tables = build(random_table(0))
    assert dict(tables.groups.schema) == GROUP_SCHEMA
    assert dict(tables.samples.schema) == SAMPLE_SCHEMA
    assert dict(tables.candidates.schema) == CANDIDATE_SCHEMA
    assert list(tables.groups.columns) == [
        "group_id", "purpose", "user_id", "split", "timestamp", "order", "history", "disliked",
    ]  # fmt: skip
    assert list(tables.candidates.columns) == [
        "group_id", "user_id", "item_id", "label", "kind", "position", "split",
    ]  # fmt: skip
    assert tables.groups["group_id"].to_list() == list(range(tables.groups.height))
    assert tables.samples["sample_id"].to_list() == list(range(tables.samples.height))
    places = tables.candidates.select("group_id", "position")
    assert places.equals(places.sort("group_id", "position"))


def train_part(tables):
    """Everything of train as bytes."""
    groups = tables.groups.filter(pl.col("split") == "train")
    samples = tables.samples.filter(pl.col("split") == "train")
    return groups.write_ndjson() + samples.write_ndjson()


def exchange(interactions, seed):
    """Replace each user's held-out items by others, change their ratings and move a few between val and test."""
    rng = np.random.default_rng(seed)
    rows = []
    for user, own in interactions.group_by("user_id", maintain_order=True):
        train = own.filter(pl.col("split") == "train")
        free = sorted(set(CATALOGUE) - set(train["item_id"]))
        rows += train.drop("liked").rows()
        for n, item in enumerate(rng.choice(free, size=rng.integers(1, min(9, len(free))), replace=False)):
            split = str(rng.choice(["val", "test"]))
            key = (int(rng.integers(4)), 10_000 + 100 * int(user[0][1:]) + n)
            rows.append((user[0], str(item), float(rng.integers(1, 6)), *key, split))
    return table([rows[n] for n in rng.permutation(len(rows))])


@pytest.mark.parametrize("seed", range(25))
def test_exchanging_held_out_items_changes_no_byte_of_train(seed):
    interactions = random_table(seed)
    one = build(interactions, seed=seed, max_history=5)
    other = build(exchange(interactions, seed), seed=seed, max_history=5)
    assert train_part(one) == train_part(other)
    assert not one.candidates.equals(other.candidates)  # so that the exchange was one


def test_train_negatives_do_not_tell_held_out_items():
    # if negatives avoided them, "was never a negative" would reveal what a user likes later
    interactions = random_table(3, n_users=400, most=12, first=6)
    tables = build(interactions)
    negatives = tables.samples.filter((pl.col("split") == "train") & (pl.col("kind") == "sampled"))
    held_out = interactions.filter(pl.col("split") != "train")
    hits = negatives.join(held_out, on=["user_id", "item_id"], how="semi").height
    outside = held_out.group_by("user_id").len("held").join(
        interactions.filter(pl.col("split") == "train").group_by("user_id").agg(free=30 - pl.len()), on="user_id"
    )  # fmt: skip
    chance = negatives.join(outside, on="user_id").select((pl.col("held") / pl.col("free")).sum()).item()
    assert hits == pytest.approx(chance, rel=0.15)


def test_the_order_of_rows_and_catalogue_has_no_influence():
    interactions = random_table(1)
    one = build(interactions)
    other = build(interactions.sample(fraction=1, shuffle=True, seed=2), CATALOGUE.reverse())
    assert one.groups.equals(other.groups)
    assert one.samples.equals(other.samples)
    assert one.candidates.equals(other.candidates)


def test_the_seed_of_candidates_decides():
    assert not build(random_table(1)).samples.equals(build(random_table(1), seed=1).samples)


def test_max_users_draws_whole_users_per_split():
    report = PrepareReport()
    interactions = random_table(2, n_users=20)
    every, few = build(interactions, unit="instance"), build(interactions, report=report, unit="instance", max_users=3)
    for split in ("val", "test"):
        drawn = few.groups.filter((pl.col("purpose") == "rank") & (pl.col("split") == split))
        possible = every.groups.filter((pl.col("purpose") == "rank") & (pl.col("split") == split))
        users = drawn["user_id"].unique()
        assert len(users) == 3
        assert drawn.height == possible.filter(pl.col("user_id").is_in(users.to_list())).height
        assert report.counts["candidates"][f"{split}: user not drawn (max_users)"] == possible["user_id"].n_unique() - 3
    assert few.samples.equals(every.samples)
    assert set(few.candidates["group_id"]) == set(few.groups.filter(pl.col("purpose") == "rank")["group_id"])


def test_train_only_gives_empty_candidates_with_the_right_columns():
    tables = build(table([("u", "i00", 5.0, 1, 0, "train")]))
    assert tables.candidates.height == 0
    assert dict(tables.candidates.schema) == CANDIDATE_SCHEMA
    assert tables.groups.height == 1


def test_an_item_outside_the_catalogue_is_refused():
    with pytest.raises(
        DataError, match="1 interactions have an item outside the catalogue of 30 items, for example 'z'"
    ):
        build(table([("u", "z", 5.0, 1, 0, "train")]))
