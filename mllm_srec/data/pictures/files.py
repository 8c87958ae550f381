"""Pictures of items from a local folder: found, checked and copied under safe names.

What a picture may be is what the later steps can use: one of the common raster formats, decodable to its end, not of
absurd size and not narrower than the image processor takes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageOps, UnidentifiedImageError

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.files.progress import LateProgress
from mllm_srec.types import DataError

STAGE = "pictures"
"""Name of this stage in the report."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
"""Suffixes looked for, whatever their case; where an item has several pictures the first in this order is taken."""

TRUE_EXTENSIONS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
"""Formats that are read -> extension of the copy. None of them runs a program or a script, as EPS does."""

_OPENED = [name for name in TRUE_EXTENSIONS if name != "MPO"]  # stereo pictures are opened as JPEG and renamed after

MAX_ASPECT_RATIO = 200
"""Longer side by shorter side; Qwen2-VL's image processor refuses more."""

N_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class _Outcome:
    """What became of the picture of one item: its path in the data set, or the reason why there is none."""

    image: str | None
    file: str | None = None
    reason: str | None = None
    example: str | None = None


def import_pictures(
    items: pl.DataFrame, source: Path | None, target: Path, max_pixels: int, report: PrepareReport
) -> pl.DataFrame:
    """Copy the usable pictures of the items to `target` and fill the column `image`.

    The picture of an item is the file that its `image` names inside `source`, else `<item id>` with one of `SUFFIXES`
    (an id with a slash is looked for in the subfolder). Bytes are copied as they are; the copy's name is a safe form
    of the item id (`safe_names`) with the extension of the true format.

    Args:
        items: Columns of `ITEM_SCHEMA`, one row per item.
        source: Folder of pictures; None: no item gets one. Links inside it are followed, a path that leads out of it
            is refused.
        target: Folder of the copies; made if need be.
        max_pixels: A picture of more pixels is refused before it is decoded.
        report: Where items without a usable picture are counted by reason, and pictures that belong to no item.

    Returns:
        The items, with `image` a posix path relative to the parent of `target`, or null.

    Raises:
        DataError: `source` is not a folder.
    """
    if source is None:
        report.count(STAGE, "no folder of pictures", items.height)
        return items.with_columns(pl.lit(None, pl.String).alias("image"))
    if not source.is_dir():
        raise DataError(
            f"prepare.images is {str(source)!r}, which is not a folder. Name the folder of pictures, or null."
        )
    target.mkdir(parents=True, exist_ok=True)
    importer = _Importer(source, target, max_pixels)
    with (
        _own_size_limit(),
        LateProgress("Checking pictures", items.height) as progress,
        ThreadPoolExecutor(N_THREADS) as pool,
    ):
        names = safe_names(items["item_id"].to_list())
        outcomes = []
        for outcome in pool.map(importer.run, items["item_id"], items["image"], names):
            outcomes.append(outcome)
            progress.update(len(outcomes))
    _count(outcomes, importer.files, report)
    return items.with_columns(pl.Series("image", [outcome.image for outcome in outcomes], pl.String))


