"""Rows of Python values gathered into a polars table piece by piece, so that millions of them fit into memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

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
