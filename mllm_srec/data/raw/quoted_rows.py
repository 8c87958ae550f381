"""Rows of a text table, line by line: quoted fields may span lines, and marks that are out of order lose no other row.

A quotation mark that opens a field and never closes would take the rest of the file into one cell, and one that closes
rows later would take those rows. Both are told apart from a text with line breaks, and their mark is read as text.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Self

from mllm_srec.data.raw.blocks import show_line

MAX_SPAN = 1000
"""Most lines of one quoted field; a mark that stays open for longer counts as not closed."""

NOT_CLOSED = "quotation mark is not closed, read as text"
UNPAIRED = "unpaired quotation mark around whole rows, read as text"
MISPLACED = "quotation mark inside a field"
SPANS = "field spans several lines"
SPANS_ROWS = "field spans lines that look like rows (an unpaired mark? prepare.columns.quote: null reads it as text)"
"""Reasons under which rows are counted; of these, all rows are kept."""

Note = Callable[[str, int, str], None]
"""Receives a reason, the line from 1, and the place and text to show."""

Numbered = tuple[int, str]
"""A line's index from 0 and its text without the line end."""


class _OneLine:
    """The input of a parser that is given one line after another, and never more than one."""

    text: str | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        text, self.text = self.text, None
        if text is None:
            raise StopIteration
        return text


class QuotedRows:
    """Splits lines into fields; `width` is to be set to the number of fields of the header once it is known.

    Args:
        lines: Index from 0 and text of each line; blank ones are left out, but for those inside a field.
        separator: Separator of fields; one or several characters.
        quote: Quotation mark; None: marks are ordinary text.
        stand_in: A character that occurs nowhere in the file, in place of a separator of several characters.
        note: Called for each row whose marks are out of order, or that spans lines.
    """

    def __init__(self, lines: Iterator[Numbered], separator: str, quote: str | None, stand_in: str, note: Note) -> None:
        self.width: int | None = None
        self._lines = lines
        self._waiting: deque[Numbered] = deque()  # lines read ahead that belong to no field
        self._separator = separator
        self._quote = quote
        self._delimiter = separator if len(separator) == 1 else stand_in
        self._note = note
        self._one_line = _OneLine()
        self._parser = None if quote is None else csv.reader(self._one_line, strict=True, **self._dialect)

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the index of each row's first line, and its fields."""
        while (first := self._next_line()) is not None:
            index, line = first
            if not line or (self._separator != " " and not line.strip(" ")):
                continue
            if self._quote is None or self._quote not in line:
                yield index, line.split(self._separator)
            else:
                yield index, self._quoted_row(first)

    def _next_line(self) -> Numbered | None:
        return self._waiting.popleft() if self._waiting else next(self._lines, None)

    def _quoted_row(self, first: Numbered) -> list[str]:
        """Read the row that begins on a line with a mark."""
        if self._parser is not None and first[1].count(str(self._quote)) % 2 == 0:
            self._one_line.text = self._with_delimiter(first[1])
            with suppress(csv.Error):  # out of order: done again below, with the lines after it at hand
                return self._restored(next(self._parser))
        taken: list[Numbered] = []
        try:
            row = next(csv.reader(self._take(first, taken), strict=True, **self._dialect))
        except csv.Error:
            return self._disordered_row(taken)
        if len(taken) == 1:
            return self._restored(row)
        place = f"line {first[0] + 1}-{taken[-1][0] + 1}"
        if self._holds_rows(taken):
            self._note(UNPAIRED, first[0] + 1, f"{place}: {show_line(first[1])}")
            return self._give_back(taken)
        inner = [line.count(self._separator) + 1 for _, line in taken[1:-1]]
        like_rows = len(row) > 1 and len(row) in inner
        self._note(SPANS_ROWS if like_rows else SPANS, first[0] + 1, place)
        return self._restored(row)

    def _disordered_row(self, taken: list[Numbered]) -> list[str]:
        """Read the first of the lines by itself, since its marks, or those of the lines after it, are out of order."""
        index, line = taken[0]
        place = f"line {index + 1}: {show_line(line)}"
        is_open = len(taken) > 1 or line.count(str(self._quote)) % 2
        self._note(NOT_CLOSED if is_open else MISPLACED, index + 1, place)
        return self._give_back(taken)

    def _give_back(self, taken: list[Numbered]) -> list[str]:
        self._waiting.extendleft(reversed(taken[1:]))
        return self._row_alone(taken[0][1])

    def _row_alone(self, line: str) -> list[str]:
        """Split a line whose marks are out of order, in the first way that gives as many fields as the header has."""
        plain, ways = line.split(self._separator), []
        for options in ({"escapechar": "\\", "doublequote": False, "strict": True}, {}):
            if not options or f"\\{self._quote}" in line:
                with suppress(csv.Error):
                    ways.append(
                        self._restored(next(csv.reader([self._with_delimiter(line)], **self._dialect | options)))
                    )
        ways = [plain, *ways] if line.count(str(self._quote)) == 1 else [*ways, plain]
        return next((way for way in ways if len(way) == self.width), ways[0])

    def _take(self, first: Numbered, taken: list[Numbered]) -> Iterator[str]:
        """Hand lines to the parser, which asks for the next where a field is open; remember them in `taken`."""
        current: Numbered | None = first
        while current is not None and len(taken) < MAX_SPAN:
            taken.append(current)
            yield self._with_delimiter(current[1]) + "\n"
            current = self._next_line()
        if current is not None:
            self._waiting.appendleft(current)

    def _holds_rows(self, taken: list[Numbered]) -> bool:
        """True if each line is a row by itself, with as many fields, and with numbers where the first line has some."""
        rows = [line.split(self._separator) for _, line in taken]
        if {len(row) for row in rows} != {self.width}:
            return False
        columns = [place for place, cell in enumerate(rows[0]) if _is_number(cell)]
        return bool(columns) and all(_is_number(row[place]) for row in rows for place in columns)

    @property
    def _dialect(self) -> dict[str, Any]:
        skips = self._delimiter != " "  # blanks between a separator and a mark
        return {"delimiter": self._delimiter, "quotechar": self._quote, "skipinitialspace": skips}

    def _with_delimiter(self, line: str) -> str:
        return line if self._delimiter == self._separator else line.replace(self._separator, self._delimiter)

    def _restored(self, row: list[str]) -> list[str]:
        if self._delimiter == self._separator:
            return row
        return [cell.replace(self._delimiter, self._separator) for cell in row]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
