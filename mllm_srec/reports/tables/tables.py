"""One model of a table: numbers with spread, place and mark. Writers choose how these look, never what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

DIGITS = 4
"""Decimals of means and deviations; what is written alike is ranked alike."""

RowKind = Literal["model", "reference", "article", "gain"]
"""What a row is: a model, something that models are compared with, a published number, or a relative gain."""

KIND_WORDS: dict[RowKind, str] = {
    "model": "model",
    "reference": "comparison, no model of the table",
    "article": "published",
    "gain": "relative gain, %",
}
"""Kinds as CSV files name them."""


@dataclass(frozen=True)
class TableCell:
    """One cell: a number, or a text where there is none.

    Attributes:
        mean: The number, in the unit that its column names; None where there is none.
        sd: Standard deviation (n - 1) over seeds; None for a single one.
        n: Seeds behind it; None where that means nothing.
        place: 1 for the best of its column, 2 for the second.
        mark: Stands behind the number, such as a dagger.
        text: Shown in place of a number, literally.
        digits: Decimals.
        signed: Whether positive numbers show their sign.
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
        """The number with its deviation, or the text, without emphasis and mark; `-` where there is neither."""
        if self.mean is None:
            return "-" if self.text is None else self.text
        number = f"{self.mean:{'+' if self.signed else ''}.{self.digits}f}"
        return number if self.sd is None else f"{number} ± {self.sd:.{self.digits}f}"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: Its name; nobody has read it.
        cells: One for each column.
        kind: See `RowKind`.
    """

    label: str
    cells: tuple[TableCell, ...]
    kind: RowKind = "model"


@dataclass(frozen=True)
class Table:
    """A table, whatever it is written as.

    Attributes:
        columns: Headings of all columns but that of the labels.
        rows: Lines, in order.
        caption: What it shows, in a sentence.
        texts: How many of the first columns hold texts, which stand to the left.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    texts: int = 0

    def __post_init__(self) -> None:
        """Refuse rows that have another number of cells than there are columns."""
        odd = [row.label for row in self.rows if len(row.cells) != len(self.columns)]
        if odd:
            raise ValueError(f"rows {odd} do not have {len(self.columns)} cells; give one for each of {self.columns}.")

    def begins_part(self, index: int) -> bool:
        """Whether a line belongs above a row: published numbers stand among ours, all else apart."""
        parts = ["model" if row.kind == "article" else row.kind for row in self.rows]
        return index > 0 and parts[index] != parts[index - 1]

    def captioned(self, caption: str) -> Table:
        """The same table under another caption."""
        return replace(self, caption=caption)


def emphasised(cell: TableCell, text: str, best: Callable[[str], str], second: Callable[[str], str]) -> str:
    """The cell's text, dressed as its place asks for.

    Args:
        cell: Whose place counts.
        text: What it shows, escaped.
        best: Dresses the best.
        second: Dresses the second.
    """
    return {1: best, 2: second}.get(cell.place or 0, str)(text)
