"""The tables that every raw reader returns, whatever the layout of its source, and what the readers share.

Readers collect their rows in a `RowBuffer`, so that millions of them fit into memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.ids import explain_missing
from mllm_srec.data.raw.values import NO_TEXT, clean_text
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

WORD_FOR_NOTHING = "is a word such as nan or NULL, emptied"
"""Reason, after the name of the field, under which texts that stand for a missing one are counted."""

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


def read_text(value: Any, report: PrepareReport, stage: str, field: str, where: str) -> str:
    """Return a text without markup and control characters; one that is a word for nothing is counted, and "" returned.

    Args:
        value: Value of the raw file.
        report: Receives the count.
        stage: Stage of the report.
        field: What the text is, such as "title".
        where: Item, user or place in the file, for the report's example.
    """
    text = clean_text(value)
    if text not in NO_TEXT:
        return text
    report.count(stage, f"{field} {WORD_FOR_NOTHING}", example=f"{where}: {text}")
    return ""


def check_overlap(
    interactions: pl.DataFrame,
    items: pl.DataFrame,
    reviews: str,
    metadata: str,
    report: PrepareReport,
    advice: str = "",
) -> None:
    """Refuse a file of interactions and a file of items that do not belong together; point out that most do not.

    Args:
        interactions: Columns of `INTERACTION_SCHEMA`, at least one row.
        items: Columns of `ITEM_SCHEMA`, at least one row.
        reviews: Path of the file that the interactions come from.
        metadata: Path of the file that the items come from.
        report: Receives the number of items without metadata where they are most, with the probable cause.
        advice: Settings to look at, for the error.

    Raises:
        DataError: No item of the interactions is among the items.
    """
    missing, n_items, found = _unmatched(interactions, items, "item_id")
    if missing.len() == n_items:
        cause = f"{found[1]} {found[0]}" if found else f"check that they are of the same category and year{advice}"
        raise DataError(
            f"{reviews} and {metadata}: no item in common (for instance {interactions['item_id'][0]!r} and "
            f"{items['item_id'][0]!r}); {cause}"
        )
    _report_unmatched(missing, n_items, found, report, METADATA, "items of interactions without metadata")


def report_user_overlap(interactions: pl.DataFrame, users: pl.DataFrame, report: PrepareReport) -> None:
    """Point out that most users of the interactions have no row among the users, with the probable cause."""
    missing, n_users, found = _unmatched(interactions, users, "user_id")
    _report_unmatched(missing, n_users, found, report, USERS, "users of interactions without a row")


def _unmatched(
    interactions: pl.DataFrame, other: pl.DataFrame, key: str
) -> tuple[pl.Series, int, tuple[str, str] | None]:
    """Return the ids of the interactions that the other table lacks, the number of all, and the probable cause."""
    ids = interactions.select(pl.col(key).unique(maintain_order=True))
    missing = ids.join(other, on=key, how="anti", maintain_order="left")[key]
    return missing, ids.height, explain_missing(missing, other[key]) if missing.len() * 2 > ids.height else None


def _report_unmatched(
    missing: pl.Series, n_ids: int, found: tuple[str, str] | None, report: PrepareReport, stage: str, what: str
) -> None:
    if missing.len() * 2 > n_ids:
        cause, example = found or ("does the file belong to these interactions?", f"{missing[0]!r}")
        report.count(stage, f"{what}, most of {n_ids:,}: {cause}", missing.len(), example)
