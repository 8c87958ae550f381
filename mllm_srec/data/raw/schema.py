"""The shape that every raw reader returns: three tables, whatever the source looked like.

Readers gather their rows piece by piece in a `RowBuffer`, so that millions of them fit into memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


ROWS_PER_PIECE = 100_000


class RowBuffer:
    """Takes rows as tuples and gives them back as one table of a fixed schema.

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
        """All rows so far, in the order they came; the schema is kept where there are none."""
        self._flush()
        return pl.concat(self._pieces)

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else ((),) * len(self._schema)
        names = self._schema.items()
        series = [pl.Series(name, values, kind) for (name, kind), values in zip(names, columns, strict=True)]
        self._pieces.append(pl.DataFrame(series))
        self._rows = []
