"""Reading of our own files: one that cannot be read is named, with what is wrong and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mllm_srec.files.atomic import CHECKSUM, COLUMN_CHECKSUMS, json_checksum
from mllm_srec.files.faults import NO_MEMORY, machine_fault
from mllm_srec.types import DataError, MllmSrecError

if TYPE_CHECKING:  # commands that only print a help import this file
    import polars as pl

T = TypeVar("T")


def read_whole(path: Path, read: Callable[[Path], T], what: str, remedy: str) -> T:
    """Read a file that this package wrote; whatever is wrong with it becomes one error that names it.

    Args:
        path: The file.
        read: Function of the path that reads it whole. What it raises says what is wrong: a `ValueError` with a
            sentence for content that parses and is not what it should be.
        what: What the file is, for the message, such as "the manifest".
        remedy: What to do about a damaged one, such as "delete it and run `test` again".

    Returns:
        The result of `read`.

    Raises:
        DataError: The file is missing, empty, cut off, damaged or something else; or the machine cannot read it, in
            which case the message blames the disk, the permissions or the memory, and the file may well be whole.
        MllmSrecError: Raised by `read`, whose own messages are kept.
    """
    try:
        return read(path)
    except MllmSrecError:
        raise
    except Exception as error:
        if (fault := machine_fault(error)) is not None:
            raise DataError(f"{path}: {what} cannot be read ({fault}); {_way_out(fault, remedy)}") from error
        raise _damaged(path, what, remedy, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of polars, where a damaged file breaks an assumption
            raise
        raise _damaged(path, what, remedy, error) from error


def _way_out(fault: str, remedy: str) -> str:
    """Say what to do about a fault of the machine; only memory can run out because of what a damaged file states."""
    if fault == NO_MEMORY:
        return f"free some and start again; where that does not help, the file may be damaged: {remedy}"
    return "see to the disk or the permissions and start again"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn an error of the system within the block, which reads a file of somebody else's, into one that names it.

    Args:
        path: The file or folder.

    Raises:
        DataError: Rights or the disk are at fault; an error about the content has no number and is left as it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """Make the error about a file of somebody else's that the system does not hand out."""
    remedy = "change its permissions, or give a copy" if isinstance(error, PermissionError) else "see to the disk"
    return DataError(f"{path}: cannot be read ({error.strerror}); {remedy}, and start again")


def read_json(path: Path, what: str, remedy: str) -> Any:
    """Read a JSON file, and compare the checksum of one that `atomic.write_json` wrote; see `read_whole`.

    Returns:
        The content, without the checksum.
    """

    def read(file: Path) -> Any:
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and CHECKSUM in content:
            stated = content.pop(CHECKSUM)
            if json_checksum(content) != stated:
                raise ValueError("its content differs from its checksum, so it was changed or damaged")
        return content

    return read_whole(path, read, what, remedy)


def read_object(path: Path, what: str, remedy: str, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Read a JSON file that must hold an object; see `read_json`.

    Args:
        path: The file.
        what: What it is.
        remedy: What to do about a damaged one.
        keys: Keys that must be there.
    """
    content = read_json(path, what, remedy)

    def check(file: Path) -> dict[str, Any]:
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        if missing := [key for key in keys if key not in content]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return content

    return read_whole(path, check, what, remedy)


def read_table(
    path: Path,
    what: str,
    remedy: str,
    columns: Sequence[str] | None = None,
    schema: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Read a Parquet file, and compare the checksums of one that `atomic.write_table` wrote; see `read_whole`.

    Args:
        path: The file.
        what: What it is.
        remedy: What to do about a damaged one.
        columns: Columns to read, each of which must be there; None reads all.
        schema: Columns that must be there, with their polars types; None checks none.
    """
    return read_whole(path, lambda file: _table(file, columns, schema or {}), what, remedy)


def _table(path: Path, columns: Sequence[str] | None, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Read and check a Parquet file; `ValueError` says what is wrong."""
    import polars

    from mllm_srec.files.hashing import column_hashes

    if path.stat().st_size == 0:
        raise ValueError("it is empty")  # polars would take it for a folder without files
    with path.open("rb") as file:  # opened once: a writer may replace the file between two looks at it
        stored = json.loads(polars.read_parquet_metadata(file).get(COLUMN_CHECKSUMS, "{}"))
        file.seek(0)
        there = polars.read_parquet_schema(file)
        if missing := [name for name in (*(columns or ()), *schema) if name not in there]:
            raise ValueError(f"it lacks the column {', '.join(missing)}")
        for name, dtype in schema.items():
            if there[name] != dtype:
                raise ValueError(f"its column {name} is {there[name]}, not {dtype}")
        file.seek(0)
        table = polars.read_parquet(file, columns=None if columns is None else list(columns))
    if stored and (odd := [name for name, found in column_hashes(table).items() if stored.get(name) != found]):
        raise ValueError(
            f"its content differs from its checksum in the column {', '.join(odd)}, so it was changed or damaged"
        )
    return table


def _damaged(path: Path, what: str, remedy: str, error: BaseException) -> DataError:
    """Make the error about a file whose content is not what it should be."""
    return DataError(f"{path}: {what} cannot be read ({_reason(path, error)}); {remedy}")


def _reason(path: Path, error: BaseException) -> str:
    """Say in a few words what is wrong with a file."""
    if not path.exists():
        return "it is missing"
    if path.is_dir():
        return "it is a folder"
    if path.stat().st_size == 0:
        return "it is empty"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON: {error}"
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    words = " ".join(str(error).split())
    return (words[:200] + "..." if len(words) > 200 else words) or type(error).__name__
