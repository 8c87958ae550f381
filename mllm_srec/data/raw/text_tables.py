"""Tables as text (CSV and its relatives): fields between separators, a row a line, perhaps under a line of names.

A table without quotation marks and malformed rows is parsed by polars; any other goes line by line through
`QuotedRows`, so that a malformed row costs itself only. Both give the same rows.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.blocks import TOO_LONG, UTF16_MARKS, Content, read_content, show_line
from mllm_srec.data.raw.column_names import check_columns
from mllm_srec.data.raw.quoted_rows import UNDERSTOOD, QuotedRows
from mllm_srec.data.raw.schema import REVIEWS, RowBuffer
from mllm_srec.types import ConfigError, DataError

ROW = "\0row"
"""Column that readers add: index from 0 of the row in the file (of the line, where the file has lines).

No column of a file has such a name.
"""

MAX_WIDTHS = 5
"""Numbers of fields that are counted apart; rows with yet others share one reason."""

_NOT_UTF8 = "line is not UTF-8 (if the file is Latin-1, set prepare.columns.encoding: latin-1)"
_STAND_INS = "\x1f\x1e\x1d\x1c\x01\x02\x03\x04"


@dataclass(frozen=True)
class TextFormat:
    """How a text table is written.

    Attributes:
        separator: Separator of fields, one or several characters.
        quote: Mark around fields that hold separators or line breaks; None: it is ordinary text.
        header: True if the first line names the columns; else they are called "1", "2", ...
        encoding: Python's name of the encoding.
    """

    separator: str
    quote: str | None = '"'
    header: bool = True
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Faults:
    """What becomes of malformed rows: counted, or with `strict` an error.

    Attributes:
        path: The file.
        report: Receives the counts.
        stage: Stage of the report.
        strict: Raise at the first fault; what is only pointed out, such as a text with line breaks, is none.
    """

    path: Path
    report: PrepareReport
    stage: str
    strict: bool

    def note(self, reason: str, line: int, shown: str) -> None:
        """Count a fault of the row that begins at a line (from 1).

        Raises:
            DataError: `strict` is set, and the row is not certainly read as it was meant.
        """
        if self.strict and reason not in UNDERSTOOD:
            raise DataError(
                f"{self.path}:{line}: {reason}: {shown}; correct or delete the line, or set prepare.strict: false to "
                "count such rows and go on"
            )
        self.report.count(self.stage, reason, example=f"{self.path.name}, {shown}")


def read_text_table(
    path: Path, columns: Mapping[str, str], form: TextFormat, faults: Faults, required: frozenset[str] = frozenset()
) -> pl.DataFrame:
    """Read the requested columns of a text table as text, in file order, and add `ROW`.

    Blanks around a field are left out, and an empty field is null. `ROW` counts lines after the header, so that rows
    keep their place where lines are skipped.

    Args:
        path: The file, plain or gzip.
        columns: Setting -> name of the column it requests.
        form: How the table is written.
        faults: Receives malformed rows.
        required: Settings without whose column a row with too few fields is of no use.

    Raises:
        DataError: The file cannot be read, lacks a column or holds no row; or, with `strict`, a row is malformed.
        ConfigError: The encoding is unknown.
    """
    content = _as_utf8(path, read_content(path), form.encoding)
    data = content.data.replace(b"\r\n", b"\n")
    if b"\n" not in data and b"\r" in data:
        data = data.replace(b"\r", b"\n")
        faults.report.count(faults.stage, "file whose lines end in CR only, read as line ends", example=path.name)
    content = Content(data, content.too_long)
    frame = None if content.too_long else _parse_whole(data, form)
    if frame is not None:
        names = [name.strip() for name in frame.columns] if form.header else _numbered(frame.width)
        wanted = check_columns(path, columns, names, _first_line(data, form), form.separator)
        places = [names.index(name) for name in wanted]
        return frame.select(
            pl.nth(place).alias(name) for place, name in zip(places, wanted, strict=True)
        ).with_row_index(ROW)
    return _parse_lines(path, content, columns, form, faults, required)


def _parse_whole(data: bytes, form: TextFormat) -> pl.DataFrame | None:
    """Parse a table with polars; None if it has a row that polars would refuse, fill, leave out or read otherwise."""
    head, _, _ = data.partition(b"\n")
    separator, has_marks = form.separator.encode(), form.quote is not None and form.quote.encode() in data
    n_lines = data.count(b"\n") + (not data.endswith(b"\n"))
    names = [name.strip() for name in head.split(separator)]
    repeats = form.header and len(set(names)) < len(names)
    if len(separator) > 1 or not head.strip() or repeats or b"\r" in data or b"\n\n" in data:
        return None
    if not has_marks and not data.count(separator) == n_lines * head.count(separator) > 0:
        return None
    quote = form.quote if has_marks else None
    try:
        if quote and not _is_well_quoted(data, form.separator, quote, len(names)):
            return None
        frame = pl.read_csv(
            io.BytesIO(data), separator=form.separator, quote_char=quote, infer_schema=False, has_header=form.header
        )
    except pl.exceptions.PolarsError:  # not UTF-8, or a row with too many fields beside one with too few
        return None
    frame = frame.select(pl.all().str.strip_chars(" "))
    return frame.select(pl.when(pl.all() != "").then(pl.all()))


def _is_well_quoted(data: bytes, separator: str, quote: str, width: int) -> bool:
    """True if each line has so many fields, each without a mark or between two, within which marks are doubled."""
    apart = next((mark for mark in _STAND_INS if mark.encode() not in data), None)
    if apart is None or separator == " ":
        return False
    lines = pl.read_csv(io.BytesIO(data), separator=apart, quote_char=None, infer_schema=False, has_header=False)
    mark, end = re.escape(quote), re.escape(separator)
    field = f"(?:[^{mark}{end}]*|{mark}(?:[^{mark}]|{mark}{mark})*{mark})"
    return lines.width == 1 and bool(lines.to_series().str.contains(f"^{field}(?:{end}{field}){{{width - 1}}}$").all())


def _parse_lines(
    path: Path,
    content: Content,
    columns: Mapping[str, str],
    form: TextFormat,
    faults: Faults,
    required: frozenset[str],
) -> pl.DataFrame:
    """Parse a table line by line."""
    stand_in = next((mark for mark in _STAND_INS if mark.encode() not in content.data), "\x1f")
    rows = QuotedRows(_text_lines(content, faults), form.separator, form.quote, stand_in, faults.note)
    with _unlimited_fields():
        found = iter(rows)
        if form.header and content.too_long[:1] == (0,):
            raise DataError(f"{path}: is no table: its first {TOO_LONG}")
        if form.header:
            first = next(found, (0, [""]))
            names = [name.strip() for name in first[1]]
        else:
            rows.guess_width()
            found, names = _with_most_common_width(found)
        rows.width = len(names)
        wanted = check_columns(path, columns, names, _first_line(content.data, form), form.separator)
        needed = max((names.index(columns[name]) for name in required if name in columns), default=0)
        buffer = RowBuffer({ROW: pl.UInt32(), **dict.fromkeys(wanted, pl.String())})
        places = [names.index(name) for name in wanted]
        skipped: Counter[int] = Counter()
        for index, row in _of_width(found, len(names), needed, faults, form.header, skipped):
            buffer.append((index - form.header, *(row[place].strip(" ") or None for place in places)))
    frame = buffer.frame()
    if skipped.total() > frame.height:
        raise DataError(_most_skipped(faults, len(names), frame.height, skipped))
    return frame


def _of_width(
    rows: Iterator[tuple[int, list[str]]],
    width: int,
    needed: int,
    faults: Faults,
    has_header: bool,
    skipped: Counter[int],
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that have all fields; note the others, and fill those that lack only fields after `needed`.

    `skipped` receives the number of fields of each row left out.
    """
    widths: set[int] = set()
    standard = f"the header {width}" if has_header else f"most have {width}"
    for index, row in rows:
        if len(row) > width and not any(cell.strip() for cell in row[width:]):  # separators at the end of the line
            row = row[:width]
        if len(row) != width:
            is_filled = needed < len(row) < width
            known = len(row) in widths or len(widths) < MAX_WIDTHS
            widths |= {len(row)} if known else set()
            number = f"{len(row)} field{'s' * (len(row) != 1)}" if known else "another number of fields"
            reason = f"row has {number}, {standard}" + ("; the rest is read as empty" if is_filled else "")
            faults.note(reason, index + 1, f"line {index + 1}: {show_line(' | '.join(row))}")
            if not is_filled:
                skipped[len(row)] += 1
                continue
            row = row + [""] * (width - len(row))
        yield index, row


