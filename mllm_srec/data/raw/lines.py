"""Records of raw line files: plain or gzip, JSON or Python literals, one record per line.

Nothing in a file is lost silently: a malformed line is counted in the report (or, with `strict`, is an error with file
and line number), and a file that cannot be read to its end is an error that says how far reading got.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.files.progress import BYTES, LateProgress
from mllm_srec.types import DataError

GZIP_MAGIC = b"\x1f\x8b"
FOREIGN_MAGIC = {
    b"PK\x03\x04": "a zip archive",
    b"(\xb5/\xfd": "Zstandard-compressed",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PAR1": "a Parquet file",
}
UTF8_BOM = b"\xef\xbb\xbf"
BLOCK_SIZE = 1 << 16

_QUOTED = re.compile(r"'([^']*)'|\"[^\"]*\"")


def read_records(
    path: Path, report: PrepareReport, stage: str, *, strict: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line index from 0, record)` of every usable line; blank lines are skipped.

    A line is read as JSON and, if that fails, as a Python literal (Amazon 2014 metadata) with `ast.literal_eval`.

    Args:
        path: Raw file, plain or gzip whatever its suffix; UTF-8 with or without byte order mark.
        report: Receives counts of malformed lines, with `file:line` (from 1) of the first few.
        stage: Stage of the report under which they are counted.
        strict: Raise at a malformed line instead of counting it.

    Raises:
        DataError: The file is missing, empty, in another format, has a truncated or corrupt gzip stream, or holds no
            record; or, with `strict`, a line is malformed.
    """
    usable = malformed = 0
    for index, line in read_lines(path):
        try:
            record = parse_line(line)
        except ValueError as error:
            if strict:
                raise DataError(
                    f"{path}:{index + 1}: {error}: {_shown(line)}; correct or delete the line, or set "
                    "prepare.strict: false to skip and count such lines"
                ) from None
            report.count(stage, str(error), example=f"{path.name}:{index + 1}: {_shown(line)}")
            malformed += 1
            continue
        if record is not None:
            usable += 1
            yield index, record
    if not usable:
        raise DataError(
            f"{path}: holds no record: {malformed} lines, none of them a JSON object or a Python dict; "
            "check that the path and prepare.source match (a CSV file is read with source: tables)"
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


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield `(index from 0, line without its end)` of a plain or gzip file; show a progress bar if it takes long.

    Raises:
        DataError: The file is missing, empty or in another known format, or its gzip stream is truncated or corrupt;
            in that case the message gives the number of complete lines read and the last of them.
    """
    read, line, rest = 0, b"", b""
    try:
        for block in read_blocks(path):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield read, line
                read += 1
    except (EOFError, OSError, zlib.error) as error:
        raise _broken(path, error, read, line) from error
    if rest:
        yield read, rest
    elif not read:
        raise DataError(f"{path}: empty once decompressed; download or export it again")


def read_bytes(path: Path) -> bytes:
    """Return the whole decompressed content, for table parsers, which need bytes; errors as in `read_lines`."""
    parts: list[bytes] = []
    try:
        parts.extend(read_blocks(path))
    except (EOFError, OSError, zlib.error) as error:
        lines = b"".join(parts).split(b"\n")[:-1]
        raise _broken(path, error, len(lines), lines[-1] if lines else b"") from error
    return b"".join(parts)


def read_blocks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed content in blocks, without a byte order mark; `b"".join` gives all of it.

    Raises:
        DataError: See `check_file`.
        EOFError, OSError, zlib.error: The gzip stream is truncated or corrupt; blocks before the break were yielded.
    """
    check_file(path)
    with path.open("rb") as raw, LateProgress(f"reading {path.name}", path.stat().st_size, BYTES) as progress:
        is_gzip = raw.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
        content = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        mark = UTF8_BOM  # of the first block
        while block := content.read1(BLOCK_SIZE):  # unlike `read`, it hands out what comes before a break
            yield block.removeprefix(mark)
            mark = b""
            progress.update(raw.tell())


def check_file(path: Path, also: bytes | None = None) -> None:
    """Refuse a path that cannot be a raw file.

    Args:
        path: Path from the settings.
        also: Key of `FOREIGN_MAGIC` that the caller can read.

    Raises:
        DataError: The path is missing, a folder, a file of 0 bytes, or a file in a format of `FOREIGN_MAGIC`.
    """
    if not path.exists():
        raise DataError(f"{path}: does not exist; check prepare.reviews, prepare.metadata and prepare.users")
    if not path.is_file():
        raise DataError(f"{path}: is not a file; give the file itself, not its folder")
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise DataError(f"{path}: is empty (0 bytes); download or export it again")
    for magic, description in FOREIGN_MAGIC.items():
        if start.startswith(magic) and magic != also:
            raise DataError(f"{path}: is {description}, not plain or gzip UTF-8 text; convert it first")


def _broken(path: Path, error: Exception, read: int, last: bytes) -> DataError:
    last_line = f", the last is line {read}: {_shown(last)}" if read else ""
    return DataError(
        f"{path}: cannot be read to its end ({error}), the download is incomplete or corrupt. Complete lines before "
        f"the break: {read}{last_line}; download the file again, or, to use what is there, unpack it "
        f"(`gzip -dc {path.name} > part.json`) and give the unpacked file"
    )


def _shown(line: bytes, width: int = 80) -> str:
    text = line.decode("utf-8", "replace").strip()
    return text if len(text) <= width else text[:width] + "..."
