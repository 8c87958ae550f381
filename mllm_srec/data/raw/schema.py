"""The tables that every raw reader returns, whatever the layout of its source, and what the readers share.

Readers collect their rows in a `RowBuffer`, so that millions of them fit into memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.types import DataError

REVIEWS, METADATA, USERS = "reviews", "metadata", "users"
"""Stages of the report in which readers count what they skip, named after the settings of the files."""

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
    "image": pl.String(),  # raw: the source's file name or null; prepared: path relative to the data set's folder
    "image_urls": pl.List(pl.String()),
}
USER_SCHEMA: dict[str, pl.DataType] = {"user_id": pl.String(), "profile": pl.String()}

ROWS_PER_PIECE = 100_000


@dataclass(frozen=True)
class RawData:
    """The tables of a source, before duplicates are dropped, the k-core is taken and splits are assigned.

    Attributes:
        interactions: Columns of `INTERACTION_SCHEMA`, in file order; a (user, item) may occur several times.
        items: Columns of `ITEM_SCHEMA`, one row per item id; items without metadata may be missing.
        users: Columns of `USER_SCHEMA`, or None if the source has no profiles.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame | None = None


class RowBuffer:
    """Collects rows given as tuples into one table of a fixed schema.

    Args:
        schema: Column names and types; a row has one value for each, in this order.
    """

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self._schema = dict(schema)
        self._rows: list[tuple[Any, ...]] = []
        self._pieces: list[pl.DataFrame] = []

    def append(self, row: tuple[Any, ...]) -> None:
        """Add one row."""
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_PIECE:
            self._flush()

    def frame(self) -> pl.DataFrame:
        """Return all rows so far, in the order they were added; a table without rows still has the schema."""
        self._flush()
        return pl.concat(self._pieces)

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else ((),) * len(self._schema)
        names = self._schema.items()
        series = [pl.Series(name, values, kind) for (name, kind), values in zip(names, columns, strict=True)]
        self._pieces.append(pl.DataFrame(series))
        self._rows = []


def items_without_metadata(interactions: pl.DataFrame, report: PrepareReport) -> pl.DataFrame:
    """Make one row of `ITEM_SCHEMA` per item of the interactions, empty but for its id, and count them."""
    items = interactions.select(pl.col("item_id").unique(maintain_order=True))
    report.count(METADATA, "no metadata file, title left empty", items.height)
    empty = {"title": pl.lit(""), "description": pl.lit(""), "categories": pl.lit([]), "image_urls": pl.lit([])}
    columns = [empty.get(name, pl.lit(None)).cast(kind).alias(name) for name, kind in ITEM_SCHEMA.items()]
    return items.select("item_id", *columns[1:])


def check_overlap(interactions: pl.DataFrame, items: pl.DataFrame, reviews: str, metadata: str) -> None:
    """Refuse a file of interactions and a file of items that do not belong together.

    Args:
        interactions: Columns of `INTERACTION_SCHEMA`, at least one row.
        items: Columns of `ITEM_SCHEMA`, at least one row.
        reviews: Path of the file that the interactions come from.
        metadata: Path of the file that the items come from.

    Raises:
        DataError: No item of the interactions is among the items.
    """
    if interactions.join(items, on="item_id", how="semi").is_empty():
        raise DataError(
            f"{reviews} and {metadata}: no item in common (for instance {interactions['item_id'][0]!r} and "
            f"{items['item_id'][0]!r}); check that they are of the same category and year, and the column of item ids"
        )
