"""Bytes of raw files, plain or gzip, handed out as whole lines; a broken or foreign file is an error that says so.

A line has a limit of length, so that memory and time stay in proportion to a file that is not what it seems.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mllm_srec.files.progress import BYTES, LateProgress
from mllm_srec.files.reading import readable
from mllm_srec.types import DataError

GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1"
FOREIGN_MAGIC = {
    b"PK\x03\x04": "a zip archive (an .xlsx workbook is one); unpack it, or export the sheet as CSV",
    b"(\xb5/\xfd": "Zstandard-compressed; unpack it (unzstd), or compress it with gzip",
    b"BZh": "bzip2-compressed; unpack it (bunzip2), or compress it with gzip",
    b"\xfd7zXZ": "xz-compressed; unpack it (unxz), or compress it with gzip",
    PARQUET_MAGIC: "a Parquet file; it is read with prepare.source: tables",
    b"ARROW1": "an Arrow (Feather) file; write it as Parquet",
    b"SQLite format 3": "an SQLite database; export its tables as CSV",
    b"\x89HDF": "an HDF5 file; write it as Parquet",
}
TAR_MAGIC, TAR_PLACE = b"ustar", 257
_TAR = "a tar archive; unpack it (tar -xf) and give the file inside"
UTF16 = "UTF-16 text; convert it (iconv -f utf-16 -t utf-8), or, for a CSV, set prepare.columns.encoding: utf-16"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_BOM = b"\xef\xbb\xbf"
BLOCK_SIZE = 1 << 16
MAX_LINE = 1 << 24
"""Longest line in bytes (16 MiB): no record is longer, and what is would be held in memory whole."""

TOO_LONG = f"line is longer than {MAX_LINE >> 20} MiB"
"""Reason under which a longer line is counted."""


@dataclass(frozen=True)
class Content:
    """A whole file in memory.

    Attributes:
        data: Its decompressed bytes, without a byte order mark; a line above `MAX_LINE` is left empty.
        too_long: Indices from 0 of the lines that were left empty.
    """

    data: bytes
    too_long: tuple[int, ...]


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield `(index from 0, line without its end)` of a file; None in place of a line above `MAX_LINE`.

    Raises:
        DataError: The file is missing, empty or in another known format, or its gzip stream is truncated or corrupt;
            in that case the message gives the number of complete lines read and the last of them.
    """
    for first, lines in read_chunks(path):
        if lines is None:
            yield first, None
        else:
            yield from enumerate(lines.removesuffix(b"\n").split(b"\n"), first)


def read_content(path: Path) -> Content:
    """Return the whole decompressed content, for parsers of whole files; errors as in `read_lines`."""
    parts: list[bytes] = []
    too_long = []
    for first, lines in read_chunks(path):
        parts.append(lines if lines is not None else b"\n")
        if lines is None:
            too_long.append(first)
    return Content(b"".join(parts), tuple(too_long))


