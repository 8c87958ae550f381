"""Folders that several processes share: lock files, folders that appear complete or not at all, write permission."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mllm_srec.files.faults import READ_ONLY, explained, full_disk, note_folder
from mllm_srec.files.progress import duration_words
from mllm_srec.types import ConfigError

PATIENCE = 2.0
"""Seconds to wait for a lock before `on_wait` is called."""

LONGEST_WAIT = 24 * 3600.0
"""Seconds to wait for a lock at most; who waits for longer work, such as millions of summaries, starts again."""


@contextmanager
def locked(lock_file: Path, on_wait: Callable[[], None] | None = None, setting: str | None = None) -> Iterator[None]:
    """Hold a lock file; processes started side by side take turns, and so do threads of one process.

    A thread that holds it already gets it again.

    Args:
        lock_file: The file to lock; its folder is made if it does not exist. The lock ends with its process.
        on_wait: Called once if another process still holds the lock after `PATIENCE` seconds.
        setting: Name of the setting that chose the folder, for an error to the user.

    Raises:
        ConfigError: The lock file cannot be written (OSError if `setting` is None), or is held for `LONGEST_WAIT`.
    """
    lock = FileLock(lock_file, is_singleton=True)  # one instance counts the holds of each thread apart
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        wait_for(lock, on_wait)
    except OSError as error:
        if setting is None:
            raise
        raise ConfigError(
            f"{setting}: {lock_file.parent} cannot be written ({error.strerror}); set it to a folder of yours"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def build_lock(target: Path) -> Iterator[None]:
    """Hold the lock of something that is about to be built: of processes started side by side, one builds it.

    Look first whether it is there, and again under the lock: what is there needs no lock, and a shared data set may be
    read-only. Where nothing can be written, nobody can build, so that nothing is locked and the block fails.

    Args:
        target: File or folder that will be built; its folder is made if it does not exist.

    Raises:
        DataError: The disk is full; what is complete is kept.
        ConfigError: Nothing can be written there, or another user made the lock file.
    """
    lock = FileLock(target.with_name(f".{target.name.lstrip('.')}.build.lock"), is_singleton=True)
    with explained(target, "what is complete is kept, and the same command continues from there"):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            wait_for(lock, lambda: _say(f"waiting for another process that builds {target}"))
        except OSError as error:
            if full_disk(error) is not None:
                raise
            if error.errno not in READ_ONLY:
                raise ConfigError(
                    f"{target.parent}: cannot be written ({error.strerror}); set data.root to a folder of yours"
                ) from error
        try:
            yield
        finally:
            lock.release()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def check_folder_name(setting: str, name: str, example: str) -> None:
    """Check that a setting is the name of one folder and no path, which could lead out of the folder around it.

    Args:
        setting: Name of the setting.
        name: Its value.
        example: A name that would do.

    Raises:
        ConfigError: It is not.
    """
    if name in ("", ".", "..") or Path(name).name != name or "\0" in name:
        raise ConfigError(f"{setting}={name!r}: is not a folder name; give one without slashes, such as {example!r}")


def wait_for(lock: FileLock, on_wait: Callable[[], None] | None = None, longest: float = LONGEST_WAIT) -> None:
    """Acquire a lock, and report a wait of more than `PATIENCE` seconds.

    Args:
        lock: The lock to acquire; the caller releases it.
        on_wait: Called once if another process still holds the lock by then.
        longest: Seconds after which it is given up.

    Raises:
        ConfigError: Another process or thread still holds it after `longest` seconds, or another user made its file.
        OSError: The folder cannot be written.
    """
    try:
        _acquire(lock, min(PATIENCE, longest))
    except Timeout:
        if on_wait is not None:
            on_wait()
        try:
            _acquire(lock, max(0.0, longest - PATIENCE))
        except Timeout as error:
            raise ConfigError(
                f"lock={lock.lock_file!r}: is held by another process or thread for {duration_words(longest)}; wait "
                "for it or end it, and start again. Where none is at work, the file system keeps a lock of a process "
                "that is gone: delete the file"
            ) from error


def lock_if_free(lock_file: Path) -> FileLock | None:
    """Take a lock file without waiting.

    Args:
        lock_file: The file to lock; its folder must exist.

    Returns:
        The lock, to be released by the caller; None if another process holds it.

    Raises:
        ConfigError: Another user made the file.
        OSError: The folder cannot be written.
    """
    lock = FileLock(lock_file)
    try:
        _acquire(lock, 0)
    except Timeout:
        return None
    return lock


def _acquire(lock: FileLock, timeout: float) -> None:
    """Acquire a lock; a file that only another user may open is no reason to go on without one."""
    try:
        lock.acquire(timeout=timeout)
    except PermissionError as error:
        file = Path(lock.lock_file)
        if why_not_writable(file.parent) is not None or not file.exists():
            raise
        raise ConfigError(
            f"lock={lock.lock_file!r}: belongs to another user and cannot be opened ({error.strerror}); have its owner "
            "run `chmod a+w` on it, or delete it while nobody works there"
        ) from error


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Fill a folder that takes its final name only when it is complete.

    Call it under a lock: two processes must not fill the same folder.

    Args:
        target: The folder to make; an earlier one is replaced at the end.

    Yields:
        An empty folder beside `target`. What a killed process left there is removed first; if the block raises, the
        folder is removed and an earlier `target` stays as it was.
    """
    note_folder(target.parent)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    follow_umask(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def follow_umask(folder: Path) -> None:
    """Give all files of a folder the rights that the umask leaves: some libraries write theirs for their owner alone.

    Args:
        folder: Folder of the files, which are this user's own.
    """
    probe = folder / f".mode-{os.getpid()}"
    probe.touch()  # asking for the umask would change it for other threads
    wanted = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and (mode := path.stat().st_mode) | wanted != mode:
            path.chmod(stat.S_IMODE(mode | wanted))


def why_not_writable(folder: Path) -> str | None:
    """Find out why files could not be written into a folder, without creating it.

    Args:
        folder: A folder that exists or would be made.

    Returns:
        The reason, such as `no permission to write into /data`; None if it can be written.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        return f"{existing} is a file"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"no permission to write into {existing}"
    return None


def make_writable(folder: Path) -> None:
    """Make a folder and prove that files can be written into it.

    Raises:
        OSError: The folder cannot be made or written.
    """
    note_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".writable-{os.getpid()}"
    probe.touch()
    probe.unlink(missing_ok=True)  # another thread may do the same
