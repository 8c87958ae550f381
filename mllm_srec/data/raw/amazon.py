"""The Amazon review data sets of 2014, 2018 and 2023 in the one shape that preparation works on.

Item metadata may also come as Hugging Face `datasets` hands them out. The layouts share no field name with different
meanings, so one reader takes them all: of each field the first name that holds something counts.
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
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, ITEM_SCHEMA, RawData, RowBuffer
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

REVIEWS, METADATA = "reviews", "metadata"
"""Names of the two stages in the report."""


def read_amazon(settings: PrepareSettings, report: PrepareReport) -> RawData:
    """Reviews and metadata of `source: amazon2014|amazon2018|amazon2023`.

    Args:
        settings: `source`, `reviews`, `metadata` (null: items are known by their ids only) and `strict` are used.
        report: Where everything skipped is counted: stages `reviews` and `metadata`.

    Raises:
        ConfigError: `source` is not one of Amazon's, or `reviews` is not set.
        DataError: A file cannot be used; see `read_reviews`, `read_items`.
    """
    if settings.source not in LAYOUTS:
        raise ConfigError(f"prepare.source is {settings.source!r}; this reader takes {', '.join(LAYOUTS)}.")
    if settings.reviews is None:
        raise ConfigError(f"prepare.source: {settings.source} needs prepare.reviews, the file of reviews; it is null.")
    interactions = read_reviews(Path(settings.reviews), settings.source, report, strict=settings.strict)
    if settings.metadata is None:
        return RawData(interactions, items_without_metadata(interactions, report))
    items = read_items(Path(settings.metadata), report, strict=settings.strict)
    check_overlap(interactions, items, settings.reviews, settings.metadata)
    return RawData(interactions, items)


def items_without_metadata(interactions: pl.DataFrame, report: PrepareReport) -> pl.DataFrame:
    """One row of `ITEM_SCHEMA` per item of the interactions, with nothing but its id; all are counted."""
    items = interactions.select(pl.col("item_id").unique(maintain_order=True))
    report.count(METADATA, "no metadata file, title left empty", items.height)
    empty = {"title": pl.lit(""), "description": pl.lit(""), "categories": pl.lit([]), "image_urls": pl.lit([])}
    columns = [empty.get(name, pl.lit(None)).cast(kind).alias(name) for name, kind in ITEM_SCHEMA.items()]
    return items.select("item_id", *columns[1:])


def check_overlap(interactions: pl.DataFrame, items: pl.DataFrame, reviews: str, metadata: str) -> None:
    """Refuse two files that do not belong together.

    Raises:
        DataError: No item of the interactions is among the items.
    """
    if interactions.join(items, on="item_id", how="semi").is_empty():
        raise DataError(
            f"{reviews} and {metadata} have no item in common (for instance {interactions['item_id'][0]!r} and "
            f"{items['item_id'][0]!r}). Are they of the same category and year, and is the item id column right?"
        )


@dataclass(frozen=True)
class ReviewLayout:
    """Names of the fields of one review line.

    Attributes:
        user_id: Field of the user's id.
        item_id: Fields of the item's id, the first that is there counts.
        rating: Field of the rating.
        time: Field of the Unix time.
        milliseconds_per_unit: Its unit: 1000 for seconds, 1 for milliseconds.
        body: Field of the review's text.
        headline: Field of its headline, which stands in for an empty text.
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


def read_reviews(path: Path, source: str, report: PrepareReport, *, strict: bool = False) -> pl.DataFrame:
    """All reviews of a file in its order; repeats of a (user, item) stay in.

    Args:
        path: Review file, JSON lines, plain or gzip.
        source: A key of `LAYOUTS`.
        report: Where unusable reviews are counted by reason.
        strict: An unusable review is an error with file and line number instead.

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
                    f"{path}:{order + 1}: {error}. Mend or delete the line, or set prepare.strict: false to skip and "
                    "count such reviews."
                ) from None
            report.count(REVIEWS, str(error).split(":")[0], example=f"{path.name}:{order + 1}: {error}")
    interactions = buffer.frame()
    if interactions.is_empty():
        raise DataError(_nothing_usable(path, source, first_keys, report))
    return interactions


def _interaction(record: Mapping[str, Any], layout: ReviewLayout, order: int) -> tuple[Any, ...]:
    """One row; a ValueError says which field is unusable, and what it holds after a colon."""
    user_id = parse_id(record.get(layout.user_id))
    if user_id is None:
        raise ValueError(f"no user id: {layout.user_id}={record.get(layout.user_id)!r}")
    item_id = next((found for name in layout.item_id if (found := parse_id(record.get(name)))), None)
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
    advice = f"This looks like {' or '.join(fitting)}" if fitting else "This looks like none of the known layouts"
    return (
        f"{path}: no usable review with prepare.source: {source} ({report.counts.get(REVIEWS, {})}). The first line "
        f"has the fields {keys}. {advice}; set prepare.source accordingly (source: tables reads any table)."
    )


ID_FIELDS = ("parent_asin", "asin")
BRAND_FIELDS = ("brand", "store")
CATEGORY_FIELDS = ("categories", "category", "main_cat", "main_category")
DESCRIPTION_FIELDS = ("description", "feature", "features")
PICTURE_FIELDS = ("imUrl", "imageURLHighRes", "imageURL", "images")

_BY_LINE = re.compile(r"^\s*by\s*\n")
T = TypeVar("T")


def read_items(path: Path, report: PrepareReport, *, strict: bool = False) -> pl.DataFrame:
    """One row per item of a metadata file, in its order; of repeats the first stays, the others are counted.

    Texts are one line of plain text each (`clean_text`). An empty description is filled from the feature list, empty
    categories from the main category. Items without a title stay, with an empty one.

    Args:
        path: Metadata file, JSON or Python-literal lines, plain or gzip.
        report: Where everything unusable is counted by reason.
        strict: A malformed line is an error instead.

    Returns:
        Columns of `ITEM_SCHEMA`; `image` is null, since Amazon gives addresses only.

    Raises:
        DataError: See `read_records`; no line has an item id; or, with `strict`, one has none.
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
                raise DataError(f"{path}:{index + 1}: no item id ({' or '.join(ID_FIELDS)}). Mend or delete the line.")
            report.count(METADATA, "no item id", example=where)
        elif item_id in seen:
            report.count(METADATA, "item repeated, first kept", example=f"{where}: {item_id}")
        else:
            seen.add(item_id)
            buffer.append(_item(item_id, record, report, where))
    if not seen:
        raise DataError(
            f"{path}: no line has an item id ({' or '.join(ID_FIELDS)}); the first has the fields {first_keys}. "
            "Is this the metadata file? One's own tables are read with prepare.source: tables."
        )
    return buffer.frame()


def _item(item_id: str, record: Mapping[str, Any], report: PrepareReport, where: str) -> tuple[Any, ...]:
    title = clean_text(record.get("title"))
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
    return item_id, title, _first(record, BRAND_FIELDS, _brand), categories, description, price, None, urls


def _brand(value: Any) -> str:
    """A brand name without the page's "by" on the line above it (2018)."""
    return clean_text(_BY_LINE.sub("", value) if isinstance(value, str) else value)


def _joined(value: Any) -> str:
    return " ".join(clean_texts(value))


def _first(record: Mapping[str, Any], names: tuple[str, ...], parse: Callable[[Any], T]) -> T | None:
    """The first of the named fields that holds something, parsed."""
    return next((found for name in names if (found := parse(record.get(name)))), None)
