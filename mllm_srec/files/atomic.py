"""Atomic writes: a file is complete under its name or not there, whatever ends the process or the power."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mllm_srec.files.faults import note_folder
from mllm_srec.types import ConfigError, DataError

if TYPE_CHECKING:  # commands that only print a help import this file
    import polars as pl


CHECKSUM = "checksum"
"""First key of a JSON file of ours: hash of the rest; absent in files of earlier versions."""

COLUMN_CHECKSUMS = "mllm_srec.columns"
"""Key of a Parquet file's metadata: JSON of column -> hash; absent in files of earlier versions."""

KEY = "key.json"
"""File in every store that can be made again: what it was made from, which `clean` compares with what is there now."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file under a temporary name; it takes its own name when all of it is on the disk.

    Args:
        path: The file to write; an earlier one is replaced. Its folder must exist.

    Yields:
        The open file, in binary mode.

    Raises:
        OSError: The file cannot be written; an earlier one stays as it was.
    """
    note_folder(path.parent)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power loss could leave an empty file under the final name
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()  # half a file would keep a full disk full
        raise


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a table as Parquet, atomically, with the hashes that `reading.read_table` compares; see `atomic_file`.

    Parquet itself would not notice: of 300 tables with one flipped bit, polars read 198 as other numbers.
    """
    from mllm_srec.files.hashing import column_hashes

    checksums = {COLUMN_CHECKSUMS: json.dumps(column_hashes(table))}
    with atomic_file(path) as file:
        table.write_parquet(file, metadata=checksums)


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON object, atomically, with the hash that `reading.read_json` compares; see `atomic_file`.

    Args:
        content: JSON values by key; what JSON does not know, such as a path, is written as text.
        path: The file.
    """
    whole = {CHECKSUM: json_checksum(content), **content}
    text = json.dumps(whole, indent=2, ensure_ascii=False, default=str) + "\n"
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # which is JSON's own escape of a lone surrogate


def write_text(text: str, path: Path) -> None:
    """Write a text in UTF-8, atomically; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(text.encode())


SEAL = "# Checksum of the rest, to be removed where that is changed on purpose: "
"""Beginning of a sealed text, which YAML takes for a comment."""


def sealed(text: str) -> str:
    """Return a text behind a comment with its checksum, which `check_seal` compares."""
    return f"{SEAL}{_text_checksum(text)}\n{text}"


def check_seal(text: str) -> None:
    """Compare a text with the checksum that it begins with; texts without one pass.

    Raises:
        ValueError: It was changed since.
    """
    head, _, rest = text.partition("\n")
    if head.startswith(SEAL) and head.removeprefix(SEAL).strip() != _text_checksum(rest):
        raise ValueError(
            "it differs from its checksum, so it was changed or damaged; if you changed it on purpose, remove its "
            "first line"
        )


def _text_checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def json_checksum(content: Mapping[str, Any]) -> str:
    """Return 16 digits of the SHA-256 of the values of a JSON object, whatever their order and layout."""
    plain = json.loads(json.dumps(content, default=str))  # keys and tuples as a reader of the file gets them
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return _text_checksum(text)


def check_output_file(path: Path, command: str, is_own: Callable[[str], bool]) -> None:
    """Check that a command may write its result to a file, before the result is computed.

    Args:
        path: The file, as given by `--output`.
        command: Name of the command.
        is_own: Function of a file's content: True if it is an earlier result of the command. May raise what parsing
            raises.

    Raises:
        ConfigError: The folder does not exist, or the file holds something else.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"output={str(path)!r}: {str(path.parent)!r} is no folder; make it first")
    if not path.exists():
        return
    try:
        is_result = is_own(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError):
        is_result = False
    if not is_result:
        raise ConfigError(f"output={str(path)!r}: the file exists and is no result of `{command}`; choose another file")


def write_output_file(text: str, path: Path) -> None:
    """Write a command's result atomically.

    Raises:
        DataError: The file cannot be written; see `atomic_file`.
    """
    try:
        write_text(text, path)
    except OSError as error:
        raise DataError(
            f"output={str(path)!r}: the file cannot be written ({error.strerror}); choose another file"
        ) from error
