"""Reading of a prepared data set from disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.manifest import read_manifest
from mllm_srec.types import ConfigError


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared data set; each table is read on first access.

    Attributes:
        folder: Folder of the data set; paths of pictures are relative to it.
        manifest: Content of `manifest.json`.
    """

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path | str) -> PreparedDataset:
        """Open a folder that `prepare` wrote.

        Args:
            folder: Folder of the data set, `<data.root>/<data.name>`.

        Raises:
            ConfigError: The folder holds no prepared data set, or its manifest is broken.
        """
        path = Path(folder)
        manifest = read_manifest(path)
        if manifest is None:
            raise ConfigError(
                f"{path}: holds no prepared data set (no manifest.json); prepare it with "
                "`python -m mllm_srec prepare --config ...`, or check data.root and data.name"
            )
        return cls(path, manifest)

    @property
    def candidates_hash(self) -> str:
        """SHA-256 of the rank groups and their candidate lists; results with different hashes are not comparable."""
        return str(self.manifest["candidates_hash"])

    @cached_property
    def content_hash(self) -> str:
        """Short hash of the table files and of the corruption of pictures; used in names of stores made from them."""
        digest = hashlib.sha256((self.corruption or "").encode())
        for name in ("items", "users", "groups", "samples", "candidates"):
            path = self.folder / f"{name}.parquet"
            if path.exists():
                with path.open("rb") as file:
                    digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()[:16]

    @property
    def corruption(self) -> str | None:
        """Settings of `prepare.corruption` as text, since no table shows them; None for clean pictures."""
        settings = self.manifest["prepare"].get("corruption")
        return None if settings is None else " ".join(f"{key}={value}" for key, value in settings.items())

    @cached_property
    def items(self) -> pl.DataFrame:
        """Items, sorted by `item_id`; the row number is the item's index everywhere."""
        return self._read("items")

    @cached_property
    def users(self) -> pl.DataFrame | None:
        """Profiles, or None if the source has none."""
        return self._read("users") if (self.folder / "users.parquet").exists() else None

    @cached_property
    def profiles(self) -> dict[str, str]:
        """User id -> profile, for users that have one."""
        return {} if self.users is None else dict(self.users.select("user_id", "profile").iter_rows())

    @cached_property
    def interactions(self) -> pl.DataFrame:
        """Interactions with their split, sorted by user and key."""
        return self._read("interactions")

    @cached_property
    def groups(self) -> pl.DataFrame:
        """Contexts, sorted by `group_id`."""
        return self._read("groups")

    @cached_property
    def samples(self) -> pl.DataFrame:
        """Targets of the pair groups, sorted by `sample_id`."""
        return self._read("samples")

    @cached_property
    def candidates(self) -> pl.DataFrame:
        """Targets of the rank groups, sorted by `group_id` and `position`."""
        return self._read("candidates")

    def _read(self, name: str) -> pl.DataFrame:
        path = self.folder / f"{name}.parquet"
        if not path.is_file():
            raise ConfigError(
                f"{path}: is missing although the data set has a manifest; delete {self.folder} and prepare it again "
                "with `python -m mllm_srec prepare --config ...`"
            )
        return pl.read_parquet(path, glob=False)