def check_picture(path: Path, max_pixels: int) -> str:
    """The extension that fits the true format of a usable picture.

    Args:
        path: A file.
        max_pixels: A picture of more is refused by what its header says, before it is decoded.

    Raises:
        UnusablePictureError: With the reason, in the words of the report, and details.
    """
    Image.init()  # else Pillow does not know WebP by the time it is asked for it by name
    try:
        if path.stat().st_size == 0:
            raise UnusablePictureError("file of zero bytes")
        with Image.open(path, formats=_OPENED) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise UnusablePictureError("more pixels than prepare.max_image_pixels", f"{width} x {height}")
            if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
                raise UnusablePictureError(f"sides differ by more than {MAX_ASPECT_RATIO} times", f"{width} x {height}")
            extension = TRUE_EXTENSIONS[picture.format or ""]
            # of a JPEG all bytes are read, but only an eighth of its size is drawn
            picture.draft(picture.mode, (max(1, width // 8), max(1, height // 8)))
            picture.load()
    except UnusablePictureError:
        raise
    except Image.DecompressionBombError as error:
        raise UnusablePictureError("more pixels than prepare.max_image_pixels", str(error)) from None
    except UnidentifiedImageError:
        raise UnusablePictureError("not a picture in a known format") from None
    except Exception as error:  # decoders raise whatever they stumble over: OSError, SyntaxError, struct.error, ...
        raise UnusablePictureError("broken picture", str(error)) from None
    return extension


def as_shown(image: Image.Image) -> Image.Image:
    """Any picture as a viewer shows it, in RGB: upright, transparent parts white, 16 bits scaled and not clipped."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


def small_copy(path: Path, max_side: int) -> Image.Image:
    """A picture to be shown to people: upright, RGB, and without whatever else the file holds.

    Args:
        path: A file of a data set.
        max_side: Pixels of the longer side; larger ones are reduced to it.

    Raises:
        UnusablePictureError: The file is gone or broken.
    """
    try:
        with Image.open(path, formats=_OPENED) as opened:
            picture = as_shown(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnusablePictureError("broken picture", str(error)) from error
    picture.thumbnail((max_side, max_side))
    picture.info.clear()  # Pillow would write a comment again
    return picture


class UnusablePictureError(ValueError):
    """A picture cannot be used: `reason` for counting, `details` for the example."""

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(f"{reason}: {details}" if details else reason)
        self.reason = reason
        self.details = details


class _Importer:
    """Finds, checks and copies the picture of one item; used from several threads, so nothing in it changes."""

    def __init__(self, source: Path, target: Path, max_pixels: int) -> None:
        self._source = os.path.abspath(source)
        self._target = target
        self._max_pixels = max_pixels
        self.files = _picture_files(self._source)
        # of several files of one stem the one with the first suffix counts
        self._by_stem = {os.path.splitext(file)[0]: file for file in sorted(self.files, key=_rank, reverse=True)}

    def run(self, item_id: str, image: str | None, name: str) -> _Outcome:
        """Import the picture of one item."""
        file = None
        try:
            file = self._find(item_id, image, name)
            path = Path(self._source, file)
            copy = self._target / (name + check_picture(path, self._max_pixels))
            if not (copy.exists() and copy.samefile(path)):
                shutil.copyfile(path, copy)
        except UnusablePictureError as error:
            return _Outcome(None, file, error.reason, " ".join((item_id, file or image or "", error.details)).rstrip())
        return _Outcome(f"{self._target.name}/{copy.name}", file)

    def _find(self, item_id: str, image: str | None, name: str) -> str:
        """Path of the item's picture relative to the folder."""
        if not image:
            file = self._by_stem.get(item_id) or self._by_stem.get(name)
            if file is None:
                raise UnusablePictureError("no file of that name")
            return file
        path = os.path.normpath(os.path.join(self._source, image))
        if not path.startswith(self._source + os.sep):
            raise UnusablePictureError("path leads out of prepare.images")
        if not os.path.isfile(path):
            raise UnusablePictureError("named file is missing")
        return Path(os.path.relpath(path, self._source)).as_posix()


def _picture_files(folder: str) -> list[str]:
    """Posix paths, relative to the folder, of all files with a picture's suffix, sorted."""
    found = []
    for root, _, names in os.walk(folder):
        start = Path(os.path.relpath(root, folder))
        found += [(start / name).as_posix() for name in names if os.path.splitext(name)[1].lower() in SUFFIXES]
    return sorted(found)


def _rank(file: str) -> tuple[int, str]:
    return SUFFIXES.index(os.path.splitext(file)[1].lower()), file


@contextlib.contextmanager
def _own_size_limit() -> Iterator[None]:
    """Switch off Pillow's limit of pixels, which would warn or refuse by its own number; ours is checked at once."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _count(outcomes: list[_Outcome], files: list[str], report: PrepareReport) -> None:
    for outcome in outcomes:
        if outcome.reason is not None:
            report.count(STAGE, outcome.reason, example=outcome.example)
    touched = {outcome.file for outcome in outcomes}
    idle = [file for file in files if file not in touched]
    report.count(STAGE, "file that is no item's picture", len(idle), idle[0] if idle else None)


MAX_LENGTH = 100
"""Longest id that may serve as a file name unchanged; file systems take 255 bytes, tools and archives often less."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
_HASHED = re.compile(r".*-[0-9a-f]{16}", re.IGNORECASE)
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
"""Names that Windows keeps for devices, whatever the extension."""


def safe_names(item_ids: Sequence[str]) -> list[str]:
    """A file name without extension for each id; ids that are safe already stay as they are.

    Anything else becomes `<readable part>-<16 hex digits of the id's hash>`: ids with other characters than letters,
    digits, `_` and `-`, very long ones, names of Windows devices, ids that look hashed already, and ids that differ
    in case only (they would be one file on some file systems).

    >>> safe_names(["B00LW3RQNC", "a/b.c", "CON"])
    ['B00LW3RQNC', 'a-b-c-85d67f765eefe587', 'CON-1bc43d851d28ada0']
    """
    folded = Counter(item_id.lower() for item_id in set(item_ids))
    return [_name(item_id, is_alone=folded[item_id.lower()] == 1) for item_id in item_ids]


def _name(item_id: str, *, is_alone: bool) -> str:
    is_safe = _SAFE.fullmatch(item_id) is not None and _HASHED.fullmatch(item_id) is None
    if is_alone and is_safe and len(item_id) <= MAX_LENGTH and item_id.lower() not in _DEVICES:
        return item_id
    slug = _UNSAFE.sub("-", item_id[:MAX_LENGTH]).strip("-_")[:60]
    digest = blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{slug or 'item'}-{digest}"
