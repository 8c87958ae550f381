from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.ratings import RatingRule
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA
from mllm_srec.data.tables.splits import assign_splits

LIKE, DISLIKE = 5.0, 2.0


def table(rows):
    """Rows of (user, item, rating, timestamp, order)."""
    return RatingRule().mark(pl.DataFrame([(*row, "") for row in rows], schema=INTERACTION_SCHEMA, orient="row"))


def splits_of(rows, split, seed=0):
    """{(user, item): split}."""
    result = assign_splits(table(rows), split, seed, PrepareReport())
    return {(user, item): name for user, item, name in result.select("user_id", "item_id", "split").rows()}


def random_rows(seed, n_users=60, n_items=40, most=14):
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        for item in rng.choice(n_items, size=rng.integers(1, most), replace=False):
            rows.append((f"u{user:02}", f"i{item:02}", float(rng.integers(1, 6)), int(rng.integers(5)), len(rows)))
    return rows


def by_user(rows):
    """{user: likes in order of their key}, {user: dislikes}."""
    likes, dislikes = defaultdict(list), defaultdict(list)
    for row in sorted(rows, key=lambda row: (row[3], row[4])):
        (likes if row[2] >= 4 else dislikes)[row[0]].append(row)
    return likes, dislikes


@pytest.mark.parametrize("seed", range(5))
def test_random_gives_each_user_the_numbers_of_the_rule(seed):
    rows = random_rows(seed, most=40)
    found = splits_of(rows, "random", seed)
    likes, _ = by_user(rows)
    assert max(len(own) for own in likes.values()) > 15  # so that more than one is held out
    for user, own in likes.items():
        n = len(own)
        held = max(1, round(0.1 * n))
        expected = {1: (1, 0, 0), 2: (1, 0, 1)}.get(n, (n - 2 * held, held, held))
        counted = Counter(found[user, row[1]] for row in own)
        assert (counted["train"], counted["val"], counted["test"]) == expected


@pytest.mark.parametrize(
    ("n", "held_out"), [(3, 1), (5, 1), (14, 1), (15, 2), (24, 2), (25, 2), (26, 3), (35, 4), (45, 4)]
)
def test_ten_percent_are_rounded_as_python_rounds(n, held_out):
    counted = Counter(splits_of([("u", f"i{k:02}", LIKE, k, k) for k in range(n)], "random").values())
    assert (counted["val"], counted["test"], counted["train"]) == (held_out, held_out, n - 2 * held_out)


@pytest.mark.parametrize("seed", range(5))
def test_random_fulfils_the_four_wishes_where_there_is_room(seed):
    rows = random_rows(seed, n_items=25)
    found = splits_of(rows, "random", seed)
    likes, _ = by_user(rows)
    of_item = defaultdict(list)
    for user, own in likes.items():
        names = [found[user, row[1]] for row in own]
        assert "train" in names
        assert len(own) < 2 or "test" in names
        for row in own:
            of_item[row[1]].append(found[user, row[1]])
    assert all("train" in names for names in of_item.values())
    assert all("test" in names for names in of_item.values() if len(names) >= 2)


def test_what_stays_impossible_is_counted():
    # u has two likes of items that nobody else likes: one must be in test, so it is not in train
    rows = [("u", "a", LIKE, 1, 0), ("u", "b", LIKE, 2, 1), ("v", "c", LIKE, 1, 2), ("w", "c", LIKE, 1, 3),
            ("x", "d", DISLIKE, 1, 4)]  # fmt: skip
    report = PrepareReport()
    result = assign_splits(table(rows), "random", 1, report)
    counts = dict(report.counts["splits"])
    counts.pop("user not in train", None)  # x has no like, and its dislike may be drawn to any split
    assert counts == {"liked item not in train": 1, "item liked twice not in test": 1}
    assert report.examples["splits"]["item liked twice not in test"] == ["c"]
    assert result.filter(pl.col("item_id") == "c")["split"].to_list() == ["train", "train"]
    assert report.facts["share of likes in train"] == 0.75
    assert report.facts["share of likes in test"] == 0.25


def test_users_with_dislikes_only_are_not_forced_into_train():
    rows = [(f"u{n}", "a", DISLIKE, 1, n) for n in range(400)]
    report = PrepareReport()
    result = assign_splits(table(rows), "random", 0, report)
    outside = result.filter(pl.col("split") != "train").height
    assert 40 < outside < 130
    assert report.counts["splits"]["user not in train"] == outside


def test_random_draws_dislikes_80_10_10():
    rows = [(f"u{n % 50}", f"i{n // 50}", DISLIKE, 1, n) for n in range(20_000)]
    shares = assign_splits(table(rows), "random", 0, PrepareReport())["split"].value_counts()
    found = dict(shares.rows())
    assert found["train"] == pytest.approx(16_000, abs=200)
    assert found["val"] == pytest.approx(2_000, abs=150)
    assert found["test"] == pytest.approx(2_000, abs=150)


