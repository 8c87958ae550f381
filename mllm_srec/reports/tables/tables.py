"""The model of a table: numbers with deviation, place and mark. Writers decide only how they look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

DIGITS = 4
"""Decimals of means and deviations; numbers that are written alike have the same place."""

RowKind = Literal["model", "reference", "article", "gain"]
"""Kind of a row: a model, a reference that models are compared with, a published number, or a relative gain."""

KIND_WORDS: dict[RowKind, str] = {
    "model": "model",
    "reference": "comparison, no model of the table",
    "article": "published",
    "gain": "relative gain, %",
}
"""Names of the kinds in CSV files."""


@dataclass(frozen=True)
class TableCell:
    """A cell of a table: a number, or a text.

    Attributes:
        mean: The number, in the unit of its column; None if the cell has none.
        sd: Standard deviation (n - 1) over seeds; None for a single seed.
        n: Number of seeds; None if the number does not depend on one.
        place: 1 for the best of its column, 2 for the second.
        mark: Sign behind the number, such as a dagger.
        text: Text in place of a number, shown literally.
        digits: Number of decimals.
        signed: True if positive numbers show their sign.
    """

    mean: float | None = None
    sd: float | None = None
    n: int | None = None
    place: int | None = None
    mark: str = ""
    text: str | None = None
    digits: int = DIGITS
    signed: bool = False

    @property
    def shown(self) -> str:
        """Number with its deviation, or the text, without emphasis and mark; `-` if there is neither."""
        if self.mean is None:
            return "-" if self.text is None else self.text
        number = f"{self.mean:{'+' if self.signed else ''}.{self.digits}f}"
        return number if self.sd is None else f"{number} ± {self.sd:.{self.digits}f}"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: Name, an untrusted text.
        cells: Table cells, one for each column.
        kind: See `RowKind`.
    """

    label: str
    cells: tuple[TableCell, ...]
    kind: RowKind = "model"


@dataclass(frozen=True)
class Table:
    """A table, independent of the format that it is written in.

    Attributes:
        columns: Headings of all columns except that of the labels.
        rows: Rows, in order.
        caption: A sentence on what it shows.
        texts: Number of first columns that hold texts, which are aligned to the left.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    texts: int = 0

    def __post_init__(self) -> None:
        """Check that every row has a table cell for each column."""
        odd = [row.label for row in self.rows if len(row.cells) != len(self.columns)]
        if odd:
            raise ValueError(f"rows={odd}: not {len(self.columns)} cells; give one for each of {self.columns}.")

    def begins_part(self, index: int) -> bool:
        """Return True if a line belongs above a row: it separates kinds, but not published numbers from ours."""
        parts = ["model" if row.kind == "article" else row.kind for row in self.rows]
        return index > 0 and parts[index] != parts[index - 1]

    def captioned(self, caption: str) -> Table:
        """Return the same table with another caption."""
        return replace(self, caption=caption)


def emphasised(cell: TableCell, text: str, best: Callable[[str], str], second: Callable[[str], str]) -> str:
    """Return the text of a table cell, emphasised if its place is 1 or 2.

    Args:
        cell: Table cell.
        text: Its text, escaped.
        best: Function that emphasises the best.
        second: Function that emphasises the second.
    """
    return {1: best, 2: second}.get(cell.place or 0, str)(text)
