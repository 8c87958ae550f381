"""Table files (CSV and its like, Parquet, JSON; plain or gzip) read into polars tables of the requested columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.blocks import PARQUET_MAGIC, check_path, read_start, show_line
from mllm_srec.data.raw.column_names import by_number, check_columns, guess_separator, looks_like_data
from mllm_srec.data.raw.lines import ONE_A_LINE, read_records
from mllm_srec.data.raw.text_tables import ROW, Faults, TextFormat, read_text_table
from mllm_srec.data.settings import ColumnMapping
from mllm_srec.files.faults import machine_fault
from mllm_srec.files.reading import readable
from mllm_srec.types import ConfigError, DataError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
UNQUOTED = {".inter", ".item", ".user"}
"""Suffixes of RecBole's atomic files, in which a quotation mark is ordinary text."""

JSON_LINES = {".jsonl", ".json", ".ndjson"}
PARQUET = {".parquet", ".pq"}
REQUIRED = frozenset({"user_id", "item_id", "rating", "timestamp", "item_key", "user_key"})
"""Settings without whose column a row is of no use."""


def read_table(
    path: Path,
    columns: Mapping[str, str],
    report: PrepareReport,
    stage: str,
    *,
    strict: bool = False,
    mapping: ColumnMapping | None = None,
) -> pl.DataFrame:
    """Read the requested columns of a table file, in file order, and add `ROW`.

    Values keep the file's types: text from CSV, text or lists of text from JSON, any type from Parquet. Parquet is told
    by its content, other formats by the suffix (before a final .gz) or, of text, by the setting of a separator.

    Args:
        path: Table file.
        columns: Setting -> name of the column it requests; errors name both.
        report: Receives counts of malformed lines.
        stage: Stage of the report under which they are counted: the setting that names the file.
        strict: Raise at a malformed line instead of counting it.
        mapping: Settings of separator, quotation mark, header and encoding.

    Raises:
        DataError: The file is missing, empty, broken or in an unknown format, or lacks a column.
        ConfigError: A setting of the notation is out of range.
    """
    mapping = mapping or ColumnMapping()
    suffix = _suffix(path)
    if path.is_dir() and suffix in PARQUET:
        return _read_parquet(path, columns, report, stage)
    check_path(path)
    if _is_parquet(path):
        return _read_parquet(path, columns, report, stage)
    if suffix in PARQUET:
        raise DataError(
            f"{path}: is no Parquet file, whatever its name; it begins with {show_line(read_start(path))!r}"
        )
    separator = of_table(mapping.separator, stage, None)
    if suffix in JSON_LINES or (separator is None and suffix not in SEPARATORS and _begins_as_json(path)):
        return _read_json(path, columns, report, stage, strict)
    form = _text_format(path, suffix, mapping, stage, next(iter(columns)))
    return read_text_table(path, columns, form, Faults(path, report, stage, strict), REQUIRED)


def of_table(value: Any, stage: str, default: Any) -> Any:
    """Return a setting that is one value for all tables or one per table, for one table.

    Args:
        value: The value, or table -> value.
        stage: The table: `reviews`, `metadata` or `users`.
        default: Value of a table that is not named.
    """
    return value.get(stage, default) if isinstance(value, Mapping) else value


