"""Which file of a folder is an item's picture: by the name that a table gives, or by the item's id.

People's names differ from the files' in small ways. Back slashes, blanks around, the folder's own name in front and a
suffix left out are other ways to write one name. Another case or suffix, a sub-folder left out and accents written as
one character or two are a guess, which is counted: a file is taken if it alone can be meant and is no other item's. The
folder is listed once; nothing else is asked of the file system.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from mllm_srec.types import DataError

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".avif", ".tif", ".tiff",
)  # fmt: skip
"""Suffixes of pictures in any case; of several pictures of an item, the first in this order is taken."""

EMPTY_NAMES = frozenset({"", "nan", "none", "null", "<na>", "n/a", "na", "-"})
"""Values of a column of names, in any case, that name no file."""

_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]+:)?//|data:", re.IGNORECASE)


class UnusablePictureError(ValueError):
    """A picture that cannot be used; `reason` is counted in the report, `details` go into its example."""

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(f"{reason}: {details}" if details else reason)
        self.reason = reason
        self.details = details


class PictureFinder:
    """Finds the picture files of items.

    Args:
        folder: Folder of pictures. Links to files are followed: archives and caches of data sets are made of them.
        item_ids: Ids of all items, which decide whose file a name in other case is.
        names: Safe file name of each item, without suffix.
        images: Names of the items' pictures, where a table gives them.

    Attributes:
        files: POSIX paths, relative to the folder, of all files with a picture's suffix, sorted.
    """

    def __init__(
        self, folder: str, item_ids: Sequence[str], names: Sequence[str], images: Sequence[str | None] | None = None
    ) -> None:
        self.folder = os.path.abspath(folder)
        listed, self._links = _listed(self.folder)
        self._all = sorted(listed)
        self._known = frozenset(self._all)
        self.files = [file for file in self._all if _stem(file) != file]
        # of several files with one stem the one with the first suffix wins: it is entered last
        self._by_stem = {_stem(file): file for file in sorted(self._all, key=_rank, reverse=True)}
        self._folded_ids = Counter(_fold(item_id) for item_id in item_ids)
        given: Sequence[str | None] = [None] * len(item_ids) if images is None else images
        by_id = [_goes_by_id(image) for image in given]
        exact = [self._exact(*item) for *item, goes in zip(item_ids, names, by_id, strict=True) if goes]
        named = [self._exactly_named(str(image)) for image, goes in zip(given, by_id, strict=True) if not goes]
        self._taken = frozenset(file for file in exact if file is not None)  # by ids
        self._others = self._taken.union(file for file in named if file is not None)

    def find(self, item_id: str, image: str | None, name: str) -> tuple[str, str | None]:
        """Find the picture of an item.

        Args:
            item_id: Id of the item.
            image: Name of the picture, relative to the folder; None or a word for "nothing" leaves it to the id.
            name: Safe file name of the item, without suffix.

        Returns:
            Path relative to the folder, and in what the name differs from it, or None.

        Raises:
            UnusablePictureError: There is no such file, or it is not clear which one is meant.
        """
        if image is None or _is_none(image):
            return self._by_id(item_id, name)
        if _ADDRESS.match(image.strip()):
            try:
                file, _ = self._by_id(item_id, name)
            except UnusablePictureError:
                raise UnusablePictureError("an address, not a file name") from None
            return file, "an address, not a file name; the file of the item's id is taken"
        return self._named(image)

    # --- by id -----------------------------------------------------------------------------------------------------

    def _by_id(self, item_id: str, name: str) -> tuple[str, str | None]:
        if (file := self._exact(item_id, name)) is not None:
            return file, None
        key = _fold(item_id)
        if self._folded_ids[key] == 1:  # else the file in other case may be another item's
            for places in (self._by_folded, self._by_base):
                files = [file for file in places.get(key, ()) if file not in self._others]
                if files:
                    file = _only(files)
                    return file, _difference(item_id, file)
        if (file := self._unread.get(key)) is not None:
            raise UnusablePictureError("a file with a suffix that is not read", file)
        raise UnusablePictureError("no file of that name")

    def _exact(self, item_id: str, name: str) -> str | None:
        return self._by_stem.get(item_id) or self._by_stem.get(name) or (item_id if item_id in self._known else None)

    # --- by the name in a table ---------------------------------------------------------------------------------------

    def _named(self, image: str) -> tuple[str, str | None]:
        """Find the file that a name means: as it stands, with other slashes, without suffix, in other case, deeper."""
        inside = self._inside(image)
        if not inside:
            raise UnusablePictureError("path leads out of prepare.images")
        if (file := self._exactly_named(image)) is not None:
            return file, None
        # a whole path in other case is the same name, unless an item has the file by its id
        for path in inside:
            for places, others in ((self._by_folded, self._taken), (self._by_base, self._others)):
                if files := [file for file in places.get(_fold(_stem(path)), ()) if file not in others]:
                    file = _only(files)
                    return file, _difference(path, file)
        unread = (self._unread.get(_fold(path)) for path in inside)
        if (file := next(filter(None, unread), None)) is not None:
            raise UnusablePictureError("a file with a suffix that is not read", file)
        raise UnusablePictureError("named file is missing")

    def _inside(self, image: str) -> list[str]:
        """Return the paths, relative to the folder, that a name may stand for."""
        return [path for path in map(self._relative, _spellings(image, self.folder)) if path is not None]

    def _exactly_named(self, image: str) -> str | None:
        """Return the file that a name means for certain."""
        return next(filter(None, map(self._as_written, self._inside(image))), None)

    def _as_written(self, path: str) -> str | None:
        """Return the file of a path, which may lack its suffix or lie below a link to a folder."""
        if path in self._known:
            return path
        if (file := self._by_stem.get(path)) is not None:
            return file
        linked = path.startswith(self._links) and os.path.isfile(os.path.join(self.folder, path))
        return path if linked else None

    def _relative(self, image: str) -> str | None:
        """Return a path relative to the folder; None if it leads out of it, or is the folder itself."""
        path, inside = os.path.normpath(os.path.join(self.folder, image)), self.folder.rstrip(os.sep) + os.sep
        return path[len(inside) :].replace(os.sep, "/") if path.startswith(inside) else None

    # --- names that differ a little, listed when the first one is looked for ------------------------------------------

    @cached_property
    def _by_folded(self) -> dict[str, list[str]]:
        return _grouped((_fold(_stem(file)), file) for file in self._all)

    @cached_property
    def _by_base(self) -> dict[str, list[str]]:
        return _grouped((_fold(_stem(file).rpartition("/")[2]), file) for file in self._all if "/" in file)

    @cached_property
    def _unread(self) -> dict[str, str]:
        """Files of other kinds, by their name without suffix, of whole paths before last parts."""
        others = [file for file in self._all if _stem(file) == file]
        stems = [(os.path.splitext(file)[0], file) for file in others]
        return {_fold(stem.rpartition("/")[2]): file for stem, file in stems} | {_fold(s): file for s, file in stems}


def _listed(folder: str) -> tuple[list[str], tuple[str, ...]]:
    """List the POSIX paths, relative to the folder, of all files in it, and of links to other folders, with a slash.

    Links to folders are not entered, since they may lead in circles; a name may go through them.

    Raises:
        DataError: A folder cannot be read, so that its pictures would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"prepare.images: {error.filename} cannot be read ({error.strerror}); change its permissions")

    files: list[str] = []
    links: list[str] = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        start = "" if root == folder else os.path.relpath(root, folder).replace(os.sep, "/") + "/"
        files += [start + name for name in names]
        links += [f"{start}{name}/" for name in folders if os.path.islink(os.path.join(root, name))]
    return files, tuple(links)


