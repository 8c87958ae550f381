from collections import Counter

import numpy as np
import polars as pl
import pytest

from mllm_srec.data.ratings import RatingRule
from mllm_srec.data.tables.popularity import item_popularity
from mllm_srec.types import DataError

ROWS = [
    ("u1", "a", 5.0, "train"),
    ("u2", "a", 4.0, "train"),  # 4 is liked
    ("u3", "a", 3.9, "train"),  # and less is not
    ("u1", "b", 5.0, "val"),
    ("u2", "b", 5.0, "test"),
    ("u3", "b", 4.5, "train"),
    ("u1", "c", 1.0, "train"),
]
INTERACTIONS = RatingRule().mark(pl.DataFrame(ROWS, schema=["user_id", "item_id", "rating", "split"], orient="row"))


def test_train_likes_are_counted_in_the_order_of_the_items():
    counts = item_popularity(INTERACTIONS, pl.DataFrame({"item_id": ["d", "c", "b", "a"]}))
    assert counts.dtype == np.int64
    assert counts.tolist() == [0, 0, 1, 2]


def test_an_empty_table_gives_zeros():
    assert item_popularity(INTERACTIONS[:0], pl.DataFrame({"item_id": ["a", "b"]})).tolist() == [0, 0]


def test_a_prepared_data_set(shop):
    expected = Counter(
        row["item_id"] for row in shop.interactions.to_dicts() if row["split"] == "train" and row["rating"] >= 4
    )
    counts = item_popularity(shop.interactions.sample(fraction=1, shuffle=True, seed=1), shop.items)
    assert counts.tolist() == [expected[item] for item in shop.items["item_id"]]
    assert sum(expected.values()) > 0


@pytest.mark.parametrize(
    ("items", "match"),
    [(["a", "c"], "1 liked items are not among the 2 items, for example 'b'"), (["a", "b", "b"], "1 ids occur twice")],
)
def test_tables_that_do_not_belong_together_are_refused(items, match):
    with pytest.raises(DataError, match=match):
        item_popularity(INTERACTIONS, pl.DataFrame({"item_id": items}))
