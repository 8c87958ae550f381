"""Reader of the Amazon review data sets of 2014, 2018 and 2023: reviews and item metadata.

Metadata may also have the layout of Hugging Face `datasets`. No field name means different things in two layouts, so
one reader serves all: it tries the names of a field in order and takes the first that holds a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.lines import read_records
from mllm_srec.data.raw.schema import (
    INTERACTION_SCHEMA,
    ITEM_SCHEMA,
    METADATA,
    REVIEWS,
    RawData,
    RowBuffer,
    check_overlap,
    items_without_metadata,
    read_text,
)
from mllm_srec.data.raw.times import report_times
from mllm_srec.data.raw.values import (
    clean_text,
    clean_texts,
    is_page_code,
    parse_id,
    parse_number,
    parse_price,
    parse_time,
    picture_urls,
)
from mllm_srec.data.settings import PrepareSettings
from mllm_srec.types import ConfigError, DataError

T = TypeVar("T")

ID_FIELDS = ("parent_asin", "asin")
BRAND_FIELDS = ("brand", "store")
CATEGORY_FIELDS = ("categories", "category", "main_cat", "main_category")
DESCRIPTION_FIELDS = ("description", "feature", "features")
PICTURE_FIELDS = ("imUrl", "imageURLHighRes", "imageURL", "images")
"""Metadata fields in the order in which they are tried."""

_BY_LINE = re.compile(r"^\s*by\s*\n")


@dataclass(frozen=True)
class ReviewLayout:
    """Names of the fields of one review line.

    Attributes:
        user_id: Field of the user's id.
        item_id: Fields of the item's id, in the order in which they are tried.
        rating: Field of the rating.
        time: Field of the Unix time.
        milliseconds_per_unit: Unit of that time: 1000 for seconds, 1 for milliseconds.
        body: Field of the review's text.
        headline: Field of the review's headline, which replaces an empty text.
    """

    user_id: str
    item_id: tuple[str, ...]
    rating: str
    time: str
    milliseconds_per_unit: int
    body: str
    headline: str


_BEFORE_2023 = ReviewLayout("reviewerID", ("asin",), "overall", "unixReviewTime", 1000, "reviewText", "summary")
LAYOUTS: dict[str, ReviewLayout] = {
    "amazon2014": _BEFORE_2023,
    "amazon2018": _BEFORE_2023,
    "amazon2023": ReviewLayout("user_id", ("parent_asin", "asin"), "rating", "timestamp", 1, "text", "title"),
}


def read_amazon(settings: PrepareSettings, report: PrepareReport) -> RawData:
    """Read the reviews and metadata of `source: amazon2014|amazon2018|amazon2023`.

    Args:
        settings: `source`, `reviews`, `metadata` (null: items have an id and nothing else) and `strict` are used.
        report: Receives counts of everything skipped, in the stages `reviews` and `metadata`.

    Returns:
        Interactions and items; Amazon has no user profiles.

    Raises:
        ConfigError: `source` is not one of Amazon's, or `reviews` is not set.
        DataError: A file cannot be used; see `read_reviews` and `read_items`.
    """
    if settings.source not in LAYOUTS:
        raise ConfigError(
            f"prepare.source={settings.source!r}: not a layout of Amazon; choose one of {', '.join(LAYOUTS)}"
        )
    if settings.reviews is None:
        raise ConfigError(
            f"prepare.reviews=null: prepare.source={settings.source} needs the file of reviews; set prepare.reviews"
        )
    interactions = read_reviews(Path(settings.reviews), settings.source, report, strict=settings.strict)
    if settings.metadata is None:
        return RawData(interactions, items_without_metadata(interactions, report))
    items = read_items(Path(settings.metadata), report, strict=settings.strict)
    check_overlap(interactions, items, settings.reviews, settings.metadata, report)
    return RawData(interactions, items)


def read_reviews(path: Path, source: str, report: PrepareReport, *, strict: bool = False) -> pl.DataFrame:
    """Read all usable reviews of a file, in file order; duplicates of a (user, item) are kept.

    Args:
        path: Review file, JSON lines, plain or gzip.
        source: Key of `LAYOUTS`.
        report: Receives counts of unusable reviews by reason.
        strict: Raise at an unusable review, with file and line number, instead of counting it.

    Returns:
        Columns of `INTERACTION_SCHEMA`; `order` is the line number from 0, `timestamp` Unix milliseconds.

    Raises:
        DataError: See `read_records`; no review is usable; or, with `strict`, one is not.
    """
    layout = LAYOUTS[source]
    buffer = RowBuffer(INTERACTION_SCHEMA)
    first_keys: list[str] = []
    for order, record in read_records(path, report, REVIEWS, strict=strict):
        first_keys = first_keys or list(record)
        try:
            buffer.append(_interaction(record, layout, order))
        except ValueError as error:
            if strict:
                raise DataError(
                    f"{path}:{order + 1}: {error}; correct or delete the line, or set prepare.strict: false to skip "
                    "and count such reviews"
                ) from None
            report.count(REVIEWS, str(error).split(":")[0], example=f"{path.name}:{order + 1}: {error}")
    interactions = buffer.frame()
    if interactions.is_empty():
        raise DataError(_nothing_usable(path, source, first_keys, report))
    report_times(interactions["timestamp"], report, REVIEWS)
    return interactions


def read_items(path: Path, report: PrepareReport, *, strict: bool = False) -> pl.DataFrame:
    """Read one row per item of a metadata file, in file order; of duplicates the first is kept, the rest are counted.

    Every text becomes one line of plain text (`clean_text`). An empty description is filled from the feature list,
    empty categories from the main category. Items without a title are kept, with an empty one.

    Args:
        path: Metadata file, JSON or Python-literal lines, plain or gzip.
        report: Receives counts of everything unusable by reason.
        strict: Raise at a malformed line instead of counting it.

    Returns:
        Columns of `ITEM_SCHEMA`; `image` is null, since Amazon gives only addresses.

    Raises:
        DataError: See `read_records`; no line has an item id; or, with `strict`, a line has none.
    """
    buffer = RowBuffer(ITEM_SCHEMA)
    seen: set[str] = set()
    first_keys: list[str] = []
    for index, record in read_records(path, report, METADATA, strict=strict):
        first_keys = first_keys or list(record)
        where = f"{path.name}:{index + 1}"
        item_id = _first(record, ID_FIELDS, parse_id)
        if item_id is None:
            if strict:
                raise DataError(
                    f"{path}:{index + 1}: no item id ({' or '.join(ID_FIELDS)}); correct or delete the line"
                )
            report.count(METADATA, "no item id", example=where)
        elif item_id in seen:
            report.count(METADATA, "item repeated, first kept", example=f"{where}: {item_id}")
        else:
            seen.add(item_id)
            buffer.append(_item(item_id, record, report, where))
    if not seen:
        raise DataError(
            f"{path}: no line has an item id ({' or '.join(ID_FIELDS)}), the first has the fields {first_keys}; "
            "check that this is the metadata file (your own tables are read with prepare.source: tables)"
        )
    return buffer.frame()


def _interaction(record: Mapping[str, Any], layout: ReviewLayout, order: int) -> tuple[Any, ...]:
    """Make one row; a ValueError names the unusable field and, after a colon, its value."""
    user_id = parse_id(record.get(layout.user_id))
    if user_id is None:
        raise ValueError(f"no user id: {layout.user_id}={record.get(layout.user_id)!r}")
    item_id = _first(record, layout.item_id, parse_id)
    if item_id is None:
        raise ValueError(f"no item id: {layout.item_id[0]}={record.get(layout.item_id[0])!r}")
    rating = parse_number(record.get(layout.rating))
    if rating is None:
        raise ValueError(f"rating does not parse: {layout.rating}={record.get(layout.rating)!r}")
    timestamp = parse_time(record.get(layout.time), layout.milliseconds_per_unit)
    if timestamp is None:
        raise ValueError(f"time does not parse: {layout.time}={record.get(layout.time)!r}")
    review = clean_text(record.get(layout.body)) or clean_text(record.get(layout.headline))
    return user_id, item_id, rating, timestamp, order, review


def _nothing_usable(path: Path, source: str, keys: list[str], report: PrepareReport) -> str:
    fitting = [name for name, layout in LAYOUTS.items() if {layout.user_id, layout.rating, layout.time} <= set(keys)]
    advice = " or ".join(fitting) if fitting else "none of the Amazon layouts"
    examples = report.examples.get(REVIEWS, {})
    reasons = "; ".join(
        f"{name}: {n:,}, e.g. {examples[name][0]}" for name, n in report.counts.get(REVIEWS, {}).items()
    )
    return (
        f"{path}: no usable review with prepare.source={source} ({reasons}); the first line "
        f"has the fields {keys}, which looks like {advice}; set prepare.source accordingly (tables reads any table)"
    )


def _item(item_id: str, record: Mapping[str, Any], report: PrepareReport, where: str) -> tuple[Any, ...]:
    title = read_text(record.get("title"), report, METADATA, "title", where)
    if is_page_code(title):
        report.count(METADATA, "title is page code, emptied", example=f"{where}: {title}")
        title = ""
    description = _first(record, DESCRIPTION_FIELDS, _joined) or ""
    price, is_odd = parse_price(record.get("price"))
    if is_odd:
        report.count(
            METADATA, "price does not parse, left empty", example=f"{where}: {clean_text(record.get('price'))}"
        )
    categories = _first(record, CATEGORY_FIELDS, clean_texts) or []
    urls = _first(record, PICTURE_FIELDS, picture_urls) or []
    brand = read_text(_first(record, BRAND_FIELDS, _brand), report, METADATA, "brand", where) or None
    return item_id, title, brand, categories, description, price, None, urls


def _brand(value: Any) -> str:
    """Return a brand name without the page's "by" on the line above it (2018)."""
    return clean_text(_BY_LINE.sub("", value) if isinstance(value, str) else value)


def _joined(value: Any) -> str:
    return " ".join(clean_texts(value))


def _first(record: Mapping[str, Any], names: tuple[str, ...], parse: Callable[[Any], T]) -> T | None:
    """Return the parsed value of the first of the named fields that holds one."""
    return next((value for name in names if (value := parse(record.get(name)))), None)
