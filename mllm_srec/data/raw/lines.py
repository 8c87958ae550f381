"""Records of raw files: JSON or Python literals, one record per line, or one JSON array of records.

Nothing in a file is lost silently: a malformed line is counted in the report (or, with `strict`, is an error with file
and line number), and a file that cannot be read to its end is an error that says how far reading got.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.raw.blocks import TOO_LONG, UTF16, UTF16_MARKS, read_content, read_lines, read_start, show_line
from mllm_srec.types import DataError

ONE_A_LINE = "one object a line is read (pandas: to_json(orient='records', lines=True); or jq -c '.[]')"

CHECK_SOURCE = "check that the path and prepare.source match (a CSV file is read with source: tables)"
"""What to do where no line holds a record, unless the source is tables."""

_QUOTED = re.compile(r"'([^']*)'|\"[^\"]*\"")
_ROWS_OF_LISTS = re.compile(rb"\s*\[[^\n]*\]\s*\n\s*[\[{]")


def read_records(
    path: Path, report: PrepareReport, stage: str, *, strict: bool = False, advice: str = CHECK_SOURCE
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line index from 0, record)` of every usable line; blank lines are skipped.

    A line is read as JSON and, if that fails, as a Python literal (Amazon 2014 metadata) with `ast.literal_eval`. A
    file that is one JSON array gives its elements, with their index in place of the line's.

    Args:
        path: Raw file, plain or gzip whatever its suffix; UTF-8 with or without byte order mark.
        report: Receives counts of malformed lines, with `file:line` (from 1) of the first few.
        stage: Stage of the report under which they are counted.
        strict: Raise at a malformed line instead of counting it.
        advice: What to do where nothing is a record, for the error.

    Raises:
        DataError: The file is missing, empty, in another format, has a truncated or corrupt gzip stream, or holds no
            record; or, with `strict`, a line is malformed.
    """
    start = read_start(path)
    if start.startswith(UTF16_MARKS):
        raise DataError(f"{path}: is {UTF16}")
    is_array = start.lstrip().startswith(b"[") and not _ROWS_OF_LISTS.match(start)
    usable, malformed, first_fault = 0, 0, ""
    for index, found, shown in _array_elements(path) if is_array else _line_records(path):
        if isinstance(found, str):
            if strict:
                raise DataError(
                    f"{path}:{index + 1}: {found}: {shown}; correct or delete the line, or set "
                    "prepare.strict: false to skip and count such lines"
                )
            report.count(stage, found, example=f"{path.name}:{index + 1}: {shown}")
            malformed, first_fault = malformed + 1, first_fault or f"{found}: {shown}"
            continue
        usable += 1
        yield index, found
    if not usable:
        raise DataError(f"{path}: holds no record: {_why_no_record(start, malformed, first_fault, advice)}")


def _line_records(path: Path) -> Iterator[tuple[int, dict[str, Any] | str, str]]:
    """Yield line index, and the record or else the reason why the line holds none, with the line's beginning."""
    for index, line in read_lines(path):
        if line is None:
            yield index, TOO_LONG, ""
            continue
        try:
            record = parse_line(line)
        except ValueError as error:
            yield index, str(error), show_line(line)
        else:
            if record is not None:
                yield index, record, ""


def _array_elements(path: Path) -> Iterator[tuple[int, dict[str, Any] | str, str]]:
    """Yield the elements of a file that is one JSON array, in the form of `_line_records`; it is read whole."""
    content = read_content(path)
    if content.too_long:
        raise DataError(f"{path}: is one JSON array with lines that are too long ({TOO_LONG}); {ONE_A_LINE}")
    try:
        elements = json.loads(content.data)
    except (ValueError, RecursionError) as error:
        if sum(isinstance(found, dict) for _, found, _ in _line_records(path)):  # lines, of which the first is broken
            yield from _line_records(path)
            return
        raise DataError(f"{path}: begins as one JSON array but is none ({error}); {ONE_A_LINE}") from error
    for index, element in enumerate(elements if isinstance(elements, list) else []):
        if isinstance(element, dict):
            yield index, element, ""
        else:
            yield index, "element is not a record", show_line(json.dumps(element))


def _why_no_record(start: bytes, malformed: int, first_fault: str, advice: str) -> str:
    first_line = start.partition(b"\n")[0].strip()
    if first_line in (b"{", b"[") or (first_line.startswith(b"{") and malformed > 1):
        return f"objects span several lines; {ONE_A_LINE}"
    return (
        f"{malformed} lines, none of them a JSON object or a Python dict (the first: {first_fault or 'blank'}); "
        f"{advice}"
    )


def parse_line(line: bytes) -> dict[str, Any] | None:
    r"""Parse the record on one line; None for a blank line.

    >>> parse_line(b'{"asin": "B01"}'), parse_line(b"{'asin': 'B01', 'price': None}"), parse_line(b"\r\n")
    ({'asin': 'B01'}, {'asin': 'B01', 'price': None}, None)

    Raises:
        ValueError: The line is malformed; the message is the reason that the report counts.
    """
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("line is not UTF-8") from None
    if not text:
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = _parse_literal(text)
    if not isinstance(record, dict):
        raise ValueError("line is not a record")
    return record


def _parse_literal(text: str) -> Any:
    """Parse a Python literal, with the JSON parser if the notations differ only in quotes (2-10 times faster)."""
    if "\\" not in text:  # without escapes a quoted text ends at its next quote
        swapped = text.replace("'", '"') if '"' not in text else _QUOTED.sub(_in_double_quotes, text)
        try:
            return json.loads(swapped)
        except (ValueError, RecursionError):  # None, True, tuples: left to `literal_eval`
            pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape such as \d in a review does no harm
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("line is not JSON") from None


def _in_double_quotes(match: re.Match[str]) -> str:
    content = match.group(1)
    return match.group() if content is None else '"' + content.replace('"', '\\"') + '"'