@pytest.mark.parametrize("split", ["random", "leave_one_out", "global_time"])
def test_the_order_of_rows_has_no_influence_and_the_seed_decides(split):
    frame = table(random_rows(0))
    shuffled = frame.sample(fraction=1, shuffle=True, seed=5)
    one = assign_splits(frame, split, 7, PrepareReport())
    assert one.equals(assign_splits(shuffled, split, 7, PrepareReport()))
    other = assign_splits(frame, split, 8, PrepareReport())
    assert one.equals(other) == (split != "random")


def test_held_out_likes_are_not_chosen_by_time():
    rows = [(f"u{n // 10:03}", f"i{n % 97}", LIKE, n % 10, n) for n in range(6_000)]
    result = assign_splits(table(rows), "random", 0, PrepareReport())
    places = Counter(result.filter(pl.col("split") == "test")["timestamp"].to_list())
    expected = 600 / 10
    chi_square = sum((places[place] - expected) ** 2 / expected for place in range(10))
    assert chi_square < 27.9  # 9 degrees of freedom, p = .001


def test_leave_one_out_written_out():
    rows = [
        ("u", "a", LIKE, 1, 9),
        ("u", "b", LIKE, 2, 5),  # same day as c, earlier line: val
        ("u", "c", LIKE, 2, 6),  # test
        ("u", "d", DISLIKE, 2, 4),  # before b
        ("u", "e", DISLIKE, 2, 7),  # after c
        ("w", "a", LIKE, 1, 1),
        ("w", "b", DISLIKE, 5, 2),
        ("w", "c", LIKE, 3, 3),  # two likes: all train
        ("x", "a", LIKE, 1, 10),
        ("x", "b", LIKE, 2, 11),
        ("x", "c", DISLIKE, 3, 12),  # between the val like and the test like
        ("x", "d", LIKE, 4, 13),
        ("y", "a", DISLIKE, 1, 14),
    ]
    assert splits_of(rows, "leave_one_out") == {
        ("u", "a"): "train", ("u", "b"): "val", ("u", "c"): "test", ("u", "d"): "train", ("u", "e"): "test",
        ("w", "a"): "train", ("w", "b"): "train", ("w", "c"): "train",
        ("x", "a"): "train", ("x", "b"): "val", ("x", "c"): "val", ("x", "d"): "test",
        ("y", "a"): "train",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_leave_one_out_against_plain_python(seed):
    rows = random_rows(seed)
    likes, dislikes = by_user(rows)
    expected = {}
    for user in likes.keys() | dislikes.keys():
        own = likes[user]
        begin = {"val": own[-2][3:], "test": own[-1][3:]} if len(own) >= 3 else {}
        for row in own + dislikes[user]:
            passed = [name for name in ("val", "test") if name in begin and row[3:] >= begin[name]]
            expected[user, row[1]] = passed[-1] if passed else "train"
    assert splits_of(rows, "leave_one_out") == expected


def test_global_time_written_out():
    likes = [(f"u{n % 3}", f"i{n}", LIKE, 100 if n < 5 else 200, n) for n in range(10)]  # two days: lines decide
    dislikes = [("u0", "x", DISLIKE, 200, 7), ("u1", "y", DISLIKE, 200, 8), ("u2", "z", DISLIKE, 201, 0)]
    found = splits_of(likes + dislikes, "global_time")
    assert [found[f"u{n % 3}", f"i{n}"] for n in range(10)] == ["train"] * 8 + ["val", "test"]
    assert [found["u0", "x"], found["u1", "y"], found["u2", "z"]] == ["train", "val", "test"]


def test_global_time_never_puts_a_later_row_into_an_earlier_split():
    result = assign_splits(table(random_rows(1)), "global_time", 0, PrepareReport()).sort("timestamp", "order")
    codes = result["split"].replace_strict({"train": 0, "val": 1, "test": 2}).to_list()
    assert codes == sorted(codes)
    likes = result.filter(pl.col("rating") >= 4)["split"].value_counts()
    n, shares = sum(likes["count"]), dict(likes.rows())
    assert shares["train"] == -(-8 * n // 10)
    assert shares["train"] + shares["val"] == -(-9 * n // 10)


@pytest.mark.parametrize("split", ["random", "leave_one_out", "global_time"])
def test_one_interaction_in_all(split):
    assert splits_of([("u", "a", LIKE, 1, 0)], split) == {("u", "a"): "train"}


@pytest.mark.parametrize("split", ["leave_one_out", "global_time"])
def test_without_likes_everything_is_train(split):
    assert splits_of([("u", "a", DISLIKE, 1, 0)], split) == {("u", "a"): "train"}


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"split='time': not one of random, leave_one_out, global_time; choose"):
        splits_of([("u", "a", LIKE, 1, 0)], "time")
