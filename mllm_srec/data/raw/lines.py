"""Records of raw line files: plain or gzip, JSON or Python literals, one record a line.

Nothing that the file holds gets lost unseen: a malformed line is counted in the report (or, with `strict`, an error
with file and line number), and a file that cannot be read to its end is an error that says how far it went.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.files.progress import LateProgress
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
    """Yield `(line index from 0, record)` of every usable line; blank lines are passed over.

    A line is read as JSON and, where that fails, as a Python literal (Amazon 2014 metadata) with `ast.literal_eval`.

    Args:
        path: Raw file, plain or gzip whatever its name says; UTF-8 with or without byte order mark.
        report: Where malformed lines are counted, with `file:line` (from 1) of a few of them.
        stage: Name under which they are counted.
        strict: A malformed line is an error instead.

    Raises:
        DataError: The file is missing, empty, of another format, breaks off in the middle of its gzip stream or holds
            no record at all; or, with `strict`, a line is malformed.
    """
    usable = malformed = 0
    for index, line in read_lines(path):
        try:
            record = parse_line(line)
        except ValueError as error:
            if strict:
                raise DataError(
                    f"{path}:{index + 1}: {error}: {_shown(line)}. Mend or delete the line, or set prepare.strict: "
                    "false to skip and count such lines."
                ) from None
            report.count(stage, str(error), example=f"{path.name}:{index + 1}: {_shown(line)}")
            malformed += 1
            continue
        if record is not None:
            usable += 1
            yield index, record
    if not usable:
        raise DataError(
            f"{path} holds no record: {malformed} lines, none of them a JSON object or a Python dict. "
            "Check that the path and prepare.source fit each other; a CSV file is read with source: tables."
        )


def parse_line(line: bytes) -> dict[str, Any] | None:
    r"""The record on one line, or None for a blank line.

    >>> parse_line(b'{"asin": "B01"}'), parse_line(b"{'asin': 'B01', 'price': None}"), parse_line(b"\r\n")
    ({'asin': 'B01'}, {'asin': 'B01', 'price': None}, None)

    Raises:
        ValueError: With the reason, in the words of the report.
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
    """A Python literal, by way of the JSON parser where the two notations differ in quotes only (2-10 times faster)."""
    if "\\" not in text:  # without escapes a quoted text ends at its next quote
        swapped = text.replace("'", '"') if '"' not in text else _QUOTED.sub(_in_double_quotes, text)
        try:
            return json.loads(swapped)
        except (ValueError, RecursionError):  # None, True, tuples: the real thing decides
            pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape such as \d in a review is nobody's concern here
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("line is not JSON") from None


def _in_double_quotes(match: re.Match[str]) -> str:
    content = match.group(1)
    return match.group() if content is None else '"' + content.replace('"', '\\"') + '"'


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield `(index from 0, line without its end)` of a plain or gzip file, with a bar on a terminal if it takes long.

    Raises:
        DataError: The file is missing, empty, of a known other format, or its gzip stream is cut short or corrupt;
            then the message names how many complete lines were read and the last of them.
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
        raise DataError(f"{path} is empty once decompressed. Download or export it again.")


def read_bytes(path: Path) -> bytes:
    """The whole content, decompressed, for table parsers, which want bytes; errors as in `read_lines`."""
    parts: list[bytes] = []
    try:
        parts.extend(read_blocks(path))
    except (EOFError, OSError, zlib.error) as error:
        lines = b"".join(parts).split(b"\n")[:-1]
        raise _broken(path, error, len(lines), lines[-1] if lines else b"") from error
    return b"".join(parts)


def read_blocks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed content piece by piece, without a byte order mark; `b"".join` gives all of it.

    Unlike `gzip.open` it hands out everything that comes before a break in the stream.

    Raises:
        DataError: See `check_file`.
        EOFError, zlib.error: The gzip stream is cut short or corrupt.
    """
    check_file(path)
    with path.open("rb") as raw, LateProgress(f"Reading {path.name}", path.stat().st_size) as progress:
        blocks = _raw_blocks(raw, progress)
        first = next(blocks)
        content: Iterator[bytes] = itertools.chain([first], blocks)
        if first.startswith(GZIP_MAGIC):
            content = _gunzip(content)
        yield next(content, b"").removeprefix(UTF8_BOM)
        yield from content


def check_file(path: Path, also: bytes | None = None) -> None:
    """Refuse a path that cannot be a raw file; `also` is a foreign start of file that is fine this time.

    Raises:
        DataError: It is missing, a folder, of zero bytes, or starts like a format that is not read here.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist. Check prepare.reviews, prepare.metadata and prepare.users.")
    if not path.is_file():
        raise DataError(f"{path} is not a file. Name the file itself, not its folder.")
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise DataError(f"{path} is empty (0 bytes). Download or export it again.")
    for magic, what in FOREIGN_MAGIC.items():
        if start.startswith(magic) and magic != also:
            raise DataError(f"{path} is {what}; a plain or gzip UTF-8 text file is expected. Convert it first.")


def _raw_blocks(raw: BinaryIO, progress: LateProgress) -> Iterator[bytes]:
    while block := raw.read(BLOCK_SIZE):
        yield block
        progress.update(raw.tell())


def _gunzip(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress a gzip file of one or more members; length and checksum of each are verified by zlib."""
    member = zlib.decompressobj(zlib.MAX_WBITS | 16)  # | 16: with gzip's header and checksum
    for block in blocks:
        while block:
            if member.eof:
                member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            yield member.decompress(block)
            block = member.unused_data.lstrip(b"\0")  # members may be padded with zeros
    if not member.eof:
        raise EOFError("the gzip stream ends before its end mark")


def _broken(path: Path, error: Exception, read: int, last: bytes) -> DataError:
    seen = f"the last is line {read}: {_shown(last)}" if read else "not even one"
    return DataError(
        f"{path} cannot be read to its end ({error}): the download was cut short or is corrupt. Complete lines before "
        f"the break: {read}, {seen}. Download the file again; to go on with what is there, unpack it "
        f"(`gzip -dc {path.name} > part.json`) and name the unpacked file."
    )


def _shown(line: bytes, width: int = 80) -> str:
    text = line.decode("utf-8", "replace").strip()
    return text if len(text) <= width else text[:width] + "..."
