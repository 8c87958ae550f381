"""Faults of the machine (a full disk, missing rights, a lost network drive, no memory), each told in one sentence."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mllm_srec.types import ConfigError, DataError, MllmSrecError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

_FULL_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|PytorchStreamWriter failed writing file|"
    r"os error (28|122|27)\b"
)
"""How libraries that do not hand on the number of the error (polars, safetensors, torch) say that a disk is full."""

_OF_THE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors that say something about a path or what it holds; all others come from the machine."""

_NUMBERED = re.compile(r"os error (\d+)\b|unable to (?:open|mmap)\b.*\((\d+)\)")
"""How polars and torch write the number of an error that they hand on as a text."""

NO_MEMORY = "memory ran out"

_NO_MEMORY_WORDS = re.compile(r"not enough memory: you tried to allocate|can't allocate memory")
"""How torch says it."""

_TIGHT = 1 << 20  # bytes; a disk with less is taken for the full one

_written: dict[Path, None] = {}  # folders that this process writes into, in order


def note_folder(folder: Path) -> None:
    """Remember a folder that this process writes into, for the message where a disk is full."""
    _written[folder] = None


def full_disk(error: BaseException) -> str | None:
    """Say in the system's words that an error, or one that it comes from, is a full disk; None if it is not."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in FULL:
            return os.strerror(link.errno)
        if found := _FULL_WORDS.search(str(link)):
            return os.strerror(int(found[1])) if found[1] else found[0]
    return None


def machine_fault(error: BaseException) -> str | None:
    """Say in the system's words that a file could not be read because of the machine: rights, disk, network, memory.

    The file may be whole then, so that nobody must be told to delete it.

    Args:
        error: What reading raised, or an error made from it.

    Returns:
        None if the error is about the content of the file, or if there is none.
    """
    for link in _chain(error):
        if isinstance(link, MemoryError) or _NO_MEMORY_WORDS.search(str(link)):
            return NO_MEMORY
        number = link.errno if isinstance(link, OSError) else None
        if number is None and (found := _NUMBERED.search(str(link))):
            number = int(found[1] or found[2])
        if number is not None and number not in _OF_THE_FILE:
            return NO_MEMORY if number == errno.ENOMEM else os.strerror(number)
        if number is None and isinstance(link, TimeoutError):
            return str(link) or os.strerror(errno.ETIMEDOUT)
    return None


def explain_full(error: BaseException) -> str | None:
    """Return the sentence about a full disk; None if the error is another one."""
    reason = full_disk(error)
    if reason is None:
        return None
    named = [Path(os.fsdecode(e.filename)).parent for e in _chain(error) if isinstance(e, OSError) and e.filename]
    tight = [folder for folder in _written if _free(folder) < _TIGHT]
    folders = named or tight or list(_written)[-1:] or [Path.cwd()]
    return (
        f"{folders[0]}: cannot be written ({reason}); free space there, or put data.root or trainer.default_root_dir "
        "on another disk, and start the same command again: what was complete is kept, and it continues from there"
    )


@contextmanager
def explained(folder: Path, kept: str, setting: str = "data.root") -> Iterator[None]:
    """Turn a full or read-only disk within the block into one error.

    Args:
        folder: Folder that the block writes into.
        kept: What is there afterwards, for the message.
        setting: Setting that chooses another folder.

    Raises:
        DataError: The disk is full, or a file that the block reads may not be read by this user.
        ConfigError: The folder cannot be written by this user, or not at all.
    """
    note_folder(folder)
    try:
        yield
    except MllmSrecError:
        raise
    except Exception as error:
        if (reason := full_disk(error)) is not None:
            raise DataError(
                f"{folder}: cannot be written ({reason}); free space there, or put {setting} on another disk, and "
                f"start again: {kept}"
            ) from error
        if isinstance(error, OSError) and error.errno in READ_ONLY:
            if (path := _unreadable(error)) is not None:
                raise DataError(
                    f"{path}: cannot be read by this user ({error.strerror}); see to its permissions, and start again"
                ) from error
            raise read_only(folder, error, setting) from error
        raise


def read_only(folder: Path, error: OSError, setting: str = "data.root") -> ConfigError:
    """Make the error about something that is missing where nothing can be written."""
    return ConfigError(
        f"{folder}: is missing and cannot be made, since nothing can be written there ({error.strerror}); run the "
        f"command once where it can be written, or copy the data set and set {setting} to the copy"
    )


def _unreadable(error: OSError) -> Path | None:
    """Return the file that may not be read, or the folder that may not be entered; None if writing was refused."""
    if error.errno == errno.EROFS or not isinstance(error.filename, str | bytes):
        return None
    path = Path(os.fsdecode(error.filename)).absolute()
    if os.path.exists(path) and not os.access(path, os.R_OK):  # `Path.exists` raises where a folder is closed
        return path
    return next((folder for folder in path.parents if folder.is_dir() and not os.access(folder, os.X_OK)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and so on."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _free(folder: Path) -> int:
    """Return the bytes that a user may still write below a folder that exists or would be made."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    status = os.statvfs(existing)
    return status.f_bavail * status.f_frsize
