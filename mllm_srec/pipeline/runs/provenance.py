"""Provenance of a result: the commit of the code and the versions of the libraries."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

from mllm_srec.types import VERSION

LIBRARIES = ("torch", "lightning", "transformers", "peft", "bitsandbytes", "torchmetrics", "numpy", "polars")
"""Libraries that results may depend on."""

CODE = (":/", ":(top,exclude)experiments/results", ":(top,exclude)*.md")
"""Git pathspecs of the code that decides results; the table that one grid writes is no change of code for the next."""


def versions() -> dict[str, str | None]:
    """Return the versions of Python, this package and each library.

    Returns:
        Name -> version; None for a library that is not installed.
    """
    return {
        "python": platform.python_version(),
        "mllm_srec": VERSION,
        **{name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit(folder: Path | None = None) -> tuple[str | None, bool | None]:
    """Return the commit of the code, and True if tracked files differ from it; results and Markdown do not count.

    Args:
        folder: Folder of a package; None takes this one.

    Returns:
        Both values, or None for both if the package is not in a repository, such as an installed one.
    """
    folder = Path(__file__).parents[2] if folder is None else folder
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None  # an installed package may lie in the folder of another repository
    head = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *CODE)
    return head, None if changed is None else bool(changed)


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git; None if git is missing or fails."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
