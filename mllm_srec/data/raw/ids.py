"""Ids of raw tables as text, and the probable cause where those of two tables do not meet."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.values import NO_ID

MAX_EXACT_FLOAT = 2**53
"""Whole numbers above this are rounded where they are stored as floats."""

_WHOLE = r"^-?(?:0|[1-9]\d*)(?:\.0+)?$"
_ROUNDED = r"^\d(?:\.\d+)?[eE]\+\d+$"
_HIDDEN = "\ufeff\u200b\u200e\u200f\x00"

_CAUSES: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "differ in leading zeros only; export ids as text": lambda ids: ids.str.strip_chars_start("0"),
    "differ in '.0' only; export ids as whole numbers or text": lambda ids: ids.str.replace(r"\.0+$", ""),
    "differ in upper and lower case only; write them alike": lambda ids: ids.str.to_lowercase(),
    "differ in blanks or signs only; write them alike": lambda ids: ids.str.replace_all(r"[^\pL\pN]", ""),
    "differ in a prefix only; write them alike": lambda ids: ids.str.extract(r"^[^0-9]*0*([0-9]+)$"),
}
"""What a person does -> form in which such ids are equal."""


def parse_ids(values: pl.Series, report: PrepareReport, stage: str) -> pl.Series:
    """Convert an id column to stripped text, null where a cell is empty or names a missing value ("nan", "NULL").

    Where all ids are whole numbers and some are written as 7.0, which is how pandas writes integers with gaps, the ".0"
    goes. Ids that a spreadsheet or a float has rounded are counted, since several may have become one.

    Args:
        values: The column as it was read.
        report: Receives counts.
        stage: Stage of the report.
    """
    if values.dtype.is_float():
        rounded = int((values.abs() > MAX_EXACT_FLOAT).sum())
        report.count(stage, "id stored as a float that cannot hold all its digits", rounded)
        if bool((values.drop_nulls().drop_nans() % 1 == 0).all()):
            values = values.cast(pl.Int64, strict=False)
    text = values.cast(pl.String, strict=False).str.strip_chars().str.strip_chars(_HIDDEN).str.strip_chars()
    text = pl.select(pl.when(~text.is_in(["", *NO_ID])).then(text).alias("id"))["id"]
    with_point = text.str.contains(".0", literal=True).fill_null(False)
    if with_point.any() and bool(text.drop_nulls().str.contains(_WHOLE).all()):
        report.count(stage, "id written as 7.0, read as 7", int(with_point.sum()), _first(text.filter(with_point)))
        text = text.str.replace(r"\.0+$", "")
    short = text.str.contains(_ROUNDED).fill_null(False)
    report.count(
        stage, "id in scientific notation, its last digits may be lost", int(short.sum()), _first(text.filter(short))
    )
    return text


def explain_missing(wanted: pl.Series, available: pl.Series) -> tuple[str, str] | None:
    """Return the probable cause why ids are not among others, and an example; None if no cause explains most of them.

    Args:
        wanted: Ids that are not available.
        available: Ids of the other table.
    """
    for cause, form in _CAUSES.items():
        here, there = (
            pl.DataFrame({name: ids.unique(maintain_order=True)}).with_columns(form(pl.col(name)).alias("form"))
            for name, ids in (("wanted", wanted), ("available", available))
        )
        met = here.filter(pl.col("form") != "").join(
            there.unique("form"), on="form", how="inner", maintain_order="left"
        )
        if met.height * 2 > min(here.height, there.height):
            return cause, f"{met['wanted'][0]!r} and {met['available'][0]!r}"
    return None


def looks_like_sequence(items: pl.Series, users: pl.Series) -> str | None:
    """Return a cell that holds several item ids, if the table has a row for each user's sequence; else None."""
    if items.dtype.is_nested():
        filled = items.drop_nulls()
        return None if filled.is_empty() else str(filled.to_list()[0])
    cells = items.cast(pl.String, strict=False).drop_nulls().str.strip_chars()
    is_list = cells.str.contains(r"^[\[(].*[,\s].*[\])]$")
    if (
        not is_list.any() and users.n_unique() == users.len() > 1
    ):  # ids may hold blanks: only where each user has one row
        is_list = cells.str.count_matches(r"[^\s,;|]+") > 2
    return str(cells.filter(is_list)[0]) if is_list.sum() * 2 > cells.len() else None


def _first(ids: pl.Series) -> str | None:
    return None if ids.is_empty() else str(ids[0])
