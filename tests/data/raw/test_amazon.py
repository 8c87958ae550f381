from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.amazon import read_amazon
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, ITEM_SCHEMA, RawData
from mllm_srec.data.settings import PrepareSettings
from mllm_srec.types import ConfigError, DataError

REVIEW_2014 = {
    "reviewerID": "A1",
    "asin": "0205616461",
    "reviewerName": "Kurt",
    "helpful": [1, 1],
    "reviewText": "Wonderful &amp; loud",
    "overall": 5.0,
    "summary": "Yes!",
    "unixReviewTime": 978393600,
    "reviewTime": "01 2, 2001",
}
REVIEW_2018 = {
    "overall": 4.0,
    "vote": "1,024",
    "image": ["https://images.example/review.jpg"],
    "verified": True,
    "reviewTime": "04 24, 2016",
    "reviewerID": "A2",
    "asin": "B00BXLW5QC",
    "summary": "Five Stars",
    "unixReviewTime": 1461456000,
}
REVIEW_2023 = {
    "rating": 2.0,
    "title": "Meh",
    "text": "Nice<br />smell",
    "images": [],
    "asin": "B00VARIANT",
    "parent_asin": "B00PARENT0",
    "user_id": "AGKH",
    "timestamp": 1588687728923,
    "helpful_vote": 0,
    "verified_purchase": True,
}
META_2023 = {
    "main_category": "All Beauty",
    "title": "Leather &quot;Conditioner&quot;",
    "average_rating": 4.8,
    "features": ["Soft", "Cheap"],
    "description": [],
    "price": None,
    "images": [{"thumb": "https://i/t", "large": "https://i/l", "variant": "MAIN", "hi_res": None}],
    "store": "Howard",
    "categories": [],
    "details": {"UPC": "1"},
    "parent_asin": "B00PARENT0",
    "bought_together": None,
}


