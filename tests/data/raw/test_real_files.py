"""The readers on real files, against counts made here with plain json, ast, csv and pandas.

Every test runs on the slices that travel with the repository and, where they are, on the whole sets they were cut from.
"""

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
from mllm_srec.data.raw.schema import RawData
from mllm_srec.data.settings import ColumnMapping, PrepareSettings
from tests.conftest import REAL_DATA, SLICES


def both(slice_counts: tuple[Any, ...], whole_counts: tuple[Any, ...], *whole_marks: pytest.MarkDecorator) -> Any:
    """Parameters `root` and `counts`: the folder of data sets, and numbers known of the set in question."""
    whole = pytest.param(REAL_DATA, whole_counts, id="whole", marks=[pytest.mark.real_data, *whole_marks])
    return pytest.mark.parametrize(("root", "counts"), [pytest.param(SLICES, slice_counts, id="slice"), whole])


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


@both((679, 67, 130, 6), (2972, 458, 148, 6))
def test_gift_cards(root, counts):
    folder = root / "amazon2018_gift_cards"
    reviews, metadata = folder / "Gift_Cards_5.json.gz", folder / "meta_Gift_Cards.json.gz"
    n_reviews, n_users, n_items, n_without_text = counts
    report = PrepareReport()
    raw = read_amazon(PrepareSettings(source="amazon2018", reviews=str(reviews), metadata=str(metadata)), report)

    lines = records(reviews)
    assert len(lines) == raw.interactions.height == n_reviews
    assert_same_interactions(raw.interactions, as_pandas(lines))
    assert raw.interactions["user_id"].n_unique() == n_users
    assert raw.interactions["item_id"].n_unique() == n_items
    for line, review in zip(lines, raw.interactions["review"], strict=True):
        words = html.unescape(line.get("reviewText") or line.get("summary") or "").split()
        assert review.split() == words or "<" in line.get("reviewText", "")
    assert sum("reviewText" not in line for line in lines) == n_without_text

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
    assert not_prices == 4
    assert not any("&#" in title or "\n" in title for title in raw.items["title"])


@both((40, 33, 36, 55, 50, 5, 48, 1), (6908, 2490, 382, 7419, 7395, 29, 7321, 4), pytest.mark.slow)
def test_digital_music(root, counts):
    folder = root / "amazon2014_digital_music"
    reviews, metadata = folder / "reviews_Digital_Music_5.json.gz", folder / "meta_Digital_Music.json.gz"
    n_reviews, n_users, n_items, n_metas, n_prices, n_placeholders, n_titles, step = counts
    report = PrepareReport()
    raw = read_amazon(PrepareSettings(source="amazon2014", reviews=str(reviews), metadata=str(metadata)), report)
    assert report.counts == {}

    lines = records(reviews)
    assert len(lines) == n_reviews
    assert_same_interactions(raw.interactions, as_pandas(lines))
    assert (raw.interactions["user_id"].n_unique(), raw.interactions["item_id"].n_unique()) == (n_users, n_items)

    assert raw.items.height == n_metas
    assert raw.items["price"].count() == n_prices
    assert raw.items.filter(pl.col("image_urls").list.len() == 1).height == n_metas - 1 - n_placeholders
    assert raw.items.filter(pl.col("title") == "").height == n_metas - n_titles
    with gzip.open(metadata, "rt", encoding="utf-8") as file:
        metas = [ast.literal_eval(line) for line in islice(file, 0, None, step)]  # literal_eval is slow
    items = raw.items.gather_every(step)
    assert items["item_id"].to_list() == [line["asin"] for line in metas]
    assert items["price"].to_list() == [line.get("price") for line in metas]
    titles = [html.unescape(html.unescape(line.get("title", ""))) for line in metas]
    assert items["title"].to_list() == [" ".join(title.split()) for title in titles]
    categories = [list(dict.fromkeys(html.unescape(c) for path in line["categories"] for c in path)) for line in metas]
    assert items["categories"].to_list() == [[c.strip() for c in found if c.strip()] for found in categories]


