"""Disks that are full or read-only: what went wrong, in which folder, and what was kept, in one sentence."""

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
        DataError: The disk is full.
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
            raise read_only(folder, error, setting) from error
        raise


def read_only(folder: Path, error: OSError, setting: str = "data.root") -> ConfigError:
    """Make the error about something that is missing where nothing can be written."""
    return ConfigError(
        f"{folder}: is missing and cannot be made, since nothing can be written there ({error.strerror}); run the "
        f"command once where it can be written, or copy the data set and set {setting} to the copy"
    )


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
