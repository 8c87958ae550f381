"""Reading of a prepared data set from disk: each table is compared with the hash that its manifest states."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.manifest import MANIFEST, candidates_hash, read_manifest, repair
from mllm_srec.data.ratings import RatingRule
from mllm_srec.files.hashing import file_hash, table_hash
from mllm_srec.files.reading import read_table, read_whole
from mllm_srec.types import ConfigError, DataError

TABLES = ("items", "users", "groups", "samples", "candidates")
"""Tables that decide what is made of a data set; each interaction is a pair group, and its item a sample."""

_LEADS_OUT = r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)"
"""Paths that are absolute or go upwards, in the notation of any system."""

_compared: dict[Path, tuple[int, int, str]] = {}
"""File -> time, size and hash of a table that this process has compared with its manifest."""


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

    @cached_property
    def candidates_hash(self) -> str:
        """SHA-256 of the rank groups and their candidate lists; results with different hashes are not comparable.

        It is computed from the tables that are ranked.

        Raises:
            DataError: They are not those that `prepare` wrote.
        """
        stated, found = str(self.manifest["candidates_hash"]), candidates_hash(self.groups, self.candidates)
        if found != stated:
            raise DataError(
                f"{self.folder / MANIFEST}: says candidates_hash {stated[:12]}, but groups and candidates have "
                f"{found[:12]}; {repair(self.folder)}"
            )
        return found

    @cached_property
    def content_hash(self) -> str:
        """Short hash of the table files and of the corruption of pictures; used in names of stores made from them."""
        digest = hashlib.sha256((self.corruption or "").encode())
        for name in TABLES:
            path = self.folder / f"{name}.parquet"
            if path.exists():
                found = read_whole(path, file_hash, f"the table of {name}", repair(self.folder))
                digest.update(f"{name} {found}\n".encode())
        return digest.hexdigest()[:16]

    @property
    def corruption(self) -> str | None:
        """Settings of `prepare.corruption` as text, since no table shows them; None for clean pictures."""
        settings = self.manifest["prepare"].get("corruption")
        return None if settings is None else " ".join(f"{key}={value}" for key, value in settings.items())

    @property
    def rating_rule(self) -> RatingRule:
        """Rule that made ratings of this data set into likes and dislikes."""
        return RatingRule.of(self.manifest["prepare"])

    @property
    def has_times(self) -> bool:
        """False if the order of the raw file stands for the time, so that differences of times mean nothing."""
        columns = self.manifest["prepare"].get("columns")
        return columns is None or columns.get("timestamp", "") is not None

    @cached_property
    def items(self) -> pl.DataFrame:
        """Items, sorted by `item_id`; the row number is the item's index everywhere.

        Raises:
            DataError: See `_read`; or the path of a picture leads out of the data set's folder.
        """
        items = self._read("items")
        if "image" not in items.columns:  # of a table that is read for something else
            return items
        outside = items.filter(pl.col("image").cast(pl.String).str.contains(_LEADS_OUT))
        if outside.height:
            raise DataError(
                f"{self.folder / 'items.parquet'}: the picture of {outside.height:,} items lies outside the data set, "
                f"for example {outside['image'][0]!r} of {outside['item_id'][0]!r}; give paths below {self.folder}, "
                "such as images/x.jpg"
            )
        return items

    @cached_property
    def users(self) -> pl.DataFrame | None:
        """Profiles, or None if the source has none."""
        prepared = "users" in self.manifest["tables"]
        return self._read("users") if prepared or (self.folder / "users.parquet").exists() else None

    @cached_property
    def profiles(self) -> dict[str, str]:
        """User id -> profile, for users that have one."""
        return {} if self.users is None else dict(self.users.select("user_id", "profile").iter_rows())

    @cached_property
    def interactions(self) -> pl.DataFrame:
        """Interactions with their split and the column `liked` (see `data.ratings`), sorted by user and key."""
        return self.rating_rule.mark(self._read("interactions"))

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
        """Read a table.

        Raises:
            ConfigError: It is missing.
            DataError: It is damaged, or was changed after it was prepared.
        """
        path = self.folder / f"{name}.parquet"
        if not path.is_file():
            raise ConfigError(
                f"{path}: is missing although the data set has a manifest; delete {self.folder} and prepare it again "
                "with `python -m mllm_srec prepare --config ...`"
            )
        table = read_table(path, f"the table of {name}", repair(self.folder))
        self._compare(path, name, table)
        return table

    def _compare(self, path: Path, name: str, table: pl.DataFrame) -> None:
        """Compare a table with its hash in the manifest; the same file is hashed once in a process."""
        status = path.stat()
        state = _compared.get(path.resolve())
        if state is not None and state[:2] == (status.st_mtime_ns, status.st_size):
            found = state[2]
        else:
            try:
                found = table_hash(table)
            except TypeError:  # a column of a type that no table of ours has
                found = "none, since its columns are of other types"
            _compared[path.resolve()] = (status.st_mtime_ns, status.st_size, found)
        stated = self.manifest["tables"].get(name, {}).get("sha256")
        if stated is None:
            raise DataError(f"{path}: {MANIFEST} knows no such table, so it was not prepared; remove it")
        if stated != found:
            raise DataError(
                f"{path}: was changed after it was prepared: {MANIFEST} says sha256 {stated[:12]}, the table has "
                f"{found[:12] if len(found) == 64 else found}; {repair(self.folder)}"
            )
