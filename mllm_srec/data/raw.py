"""What every raw reader returns: three tables in one shape, whatever the source looked like."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

INTERACTION_SCHEMA: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "item_id": pl.String(),
    "rating": pl.Float64(),
    "timestamp": pl.Int64(),  # Unix milliseconds
    "order": pl.Int64(),  # line number in the raw file, from 0
    "review": pl.String(),
}
ITEM_SCHEMA: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "title": pl.String(),
    "brand": pl.String(),  # null where unknown
    "categories": pl.List(pl.String()),
    "description": pl.String(),
    "price": pl.Float64(),  # null where unknown
    "image": pl.String(),  # raw: a file name the source gave, or null; prepared: path relative to the data set's folder
    "image_urls": pl.List(pl.String()),
}
USER_SCHEMA: dict[str, pl.DataType] = {"user_id": pl.String(), "profile": pl.String()}


@dataclass(frozen=True)
class RawData:
    """Tables as read, before duplicates, k-core and splits.

    Attributes:
        interactions: Columns of `INTERACTION_SCHEMA`, in raw order; repeats of a (user, item) are still in it.
        items: Columns of `ITEM_SCHEMA`, one row per item id; items without metadata may be missing.
        users: Columns of `USER_SCHEMA`, or None where the source has no profiles.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame | None = None
