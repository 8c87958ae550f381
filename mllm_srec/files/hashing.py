"""Hashes of tables, texts and files; those of tables depend neither on a file format nor on a library's version."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl


def table_hash(table: pl.DataFrame) -> str:
    """SHA-256 over names, types and values, column by column, in the given order of rows and columns.

    Args:
        table: Columns of integers, floats, booleans, times, texts, or lists of these.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: A column has another type.
    """
    digest = hashlib.sha256()
    for column in table.iter_columns():
        digest.update(f"{column.name}\0{len(column)}\0".encode())
        _add_column(digest, column)
    return digest.hexdigest()


def column_hashes(table: pl.DataFrame) -> dict[str, str]:
    """Return the `table_hash` of every column alone, cut to 16 digits, so that a part of a table can be compared."""
    return {column.name: table_hash(column.to_frame())[:16] for column in table.iter_columns()}


def _add_column(digest: hashlib._Hash, column: pl.Series) -> None:
    """Feed the nulls, then the values with their lengths, so that no two different columns give the same bytes."""
    digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
    if column.dtype.is_temporal():
        column = column.to_physical()
    if isinstance(column.dtype, pl.List):
        digest.update(b"list" + column.list.len().fill_null(0).to_numpy().astype("<i8").tobytes())
        _add_column(digest, column.filter(column.list.len() > 0).explode())
    elif column.dtype == pl.String:
        filled = column.fill_null("")
        digest.update(b"text" + filled.str.len_bytes().to_numpy().astype("<i8").tobytes())
        digest.update(filled.str.join("").item().encode())
    elif column.dtype.is_integer():
        digest.update(b"int" + column.fill_null(0).to_numpy().astype("<i8").tobytes())
    elif column.dtype.is_float():
        digest.update(b"float" + column.fill_null(0.0).to_numpy().astype("<f8").tobytes())
    elif column.dtype == pl.Boolean:
        digest.update(b"bool" + np.packbits(column.fill_null(False).to_numpy()).tobytes())
    elif column.dtype == pl.Null:
        digest.update(b"null")
    else:
        raise TypeError(f"column {column.name!r}: cannot hash type {column.dtype}; integers, floats, texts, lists can.")


def text_hash(text: str) -> str:
    """SHA-256 of a text: 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content: 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
