"""Rows of a raw table that can be used; the others are counted by reason, each with an example as the file has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.text_tables import ROW
from mllm_srec.types import DataError


@dataclass(frozen=True)
class Where:
    """A raw table, and what becomes of its unusable rows.

    Attributes:
        path: The file.
        report: Receives counts.
        stage: Stage of the report: the setting that names the file.
        strict: Raise at an unusable row instead of counting it.
    """

    path: Path
    report: PrepareReport
    stage: str
    strict: bool


def usable_rows(where: Where, raw: pl.DataFrame, frame: pl.DataFrame, faults: Mapping[str, pl.Expr]) -> pl.DataFrame:
    """Drop the rows with a fault, counted under their first fault.

    Args:
        where: The table.
        raw: Rows with the file's values, for messages.
        frame: The same rows, read.
        faults: Reason -> expression that is true for faulty rows of `frame`.

    Raises:
        DataError: No row is usable; or, with `strict`, one is not. The message shows a row.
    """
    fault = pl.coalesce(pl.when(is_bad).then(pl.lit(name)) for name, is_bad in faults.items())
    marked = frame.select(
        fault.alias("fault"), pl.int_range(pl.len()).alias("position")
    )  # apart: columns have any name
    faulty = marked.filter(pl.col("fault").is_not_null())
    lines = []
    for (name,), part in faulty.group_by("fault", maintain_order=True):
        example = _row(raw, part["position"][0])
        if where.strict:
            raise DataError(
                f"{where.path}: {name} in {example} (rows count from 1 after the header); correct or delete the row, "
                "or set prepare.strict: false to skip and count such rows"
            )
        where.report.count(where.stage, str(name), part.height, example=f"{where.path.name}, {example}")
        lines.append(f"{name}: {part.height:,}, e.g. {example}")
    if faulty.height == frame.height:
        raise DataError(
            f"{where.path}: none of the {frame.height:,} rows is usable ({'; '.join(lines) or 'there is none'}); "
            "check prepare.columns against the file"
        )
    return frame.filter(marked["fault"].is_null())


def _row(raw: pl.DataFrame, position: int) -> str:
    """Show a row with its number, or its line where rows are lines."""
    values = raw.row(position, named=True)
    number = values.pop(ROW) + 1
    return f"row {number}: {values}"
