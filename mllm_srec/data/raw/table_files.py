"""Table files (CSV, TSV, Parquet, JSON lines; plain or gzip) read into polars tables of the requested columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.lines import check_file, read_bytes, read_records
from mllm_srec.types import DataError, did_you_mean

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
UNQUOTED = {".inter", ".item", ".user"}
"""Suffixes of RecBole's atomic files, in which a quotation mark is ordinary text."""

JSON_LINES = {".jsonl", ".json", ".ndjson"}
PARQUET = {".parquet", ".pq"}
ROW = "raw_row"
"""Column that `read_table` adds: index from 0 of the row in the file (in JSON lines, of the line)."""


def read_table(
    path: Path, columns: Mapping[str, str], report: PrepareReport, stage: str, *, strict: bool = False
) -> pl.DataFrame:
    """Read the requested columns of a table file, in file order, and add `ROW`.

    Values keep the file's types: text from CSV, text or lists of text from JSON lines, any type from Parquet.

    Args:
        path: Table file; its suffix (before a final .gz) gives the format.
        columns: Setting -> name of the column it requests; errors name both.
        report: Receives counts of malformed JSON lines.
        stage: Stage of the report under which they are counted.
        strict: Raise at a malformed line instead of counting it.

    Raises:
        DataError: The file is missing, empty, broken or in an unknown format, or lacks a column.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = next((last for last in reversed(suffixes) if last != ".gz"), "")
    if suffix in SEPARATORS:
        return _read_csv(path, columns, SEPARATORS[suffix], quoted=suffix not in UNQUOTED)
    if suffix in JSON_LINES:
        return _read_json_lines(path, columns, report, stage, strict)
    if suffix in PARQUET:
        return _read_parquet(path, columns)
    accepted = ", ".join(sorted({*SEPARATORS, *JSON_LINES, *PARQUET}))
    raise DataError(f"{path}: suffix {suffix!r} names no known format; use one of {accepted} (also with .gz)")


def check_columns(path: Path, columns: Mapping[str, str], available: Collection[str]) -> list[str]:
    """Return the requested column names without duplicates.

    Args:
        path: File that the columns are of.
        columns: Setting -> name of the column it requests.
        available: Columns that the file has.

    Raises:
        DataError: A column is not available; the message names it, its setting and the most similar column.
    """
    for setting, column in columns.items():
        if column not in available:
            by_lower = {name.lower(): name for name in available}
            raise DataError(
                f"{path}: no column {column!r} among {', '.join(map(repr, available))}; set prepare.columns.{setting} "
                "to one of these (the first line of a CSV file must name its columns)"
                f"{did_you_mean(column.lower(), by_lower, cutoff=0.5)}"
            )
    return list(dict.fromkeys(columns.values()))


def _read_csv(path: Path, columns: Mapping[str, str], separator: str, *, quoted: bool) -> pl.DataFrame:
    content = read_bytes(path)
    quote = '"' if quoted else None
    try:
        frame = pl.read_csv(io.BytesIO(content), separator=separator, quote_char=quote, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path}: cannot be read as a table separated by {separator!r}: {_first_fault(content, separator, quoted)}"
            f" ({str(error).splitlines()[0]}); correct the file or export it again as UTF-8"
        ) from error
    return frame.select(check_columns(path, columns, frame.columns)).with_row_index(ROW)


def _first_fault(content: bytes, separator: str, quoted: bool) -> str:
    """Describe the first row that a table parser refuses, for the error message."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"line {line} is not UTF-8 (perhaps Latin-1: `iconv -f latin1 -t utf8`)"
    dialect: dict[str, Any] = {"delimiter": separator, "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE}
    reader = csv.reader(io.StringIO(text, newline=""), **dialect)
    header = next(reader, [])
    try:
        for row in reader:
            if len(row) > len(header):
                return f"line {reader.line_num} has {len(row)} fields, the header {len(header)}: {row[:6]}"
    except csv.Error as error:
        return f"line {reader.line_num}: {error}"
    return "perhaps a quotation mark is not closed"


def _read_parquet(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    if not path.is_dir():
        check_file(path, also=b"PAR1")
    try:
        names = check_columns(path, columns, pl.read_parquet_schema(path))
        return pl.read_parquet(path, columns=names, glob=False).with_row_index(ROW)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}); export it again") from error


def _read_json_lines(
    path: Path, columns: Mapping[str, str], report: PrepareReport, stage: str, strict: bool
) -> pl.DataFrame:
    rows: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in columns.values()}
    keys: dict[str, None] = {}
    for index, record in read_records(path, report, stage, strict=strict):
        rows.append(index)
        keys.update(dict.fromkeys(record))
        for name, cells in values.items():
            cells.append(record.get(name))
    check_columns(path, columns, keys)
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
