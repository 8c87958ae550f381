"""The Amazon review data sets of 2014, 2018 and 2023 in the one shape that preparation works on."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mllm_srec.data.raw import ITEM_SCHEMA, RawData
from mllm_srec.data.raw_amazon_items import read_items
from mllm_srec.data.raw_amazon_reviews import LAYOUTS, read_reviews
from mllm_srec.data.report import PrepareReport
from mllm_srec.data.settings import PrepareSettings
from mllm_srec.types import ConfigError, DataError


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
    report.count("metadata", "no metadata file, title left empty", items.height)
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
