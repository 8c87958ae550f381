"""One's own table files (CSV, TSV, Parquet, JSON lines; plain or gzip) as polars tables of the columns asked for."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.lines import check_file, read_bytes, read_records
from mllm_srec.types import DataError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
UNQUOTED = {".inter", ".item", ".user"}
"""RecBole's atomic files: a quotation mark in them is just text."""

JSON_LINES = {".jsonl", ".json", ".ndjson"}
PARQUET = {".parquet", ".pq"}
ROW = "raw_row"
"""Column that `read_table` adds: index of the row (JSON lines: of the line) in the file, from 0."""


def read_table(
    path: Path, columns: Mapping[str, str], report: PrepareReport, stage: str, *, strict: bool = False
) -> pl.DataFrame:
    """The wanted columns of a table file and `ROW`, in file order.

    Values are as the file has them: text from CSV, text or lists of text from JSON lines, any type from Parquet.

    Args:
        path: File; its suffix (before a final .gz) says what it is.
        columns: Name of the setting -> name of the column it wants; the names are used in errors.
        report: Where malformed JSON lines are counted.
        stage: Name under which they are counted.
        strict: A malformed line is an error instead.

    Raises:
        DataError: The file is missing, empty, broken or of an unknown kind, or has not all the columns.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = next((found for found in reversed(suffixes) if found != ".gz"), "")
    if suffix in SEPARATORS:
        return _read_csv(path, columns, SEPARATORS[suffix], quoted=suffix not in UNQUOTED)
    if suffix in JSON_LINES:
        return _read_json_lines(path, columns, report, stage, strict)
    if suffix in PARQUET:
        return _read_parquet(path, columns)
    known = ", ".join(sorted({*SEPARATORS, *JSON_LINES, *PARQUET}))
    raise DataError(f"{path}: what is in a file ending in {suffix or 'nothing'!r}? Known are {known} (also with .gz).")


def check_columns(path: Path, columns: Mapping[str, str], available: Collection[str]) -> list[str]:
    """The wanted column names, each once.

    Raises:
        DataError: One is not available; the message names setting, column, file, what there is and the nearest to it.
    """
    for setting, column in columns.items():
        if column not in available:
            by_lower = {name.lower(): name for name in available}
            near = difflib.get_close_matches(column.lower(), by_lower, n=1, cutoff=0.5)
            advice = f" Did you mean {by_lower[near[0]]!r}?" if near else ""
            raise DataError(
                f"{path} has no column {column!r} (prepare.columns.{setting}); it has "
                f"{', '.join(map(repr, available))}.{advice} The first line of a CSV file must name its columns."
            )
    return list(dict.fromkeys(columns.values()))


def _read_csv(path: Path, columns: Mapping[str, str], separator: str, *, quoted: bool) -> pl.DataFrame:
    content = read_bytes(path)
    quote = '"' if quoted else None
    try:
        frame = pl.read_csv(io.BytesIO(content), separator=separator, quote_char=quote, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path} cannot be read as a table separated by {separator!r}: {_first_fault(content, separator, quoted)}"
            f" ({str(error).splitlines()[0]}) Mend the file or export it again as UTF-8."
        ) from error
    return frame.select(check_columns(path, columns, frame.columns)).with_row_index(ROW)


def _first_fault(content: bytes, separator: str, quoted: bool) -> str:
    """Where the first row is that a table parser cannot take, for the error message."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"line {line} is not UTF-8 (Latin-1 perhaps: `iconv -f latin1 -t utf8`)."
    dialect: dict[str, Any] = {"delimiter": separator, "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE}
    reader = csv.reader(io.StringIO(text, newline=""), **dialect)
    header = next(reader, [])
    try:
        for row in reader:
            if len(row) > len(header):
                return f"line {reader.line_num} has {len(row)} fields, the header {len(header)}: {row[:6]}."
    except csv.Error as error:
        return f"line {reader.line_num}: {error}."
    return "perhaps a quotation mark is not closed."


def _read_parquet(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    if not path.is_dir():
        check_file(path, also=b"PAR1")
    try:
        names = check_columns(path, columns, pl.read_parquet_schema(path))
        return pl.read_parquet(path, columns=names, glob=False).with_row_index(ROW)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}. Export it again.") from error


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
    """Text, or lists of text where any value is a list: JSON lines may mix types within a column."""
    if any(isinstance(value, list) for value in values):
        lists = [value if isinstance(value, list) else [value] for value in values]
        texts = [[text for text in map(_as_text, value) if text is not None] for value in lists]
        return pl.Series(name, texts, pl.List(pl.String))
    return pl.Series(name, list(map(_as_text, values)), pl.String)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, dict | list):
        return None
    return str(value).encode("utf-8", "replace").decode("utf-8")