@pytest.mark.parametrize(
    "root", [pytest.param(SLICES, id="slice"), pytest.param(REAL_DATA, id="whole", marks=pytest.mark.real_data)]
)
def test_lines_of_2023(root):
    folder = root / "amazon2023_raw_examples"
    settings = PrepareSettings(source="amazon2023", reviews=str(folder / "All_Beauty.reviews.2lines.jsonl"))
    rows = read_amazon(settings, PrepareReport()).interactions.select("item_id", "rating", "timestamp").rows()
    lines = records(folder / "All_Beauty.reviews.2lines.jsonl")
    assert rows == [(line["parent_asin"], line["rating"], line["timestamp"]) for line in lines]
    assert rows[0][2] == 1588687728923

    report = PrepareReport()
    items = read_items(folder / "meta.4lines.jsonl", report)
    metas = records(folder / "meta.4lines.jsonl")
    assert items["item_id"].to_list() == [line["parent_asin"] for line in metas]
    assert items["price"].to_list() == [line["price"] for line in metas]
    assert items["brand"].to_list() == [line["store"] for line in metas]
    urls = [[picture["hi_res"] or picture["large"] for picture in line["images"]] for line in metas]
    assert [set(found) for found in items["image_urls"]] == [set(found) for found in urls]
    assert [found[0] for found in items["image_urls"]] == [found[0] for found in urls]
    assert report.counts == {}


def read_movielens(folder: Path, report: PrepareReport) -> RawData:
    columns = ColumnMapping(user_id="userId", item_id="movieId", categories="genres")
    files = {"reviews": str(folder / "ratings.csv"), "metadata": str(folder / "movies.csv")}
    return read_tables(PrepareSettings(source="tables", columns=columns, **files), report)


@both((1068, 280), (32250, 300))
def test_movielens_goes_through_the_column_mapping(root, counts):
    folder, report = root / "movielens_posters_small", PrepareReport()
    raw = read_movielens(folder, report)
    ratings = pd.read_csv(folder / "ratings.csv", dtype={"userId": str, "movieId": str})
    movies = pd.read_csv(folder / "movies.csv", dtype=str)
    assert (raw.interactions.height, raw.items.height) == counts
    expected = ratings.rename(columns={"userId": "user_id", "movieId": "item_id"}).rename_axis("order").reset_index()
    assert_same_interactions(raw.interactions, expected.assign(timestamp=expected["timestamp"] * 1000))
    assert raw.items["item_id"].to_list() == movies["movieId"].tolist()
    assert raw.items["title"].to_list() == [" ".join(title.split()) for title in movies["title"]]
    assert raw.items["categories"].to_list() == movies["genres"].str.split("|").tolist()
    assert report.counts == {}


@pytest.mark.real_data
def test_posters_of_movielens(tmp_path):
    """Whole set only: the terms of MovieLens let its tables travel, not other people's posters."""
    folder, report = REAL_DATA / "movielens_posters_small", PrepareReport()
    items = read_movielens(folder, report).items
    items = import_pictures(items, folder / "posters", tmp_path / "images", 50_000_000, report)
    posters = {path.stem: path for path in (folder / "posters").iterdir()}
    assert report.counts == {}
    assert items.height == len(posters) == 300
    for item_id, image in items.select("item_id", "image").rows():
        assert (tmp_path / image).read_bytes() == posters[item_id].read_bytes()


@pytest.mark.real_data
def test_pictures_of_gift_cards(tmp_path):
    """Whole set only: product pictures belong to whoever took them."""
    folder = REAL_DATA / "amazon2018_gift_cards"
    reviews, metadata = folder / "Gift_Cards_5.json.gz", folder / "meta_Gift_Cards.json.gz"
    n_items, n_pictures, n_files = 148, 115, 442
    wanted = sorted({line["asin"] for line in records(reviews)})
    report = PrepareReport()
    items = read_items(metadata, report).filter(pl.col("item_id").is_in(wanted))
    items = import_pictures(items, folder / "images", tmp_path / "images", 50_000_000, report)
    files = {path.stem for path in (folder / "images").iterdir()}
    assert items.height == n_items
    assert items["image"].count() == len(files & set(wanted)) == n_pictures
    assert report.counts["pictures"] == {
        "no file of that name": n_items - n_pictures,
        "file that is no item's picture": n_files - n_pictures,
    }
    for image in items["image"].drop_nulls():
        with Image.open(tmp_path / image) as picture:
            assert picture.format == "JPEG"
            picture.load()
