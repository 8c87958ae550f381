"""Reader of your own tables of interactions, items and users, through a column mapping (`source: tables`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.ids import looks_like_sequence, parse_ids
from mllm_srec.data.raw.schema import (
    INTERACTION_SCHEMA,
    ITEM_SCHEMA,
    METADATA,
    REVIEWS,
    USER_SCHEMA,
    USERS,
    RawData,
    RowBuffer,
    check_overlap,
    items_without_metadata,
    read_text,
    report_user_overlap,
)
from mllm_srec.data.raw.table_files import read_table
from mllm_srec.data.raw.text_tables import ROW
from mllm_srec.data.raw.times import NO_TIME, beyond_range, parse_times, report_times
from mllm_srec.data.raw.usable_rows import Where, usable_rows
from mllm_srec.data.raw.values import LATEST_TIME_MS, NO_TEXT, clean_texts, parse_price, picture_urls
from mllm_srec.data.settings import ColumnMapping, PrepareSettings
from mllm_srec.types import ConfigError, DataError, did_you_mean

TABLES = (REVIEWS, METADATA, USERS)
PER_TABLE = ("separator", "quote", "header", "encoding")
"""Settings of the notation, which may be one value for all tables or one per table."""

INTERACTION_COLUMNS = ("user_id", "item_id", "rating", "timestamp", "review")
ITEM_COLUMNS = ("title", "brand", "categories", "description", "price", "image", "image_urls")
_LISTS = {"categories", "description", "image_urls"}
"""Columns of the items table that may hold lists."""

_DECIMAL_COMMA = r"^(-?\d+),(\d{1,2})$"
RATING_OF_IMPLICIT = 5.0
"""Rating of every interaction of a source without ratings: liked."""


def read_tables(settings: PrepareSettings, report: PrepareReport) -> RawData:
    """Read interactions, items and users from your own tables.

    Ids become text, whatever their type in the file. Times are Unix time (`columns.timestamp_unit`) or dates (UTC if
    they give no offset); without a column of times, the order of the file is the time. Texts are cleaned as Amazon's.

    Args:
        settings: `reviews` (the interactions), `metadata` (the items; null: items have an id and nothing else),
            `users`, `columns` and `strict` are used.
        report: Receives counts of unusable rows, in the stages `reviews`, `metadata` and `users`.

    Returns:
        Interactions, items and, if `users` is set, profiles.

    Raises:
        ConfigError: `reviews` or a column that every table needs is not set.
        DataError: A file or column cannot be used, no row is usable; or, with `strict`, a row is not.
    """
    if settings.reviews is None:
        raise ConfigError(
            "prepare.reviews=null: prepare.source=tables needs the table of interactions; set prepare.reviews"
        )
    columns, strict = settings.columns, settings.strict
    _check_mapping(columns)
    interactions = _read_interactions(Where(Path(settings.reviews), report, REVIEWS, strict), columns)
    users = None
    if settings.users is not None:
        users = _read_users(Where(Path(settings.users), report, USERS, strict), columns)
        report_user_overlap(interactions, users, report)
    if settings.metadata is None:
        return RawData(interactions, items_without_metadata(interactions, report), users)
    items = _read_items(Where(Path(settings.metadata), report, METADATA, strict), columns)
    advice = ", and the columns of item ids (prepare.columns.item_id and item_key)"
    check_overlap(interactions, items, settings.reviews, settings.metadata, report, advice)
    return RawData(interactions, items, users)


def _check_mapping(columns: ColumnMapping) -> None:
    """Check that columns which every table needs are named, and that settings of single tables name such tables.

    Raises:
        ConfigError: A column is null or empty, or the separator of categories is; or there is no such table.
    """
    for name in PER_TABLE:
        tables = getattr(columns, name)
        for table in tables if isinstance(tables, Mapping) else ():
            if table not in TABLES:
                raise ConfigError(
                    f"prepare.columns.{name}={tables!r}: {table!r} is no table; the tables are {', '.join(TABLES)}"
                    f"{did_you_mean(str(table), TABLES)}"
                )
    for name in ("user_id", "item_id", "profile"):
        if getattr(columns, name) in (None, ""):
            raise ConfigError(
                f"prepare.columns.{name}={_shown(getattr(columns, name))}: every row needs one; set it to a column"
            )
    for name in ("rating", "timestamp", "title"):
        if getattr(columns, name) == "":
            raise ConfigError(
                f"prepare.columns.{name}='': no column has an empty name; give a column, or null for none"
            )
    if not columns.categories_separator:
        raise ConfigError(
            "prepare.columns.categories_separator='': separates nothing; give one such as '|', or one that does not "
            "occur to keep each text whole"
        )


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)


def _read_interactions(where: Where, columns: ColumnMapping) -> pl.DataFrame:
    wanted = _wanted(columns, INTERACTION_COLUMNS)
    raw = _read(where, wanted, columns)
    shown = looks_like_sequence(raw[wanted["item_id"]], raw[wanted["user_id"]])
    if shown is not None:
        raise DataError(
            f"{where.path}: column {wanted['item_id']!r} holds several items, such as {shown[:60]!r}; one row for each "
            "interaction is needed, not one for each sequence (pandas, polars: explode)"
        )
    _check_scalars(where.path, raw, list(wanted.values()))
    report, stage, unit = where.report, where.stage, columns.timestamp_unit
    order = raw[ROW].cast(pl.Int64)
    is_timeless = columns.timestamp is None
    if not is_timeless and raw[wanted["timestamp"]].dtype in (pl.Time, pl.Duration):
        raise DataError(
            f"{where.path}: column {wanted['timestamp']!r} holds {raw[wanted['timestamp']].dtype}, which is no moment; "
            "give one of dates or of Unix times"
        )
    time = order.cast(pl.Float64) if is_timeless else parse_times(raw[wanted["timestamp"]], unit, report, stage)
    reviews = raw[wanted["review"]].to_list() if "review" in wanted else [None] * raw.height
    users = parse_ids(raw[wanted["user_id"]], report, stage)
    frame = pl.DataFrame(
        {
            "user_id": users,
            "item_id": parse_ids(raw[wanted["item_id"]], report, stage),
            "rating": _numbers(where, raw, wanted.get("rating")),
            "timestamp": time,
            "order": order,
            "review": pl.Series([read_text(text, report, stage, "review", "row") for text in reviews], dtype=pl.String),
        }
    )
    faults = {
        "no user id": pl.col("user_id").is_null(),
        "no item id": pl.col("item_id").is_null(),
        "line break in an id (an unclosed quotation mark?)": pl.concat_str("user_id", "item_id").str.contains("\n"),
        "rating does not parse": pl.col("rating").is_null(),
        NO_TIME: pl.col("timestamp").is_null(),
        beyond_range(time, unit): pl.col("timestamp").abs() > LATEST_TIME_MS,
    }
    frame = usable_rows(where, raw, frame, faults).with_columns(pl.col("timestamp").cast(pl.Int64))
    if is_timeless:
        report.fact("time", "the order of the file")
    else:
        report_times(frame["timestamp"], report, stage, unit)
    return frame.select(list(INTERACTION_SCHEMA))


def _read(where: Where, wanted: dict[str, str], columns: ColumnMapping) -> pl.DataFrame:
    return read_table(where.path, wanted, where.report, where.stage, strict=where.strict, mapping=columns)


def _read_items(where: Where, columns: ColumnMapping) -> pl.DataFrame:
    key = str(columns.item_key or columns.item_id)
    names = _wanted(columns, ITEM_COLUMNS)
    raw = _read(where, {"item_key": key, **names}, columns)
    _check_scalars(where.path, raw, [key, *(names.get(name) for name in ITEM_COLUMNS if name not in _LISTS)])
    ids = parse_ids(raw[key], where.report, where.stage)
    frame = pl.DataFrame([ids.alias("item_id"), *(raw[column].alias(name) for name, column in names.items())])
    buffer = RowBuffer(ITEM_SCHEMA)
    for row in _unique(where, raw, frame, "item_id").iter_rows(named=True):
        values = {name: row.get(name) for name in ITEM_COLUMNS}
        buffer.append(_item(row["item_id"], values, columns.categories_separator, where.report))
    return buffer.frame()


def _item(item_id: str, values: dict[str, Any], separator: str, report: PrepareReport) -> tuple[Any, ...]:
    def text(name: str, value: Any) -> str:
        return read_text(value, report, METADATA, name, item_id)

    description = text("description", " ".join(clean_texts(values["description"])))
    price, is_odd = parse_price(values["price"])
    if is_odd:
        report.count(METADATA, "price does not parse, left empty", example=f"{item_id}: {values['price']}")
    urls = picture_urls(values["image_urls"])
    if values["image_urls"] and not urls and text("image_urls", values["image_urls"]):
        report.count(METADATA, "no usable picture address", example=f"{item_id}: {values['image_urls']}")
    categories = values["categories"]
    categories = clean_texts(categories.split(separator) if isinstance(categories, str) else categories)
    categories = [name for name in categories if text("category", name)]
    image = str(values["image"]).strip() if values["image"] is not None else ""
    image = "" if image in NO_TEXT else image
    title, brand = text("title", values["title"]), text("brand", values["brand"])
    return item_id, title, brand or None, categories, description, price, image or None, urls


def _read_users(where: Where, columns: ColumnMapping) -> pl.DataFrame:
    key, profile = str(columns.user_key or columns.user_id), str(columns.profile)
    raw = _read(where, {"user_key": key, "profile": profile}, columns)
    _check_scalars(where.path, raw, [key, profile])
    ids = parse_ids(raw[key], where.report, where.stage)
    texts = [
        read_text(text, where.report, where.stage, "profile", str(user))
        for user, text in zip(ids, raw[profile], strict=True)
    ]
    frame = pl.DataFrame({"user_id": ids, "profile": pl.Series(texts, dtype=pl.String)})
    return _unique(where, raw, frame, "user_id").select(list(USER_SCHEMA))


def _wanted(columns: ColumnMapping, names: tuple[str, ...]) -> dict[str, str]:
    """Return setting -> column, for the settings that name one."""
    values = {name: getattr(columns, name) for name in names}
    return {name: str(column) for name, column in values.items() if column is not None}


def _check_scalars(path: Path, frame: pl.DataFrame, columns: list[str | None]) -> None:
    for column in columns:
        if column is not None and frame[column].dtype.is_nested():
            raise DataError(
                f"{path}: column {column!r} holds {frame[column].dtype}; give a column with one value per row"
            )


def _unique(where: Where, raw: pl.DataFrame, frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """Keep the first row of each id; drop rows without an id."""
    words = key.replace("_", " ")  # "item id" or "user id"
    frame = usable_rows(where, raw, frame, {f"no {words}": pl.col(key).is_null()})
    unique = frame.unique(key, keep="first", maintain_order=True)
    where.report.count(where.stage, f"{words.split()[0]} repeated, first kept", frame.height - unique.height)
    return unique


def _numbers(where: Where, raw: pl.DataFrame, column: str | None) -> pl.Series:
    """Convert ratings to finite numbers, or null; without a column every row is liked."""
    if column is None:
        return pl.Series([RATING_OF_IMPLICIT], dtype=pl.Float64).new_from_index(0, raw.height)
    values = raw[column]
    if values.dtype.is_temporal():
        raise DataError(f"{where.path}: column {column!r} holds {values.dtype}; give one of numbers as the rating")
    if values.dtype == pl.String:
        values = values.str.strip_chars()
        with_comma = values.str.contains(_DECIMAL_COMMA).fill_null(False)
        where.report.count(where.stage, "rating with a decimal comma, read as a point", int(with_comma.sum()))
        values = values.str.replace(_DECIMAL_COMMA, "$1.$2")
    number = values.cast(pl.Float64, strict=False)
    return pl.select(pl.when(number.is_finite()).then(number).alias("rating"))["rating"]
