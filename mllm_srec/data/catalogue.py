"""The tables `items` and `users` of a prepared data set: exactly those that occur in the kept interactions."""

from __future__ import annotations

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.schema import ITEM_SCHEMA, USER_SCHEMA
from mllm_srec.types import DataError


def kept_items(items: pl.DataFrame, interactions: pl.DataFrame, report: PrepareReport) -> pl.DataFrame:
    """One row per item of the interactions; items without metadata get an empty title.

    Args:
        items: Columns of `ITEM_SCHEMA`, as read.
        interactions: The kept interactions.
        report: Receives items without metadata, title or any text, and metadata that nothing refers to.

    Returns:
        Columns of `ITEM_SCHEMA`, sorted by item id; texts and lists are never null.

    Raises:
        DataError: A column is missing or an id occurs twice.
    """
    _check("items", items, ITEM_SCHEMA, "item_id")
    wanted = interactions.select(pl.col("item_id").unique())
    missing = wanted.join(items, on="item_id", how="anti").sort("item_id")
    report.count("items", "no metadata, kept with an empty title", missing.height, _first(missing))
    unused = items.join(wanted, on="item_id", how="anti").height
    report.count("items", "metadata of an item without kept interactions, left out", unused)
    table = wanted.join(items, on="item_id", how="left").select(
        pl.col(name).cast(dtype) for name, dtype in ITEM_SCHEMA.items()
    )
    texts, lists = pl.col("title", "description").fill_null(""), pl.col("categories", "image_urls").fill_null([])
    table = table.with_columns(texts, lists).sort("item_id")
    untitled = table.filter(pl.col("title") == "")
    report.count("items", "item without title", untitled.height, _first(untitled))
    silent = untitled.filter(
        (pl.col("description") == "") & pl.col("brand").is_null() & (pl.col("categories").list.len() == 0)
    )
    report.count("items", "item without text", silent.height, _first(silent))
    return table


def kept_users(users: pl.DataFrame, interactions: pl.DataFrame, report: PrepareReport) -> pl.DataFrame:
    """The profiles of the kept users.

    Args:
        users: Columns of `USER_SCHEMA`, as read.
        interactions: The kept interactions.
        report: Receives users without a profile (they get no row) and profiles that nothing refers to.

    Returns:
        Columns of `USER_SCHEMA`, sorted by user id.

    Raises:
        DataError: A column is missing or an id occurs twice.
    """
    _check("users", users, USER_SCHEMA, "user_id")
    wanted = interactions.select(pl.col("user_id").unique())
    known = users.filter(pl.col("profile").is_not_null() & (pl.col("profile") != ""))
    missing = wanted.join(known, on="user_id", how="anti").sort("user_id")
    report.count("users", "user without profile", missing.height, _first(missing))
    table = known.join(wanted, on="user_id", how="semi").select(USER_SCHEMA.keys()).sort("user_id")
    report.count("users", "profile of a user without kept interactions, left out", known.height - table.height)
    return table


def _check(name: str, table: pl.DataFrame, schema: dict[str, pl.DataType], key: str) -> None:
    """Refuse a raw table that breaks its contract."""
    missing = [column for column in schema if column not in table.columns]
    if missing:
        raise DataError(f"{name}: columns {missing} are missing, found {table.columns}; needed are {list(schema)}.")
    repeated = table.filter(pl.col(key).is_duplicated() | pl.col(key).is_null()).sort(key)
    if repeated.height:
        raise DataError(
            f"{name}: {repeated.height} rows share their {key} or have none, for example {repeated.item(0, key)!r}; "
            f"leave one row per {key}."
        )


def _first(table: pl.DataFrame) -> str | None:
    """The first id, as an example."""
    return str(table.item(0, 0)) if table.height else None
