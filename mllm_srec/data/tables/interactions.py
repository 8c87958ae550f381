"""Raw interactions -> one row per (user, item), then the k-core."""

from __future__ import annotations

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, ITEM_SCHEMA, USER_SCHEMA
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
