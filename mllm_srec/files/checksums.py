"""Checksums of the large files of a store, noted when it is finished and compared when it is opened.

CRC-32 finds every flipped bit and every burst of up to 32 bits, and lets one of 4 billion other changes pass; it reads
2.5 GB a second on one core, so that whole files are compared, and not samples of them. It is no seal against people.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from mllm_srec.files.atomic import write_json
from mllm_srec.files.reading import read_object, read_whole

CHECKSUMS = "checksums.json"
"""File of a store's folder: name -> size and CRC-32; absent in stores of earlier versions, which are not compared."""

_CHUNK = 1 << 23


def file_checksum(path: Path) -> dict[str, int]:
    """Return size in bytes and CRC-32 of a file."""
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
    return {"size": size, "crc32": checksum}


def note_checksums(folder: Path, *names: str) -> None:
    """Write the checksums of finished files into `checksums.json` of their folder, beside those of others."""
    write_json(_noted(folder) | {name: file_checksum(folder / name) for name in names}, folder / CHECKSUMS)


def note_checksum(path: Path, content: Path) -> None:
    """Note the checksum of a file that is about to take its name.

    Args:
        path: Its name.
        content: The file that has its content now.
    """
    write_json(_noted(path.parent) | {path.name: file_checksum(content)}, path.parent / CHECKSUMS)


def is_noted(path: Path) -> bool:
    """Return True if the checksum of a file was noted, so that it was finished by a version that notes them."""
    return path.name in _noted(path.parent)


def check_checksums(folder: Path, *names: str, what: str, remedy: str) -> None:
    """Compare files with the checksums that were noted; one without is not read, but must be there.

    Args:
        folder: Folder of the files.
        names: Names of the files.
        what: What they are, for the message.
        remedy: What to do about a damaged one.

    Raises:
        DataError: A file is missing, or differs from what was written.
    """
    noted = _noted(folder)

    def compare(path: Path) -> None:
        if path.name not in noted:
            path.stat()
            return
        found, stated = file_checksum(path), noted[path.name]
        if found["size"] != stated["size"]:
            raise ValueError(f"it has {found['size']} bytes, and had {stated['size']} when it was written")
        if found != stated:
            raise ValueError("its content differs from its checksum, so it was changed or damaged")

    for name in names:
        read_whole(folder / name, compare, what, remedy)


def _noted(folder: Path) -> dict[str, Any]:
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    return read_object(path, "the list of checksums", f"delete {folder}, which is made again when it is needed")