def write(path: Path, *lines: Any, packed: bool = False) -> str:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    content = "".join(text + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    return str(path)


def read(source: str, reviews: str, metadata: str | None = None, **kwargs) -> tuple[RawData, PrepareReport]:
    report = PrepareReport()
    settings = PrepareSettings(source=source, reviews=reviews, metadata=metadata, **kwargs)
    return read_amazon(settings, report), report


@pytest.mark.parametrize("packed", [False, True])
def test_2014(tmp_path, packed):
    reviews = write(tmp_path / "r", REVIEW_2014, {**REVIEW_2014, "reviewText": ""}, packed=packed)
    url = "http://i.example/51L%2BzYCQWSL._SX300_.jpg"
    line = {
        "categories": [["Music", "Pop &amp; Rock"], ["Music", "Folk"]],
        "asin": "0205616461",
        "imUrl": url,
        "title": 'Don\'t "Stop" &#39;Now&#39;',
        "related": {"also_bought": ["B1"]},
        "salesRank": {},
        "price": 8.91,
        "description": "",
    }
    bare = {"asin": "B0BARE", "categories": [["Music"]]}
    holder = {"asin": "B0HOLD", "categories": [], "imUrl": "http://g/x-site/icons/no-img-lg._V192198674_.gif"}
    metadata = write(tmp_path / "m", repr(line), repr(bare), repr(holder), packed=packed)
    raw, report = read("amazon2014", reviews, metadata)
    assert raw.interactions.schema == INTERACTION_SCHEMA
    assert raw.interactions.rows() == [
        ("A1", "0205616461", 5.0, 978393600000, 0, "Wonderful & loud"),
        ("A1", "0205616461", 5.0, 978393600000, 1, "Yes!"),
    ]
    assert raw.items.schema == ITEM_SCHEMA
    assert raw.items.rows() == [
        ("0205616461", "Don't \"Stop\" 'Now'", None, ["Music", "Pop & Rock", "Folk"], "", 8.91, None, [url]),
        ("B0BARE", "", None, ["Music"], "", None, None, []),
        ("B0HOLD", "", None, [], "", None, None, []),
    ]
    assert raw.users is None
    assert report.counts == {}


def test_2018(tmp_path):
    meta = {
        "category": ["Gift Cards", "Gift Cards"],
        "description": ["First.", "", "Second &amp; last."],
        "title": " Serendipity\n3 ",
        "brand": "",
        "feature": ["not used"],
        "rank": "1,786 in Gift Cards (",
        "main_cat": "Grocery",
        "price": "$1,250.00",
        "asin": "B00BXLW5QC",
        "imageURL": ["https://i/a._SX38_.jpg", "https://i/b._SX38_.jpg"],
        "imageURLHighRes": ["https://i/a.jpg", "https://i/b.jpg"],
    }
    odd = {
        **meta,
        "asin": "B00ODD",
        "title": "var aPageStart = (new Date()).getTime();",
        "description": [],
        "category": [],
        "brand": "by\n    \n    Stand by Me",
        "price": "$5 - $10",
        "imageURLHighRes": [],
    }
    reviews = write(tmp_path / "r", REVIEW_2018)
    metadata = write(tmp_path / "m", meta, odd, {**meta, "title": "again"})
    raw, report = read("amazon2018", reviews, metadata)
    assert raw.interactions.rows() == [("A2", "B00BXLW5QC", 4.0, 1461456000000, 0, "Five Stars")]
    big, small = ["https://i/a.jpg", "https://i/b.jpg"], ["https://i/a._SX38_.jpg", "https://i/b._SX38_.jpg"]
    assert raw.items.rows() == [
        ("B00BXLW5QC", "Serendipity 3", None, ["Gift Cards"], "First. Second & last.", 1250.0, None, big),
        ("B00ODD", "", "Stand by Me", ["Grocery"], "not used", None, None, small),
    ]
    assert report.counts == {
        "metadata": {
            "title is page code, emptied": 1,
            "price does not parse, left empty": 1,
            "item repeated, first kept": 1,
        }
    }


def as_hugging_face(record: dict[str, Any]) -> dict[str, Any]:
    """The same record as `datasets` hands it out."""
    columns = ("hi_res", "large", "thumb", "variant")
    images = {name: [picture.get(name) for picture in record["images"]] for name in columns}
    return {**record, "images": images, "price": str(record["price"]), "details": json.dumps(record["details"])}


@pytest.mark.parametrize("shape", [dict, as_hugging_face])
def test_2023(tmp_path, shape):
    reviews = write(tmp_path / "r", REVIEW_2023, {**REVIEW_2023, "text": "", "parent_asin": None})
    raw, report = read("amazon2023", reviews, write(tmp_path / "m", shape(META_2023)))
    assert raw.interactions.rows() == [
        ("AGKH", "B00PARENT0", 2.0, 1588687728923, 0, "Nice smell"),
        ("AGKH", "B00VARIANT", 2.0, 1588687728923, 1, "Meh"),
    ]
    assert raw.items.rows() == [
        ("B00PARENT0", 'Leather "Conditioner"', "Howard", ["All Beauty"], "Soft Cheap", None, None, ["https://i/l"]),
    ]
    assert report.counts == {}


def test_times_that_are_unlikely_are_pointed_out_with_the_first_and_the_last(tmp_path):
    reviews = [{**REVIEW_2023, "timestamp": time} for time in (1588687728923, -1588687728923)]
    _, report = read("amazon2023", write(tmp_path / "r", *reviews))
    assert report.facts == {"first time": "1919-08-29 09:51", "last time": "2020-05-05 14:08"}
    assert report.counts["reviews"] == {"time before 1995 (negative numbers)": 1}


def test_words_for_nothing_are_no_title_and_no_brand(tmp_path):
    metadata = write(tmp_path / "m", {**META_2023, "title": "nan", "store": "None"})
    raw, report = read("amazon2023", write(tmp_path / "r", REVIEW_2023), metadata)
    assert raw.items.select("title", "brand").rows() == [("", None)]
    assert sum(report.counts["metadata"].values()) == 2


BAD_REVIEWS = [
    ({"reviewerID": None}, "no user id"),
    ({"reviewerID": ""}, "no user id"),
    ({"asin": None}, "no item id"),
    ({"overall": "five"}, "rating does not parse"),
    ({"overall": None}, "rating does not parse"),
    ({"overall": float("nan")}, "rating does not parse"),
    ({"unixReviewTime": "01 2, 2001"}, "time does not parse"),
    ({"unixReviewTime": None}, "time does not parse"),
    ({"unixReviewTime": 978393600000}, "time does not parse"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_REVIEWS)
def test_unusable_review_is_counted_or_an_error(tmp_path, change, reason):
    reviews = write(tmp_path / "r", REVIEW_2014, {**REVIEW_2014, **change}, {**REVIEW_2014, "reviewerID": "A3"})
    raw, report = read("amazon2014", reviews)
    assert raw.interactions.select("user_id", "order").rows() == [("A1", 0), ("A3", 2)]
    assert report.counts["reviews"] == {reason: 1}
    assert report.examples["reviews"][reason][0].startswith(f"r:2: {reason}: ")
    with pytest.raises(DataError, match=rf"r:2: {reason}: .*prepare.strict: false"):
        read("amazon2014", reviews, strict=True)


def test_ids_with_slashes_dots_and_zeros_stay_as_they_are(tmp_path):
    ids = ["0000031887", "a/b", "../x", "v1.2", "CON", "é", 42]
    raw, _ = read("amazon2014", write(tmp_path / "r", *({**REVIEW_2014, "asin": item_id} for item_id in ids)))
    assert raw.interactions["item_id"].to_list() == ["0000031887", "a/b", "../x", "v1.2", "CON", "é", "42"]


def test_without_metadata_items_come_from_the_reviews(tmp_path):
    raw, report = read("amazon2014", write(tmp_path / "r", REVIEW_2014, REVIEW_2014, {**REVIEW_2014, "asin": "B2"}))
    assert raw.items.schema == ITEM_SCHEMA
    assert raw.items.rows() == [
        ("0205616461", "", None, [], "", None, None, []),
        ("B2", "", None, [], "", None, None, []),
    ]
    assert report.counts == {"metadata": {"no metadata file, title left empty": 2}}


def test_wrong_source_names_the_right_one(tmp_path):
    reviews = write(tmp_path / "r", REVIEW_2023, REVIEW_2023)
    with pytest.raises(DataError, match=r"no usable review .*no user id: 2, e.g. r:1: .*which looks like amazon2023;"):
        read("amazon2014", reviews)


def test_metadata_of_another_category_and_without_ids(tmp_path):
    reviews = write(tmp_path / "r", REVIEW_2023)
    with pytest.raises(DataError, match=r"no item in common .*'B00PARENT0' and 'B9'"):
        read("amazon2023", reviews, write(tmp_path / "m", {**META_2023, "parent_asin": "B9"}))
    with pytest.raises(DataError, match=r"no line has an item id \(parent_asin or asin\)"):
        read("amazon2023", reviews, write(tmp_path / "n", {"title": "x"}))


def test_metadata_line_without_id(tmp_path):
    reviews = write(tmp_path / "r", REVIEW_2023)
    metadata = write(tmp_path / "m", META_2023, {"title": "x"}, "not a record")
    raw, report = read("amazon2023", reviews, metadata)
    assert raw.items.height == 1
    assert report.counts == {"metadata": {"no item id": 1, "line is not JSON": 1}}
    with pytest.raises(DataError, match="m:2: no item id"):
        read("amazon2023", reviews, metadata, strict=True)


def test_settings_that_cannot_be():
    with pytest.raises(ConfigError, match=r"prepare\.reviews=null: prepare\.source=amazon2018 needs"):
        read_amazon(PrepareSettings(source="amazon2018"), PrepareReport())
    with pytest.raises(
        ConfigError, match=r"prepare\.source='tables': not a layout of Amazon; choose one of amazon2014"
    ):
        read_amazon(PrepareSettings(source="tables", reviews="x"), PrepareReport())
