"""`clean`: list what nothing refers to below a data set, and remove it after asking."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_srec.cli.schema import dataset_settings, full_parser, light_parser

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jsonargparse

    from mllm_srec.pipeline.leftovers import Leftover

DESCRIPTION = (
    "List the stores of a data set (resized pictures, features, prompts) that nothing refers to any more, since tables "
    "or pictures were changed, and what killed processes left half made; remove them after asking. Summaries and runs "
    "are never touched."
)
FLAGS: dict[str, dict[str, Any]] = {
    "all": {
        "action": "store_true",
        "help": "Every store, also those in use; all are made again when they are needed.",
    },
    "yes": {"action": "store_true", "help": "Remove without asking."},
}
"""Flags of this command, by name."""


def main(command: str, arguments: list[str]) -> None:
    """Remove what nothing refers to."""
    if {"-h", "--help"} & set(arguments):
        light = light_parser(command, DESCRIPTION)
        add_flags(light)
        light.parse_args(["--help"])
    parser = full_parser(command, DESCRIPTION)
    add_flags(parser)
    config = parser.parse_args(arguments)
    from mllm_srec.data.dataset import PreparedDataset
    from mllm_srec.pipeline.leftovers import find_leftovers

    folder, _, _ = dataset_settings(config)
    found = find_leftovers(PreparedDataset.open(folder), everything=config["all"])
    print("\n".join(listed(folder, found)))
    if not found:
        return
    if not config.yes and not _agreed():
        print("nothing was removed")
        return
    _remove(found)


def add_flags(parser: jsonargparse.ArgumentParser) -> None:
    """Add the flags of this command alone."""
    for name, options in FLAGS.items():
        parser.add_argument(f"--{name}", **options)


def listed(folder: Path, found: Sequence[Leftover]) -> list[str]:
    """Return the lines that show what was found.

    Args:
        folder: Folder of the data set.
        found: What may be removed.
    """
    if not found:
        return [f"{folder}: nothing is left over (--all lists every store that can be made again)"]
    total = size_words(sum(one.n_bytes for one in found))
    head = f"{folder}: {len(found)} may be removed, {total} in all"
    rows = [f"  {size_words(one.n_bytes):>9}  {_shown(one.path, folder)}: {one.reason}" for one in found]
    return [head, *rows]


def _shown(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def size_words(n_bytes: int) -> str:
    """Return a size in kB, MB or GB of powers of ten, such as `42.1 MB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes / 1e3:.1f} kB"


def _agreed() -> bool:
    """Ask on a terminal; elsewhere nobody could answer."""
    if not sys.stdin.isatty():
        print("no terminal to ask on; give --yes to remove them")
        return False
    try:
        return input("Remove them? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _remove(found: Sequence[Leftover]) -> None:
    """Remove what was listed, and say what was kept because a process is at work on it."""
    from mllm_srec.pipeline.leftovers import remove

    gone = []
    for one in found:
        if remove(one):
            gone.append(one)
        else:
            print(f"{one.path}: kept, another process is at work on it; run `clean` again when it has ended")
    print(f"removed {len(gone)} of {len(found)}, {size_words(sum(one.n_bytes for one in gone))}")
