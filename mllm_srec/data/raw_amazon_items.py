"""Amazon item metadata of 2014, 2018 and 2023, also as Hugging Face `datasets` hands it out.

The layouts share no field name with different meanings, so one reader takes them all: of each field the first name
that holds something counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from mllm_srec.data.raw import ITEM_SCHEMA
from mllm_srec.data.raw_lines import read_records
from mllm_srec.data.raw_rows import RowBuffer
from mllm_srec.data.raw_values import clean_text, clean_texts, is_page_code, parse_id, parse_price, picture_urls
from mllm_srec.data.report import PrepareReport
from mllm_srec.types import DataError

STAGE = "metadata"
"""Name of this stage in the report."""

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
    for index, record in read_records(path, report, STAGE, strict=strict):
        first_keys = first_keys or list(record)
        where = f"{path.name}:{index + 1}"
        item_id = _first(record, ID_FIELDS, parse_id)
        if item_id is None:
            if strict:
                raise DataError(f"{path}:{index + 1}: no item id ({' or '.join(ID_FIELDS)}). Mend or delete the line.")
            report.count(STAGE, "no item id", example=where)
        elif item_id in seen:
            report.count(STAGE, "item repeated, first kept", example=f"{where}: {item_id}")
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
        report.count(STAGE, "title is page code, emptied", example=f"{where}: {title}")
        title = ""
    description = _first(record, DESCRIPTION_FIELDS, _joined) or ""
    price, is_odd = parse_price(record.get("price"))
    if is_odd:
        report.count(STAGE, "price does not parse, left empty", example=f"{where}: {clean_text(record.get('price'))}")
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
