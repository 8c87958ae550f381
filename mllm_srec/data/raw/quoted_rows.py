"""Rows of a text table, line by line: quoted fields may span lines, and marks that are out of order lose no other row.

A quotation mark that opens a field and never closes would take the rest of the file into one cell, and one that closes
rows later would take those rows. Both are told apart from a text with line breaks, and their mark is read as text. The
lines after the mark decide: a text is prose, while rows have a header's number of fields, with numbers at their places.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
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

UNDERSTOOD = frozenset({SPANS})
"""Reasons that say how a row is written, and not that anything is wrong with it."""

_NUMBER = re.compile(r"[+-]?[\d.,:/ TZeE+-]*\d[\d.,:/ TZeE+-]*")
"""A number, date or time."""

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
        self._whole: list[str] = []  # the last row without marks, to tell what rows look like
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
                row = line.split(self._separator)
                self._whole = row if len(row) == self.width else self._whole
                yield index, row
            else:
                yield index, self._quoted_row(first)

    def guess_width(self) -> None:
        """Set `width` to the number of fields that most of the first lines have by themselves."""
        self._waiting.extend(islice(self._lines, MAX_SPAN))
        widths = Counter(len(self._row_alone(line)) for _, line in self._waiting if self._separator in line)
        self.width = widths.most_common(1)[0][0] if widths else None

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
        n_rows = self._count_rows(taken)
        if n_rows * 2 >= len(taken) - 1 or (n_rows and len(row) != self.width):
            self._note(UNPAIRED, first[0] + 1, f"{place}: {show_line(first[1])}")
            return self._give_back(taken)
        like_rows = len(row) > 1 and len(row) in (len(self._split(line)) for _, line in taken[1:])
        is_doubtful = n_rows or (like_rows and not self._numbers(taken[0][1]))
        self._note(SPANS_ROWS if is_doubtful else SPANS, first[0] + 1, place)
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
        if f"\\{self._quote}" in line:
            with suppress(csv.Error):
                ways.append(self._split(line, escapechar="\\", doublequote=False, strict=True))
        ways.append(self._split(line))
        ways = [plain, *ways] if line.count(str(self._quote)) == 1 else [*ways, plain]
        return next((way for way in ways if len(way) == self.width), ways[0])

    def _split(self, line: str, **options: Any) -> list[str]:
        """Split a line by itself; marks out of order are text, and with `strict` a csv.Error."""
        return self._restored(next(csv.reader([self._with_delimiter(line)], **{**self._dialect, **options}), []))

    def _take(self, first: Numbered, taken: list[Numbered]) -> Iterator[str]:
        """Hand lines to the parser, which asks for the next where a field is open; remember them in `taken`."""
        current: Numbered | None = first
        while current is not None and len(taken) < MAX_SPAN:
            taken.append(current)
            yield self._with_delimiter(current[1]) + "\n"
            current = self._next_line()
        if current is not None:
            self._waiting.appendleft(current)

    def _count_rows(self, taken: list[Numbered]) -> int:
        """Count the lines after the first that are rows by themselves: full, and with numbers where rows have them.

        A row may lack some of its numbers, since the lines that a mark takes may be malformed themselves.
        """
        columns = self._numbers(taken[0][1])
        count = 0
        for _, line in taken[1:] if columns else ():
            row = self._row_alone(line)
            numbers = sum(_NUMBER.fullmatch(row[place]) is not None for place in columns if place < len(row))
            count += len(row) == self.width and numbers * 2 >= len(columns)
        return count

    def _numbers(self, line: str) -> list[int]:
        """Return the columns of numbers, as a line has them or, if it is no full row, the last row without marks."""
        for row in (self._row_alone(line), self._whole):
            columns = [place for place, cell in enumerate(row) if _NUMBER.fullmatch(cell)]
            if len(row) == self.width and columns:
                return columns
        return []

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
