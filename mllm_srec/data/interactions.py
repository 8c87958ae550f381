"""Raw interactions -> one row per (user, item), then the k-core."""

from __future__ import annotations

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA
from mllm_srec.types import LIKED_RATING, DataError

KEY = ("timestamp", "order")
"""The key of a row: time, and the line number for what happened at the same time."""

KEY_COLUMNS = ("user_id", "item_id", "rating", "timestamp", "order")


def is_liked() -> pl.Expr:
    """Polars expression: the row's rating is at least `LIKED_RATING`."""
    return pl.col("rating") >= LIKED_RATING


def in_time_order(interactions: pl.DataFrame) -> pl.DataFrame:
    """Sort by user, then by key; the item id is last, so that the result never depends on the order of the input."""
    return interactions.sort("user_id", *KEY, "item_id")


def check_keys(interactions: pl.DataFrame) -> None:
    """Refuse rows that no rule of the preparation can place.

    Args:
        interactions: Columns of `INTERACTION_SCHEMA`.

    Raises:
        DataError: A column is missing, or a user, item, rating, timestamp or order is null, NaN or an empty text.
    """
    missing = [name for name in INTERACTION_SCHEMA if name not in interactions.columns]
    if missing:
        raise DataError(
            f"interactions: columns {missing} are missing, found {interactions.columns}; "
            f"a raw reader must return {list(INTERACTION_SCHEMA)}."
        )
    for name in KEY_COLUMNS:
        column = pl.col(name)
        bad = column.is_null()
        if interactions.schema[name].is_float():
            bad = bad | column.is_nan()
        if interactions.schema[name] == pl.String():
            bad = bad | (column == "")
        rows = interactions.filter(bad)
        if rows.height:
            raise DataError(
                f"interactions: {rows.height} rows have no {name}, for example {rows.row(0, named=True)}; every row "
                f"needs {', '.join(KEY_COLUMNS)}. Correct the raw file, or let its reader skip and count such rows."
            )


def deduplicate(interactions: pl.DataFrame, report: PrepareReport) -> pl.DataFrame:
    """Keep of each (user, item) the row with the smallest (timestamp, order); count the others.

    Args:
        interactions: Columns of `INTERACTION_SCHEMA`, repeats included, in any order.
        report: Receives the number of repeats dropped.

    Returns:
        The kept rows, sorted by user and key.

    Raises:
        DataError: See `check_keys`.
    """
    check_keys(interactions)
    # the values after the key only matter for two rows with the same key, which a line number excludes
    first = interactions.sort("user_id", "item_id", *KEY, "rating", "review").unique(
        ["user_id", "item_id"], keep="first", maintain_order=True
    )
    dropped = interactions.height - first.height
    if dropped:
        pairs = interactions.group_by("user_id", "item_id").len().filter(pl.col("len") > 1).sort("user_id", "item_id")
        user, item, times = pairs.row(0)
        report.count(
            "interactions", "repeat of a (user, item), the earliest stays", dropped, f"{user}, {item}: {times}"
        )
    return in_time_order(first)


def k_core(interactions: pl.DataFrame, k: int, report: PrepareReport) -> pl.DataFrame:
    """Drop users and items with fewer than `k` interactions until every one left has `k`.

    The fixed point is unique, whichever side is dropped first; both are dropped at once in each round.

    Args:
        interactions: One row per (user, item).
        k: Least number of interactions, >= 1; 1 drops nothing.
        report: Receives the users, items and rows dropped and the number of rounds.

    Returns:
        The rows that stay, in their order; possibly none.

    Raises:
        ValueError: `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k_core must be at least 1 (1 keeps everything), got {k}.")
    kept, rounds = interactions, 0
    while True:
        enough = (pl.len().over("user_id") >= k) & (pl.len().over("item_id") >= k)
        smaller = kept.filter(enough)
        if smaller.height == kept.height:
            break
        kept, rounds = smaller, rounds + 1
    for name, what in (("user_id", "users"), ("item_id", "items")):
        gone = interactions.select(pl.col(name).unique()).join(kept, on=name, how="anti").sort(name)
        example = gone.item(0, 0) if gone.height else None
        report.count("k-core", f"{what} with too few interactions", gone.height, example)
    report.count("k-core", "interactions of dropped users and items", interactions.height - kept.height)
    report.fact("k-core rounds", rounds)
    return kept