def _spellings(image: str, folder: str) -> list[str]:
    """Return the paths that a name may stand for: as it is, stripped, with slashes, without the folder's own name."""
    slashes = image.strip().replace("\\", "/")
    first, _, rest = slashes.removeprefix("./").partition("/")
    own = [rest] if rest and first == os.path.basename(folder) else []
    return list(dict.fromkeys([image, image.strip(), slashes, *own]))


def _is_none(image: str | None) -> bool:
    """True if a value of a column of names names no file."""
    return image is None or image.strip().lower() in EMPTY_NAMES


def _goes_by_id(image: str | None) -> bool:
    """True if the item's id names its file."""
    return image is None or _is_none(image) or _ADDRESS.match(image.strip()) is not None


def _difference(name: str, file: str) -> str:
    """Say in what a file's path differs from the name, a path or an id, under which it was found."""
    one, other = (unicodedata.normalize("NFC", _stem(path)) for path in (name, file))
    if "/" in other and _fold(one) != _fold(other):
        return "file found in a sub-folder"
    if one != other:
        return "file found in other case"
    if _stem(name) != _stem(file):
        return "file found with accents written otherwise"
    return "file found in other case" if _fold(name) == _fold(file) else "file found with another suffix"


def _only(files: Sequence[str]) -> str:
    """Return the one picture among files of one name: several suffixes in one folder are one picture.

    Raises:
        UnusablePictureError: They lie in several folders, or differ in case.
    """
    if len({_stem(file) for file in files}) > 1:
        raise UnusablePictureError("several files of that name", ", ".join(sorted(files)[:3]))
    return min(files, key=_rank)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, file in pairs:
        groups.setdefault(key, []).append(file)
    return groups


def _stem(file: str) -> str:
    """Return the path without a picture's suffix; a file with another suffix, or none, stays whole."""
    stem, suffix = os.path.splitext(file)
    return stem if suffix.lower() in SUFFIXES else file


def _rank(file: str) -> tuple[int, str]:
    suffix = os.path.splitext(file)[1].lower()
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else len(SUFFIXES), file


def _fold(name: str) -> str:
    """Return a name as it compares where neither case nor the writing of accents counts."""
    return unicodedata.normalize("NFC", name).casefold()
