"""The readers on real files, against counts made here with plain json, ast, csv and pandas."""

from __future__ import annotations

import ast
import gzip
import html
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from PIL import Image

from mllm_srec.data.pictures.files import import_pictures
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.amazon import read_amazon, read_items
from mllm_srec.data.raw.own_tables import read_tables
from mllm_srec.data.settings import ColumnMapping, PrepareSettings

DATA = Path(__file__).resolve().parents[3] / "../shared/data"
GIFT_CARDS = DATA / "amazon2018_gift_cards"
MUSIC = DATA / "amazon2014_digital_music"
NEWEST = DATA / "amazon2023_raw_examples"
MOVIES = DATA / "movielens_posters_small"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"real data not there: {DATA}")


def records(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def as_pandas(reviews: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(reviews).rename_axis("order").reset_index()
    names = {"reviewerID": "user_id", "asin": "item_id", "overall": "rating"}
    return table.rename(columns=names).assign(timestamp=table["unixReviewTime"] * 1000)


def assert_same_interactions(read: pl.DataFrame, expected: pd.DataFrame) -> None:
    for column in ("user_id", "item_id", "rating", "timestamp", "order"):
        assert read[column].to_list() == expected[column].tolist(), column


def test_gift_cards():
    reviews, metadata = GIFT_CARDS / "Gift_Cards_5.json.gz", GIFT_CARDS / "meta_Gift_Cards.json.gz"
    report = PrepareReport()
    raw = read_amazon(PrepareSettings(source="amazon2018", reviews=str(reviews), metadata=str(metadata)), report)

    lines = records(reviews)
    assert len(lines) == raw.interactions.height == 2972
    assert_same_interactions(raw.interactions, as_pandas(lines))
    assert raw.interactions["user_id"].n_unique() == 458
    assert raw.interactions["item_id"].n_unique() == 148
    for line, review in zip(lines, raw.interactions["review"], strict=True):
        words = html.unescape(line.get("reviewText") or line.get("summary") or "").split()
        assert review.split() == words or "<" in line.get("reviewText", "")
    assert sum("reviewText" not in line for line in lines) == 6

    metas = {line["asin"]: line for line in reversed(records(metadata))}  # reversed: the first of repeats wins
    assert raw.items["item_id"].to_list() == list(reversed(metas))
    for item in raw.items.iter_rows(named=True):
        line = metas[item["item_id"]]
        assert item["image_urls"] == list(dict.fromkeys(line["imageURLHighRes"] or line["imageURL"]))
        assert (item["brand"] or "") == html.unescape(line["brand"]).strip().removeprefix("by\n    \n    ")
        if "<" not in line["title"]:
            assert item["title"] == " ".join(html.unescape(line["title"]).split())
        if line["price"][:1] == "$":
            assert item["price"] == float(line["price"].replace("$", "").replace(",", "")), line["price"]
    not_prices = sum(line["price"][:1] != "$" and line["price"] != "" for line in metas.values())
    assert report.counts == {"metadata": {"price does not parse, left empty": not_prices}}
    assert not any("&#" in title or "\n" in title for title in raw.items["title"])


def test_digital_music():
    reviews, metadata = MUSIC / "reviews_Digital_Music_5.json.gz", MUSIC / "meta_Digital_Music.json.gz"
    report = PrepareReport()
    raw = read_amazon(PrepareSettings(source="amazon2014", reviews=str(reviews), metadata=str(metadata)), report)
    assert report.counts == {}

    lines = records(reviews)
    assert len(lines) == 6908
    assert_same_interactions(raw.interactions, as_pandas(lines))
    assert (raw.interactions["user_id"].n_unique(), raw.interactions["item_id"].n_unique()) == (2490, 382)

    assert raw.items.height == 7419
    assert raw.items["price"].count() == 7395
    assert raw.items.filter(pl.col("image_urls").list.len() == 1).height == 7418 - 29  # 29 placeholders
    assert raw.items.filter(pl.col("title") == "").height == 7419 - 7321
    with gzip.open(metadata, "rt", encoding="utf-8") as file:
        metas = [ast.literal_eval(line) for line in islice(file, 0, None, 4)]  # every fourth: it is slow
    items = raw.items.gather_every(4)
    assert items["item_id"].to_list() == [line["asin"] for line in metas]
    assert items["price"].to_list() == [line.get("price") for line in metas]
    titles = [html.unescape(html.unescape(line.get("title", ""))) for line in metas]
    assert items["title"].to_list() == [" ".join(title.split()) for title in titles]
    categories = [list(dict.fromkeys(html.unescape(c) for path in line["categories"] for c in path)) for line in metas]
    assert items["categories"].to_list() == [[c.strip() for c in found if c.strip()] for found in categories]


def test_lines_of_2023():
    settings = PrepareSettings(source="amazon2023", reviews=str(NEWEST / "All_Beauty.reviews.2lines.jsonl"))
    rows = read_amazon(settings, PrepareReport()).interactions.select("item_id", "rating", "timestamp").rows()
    lines = records(NEWEST / "All_Beauty.reviews.2lines.jsonl")
    assert rows == [(line["parent_asin"], line["rating"], line["timestamp"]) for line in lines]
    assert rows[0][2] == 1588687728923

    report = PrepareReport()
    items = read_items(NEWEST / "meta.4lines.jsonl", report)
    metas = records(NEWEST / "meta.4lines.jsonl")
    assert items["item_id"].to_list() == [line["parent_asin"] for line in metas]
    assert items["price"].to_list() == [line["price"] for line in metas]
    assert items["brand"].to_list() == [line["store"] for line in metas]
    urls = [[picture["hi_res"] or picture["large"] for picture in line["images"]] for line in metas]
    assert [set(found) for found in items["image_urls"]] == [set(found) for found in urls]
    assert [found[0] for found in items["image_urls"]] == [found[0] for found in urls]
    assert report.counts == {}


def test_movielens_goes_through_the_column_mapping(tmp_path):
    columns = ColumnMapping(user_id="userId", item_id="movieId", categories="genres")
    settings = PrepareSettings(
        source="tables", reviews=str(MOVIES / "ratings.csv"), metadata=str(MOVIES / "movies.csv"), columns=columns
    )
    report = PrepareReport()
    raw = read_tables(settings, report)
    ratings = pd.read_csv(MOVIES / "ratings.csv", dtype={"userId": str, "movieId": str})
    movies = pd.read_csv(MOVIES / "movies.csv", dtype=str)
    assert raw.interactions.height == 32250
    expected = ratings.rename(columns={"userId": "user_id", "movieId": "item_id"}).rename_axis("order").reset_index()
    assert_same_interactions(raw.interactions, expected.assign(timestamp=expected["timestamp"] * 1000))
    assert raw.items["item_id"].to_list() == movies["movieId"].tolist()
    assert raw.items["title"].to_list() == [" ".join(title.split()) for title in movies["title"]]
    assert raw.items["categories"].to_list() == movies["genres"].str.split("|").tolist()
    assert report.counts == {}

    items = import_pictures(raw.items, MOVIES / "posters", tmp_path / "images", 50_000_000, report)
    posters = {path.stem: path for path in (MOVIES / "posters").iterdir()}
    assert report.counts == {}
    assert items.height == len(posters) == 300
    for item_id, image in items.select("item_id", "image").rows():
        assert (tmp_path / image).read_bytes() == posters[item_id].read_bytes()


def test_pictures_of_gift_cards(tmp_path):
    reviews, metadata = GIFT_CARDS / "Gift_Cards_5.json.gz", GIFT_CARDS / "meta_Gift_Cards.json.gz"
    wanted = sorted({line["asin"] for line in records(reviews)})
    report = PrepareReport()
    items = read_items(metadata, report).filter(pl.col("item_id").is_in(wanted))
    items = import_pictures(items, GIFT_CARDS / "images", tmp_path / "images", 50_000_000, report)
    files = {path.stem for path in (GIFT_CARDS / "images").iterdir()}
    assert items.height == 148
    assert items["image"].count() == len(files & set(wanted)) == 115
    assert report.counts["pictures"] == {"no file of that name": 33, "file that is no item's picture": 442 - 115}
    for image in items["image"].drop_nulls():
        with Image.open(tmp_path / image) as picture:
            assert picture.format == "JPEG"
            picture.load()
