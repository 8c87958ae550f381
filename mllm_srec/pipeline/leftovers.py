"""Leftovers below a data set: stores that nothing refers to any more, and what killed processes left half made.

Every store can be made again, and its name is a hash of what it was made from: tables, pictures, settings, backbone.
When a table or a picture changes, or only a picture's time, a new store is made and the old one is never found again.
Whether that happened is seen without any configuration, since a store notes in `key.json` what it was made from.
Summaries and runs are not stores: they cost hours, and nothing here touches them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.pictures.image_store import store_name
from mllm_srec.files.atomic import KEY
from mllm_srec.files.folders import lock_if_free
from mllm_srec.files.reading import read_object

STORES = ("image_store", "features", "item_features", "prompts")
"""Folders below a data set whose folders are stores."""

PARTIAL = ".*.partial"
"""Pattern of what takes its final name when it is complete."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that may be removed.

    Attributes:
        path: The file or folder.
        n_bytes: Size of all its files.
        reason: Why nothing refers to it.
    """

    path: Path
    n_bytes: int
    reason: str


class StoreKeys:
    """Compares what stores were made from with what is there now.

    Args:
        data: Data set that the stores belong to.
    """

    def __init__(self, data: PreparedDataset) -> None:
        self.data = data

    def why_unused(self, store: Path) -> str | None:
        """Return why no command would find a store; None if one may, or if the store does not say what it is made of.

        Args:
            store: Folder of a store.

        Raises:
            DataError: Its `key.json` is damaged.
        """
        if (key := read_key(store)) is None:
            return None
        if store.parent.name == "image_store":
            return None if self._pictures_name(key["processor"]) == store.name else "its pictures were changed since"
        if store.parent.name == "features":
            found = self._pictures_name(key["processor"]) == key["pictures"]
            return None if found else "its pictures were changed since"
        if store.parent.name == "item_features":
            found = key["items"] == self.data.manifest["tables"]["items"]["sha256"]
            return None if found else "the items were changed since"
        return self._why_prompts_unused(key)

    def _why_prompts_unused(self, key: Mapping[str, Any]) -> str | None:
        if key["tables"] != self.data.content_hash:
            return "tables were changed since"
        found = key["pictures"] is None or key["pictures"] in self._stored_pictures
        return None if found else "its pictures were changed since"

    @cached_property
    def _stored_pictures(self) -> set[str]:
        """Names of the image stores that commands may find, or that do not say what they are made of."""
        stores = [store for store in folders_in(self.data.folder / "image_store") if self.why_unused(store) is None]
        return {store.name for store in stores}

    def _pictures_name(self, processed: str) -> str:
        """Return the name that a store of the present pictures has, or would have."""
        pictured = self.data.items.filter(pl.col("image").is_not_null())
        return store_name(self.data.folder, processed, pictured)


def read_key(store: Path) -> dict[str, Any] | None:
    """Return what a store was made from; None for a store of an earlier version, which did not note it.

    Raises:
        DataError: The file is damaged.
    """
    path = store / KEY
    names = {"image_store": ("processor",), "features": ("pictures", "processor"), "item_features": ("items",)}
    required = names.get(store.parent.name, ("tables", "pictures"))
    remedy = f"delete {store}, which is made again when it is needed"
    return read_object(path, "what a store was made from", remedy, required) if path.exists() else None


def find_leftovers(data: PreparedDataset, everything: bool = False) -> list[Leftover]:
    """List what nothing refers to below a data set, largest first.

    Args:
        data: The data set.
        everything: True also lists stores that are in use or do not say what they are made of; all can be made again.

    Raises:
        DataError: A table, a picture or a key of the data set is damaged.
    """
    keys, found = StoreKeys(data), []
    for kind in STORES:
        for store in folders_in(data.folder / kind):
            reason = keys.why_unused(store)
            if reason is not None or everything:
                found.append(Leftover(store, size_of(store), reason or _why_listed(store)))
    found += [
        Leftover(path, size_of(path), "half made by a process that was killed") for path in _half_made(data.folder)
    ]
    return sorted(found, key=lambda one: (-one.n_bytes, str(one.path)))


def _why_listed(store: Path) -> str:
    noted = read_key(store) is not None
    return "in use; made again when it is needed" if noted else "of an earlier version; made again when it is needed"


def _half_made(folder: Path) -> Iterator[Path]:
    """Files and folders that nobody finishes: beside the data set, in it, and in its folders of stores."""
    yield from folder.parent.glob(f".{folder.name}.partial")
    for place in (folder, *(folder / kind for kind in STORES)):
        yield from place.glob(PARTIAL)
        yield from (path for store in folders_in(place) if place != folder for path in store.glob(PARTIAL))


def remove(leftover: Leftover) -> bool:
    """Remove a file or folder, unless a process is at work on it.

    Returns:
        True if it is gone, False if another process holds its lock.
    """
    path = leftover.path
    with _lock_of(path) as free:
        if free and path.is_dir():
            shutil.rmtree(path)
        elif free:
            path.unlink(missing_ok=True)
    return free


@contextmanager
def _lock_of(path: Path) -> Iterator[bool]:
    """Hold the lock under which a store, or a data set, is made; False if another process holds it."""
    name = path.name.removeprefix(".").removesuffix(".partial")
    store = path.parent.with_name(f".{path.parent.name}.build.lock")  # of what is made file by file
    locks = (path.with_name(f".{name}.build.lock"), path.with_name(f".{name}.lock"), store)
    held = [lock_if_free(lock) for lock in locks if lock.exists()]
    try:
        yield all(lock is not None for lock in held)
    finally:
        for lock in held:
            if lock is not None:
                lock.release()


def folders_in(folder: Path) -> list[Path]:
    """Folders of a folder in the order of their names, without hidden ones; none if it does not exist."""
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir())


def size_of(path: Path) -> int:
    """Add up the bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())