def _with_most_common_width(
    rows: Iterator[tuple[int, list[str]]],
) -> tuple[Iterator[tuple[int, list[str]]], list[str]]:
    """Return the rows, and numbers as the names of as many columns as most of the first rows have."""
    first = list(islice(rows, 1000))
    widths = Counter(len(row) for _, row in first)
    return chain(first, rows), _numbered(widths.most_common(1)[0][0] if widths else 0)


def _first_line(data: bytes, form: TextFormat) -> str:
    """Return the line that names the columns, for messages; "" if none does."""
    return show_line(data.lstrip(b"\n").partition(b"\n")[0]) if form.header else ""


def _numbered(width: int) -> list[str]:
    return [str(number) for number in range(1, width + 1)]


def _text_lines(content: Content, faults: Faults) -> Iterator[tuple[int, str]]:
    """Yield the index and text of each line; note those that are not text."""
    too_long = set(content.too_long)
    for index, line in enumerate(io.BytesIO(content.data)):
        try:
            text = line.decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError:
            faults.note(_NOT_UTF8, index + 1, f"line {index + 1}: {show_line(line)}")
            continue
        if index in too_long:
            faults.note(TOO_LONG, index + 1, f"line {index + 1}")
        else:
            yield index, text.replace("\r", " ")


