"""Files that are there whole or not at all, whatever ends the process or the power."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import polars as pl


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file under a partial name, which gets its own name when all of it is on the disk.

    Args:
        path: The file; an earlier one of this name is replaced. Its folder must be there.

    Raises:
        OSError: It cannot be written; an earlier file stays as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())  # else a power loss could leave an empty file under the final name
    partial.replace(path)


def write_whole(table: pl.DataFrame, path: Path) -> None:
    """Write a table as Parquet, whole or not at all; see `whole_file`."""
    with whole_file(path) as file:
        table.write_parquet(file)


def write_whole_text(text: str, path: Path) -> None:
    """Write a text in UTF-8, whole or not at all; see `whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode())
