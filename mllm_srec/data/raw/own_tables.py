"""Reader of your own tables of interactions, items and users, through a column mapping (`source: tables`)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
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
)
from mllm_srec.data.raw.table_files import ROW, read_table
from mllm_srec.data.raw.values import LATEST_TIME_MS, clean_text, clean_texts, parse_price, picture_urls
from mllm_srec.data.settings import ColumnMapping, PrepareSettings
from mllm_srec.types import ConfigError, DataError

INTERACTION_COLUMNS = ("user_id", "item_id", "rating", "timestamp", "review")
ITEM_COLUMNS = ("item_id", "title", "brand", "categories", "description", "price", "image", "image_urls")
USER_COLUMNS = ("user_id", "profile")
RATING_OF_IMPLICIT = 5.0
"""Rating of every interaction of a source without ratings: liked."""

_ISO = (
    r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(?::(\d{2})(\.\d+)?)?)?\s*(?:Z|([+-])(\d{2}):?(\d{2})?)?$"
    # day          hour:minute      second fraction          sign  hours    minutes of the offset from UTC
)


def read_tables(settings: PrepareSettings, report: PrepareReport) -> RawData:
    """Read interactions, items and users from your own tables.

    Ids become text, whatever their type in the file. Times are Unix seconds or milliseconds
    (`columns.timestamp_unit`), or ISO 8601 dates (UTC if they give no offset). Texts are cleaned as Amazon's are.

    Args:
        settings: `reviews` (the interactions), `metadata` (the items; null: items have an id and nothing else),
            `users`, `columns` and `strict` are used.
        report: Receives counts of unusable rows, in the stages `reviews`, `metadata` and `users`.

    Returns:
        Interactions, items and, if `users` is set, profiles.

    Raises:
        ConfigError: `reviews` is not set.
        DataError: A file or column cannot be used, no row is usable; or, with `strict`, a row is not.
    """
    if settings.reviews is None:
        raise ConfigError(
            "prepare.reviews=null: prepare.source=tables needs the table of interactions; set prepare.reviews"
        )
    columns = settings.columns
    interactions = _read_interactions(Path(settings.reviews), columns, report, settings.strict)
    users = None if settings.users is None else _read_users(Path(settings.users), columns, report, settings.strict)
    if settings.metadata is None:
        return RawData(interactions, items_without_metadata(interactions, report), users)
    items = _read_items(Path(settings.metadata), columns, report, settings.strict)
    check_overlap(interactions, items, settings.reviews, settings.metadata)
    return RawData(interactions, items, users)


def _read_interactions(path: Path, columns: ColumnMapping, report: PrepareReport, strict: bool) -> pl.DataFrame:
    raw = read_table(path, _wanted(columns, INTERACTION_COLUMNS), report, REVIEWS, strict=strict)
    rating = pl.lit(RATING_OF_IMPLICIT) if columns.rating is None else _number(pl.col(columns.rating))
    _check_scalars(path, raw, [columns.user_id, columns.item_id, columns.rating, columns.timestamp])
    unit = 1000 if columns.timestamp_unit == "s" else 1
    frame = raw.select(
        _text(raw, columns.user_id).alias("user_id"),
        _text(raw, columns.item_id).alias("item_id"),
        rating.alias("rating"),
        _milliseconds(raw, columns.timestamp, unit).alias("timestamp"),
        pl.col(ROW).cast(pl.Int64).alias("order"),
        _clean(raw, columns.review).alias("review"),
    )
    is_late = pl.col("timestamp").abs() > LATEST_TIME_MS
    faults = {
        "no user id": pl.col("user_id").is_null(),
        "no item id": pl.col("item_id").is_null(),
        "line break in an id (an unclosed quotation mark?)": pl.concat_str("user_id", "item_id").str.contains("\n"),
        "rating does not parse": pl.col("rating").is_null(),
        "time does not parse": pl.col("timestamp").is_null(),
        "time is out of range (if it is in milliseconds, set columns.timestamp_unit: ms)": is_late,
    }
    frame = _without_faults(path, raw, frame, faults, (report, REVIEWS, strict))
    return frame.with_columns(pl.col("timestamp").cast(pl.Int64)).select(list(INTERACTION_SCHEMA))


def _read_items(path: Path, columns: ColumnMapping, report: PrepareReport, strict: bool) -> pl.DataFrame:
    raw = read_table(path, _wanted(columns, ITEM_COLUMNS), report, METADATA, strict=strict)
    _check_scalars(path, raw, [columns.item_id, columns.title, columns.image])
    frame = raw.with_columns(_text(raw, columns.item_id).alias("raw_item_id"))
    frame = _unique(path, raw, frame, "raw_item_id", (report, METADATA, strict))
    buffer = RowBuffer(ITEM_SCHEMA)
    names = {name: getattr(columns, name) for name in ITEM_COLUMNS[1:]}
    for row in frame.iter_rows(named=True):
        values = {name: None if column is None else row[column] for name, column in names.items()}
        buffer.append(_item(row["raw_item_id"], values, columns.categories_separator, report))
    return buffer.frame()


def _item(item_id: str, values: dict[str, Any], separator: str, report: PrepareReport) -> tuple[Any, ...]:
    title, description = clean_text(values["title"]), " ".join(clean_texts(values["description"]))
    price, is_odd = parse_price(values["price"])
    if is_odd:
        report.count(METADATA, "price does not parse, left empty", example=f"{item_id}: {values['price']}")
    urls = picture_urls(values["image_urls"])
    if values["image_urls"] and not urls:
        report.count(METADATA, "no usable picture address", example=f"{item_id}: {values['image_urls']}")
    categories = values["categories"]
    categories = clean_texts(categories.split(separator) if isinstance(categories, str) else categories)
    image = str(values["image"]).strip() if values["image"] is not None else ""
    return item_id, title, clean_text(values["brand"]) or None, categories, description, price, image or None, urls


def _read_users(path: Path, columns: ColumnMapping, report: PrepareReport, strict: bool) -> pl.DataFrame:
    raw = read_table(path, _wanted(columns, USER_COLUMNS), report, USERS, strict=strict)
    _check_scalars(path, raw, [columns.user_id, columns.profile])
    frame = raw.select(
        _text(raw, columns.user_id).alias("user_id"),
        _clean(raw, columns.profile).alias("profile"),
    )
    return _unique(path, raw, frame, "user_id", (report, USERS, strict)).select(list(USER_SCHEMA))


def _wanted(columns: ColumnMapping, names: tuple[str, ...]) -> dict[str, str]:
    """Return setting -> column name, for the settings that name one."""
    return {name: column for name, column in asdict(columns).items() if name in names and column is not None}


def _check_scalars(path: Path, frame: pl.DataFrame, columns: list[str | None]) -> None:
    for column in columns:
        if column is not None and frame[column].dtype.is_nested():
            raise DataError(
                f"{path}: column {column!r} holds {frame[column].dtype}; give a column with one value per row"
            )


def _without_faults(
    path: Path,
    raw: pl.DataFrame,
    frame: pl.DataFrame,
    faults: dict[str, pl.Expr],
    where: tuple[PrepareReport, str, bool],
) -> pl.DataFrame:
    """Drop the rows of `frame` with a fault, counted under their first fault; with `strict` such a row is an error.

    `raw` has the same rows with the file's values, for messages; `where` is the report, its stage and `strict`.
    """
    report, stage, strict = where
    fault = pl.coalesce(pl.when(is_bad).then(pl.lit(name)) for name, is_bad in faults.items())
    marked = frame.with_columns(fault.alias("fault"), pl.int_range(pl.len()).alias("position"))
    faulty = marked.filter(pl.col("fault").is_not_null())
    for (name,), part in faulty.group_by("fault", maintain_order=True):
        values = raw.row(part["position"][0], named=True)
        example = f"row {values.pop(ROW) + 1}: {values}"
        if strict:
            raise DataError(
                f"{path}: {name} in {example} (rows count from 1 after the header); correct or delete the row, or set "
                "prepare.strict: false to skip and count such rows"
            )
        report.count(stage, str(name), part.height, example=f"{path.name}, {example}")
    if faulty.height == frame.height:
        raise DataError(
            f"{path}: none of the {frame.height} rows is usable ({report.counts.get(stage, {})}); "
            "check prepare.columns against the file"
        )
    return marked.filter(pl.col("fault").is_null()).drop("fault", "position")


def _unique(
    path: Path, raw: pl.DataFrame, frame: pl.DataFrame, key: str, where: tuple[PrepareReport, str, bool]
) -> pl.DataFrame:
    """Keep the first row of each id; drop rows without an id."""
    words = key.removeprefix("raw_").replace("_", " ")  # "item id" or "user id"
    frame = _without_faults(path, raw, frame, {f"no {words}": pl.col(key).is_null()}, where)
    unique = frame.unique(key, keep="first", maintain_order=True)
    where[0].count(where[1], f"{words.split()[0]} repeated, first kept", frame.height - unique.height)
    return unique


def _text(frame: pl.DataFrame, column: str) -> pl.Expr:
    """Convert an id column to stripped text, null where empty; 7.0 (pandas' integers with gaps) becomes "7"."""
    expression = pl.col(column)
    if frame[column].dtype.is_float() and bool((frame[column].drop_nulls() % 1 == 0).all()):
        expression = expression.cast(pl.Int64, strict=False)
    text = expression.cast(pl.String, strict=False).str.strip_chars()
    return pl.when(text != "").then(text)


def _number(expression: pl.Expr) -> pl.Expr:
    """Convert to a finite number, or null."""
    number = expression.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def _clean(frame: pl.DataFrame, column: str | None) -> pl.Series:
    """Clean a text column; without a column every text is empty."""
    values = [""] * frame.height if column is None else [clean_text(value) for value in frame[column].to_list()]
    return pl.Series(values, dtype=pl.String)


def _milliseconds(frame: pl.DataFrame, column: str, milliseconds_per_unit: int) -> pl.Expr:
    """Convert to Unix milliseconds, as floats since they may exceed an int64; null where the value is no time."""
    raw, kind = pl.col(column), frame[column].dtype
    if kind.is_temporal():
        return raw.cast(pl.Datetime("ms")).dt.epoch("ms").cast(pl.Float64)
    numeric = (_number(raw) * milliseconds_per_unit).round()
    return pl.coalesce(numeric, _iso_milliseconds(raw.str.strip_chars())) if kind == pl.String else numeric


def _iso_milliseconds(text: pl.Expr) -> pl.Expr:
    """Parse ISO 8601 dates, with or without time, fraction and offset, to Unix milliseconds; null where malformed."""
    part = [text.str.extract(_ISO, index) for index in range(8)]
    clock = pl.concat_str(part[1], pl.lit(" "), part[2].fill_null("00:00"), pl.lit(":"), part[3].fill_null("00"))
    moment = clock.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).dt.epoch("ms").cast(pl.Float64)
    fraction = (part[4].cast(pl.Float64, strict=False).fill_null(0.0) * 1000).round()
    minutes = part[6].cast(pl.Float64).fill_null(0.0) * 60 + part[7].cast(pl.Float64).fill_null(0.0)
    sign = pl.when(part[5] == "-").then(-1.0).otherwise(1.0)
    return moment + fraction - sign * minutes * 60_000
