"""What is compared: run folders, alone or as the seeds of one thing, under names that tell them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mllm_srec.types import ConfigError


@dataclass(frozen=True)
class RunGroup:
    """A run, or several that differ in their seed only.

    Attributes:
        name: Name in the table.
        folders: Run folders.
    """

    name: str
    folders: tuple[Path, ...]


def run_groups(arguments: Sequence[str], least: int = 2) -> list[RunGroup]:
    """Read `RUN` and `NAME=RUN,RUN,...`; a folder of that very name is always taken as a run.

    Args:
        arguments: One text per row of the table.
        least: Rows that make sense: two where they are compared.

    Returns:
        Groups of different names: that given, the folder's, or its whole path where two folders share a name.

    Raises:
        ConfigError: There are fewer, a name or run is empty, or a name or run is given twice.
    """
    if len(arguments) < least:
        needed = "two run folders; the first is the base" if least > 1 else "one run folder"
        raise ConfigError(f"RUN: got {len(arguments)}, give at least {needed}")
    read = [_run_group(argument) for argument in arguments]
    for folder, n in Counter(folder.resolve() for _, folders in read for folder in folders).items():
        if n > 1:
            raise ConfigError(f"RUN: {str(folder)!r} is given {n} times; a run says nothing about itself, name it once")
    shared = Counter(name or folders[0].resolve().name for name, folders in read)
    groups = []
    for name, folders in read:
        short = folders[0].resolve().name
        groups.append(RunGroup(name or (short if shared[short] == 1 else str(folders[0])), folders))
    for name, n in Counter(group.name for group in groups).items():
        if n > 1:
            raise ConfigError(f"RUN: the name {name!r} is given {n} times; choose others with NAME=RUN")
    return groups


def _run_group(argument: str) -> tuple[str | None, tuple[Path, ...]]:
    """Name, where one is given, and folders."""
    if not argument.strip():
        raise ConfigError(f"RUN: got {argument!r}; give a run folder, such as runs/demo/lora")
    name, given, folders = argument.partition("=")
    if not given or Path(argument).is_dir():
        return None, (Path(argument),)
    parts = folders.split(",")
    if not name.strip() or not all(part.strip() for part in parts):
        raise ConfigError(f"RUN: got {argument!r}; accepted is NAME=RUN,RUN,... with nothing empty")
    return name, tuple(map(Path, parts))
