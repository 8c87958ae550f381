"""Kept interactions, items and users: duplicates dropped, k-core taken, items and profiles matched to it."""

from __future__ import annotations

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.ratings import is_rated
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, ITEM_SCHEMA, USER_SCHEMA
from mllm_srec.types import DataError

KEY = ("timestamp", "order")
"""Key that orders a user's rows: time, then line number for rows of the same time."""

KEY_COLUMNS = ("user_id", "item_id", "rating", "timestamp", "order")
"""Columns that must hold a value in every row."""


def in_time_order(interactions: pl.DataFrame) -> pl.DataFrame:
    """Sort by user, then by key, then by item id, so that the result does not depend on the order of the input."""
    return interactions.sort("user_id", *KEY, "item_id")


def check_keys(interactions: pl.DataFrame) -> None:
    """Check that every row has a user, an item, a rating and a key.

    Args:
        interactions: Columns of `INTERACTION_SCHEMA`.

    Raises:
        DataError: A column is missing, or a user, item, rating, timestamp or order is null, NaN or an empty text.
    """
    missing = [name for name in INTERACTION_SCHEMA if name not in interactions.columns]
    if missing:
        raise DataError(
            f"interactions: columns {missing} are missing among {interactions.columns}; "
            f"return {list(INTERACTION_SCHEMA)} from the raw reader"
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
                f"interactions: {rows.height} rows have no {name}, for example {rows.row(0, named=True)}; correct the "
                "raw file, or make its reader skip and count such rows"
            )


def deduplicate(interactions: pl.DataFrame, report: PrepareReport) -> pl.DataFrame:
    """Keep the row with the smallest (timestamp, order) of each (user, item); count the others.

    A row without a rating, such as a view before a purchase, stays only where the pair has no rated row.

    Args:
        interactions: Columns of `INTERACTION_SCHEMA` and `liked`, duplicates included, in any order.
        report: Receives the number of duplicates dropped.

    Returns:
        The kept rows, sorted by user and key.

    Raises:
        DataError: See `check_keys`.
    """
    check_keys(interactions)
    # the columns after the key matter only for two rows with the same key, which line numbers rule out
    first = interactions.sort("user_id", "item_id", ~is_rated(), *KEY, "rating", "review").unique(
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
    """Drop users and items with fewer than `k` interactions until all that remain have `k`.

    The fixed point is unique, so each round drops users and items at once.

    Args:
        interactions: Interactions, one row per (user, item).
        k: Least number of interactions, >= 1; 1 drops nothing.
        report: Receives the number of users, items and rows dropped, and of rounds.

    Returns:
        The remaining rows, in their order; possibly none.

    Raises:
        ValueError: `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k={k}: k_core must be at least 1; give 1 to keep everything")
    kept, rounds = interactions, 0
    while True:
        enough = (pl.len().over("user_id") >= k) & (pl.len().over("item_id") >= k)
        smaller = kept.filter(enough)
        if smaller.height == kept.height:
            break
        kept, rounds = smaller, rounds + 1
    for name, side in (("user_id", "users"), ("item_id", "items")):
        dropped = interactions.select(pl.col(name).unique()).join(kept, on=name, how="anti").sort(name)
        report.count("k-core", f"{side} with too few interactions", dropped.height, _first(dropped))
    report.count("k-core", "interactions of dropped users and items", interactions.height - kept.height)
    report.fact("k-core rounds", rounds)
    return kept


def kept_items(items: pl.DataFrame, interactions: pl.DataFrame, report: PrepareReport) -> pl.DataFrame:
    """Return one row per item of the interactions; items without metadata get an empty title.

    Args:
        items: Columns of `ITEM_SCHEMA`, as a raw reader returns them.
        interactions: Interactions of the k-core.
        report: Receives counts of items without metadata, title or any text, and of metadata left out.

    Returns:
        Columns of `ITEM_SCHEMA`, sorted by item id; texts and lists are never null.

    Raises:
        DataError: A column is missing, or an id is missing or occurs twice.
    """
    _check("items", items, ITEM_SCHEMA, "item_id")
    catalogue = interactions.select(pl.col("item_id").unique())
    missing = catalogue.join(items, on="item_id", how="anti").sort("item_id")
    report.count("items", "no metadata, kept with an empty title", missing.height, _first(missing))
    unused = items.join(catalogue, on="item_id", how="anti").height
    report.count("items", "metadata of an item without kept interactions, left out", unused)
    table = catalogue.join(items, on="item_id", how="left").select(
        pl.col(name).cast(dtype) for name, dtype in ITEM_SCHEMA.items()
    )
    texts, lists = pl.col("title", "description").fill_null(""), pl.col("categories", "image_urls").fill_null([])
    table = table.with_columns(texts, lists).sort("item_id")
    untitled = table.filter(pl.col("title") == "")
    report.count("items", "item without title", untitled.height, _first(untitled))
    textless = untitled.filter(
        (pl.col("description") == "") & pl.col("brand").is_null() & (pl.col("categories").list.len() == 0)
    )
    report.count("items", "item without text", textless.height, _first(textless))
    return table


def kept_users(users: pl.DataFrame, interactions: pl.DataFrame, report: PrepareReport) -> pl.DataFrame:
    """Return the profiles of the users of the interactions.

    Args:
        users: Columns of `USER_SCHEMA`, as a raw reader returns them.
        interactions: Interactions of the k-core.
        report: Receives counts of users without a profile (they get no row) and of profiles left out.

    Returns:
        Columns of `USER_SCHEMA`, sorted by user id.

    Raises:
        DataError: A column is missing, or an id is missing or occurs twice.
    """
    _check("users", users, USER_SCHEMA, "user_id")
    kept = interactions.select(pl.col("user_id").unique())
    profiles = users.filter(pl.col("profile").is_not_null() & (pl.col("profile") != ""))
    missing = kept.join(profiles, on="user_id", how="anti").sort("user_id")
    report.count("users", "user without profile", missing.height, _first(missing))
    table = profiles.join(kept, on="user_id", how="semi").select(USER_SCHEMA.keys()).sort("user_id")
    report.count("users", "profile of a user without kept interactions, left out", profiles.height - table.height)
    return table


def _check(name: str, table: pl.DataFrame, schema: dict[str, pl.DataType], key: str) -> None:
    """Check that a raw table has all its columns and one row per id."""
    missing = [column for column in schema if column not in table.columns]
    if missing:
        raise DataError(
            f"{name}: columns {missing} are missing among {table.columns}; return {list(schema)} from the raw reader"
        )
    duplicates = table.filter(pl.col(key).is_duplicated() | pl.col(key).is_null()).sort(key)
    if duplicates.height:
        raise DataError(
            f"{name}: {duplicates.height} rows share their {key} or have none, for example "
            f"{duplicates.item(0, key)!r}; keep one row per {key}"
        )


def _first(table: pl.DataFrame) -> str | None:
    """Return the first id, as an example for the report."""
    return str(table.item(0, 0)) if table.height else None