def _as_utf8(path: Path, content: Content, encoding: str) -> Content:
    """Recode a file as UTF-8; lines that its encoding does not allow stay undecodable, to be counted as such."""
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig"):
        halves = content.data[:64:2], content.data[1:64:2]  # without a mark, every other byte of ASCII text is zero
        if content.data.startswith(UTF16_MARKS) or any(half.count(0) * 2 > len(half) for half in halves):
            raise DataError(f"{path}: is UTF-16 text; set prepare.columns.encoding: utf-16")
        return content
    try:
        return Content(content.data.decode(encoding).removeprefix("\ufeff").encode(), content.too_long)
    except LookupError as error:
        raise ConfigError(
            f"prepare.columns.encoding={encoding!r}: {error}; give one such as latin-1 or cp1252"
        ) from error
    except UnicodeError as error:
        if encoding.lower().startswith("utf"):
            raise DataError(f"{path}: is not {encoding} ({error}); correct prepare.columns.encoding") from error
        return Content(b"".join(map(_recoder(encoding), io.BytesIO(content.data))), content.too_long)


def _recoder(encoding: str) -> Callable[[bytes], bytes]:
    """Return a function that recodes one line, or makes it undecodable where the encoding does not allow it."""

    def recode(line: bytes) -> bytes:
        try:
            return line.decode(encoding).encode()
        except UnicodeError:
            return b"\xff" + line

    return recode


def _most_skipped(faults: Faults, width: int, n_kept: int, skipped: Counter[int]) -> str:
    examples = faults.report.examples.get(faults.stage, {})
    shown = next((texts[0] for reason, texts in examples.items() if reason.startswith("row has ")), "")
    lengths = ", ".join(f"{n:,} with {length}" for length, n in skipped.most_common(MAX_WIDTHS))
    advice = "check prepare.columns.separator, quote and header against the file"
    if len(skipped) > 2 and faults.stage == REVIEWS:
        advice = "one row for each interaction is needed, not one for each user's sequence"
    elif set(skipped) == {width + 1}:
        advice = "the first column has no name (row names?): put one into the first line"
    return f"{faults.path}: {n_kept:,} rows with {width} fields, but {lengths} (e.g. {shown}); {advice}"


@contextmanager
def _unlimited_fields() -> Iterator[None]:
    """Lift the csv module's limit on the length of a field; lines have their own."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
