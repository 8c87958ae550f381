import polars as pl
import pytest

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.schema import ITEM_SCHEMA, USER_SCHEMA
from mllm_srec.data.tables.interactions import kept_items, kept_users
from mllm_srec.types import DataError

INTERACTIONS = pl.DataFrame({"user_id": ["u", "u", "w"], "item_id": ["b", "a", "c"]})


def item(item_id, title="", brand=None, categories=(), description="", image=None):
    return (item_id, title, brand, list(categories), description, None, image, [])


def items(*rows):
    return pl.DataFrame(rows, schema=ITEM_SCHEMA, orient="row")


def test_items_written_out():
    report = PrepareReport()
    raw = items(item("b", "", "Bosch"), item("z", "unused"), item("a", "A doll", image="doll.jpg"))
    kept = kept_items(raw, INTERACTIONS, report)
    assert kept.rows() == [
        ("a", "A doll", None, [], "", None, "doll.jpg", []),
        ("b", "", "Bosch", [], "", None, None, []),
        ("c", "", None, [], "", None, None, []),
    ]
    assert dict(kept.schema) == ITEM_SCHEMA
    assert report.counts == {
        "items": {
            "no metadata, kept with an empty title": 1,
            "metadata of an item without kept interactions, left out": 1,
            "item without title": 2,
            "item without text": 1,
        }
    }
    assert report.examples["items"]["item without text"] == ["c"]


def test_users_written_out():
    report = PrepareReport()
    raw = pl.DataFrame([("z", "a cook"), ("u", "a teacher"), ("w", "")], schema=USER_SCHEMA, orient="row")
    assert kept_users(raw, INTERACTIONS, report).rows() == [("u", "a teacher")]
    assert report.counts == {
        "users": {"user without profile": 1, "profile of a user without kept interactions, left out": 1}
    }


def test_repeated_ids_and_missing_columns_are_refused():
    with pytest.raises(DataError, match="items: 2 rows share their item_id or have none, for example 'a'"):
        kept_items(items(item("a"), item("a")), INTERACTIONS, PrepareReport())
    with pytest.raises(DataError, match=r"items: columns \['title'\] are missing"):
        kept_items(items(item("a")).drop("title"), INTERACTIONS, PrepareReport())
