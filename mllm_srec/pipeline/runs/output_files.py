"""Files that commands write results into: never over something else, and whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mllm_srec.files.atomic import write_whole_text
from mllm_srec.types import ConfigError, DataError


def check_output_file(path: Path, command: str, is_own: Callable[[str], bool]) -> None:
    """Look whether a result may be written, before anything is computed.

    Args:
        path: `--output`.
        command: Whose result it is.
        is_own: Whether a file's content is an earlier result of the command; may raise what parsing raises.

    Raises:
        ConfigError: The folder is missing, or the file holds something else.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"output: {str(path.parent)!r} is no folder; make it first")
    if not path.exists():
        return
    try:
        known = is_own(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise ConfigError(f"output: {str(path)!r} exists and is no result of `{command}`; choose another file")


def write_output_file(text: str, path: Path) -> None:
    """Write a result, whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        write_whole_text(text, path)
    except OSError as error:
        raise DataError(f"output: {str(path)!r} cannot be written ({error.strerror})") from error
