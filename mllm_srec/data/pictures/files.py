"""Picture files of items: find them in a local folder, check them, copy them under safe names, and decode them.

A usable picture has a common raster format, decodes to its end, and has neither more pixels than allowed nor sides
that differ more than the image processor accepts.
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
"""Suffixes of pictures in any case; of several pictures of an item, the first in this order is taken."""

TRUE_EXTENSIONS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
"""Format -> extension of the copy. None of these formats runs a program or a script, as EPS does."""

_OPENED = [name for name in TRUE_EXTENSIONS if name != "MPO"]  # Pillow opens stereo pictures (MPO) as JPEG

MAX_ASPECT_RATIO = 200
"""Largest ratio of the longer to the shorter side that Qwen2-VL's image processor accepts."""

N_THREADS = min(8, os.cpu_count() or 1)

MAX_LENGTH = 100
"""Longest id used unchanged as a file name; file systems accept 255 bytes, tools and archives often fewer."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
_HASHED = re.compile(r".*-[0-9a-f]{16}", re.IGNORECASE)
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
"""Names that Windows reserves for devices, with any extension."""


class UnusablePictureError(ValueError):
    """A picture that cannot be used; `reason` is counted in the report, `details` go into its example."""

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(f"{reason}: {details}" if details else reason)
        self.reason = reason
        self.details = details


def import_pictures(
    items: pl.DataFrame, source: Path | None, target: Path, max_pixels: int, report: PrepareReport
) -> pl.DataFrame:
    """Copy the usable pictures of the items to `target` and fill the column `image`.

    The picture of an item is the file in `source` that its `image` names, else `<item id>` with one of `SUFFIXES`
    (an id with a slash means a subfolder). Bytes are copied unchanged; the copy's name is a safe form of the item id
    (`safe_names`) with the extension of the actual format.

    Args:
        items: Columns of `ITEM_SCHEMA`, one row per item.
        source: Folder of pictures; with None no item gets one. Links inside it are followed; a path that leads out of
            it is refused.
        target: Folder of the copies; created if missing.
        max_pixels: Largest picture in pixels; larger ones are refused before decoding.
        report: Receives counts of items without a usable picture, by reason, and of files that belong to no item.

    Returns:
        The items, with `image` a POSIX path relative to the parent of `target`, or null.

    Raises:
        DataError: `source` is not a folder.
    """
    if source is None:
        report.count(STAGE, "no folder of pictures", items.height)
        return items.with_columns(pl.lit(None, pl.String).alias("image"))
    if not source.is_dir():
        raise DataError(
            f"prepare.images={str(source)!r}: is not a folder; give the folder of pictures, or null for none"
        )
    target.mkdir(parents=True, exist_ok=True)
    importer = _Importer(source, target, max_pixels)
    with (
        _without_pillow_limit(),
        LateProgress("checking pictures", items.height, "pictures") as progress,
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
    """Check that a picture is usable and return the extension of its actual format.

    Args:
        path: File of the picture.
        max_pixels: Largest picture in pixels; the header of a larger one is enough to refuse it.

    Raises:
        UnusablePictureError: The picture cannot be used.
    """
    Image.init()  # registers WebP, which `formats` names below
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
            # a JPEG is read to its end but decoded at an eighth of its size
            picture.draft(picture.mode, (max(1, width // 8), max(1, height // 8)))
            picture.load()
    except UnusablePictureError:
        raise
    except Image.DecompressionBombError as error:
        raise UnusablePictureError("more pixels than prepare.max_image_pixels", str(error)) from None
    except UnidentifiedImageError:
        raise UnusablePictureError("not a picture in a known format") from None
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise UnusablePictureError("broken picture", str(error)) from None
    return extension


def as_shown(image: Image.Image) -> Image.Image:
    """Convert a picture to RGB as a viewer shows it: upright, transparency on white, 16 bits scaled, not clipped."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


def small_copy(path: Path, max_side: int) -> Image.Image:
    """Load a picture for display: upright, RGB, and without metadata.

    Args:
        path: File of the picture.
        max_side: Longest side in pixels; larger pictures are reduced to it.

    Raises:
        UnusablePictureError: The file is missing or broken.
    """
    try:
        with Image.open(path, formats=_OPENED) as opened:
            picture = as_shown(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnusablePictureError("broken picture", str(error)) from error
    picture.thumbnail((max_side, max_side))
    picture.info.clear()  # otherwise Pillow would write comments again
    return picture


def safe_names(item_ids: Sequence[str]) -> list[str]:
    """Make a file name without extension for each id; safe ids stay unchanged.

    All others become `<readable part>-<16 hex digits of the id's hash>`: ids with characters other than letters,
    digits, `_` and `-`, very long ids, names of Windows devices, ids that look like hashed ones, and ids that differ
    only in case (on some file systems they would be the same file).

    >>> safe_names(["B00LW3RQNC", "a/b.c", "CON"])
    ['B00LW3RQNC', 'a-b-c-85d67f765eefe587', 'CON-1bc43d851d28ada0']
    """
    folded = Counter(item_id.lower() for item_id in set(item_ids))
    return [_name(item_id, is_alone=folded[item_id.lower()] == 1) for item_id in item_ids]


@dataclass(frozen=True)
class _Outcome:
    """Result of one item's import: the picture's path in the data set, or the reason why there is none."""

    image: str | None
    file: str | None = None
    reason: str | None = None
    example: str | None = None


class _Importer:
    """Finds, checks and copies the picture of one item; immutable, since several threads use it."""

    def __init__(self, source: Path, target: Path, max_pixels: int) -> None:
        self._source = os.path.abspath(source)
        self._target = target
        self._max_pixels = max_pixels
        self.files = _picture_files(self._source)
        # of several files with one stem the one with the first suffix wins: it is entered last
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
        """Return the path of the item's picture, relative to the folder."""
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
    """List the POSIX paths, relative to the folder, of all files with a picture's suffix, sorted."""
    files = []
    for root, _, names in os.walk(folder):
        start = Path(os.path.relpath(root, folder))
        files += [(start / name).as_posix() for name in names if os.path.splitext(name)[1].lower() in SUFFIXES]
    return sorted(files)


def _rank(file: str) -> tuple[int, str]:
    return SUFFIXES.index(os.path.splitext(file)[1].lower()), file


@contextlib.contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Switch off Pillow's own limit of pixels, since `check_picture` applies `prepare.max_image_pixels`."""
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
    used = {outcome.file for outcome in outcomes}
    unused = [file for file in files if file not in used]
    report.count(STAGE, "file that is no item's picture", len(unused), unused[0] if unused else None)


def _name(item_id: str, *, is_alone: bool) -> str:
    is_safe = _SAFE.fullmatch(item_id) is not None and _HASHED.fullmatch(item_id) is None
    if is_alone and is_safe and len(item_id) <= MAX_LENGTH and item_id.lower() not in _DEVICES:
        return item_id
    slug = _UNSAFE.sub("-", item_id[:MAX_LENGTH]).strip("-_")[:60]
    digest = blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{slug or 'item'}-{digest}"
