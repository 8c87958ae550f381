import numpy as np
import polars as pl
import pytest

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.ratings import RatingRule
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA
from mllm_srec.data.tables.interactions import deduplicate, k_core
from mllm_srec.types import DataError


def table(*rows):
    """Rows of (user, item, rating, timestamp, order)."""
    return RatingRule().mark(pl.DataFrame([(*row, "") for row in rows], schema=INTERACTION_SCHEMA, orient="row"))


def test_the_earliest_of_repeats_stays_and_the_line_number_breaks_ties_of_a_day():
    day = 86_400_000
    raw = table(
        ("u", "a", 1.0, 2 * day, 0),
        ("u", "a", 5.0, 1 * day, 4),  # same day as line 3, later line
        ("u", "b", 4.0, 1 * day, 2),
        ("u", "a", 2.0, 1 * day, 3),
        ("v", "a", 3.0, 9 * day, 1),
    )
    report = PrepareReport()
    kept = deduplicate(raw, report)
    assert kept.drop("review", "liked").rows() == [
        ("u", "b", 4.0, 1 * day, 2),
        ("u", "a", 2.0, 1 * day, 3),
        ("v", "a", 3.0, 9 * day, 1),
    ]
    assert report.counts == {"interactions": {"repeat of a (user, item), the earliest stays": 2}}
    assert report.examples["interactions"]["repeat of a (user, item), the earliest stays"] == ["u, a: 3"]


def test_deduplicate_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    rows = [(f"u{rng.integers(4)}", f"i{rng.integers(5)}", 5.0, int(rng.integers(3)), n) for n in range(60)]
    expected = {}
    for row in rows:  # plain Python: smallest (timestamp, order) per pair
        pair = row[:2]
        if pair not in expected or row[3:] < expected[pair][3:]:
            expected[pair] = row
    shuffled = table(*rows).sample(fraction=1, shuffle=True, seed=3)
    kept = deduplicate(shuffled, PrepareReport())
    assert kept.drop("review", "liked").rows() == sorted(expected.values(), key=lambda row: (row[0], row[3], row[4]))


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [(0, None, "user_id"), (0, "", "user_id"), (1, None, "item_id"), (2, None, "rating"), (2, float("nan"), "rating"),
     (3, None, "timestamp"), (4, None, "order")],
)  # fmt: skip
def test_a_row_without_a_key_is_an_error(column, value, name):
    row = ["u", "a", 5.0, 1, 0]
    row[column] = value
    with pytest.raises(DataError, match=f"interactions: 1 rows have no {name}, for example"):
        deduplicate(table(("u", "b", 5.0, 1, 1), tuple(row)), PrepareReport())


def test_a_missing_column_is_an_error():
    with pytest.raises(DataError, match=r"columns \['review'\] are missing"):
        deduplicate(table(("u", "b", 5.0, 1, 1)).drop("review"), PrepareReport())


def slow_k_core(pairs, k):
    """Drop one offender at a time, until none is left."""
    pairs = set(pairs)
    while True:
        for side in (0, 1):
            names = [pair[side] for pair in pairs]
            offender = next((name for name in names if names.count(name) < k), None)
            if offender is not None:
                pairs = {pair for pair in pairs if pair[side] != offender}
                break
        else:
            return pairs


@pytest.mark.parametrize("seed", range(8))
def test_k_core_is_the_fixed_point(seed):
    rng = np.random.default_rng(seed)
    pairs = sorted({(f"u{rng.integers(12)}", f"i{rng.integers(12)}") for _ in range(55)})
    rows = table(*[(user, item, 5.0, n, n) for n, (user, item) in enumerate(pairs)])
    report = PrepareReport()
    kept = k_core(rows, 3, report)
    expected = slow_k_core(pairs, 3)
    assert set(kept.select("user_id", "item_id").rows()) == expected
    users, items = ({pair[side] for pair in pairs} - {pair[side] for pair in expected} for side in (0, 1))
    counts = report.counts.get("k-core", {})
    assert counts.get("users with too few interactions", 0) == len(users)
    assert counts.get("items with too few interactions", 0) == len(items)
    assert counts.get("interactions of dropped users and items", 0) == len(pairs) - len(expected)


def test_k_core_needs_several_rounds_on_a_chain():
    # d has one user; without it user w has one item; without w item c has one user; ... only the square stays
    square = [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b")]
    pairs = [*square, ("v", "c"), ("w", "c"), ("w", "d")]
    report = PrepareReport()
    kept = k_core(table(*[(user, item, 5.0, n, n) for n, (user, item) in enumerate(pairs)]), 2, report)
    assert kept.select("user_id", "item_id").rows() == square
    assert report.facts == {"k-core rounds": 3}
    assert report.counts["k-core"] == {
        "users with too few interactions": 1,
        "items with too few interactions": 2,
        "interactions of dropped users and items": 3,
    }


def test_k_core_of_one_keeps_everything_and_says_nothing():
    report = PrepareReport()
    assert k_core(table(("u", "a", 1.0, 1, 0)), 1, report).height == 1
    assert report.counts == {}


def test_k_core_below_one_is_refused():
    with pytest.raises(ValueError, match="k=0: k_core must be at least 1"):
        k_core(table(("u", "a", 1.0, 1, 0)), 0, PrepareReport())
