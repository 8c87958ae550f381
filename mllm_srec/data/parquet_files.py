"""Parquet files that are there whole or not at all, whatever ends the process or the power."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl


def write_whole(table: pl.DataFrame, path: Path) -> None:
    """Write a table under a partial name, bring it to the disk, and give it its name.

    Args:
        table: Its content.
        path: The file; an earlier one of this name is replaced. Its folder must be there.

    Raises:
        OSError: It cannot be written; an earlier file stays as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        table.write_parquet(file)
        file.flush()
        os.fsync(file.fileno())  # else a power loss could leave an empty file under the final name
    partial.replace(path)
