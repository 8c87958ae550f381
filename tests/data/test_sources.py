from pathlib import Path

import polars as pl
import pytest

from mllm_srec.data.prepare import picture_folder, read_raw
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, ITEM_SCHEMA
from mllm_srec.data.settings import DemoSettings, PrepareSettings
from mllm_srec.types import ConfigError


def test_tables_are_read(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("user_id,item_id,rating,timestamp\nu,a,5,10\n")
    raw = read_raw(PrepareSettings(source="tables", reviews=str(path)), PrepareReport(), tmp_path)
    assert raw.interactions.select("user_id", "item_id", "rating", "timestamp").rows() == [("u", "a", 5.0, 10_000)]
    assert raw.users is None


def test_amazon_is_read(tmp_path):
    path = tmp_path / "reviews.json"
    path.write_text('{"reviewerID": "u", "asin": "a", "overall": 4.0, "unixReviewTime": 86400, "reviewText": "fine"}\n')
    raw = read_raw(PrepareSettings(source="amazon2014", reviews=str(path)), PrepareReport(), tmp_path)
    assert raw.interactions.rows() == [("u", "a", 4.0, 86_400_000, 0, "fine")]


def test_the_demo_draws_its_pictures_into_the_staging_folder(tmp_path):
    demo = DemoSettings(n_users=4, n_items=30, n_interactions=5)
    raw = read_raw(PrepareSettings(source="demo", demo=demo), PrepareReport(), tmp_path)
    assert dict(raw.interactions.schema) == INTERACTION_SCHEMA
    assert dict(raw.items.schema) == ITEM_SCHEMA
    assert {path.stem for path in tmp_path.glob("*.png")} == set(raw.items["item_id"])
    assert raw.users["user_id"].n_unique() == 4
    assert raw.interactions.filter(pl.col("timestamp") < 0).is_empty()


def test_an_unknown_source_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"prepare\.source='yelp': not one of amazon2014, .*, tables, demo; choose"):
        read_raw(PrepareSettings(source="yelp"), PrepareReport(), tmp_path)


def test_where_pictures_lie():
    staging = Path("staging")
    assert picture_folder(PrepareSettings(source="demo", images="ignored"), staging) == staging
    assert picture_folder(PrepareSettings(images="pictures"), staging) == Path("pictures")
    assert picture_folder(PrepareSettings(), staging) is None
