"""Amazon reviews of 2014, 2018 and 2023 as interactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.raw import INTERACTION_SCHEMA
from mllm_srec.data.raw_lines import read_records
from mllm_srec.data.raw_rows import RowBuffer
from mllm_srec.data.raw_values import clean_text, parse_id, parse_number, parse_time
from mllm_srec.data.report import PrepareReport
from mllm_srec.types import DataError

STAGE = "reviews"
"""Name of this stage in the report."""


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
    for order, record in read_records(path, report, STAGE, strict=strict):
        first_keys = first_keys or list(record)
        try:
            buffer.append(_interaction(record, layout, order))
        except ValueError as error:
            if strict:
                raise DataError(
                    f"{path}:{order + 1}: {error}. Mend or delete the line, or set prepare.strict: false to skip and "
                    "count such reviews."
                ) from None
            report.count(STAGE, str(error).split(":")[0], example=f"{path.name}:{order + 1}: {error}")
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
        f"{path}: no usable review with prepare.source: {source} ({report.counts.get(STAGE, {})}). The first line has "
        f"the fields {keys}. {advice}; set prepare.source accordingly (source: tables reads any table)."
    )