def read_chunks(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield `(index of the first line, whole lines with their ends)`; None in place of a line above `MAX_LINE`.

    Raises:
        DataError: See `read_lines`.
    """
    read, last = 0, b""
    lines: bytes | None = b""
    try:
        for lines in _whole_lines(read_blocks(path)):
            yield read, lines
            read += 1 if lines is None else lines.count(b"\n")
            last = b"" if lines is None else _last_line(lines)
    except (EOFError, OSError, zlib.error) as error:
        raise _broken(path, error, read, last) from error
    if lines == b"":
        raise DataError(f"{path}: empty once decompressed; download or export it again")


def _whole_lines(blocks: Iterator[bytes]) -> Iterator[bytes | None]:
    """Join blocks to pieces of whole lines; the last may lack its end. A line above `MAX_LINE` gives None."""
    rest: list[bytes] = []  # of the line that is not complete yet; emptied once it is too long
    length = 0
    for block in blocks:
        head, end, tail = block.rpartition(b"\n")
        if end:
            lines = b"".join((*rest, head, end))
            if length > MAX_LINE:
                yield None
                lines = lines.partition(b"\n")[2]
            if lines:
                yield lines
            rest, length = [], 0
        length += len(tail)
        rest = [*rest, tail] if length <= MAX_LINE else []
    if length:
        yield b"".join(rest) if length <= MAX_LINE else None


def read_blocks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed content in blocks, without a byte order mark; `b"".join` gives all of it.

    Raises:
        DataError: See `check_file`; or the system does not hand out the file.
        EOFError, OSError, zlib.error: The gzip stream is truncated or corrupt; blocks before the break were yielded.
    """
    check_file(path)
    with (
        readable(path),
        path.open("rb") as raw,
        LateProgress(f"reading {path.name}", path.stat().st_size, BYTES) as progress,
    ):
        is_gzip = raw.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
        content = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        mark = UTF8_BOM  # of the first block
        while block := content.read1(BLOCK_SIZE):  # unlike `read`, it hands out what comes before a break
            if mark:
                _check_start(path, block, is_gzip)
            yield block.removeprefix(mark)
            mark = b""
            progress.update(raw.tell())


def read_start(path: Path, size: int = 4096) -> bytes:
    """Return the first decompressed bytes, without a byte order mark; empty where the stream breaks before them."""
    try:
        return next(read_blocks(path), b"")[:size]
    except (EOFError, OSError, zlib.error):
        return b""


def check_file(path: Path) -> None:
    """Refuse a path that cannot be a raw text file.

    Raises:
        DataError: The path is missing, a folder, a file of 0 bytes, an archive, or in a format of `FOREIGN_MAGIC`.
    """
    check_path(path)
    with readable(path), path.open("rb") as file:
        _check_start(path, file.read(512), is_gzip=False)


def _check_start(path: Path, start: bytes, is_gzip: bool) -> None:
    """Refuse a file that begins as another format, in itself or once unpacked."""
    known = (description for magic, description in FOREIGN_MAGIC.items() if start.startswith(magic))
    found = next(known, _TAR if start[TAR_PLACE:].startswith(TAR_MAGIC) else None)
    if found is None:
        return
    if is_gzip:
        raise DataError(f"{path}: holds, packed with gzip, {found.partition(';')[0]}; unpack it first (gunzip or tar)")
    raise DataError(f"{path}: is not plain or gzip text but {found}")


def check_path(path: Path) -> None:
    """Refuse a path that is missing, a folder, a file of 0 bytes, or one that this user may not read.

    Raises:
        DataError: The path is one of these.
    """
    with readable(path):
        if not path.exists():
            raise DataError(f"{path}: does not exist; check prepare.reviews, prepare.metadata and prepare.users")
        if not path.is_file():
            raise DataError(f"{path}: is not a file; give the file itself, not its folder")
        with path.open("rb"):
            pass
        if not path.stat().st_size:
            raise DataError(f"{path}: is empty (0 bytes); download or export it again")


def show_line(line: bytes | str, width: int = 80) -> str:
    """Return the beginning of a line, for messages."""
    text = (line[: 4 * width].decode("utf-8", "replace") if isinstance(line, bytes) else line[: 4 * width]).strip()
    return text if len(text) <= width else text[:width] + "..."


def _last_line(lines: bytes) -> bytes:
    return lines[lines.rfind(b"\n", 0, -1) + 1 : -1]


def _broken(path: Path, error: Exception, read: int, last: bytes) -> DataError:
    last_line = f", the last is line {read}: {show_line(last)}" if read else ""
    return DataError(
        f"{path}: cannot be read to its end ({error}), the download is incomplete or corrupt. Complete lines before "
        f"the break: {read}{last_line}; download the file again, or, to use what is there, unpack it "
        f"(`gzip -dc {path.name} > part.json`) and give the unpacked file"
    )
