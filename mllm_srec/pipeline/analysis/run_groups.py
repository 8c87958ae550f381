"""Rows of a comparison: single run folders, or the seeds of one variant, under distinct names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mllm_srec.types import ConfigError


@dataclass(frozen=True)
class RunGroup:
    """A run, or several that differ only in their seed.

    Attributes:
        name: Name of the row in the table.
        folders: Run folders of the row.
    """

    name: str
    folders: tuple[Path, ...]


def run_groups(arguments: Sequence[str], least: int = 2) -> list[RunGroup]:
    """Parse `RUN` and `NAME=RUN,RUN,...`; an argument that names an existing folder is always a run.

    Args:
        arguments: Arguments of the command, one per row of the table.
        least: Smallest number of rows: 2 for a comparison.

    Returns:
        Groups with distinct names: the given name, else the folder's, or its path if two folders share a name.

    Raises:
        ConfigError: There are fewer rows, a name or run is empty, or a name or run is given twice.
    """
    if len(arguments) < least:
        needed = "two run folders, the first of which is the base" if least > 1 else "one run folder"
        raise ConfigError(f"run={list(arguments)}: too few arguments; give at least {needed}")
    parsed = [_run_group(argument) for argument in arguments]
    for folder, n in Counter(folder.resolve() for _, folders in parsed for folder in folders).items():
        if n > 1:
            raise ConfigError(
                f"run={str(folder)!r}: is given {n} times, and a run cannot be compared with itself; give each run once"
            )
    shared = Counter(name or folders[0].resolve().name for name, folders in parsed)
    groups = []
    for name, folders in parsed:
        short = folders[0].resolve().name
        groups.append(RunGroup(name or (short if shared[short] == 1 else str(folders[0])), folders))
    for name, n in Counter(group.name for group in groups).items():
        if n > 1:
            raise ConfigError(f"run={name!r}: the name is given {n} times; choose distinct names with NAME=RUN")
    return groups


def _run_group(argument: str) -> tuple[str | None, tuple[Path, ...]]:
    """Parse an argument into its name (None if not given) and its folders."""
    if not argument.strip():
        raise ConfigError(f"run={argument!r}: is empty; give a run folder, such as runs/demo/lora")
    name, given, folders = argument.partition("=")
    if not given or Path(argument).is_dir():
        return None, (Path(argument),)
    parts = folders.split(",")
    if not name.strip() or not all(part.strip() for part in parts):
        raise ConfigError(f"run={argument!r}: a name or run is empty; give NAME=RUN,RUN,...")
    return name, tuple(map(Path, parts))
