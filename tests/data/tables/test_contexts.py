import numpy as np
import polars as pl
import pytest

from mllm_srec.data.ratings import RatingRule
from mllm_srec.data.tables.contexts import add_contexts, pair_groups, rank_groups

VISIBLE = {"train": {"train"}, "val": {"train"}, "test": {"train", "val"}}


def table(rows):
    """Rows of (user, item, rating, timestamp, order, split)."""
    names = ["user_id", "item_id", "rating", "timestamp", "order", "split"]
    types = {"timestamp": pl.Int64, "order": pl.Int64}
    return RatingRule().mark(pl.DataFrame(rows, schema=names, orient="row", schema_overrides=types))


SMALL = table(
    [
        ("u", "a", 5.0, 1, 7, "train"),
        ("u", "b", 2.0, 2, 3, "train"),
        ("u", "c", 4.0, 2, 4, "val"),
        ("u", "d", 5.0, 2, 5, "train"),  # same day as b and c: the line decides
        ("u", "e", 1.0, 3, 1, "val"),
        ("u", "f", 5.0, 4, 0, "test"),
        ("u", "g", 5.0, 4, 2, "test"),
        ("w", "a", 3.9, 9, 8, "test"),
    ]
)


def contexts(split, purpose="pair", max_history=50):
    groups = pair_groups(SMALL, split) if purpose == "pair" else rank_groups(SMALL, split, purpose)
    return add_contexts(groups, SMALL, split, max_history)


def test_train_contexts_written_out():
    assert contexts("train").rows() == [
        ("u", "train", 1, 7, "a", 1, "liked", [], []),
        ("u", "train", 2, 3, "b", 0, "disliked", ["a"], []),
        ("u", "train", 2, 5, "d", 1, "liked", ["a"], ["b"]),
    ]


def test_val_contexts_see_train_only():
    assert contexts("val").rows() == [
        ("u", "val", 2, 4, "c", 1, "liked", ["a"], ["b"]),
        ("u", "val", 3, 1, "e", 0, "disliked", ["a", "d"], ["b"]),
    ]


def test_test_contexts_see_train_and_val_but_never_test():
    assert contexts("test").rows() == [
        ("u", "test", 4, 0, "f", 1, "liked", ["a", "c", "d"], ["b", "e"]),
        ("u", "test", 4, 2, "g", 1, "liked", ["a", "c", "d"], ["b", "e"]),
        ("w", "test", 9, 8, "a", 0, "disliked", [], []),
    ]


def test_each_list_keeps_its_latest():
    assert contexts("test", max_history=1).select("history", "disliked").rows()[0] == (["d"], ["e"])


def test_rank_groups_written_out():
    assert contexts("test", "user").rows() == [("u", "test", 4, 0, ["f", "g"], ["a", "c", "d"], ["b", "e"])]
    assert contexts("test", "instance").rows() == [
        ("u", "test", 4, 0, ["f"], ["a", "c", "d"], ["b", "e"]),
        ("u", "test", 4, 2, ["g"], ["a", "c", "d"], ["b", "e"]),
    ]
    assert contexts("val", "user").rows() == [("u", "val", 2, 4, ["c"], ["a"], ["b"])]


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match=r"candidates\.unit='list': .*; choose user or instance"):
        rank_groups(SMALL, "test", "list")


def random_table(seed, n_users=15, n_items=30):
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        for item in rng.choice(n_items, size=rng.integers(1, 25), replace=False):
            split = str(rng.choice(["train", "val", "test"], p=[0.6, 0.2, 0.2]))
            rows.append((f"u{user}", f"i{item}", float(rng.integers(1, 6)), int(rng.integers(-2, 4)), split))
    lines = rng.permutation(len(rows)).tolist()
    return table([(*row[:4], line, row[4]) for row, line in zip(rows, lines, strict=True)])


def seen(rows, user, key, split, liked, max_history):
    """The definition of a context, word by word."""
    own = [row for row in rows if row[0] == user and (row[3], row[4]) < key and row[5] in VISIBLE[split]]
    own.sort(key=lambda row: (row[3], row[4]))
    return [row[1] for row in own if (row[2] >= 4) == liked][-max_history:]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_contexts_against_the_definition(seed, split):
    interactions = random_table(seed)
    rows = interactions.rows()
    groups = add_contexts(pair_groups(interactions, split), interactions.sample(fraction=1, shuffle=True), split, 4)
    assert groups.height == sum(row[5] == split for row in rows)
    for group in groups.iter_rows(named=True):
        key = (group["timestamp"], group["order"])
        assert group["history"] == seen(rows, group["user_id"], key, split, True, 4)
        assert group["disliked"] == seen(rows, group["user_id"], key, split, False, 4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("split", ["val", "test"])
def test_rank_groups_against_the_definition(seed, split):
    interactions = random_table(seed)
    held = [row for row in interactions.rows() if row[5] == split and row[2] >= 4]
    held.sort(key=lambda row: (row[0], row[3], row[4]))
    expected = {}
    for user, item, _, timestamp, order, *_ in held:
        expected.setdefault(user, (timestamp, order, []))[2].append(item)
    found = rank_groups(interactions, split, "user")
    assert found.rows() == [(user, split, *rest) for user, rest in expected.items()]


def test_no_targets_and_no_interactions():
    empty = add_contexts(pair_groups(SMALL.clear(), "train"), SMALL, "train", 50)
    assert (empty.height, empty.schema["history"]) == (0, pl.List(pl.String))
    alone = add_contexts(pair_groups(SMALL, "test"), SMALL.clear(), "test", 50)
    assert alone["history"].to_list() == [[], [], []]