def _text_format(path: Path, suffix: str, mapping: ColumnMapping, stage: str, setting: str) -> TextFormat:
    separator = of_table(mapping.separator, stage, None)
    if separator is None and suffix not in SEPARATORS:
        raise DataError(f"{path}: suffix {suffix!r} names no known format; {_format_advice(path, setting)}")
    separator = SEPARATORS[suffix] if separator is None else {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if not separator or set(separator) & {"\n", "\r"}:
        raise ConfigError(f"prepare.columns.separator={separator!r}: separates nothing; give one such as ',' or ';'")
    quote = None if suffix in UNQUOTED else of_table(mapping.quote, stage, '"')
    if quote is not None and (len(quote) != 1 or quote in separator or quote.isspace()):
        raise ConfigError(
            f"prepare.columns.quote={quote!r}: must be one character that is not the separator, or null for none"
        )
    return TextFormat(
        separator, quote, of_table(mapping.header, stage, True), of_table(mapping.encoding, stage, "utf-8")
    )


def _format_advice(path: Path, setting: str) -> str:
    """Say which settings read a file of unknown suffix, by its first line; `setting` is one that names a column."""
    accepted = ", ".join(sorted({*SEPARATORS, *JSON_LINES, *PARQUET}))
    line = show_line(read_start(path).partition(b"\n")[0])
    separator = guess_separator(line)
    if separator is None:
        return f"use one of {accepted} (also with .gz), or set prepare.columns.separator for a text table"
    header = ""
    if looks_like_data([part.strip() for part in line.split(separator)]):
        header = f", and {by_number(setting)}"
    return (
        f"its first line, {line!r}, seems to be separated by {separator!r}: set prepare.columns.separator: "
        f"{separator!r}{header}; or use one of {accepted}"
    )


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((last for last in reversed(suffixes) if last != ".gz"), "")


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC


def _begins_as_json(path: Path) -> bool:
    return read_start(path).lstrip().startswith((b"{", b"["))


def _read_parquet(path: Path, columns: Mapping[str, str], report: PrepareReport, stage: str) -> pl.DataFrame:
    try:
        with readable(path):
            names = check_columns(path, columns, list(pl.read_parquet_schema(path)))
            frame = pl.read_parquet(path, columns=names, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        if (fault := machine_fault(error)) is not None:
            raise DataError(f"{path}: cannot be read ({fault}); see to the disk or the permissions") from error
        raise DataError(f"{path}: cannot be read as Parquet ({error}); export it again") from error
    return _with_texts(frame, report, stage).with_row_index(ROW)


def _with_texts(frame: pl.DataFrame, report: PrepareReport, stage: str) -> pl.DataFrame:
    """Make columns of categories or bytes, or of lists of them, into texts, so that each value means what it shows."""
    columns = []
    for column in frame.iter_columns():
        try:
            columns.append(column.cast(_as_read(column.dtype)))
        except pl.exceptions.PolarsError:  # bytes of another encoding
            texts = [_decoded(value) for value in column.to_list()]
            columns.append(pl.Series(column.name, texts, _as_read(column.dtype)))
            reason = f"{column.name} holds bytes that are no UTF-8 text, left out"
            report.count(stage, reason, columns[-1].null_count() - column.null_count() or 1)
    return pl.DataFrame(columns)


def _as_read(dtype: Any) -> pl.DataType:
    """Return the type in which values of a Parquet file are handed on."""
    if isinstance(dtype, pl.List):
        return pl.List(_as_read(dtype.inner))
    read: pl.DataType = pl.String() if isinstance(dtype, pl.Categorical | pl.Enum | pl.Binary) else dtype
    return read


def _decoded(value: Any) -> Any:
    """Decode bytes, or lists of bytes; None in place of bytes that are no UTF-8 text."""
    if isinstance(value, list):
        return [text for text in map(_decoded, value) if text is not None]
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return None


def _read_json(path: Path, columns: Mapping[str, str], report: PrepareReport, stage: str, strict: bool) -> pl.DataFrame:
    rows: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in columns.values()}
    keys: dict[str, None] = {}
    record: dict[str, Any] = {}
    for index, record in read_records(path, report, stage, strict=strict, advice="name a CSV file .csv"):
        rows.append(index)
        keys.update(dict.fromkeys(record))
        for name, cells in values.items():
            cells.append(record.get(name))
    if len(rows) == 1 and record and all(isinstance(value, dict | list) for value in record.values()):
        raise DataError(f"{path}: is one JSON object, of columns or by id; {ONE_A_LINE}")
    check_columns(path, columns, list(keys))
    series = [pl.Series(ROW, rows, pl.UInt32), *(_text_series(name, cells) for name, cells in values.items())]
    return pl.DataFrame(series)


def _text_series(name: str, values: list[Any]) -> pl.Series:
    """Make a column of text, or of lists of text if any value is a list: JSON lines may mix types within a column."""
    if any(isinstance(value, list) for value in values):
        lists = [value if isinstance(value, list) else [value] for value in values]
        texts = [[text for text in map(_as_text, value) if text is not None] for value in lists]
        return pl.Series(name, texts, pl.List(pl.String))
    return pl.Series(name, list(map(_as_text, values)), pl.String)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, dict | list):
        return None
    return str(value).encode("utf-8", "replace").decode("utf-8")
