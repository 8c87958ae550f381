"""What a result was computed with: the commit of the code and the versions of the libraries."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

from mllm_srec.types import VERSION

LIBRARIES = ("torch", "lightning", "transformers", "peft", "bitsandbytes", "torchmetrics", "numpy", "polars")
"""Libraries that results may depend on."""


CODE = (":/", ":(top,exclude)experiments/results", ":(top,exclude)*.md")
"""Paths, for git, of what decides results: a grid that has written its table has not changed the code of the next."""


def versions() -> dict[str, str | None]:
    """Version of Python, of this package and of each library; None where it is not installed."""
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
    """Commit of the code, and whether tracked files differ from it; results and texts are no code.

    Args:
        folder: Folder of a package; None takes this one.

    Returns:
        Both None where the package is no part of a repository, as one that was installed is not.
    """
    folder = Path(__file__).parents[2] if folder is None else folder
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None  # another repository's folder may lie around it
    head = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *CODE)
    return head, None if changed is None else bool(changed)


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where there is no git, or it refuses."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
