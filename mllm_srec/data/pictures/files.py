"""Picture files of items: find them in a local folder, check them, copy them under safe names, and decode them.

A usable picture has a common raster format, decodes to its end, and has neither more pixels than allowed nor sides
that differ more than the image processor accepts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageOps, UnidentifiedImageError

from mllm_srec.data.pictures.finder import PictureFinder, UnusablePictureError
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.files.progress import LateProgress
from mllm_srec.files.reading import unreadable
from mllm_srec.types import DataError

STAGE = "pictures"
"""Name of this stage in the report."""

TRUE_EXTENSIONS = {
    "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "AVIF": ".avif",
    "TIFF": ".tif",
}  # fmt: skip
"""Format -> extension of the copy. None of these formats runs a program or a script, as EPS does."""

_AVIF = "AVIF, which this Pillow was built without"
_KINDS = (
    (re.compile(rb"version https://git-lfs"), "a pointer of git-lfs; fetch the files with `git lfs pull`"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), _AVIF),
    (re.compile(rb"....ftyp(?:hei|hev|mif|msf)", re.DOTALL), "HEIC, not read here"),
    (re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<svg", re.DOTALL | re.IGNORECASE), "SVG, not read here"),
    (re.compile(rb"\s*(?:<!doctype html|<html|<head)", re.IGNORECASE), "a page of the web, not a picture"),
    (re.compile(rb"%PDF"), "PDF, not read here"),
    (re.compile(rb"%!PS"), "PostScript, not read here"),
    (re.compile(rb"8BPS"), "a file of Photoshop, not read here"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000, not read here"),
    (re.compile(rb"\x00\x00\x01\x00"), "an icon, not read here"),
    (re.compile(rb"PK\x03\x04|\x1f\x8b"), "an archive, not a picture"),
)
"""Beginnings of files that people have under a picture's name, and what they are."""

MAX_ASPECT_RATIO = 200
"""Largest ratio of the longer to the shorter side that Qwen2-VL's image processor accepts."""

N_THREADS = min(8, os.cpu_count() or 1)

MAX_LENGTH = 100
"""Longest id used unchanged as a file name; file systems accept 255 bytes, tools and archives often fewer."""

_MACHINE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENXIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of a disk or of the machine: the picture may be whole."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
_HASHED = re.compile(r".*-[0-9a-f]{16}", re.IGNORECASE)
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
"""Names that Windows reserves for devices, with any extension."""


def import_pictures(
    items: pl.DataFrame, source: Path | None, target: Path, max_pixels: int, report: PrepareReport
) -> pl.DataFrame:
    """Copy the usable pictures of the items to `target` and fill the column `image`.

    The picture of an item is the file in `source` that its `image` names, else `<item id>` with one of `SUFFIXES` or
    none (an id with a slash means a subfolder); see `finder` for names that differ a little. Bytes are copied
    unchanged; the copy's name is a safe form of the item id (`safe_names`) with the extension of the actual format.

    Args:
        items: Columns of `ITEM_SCHEMA`, one row per item.
        source: Folder of pictures; with None no item gets one. Links inside it are followed; a name that leads out of
            it is refused.
        target: Folder of the copies; created if missing.
        max_pixels: Largest picture in pixels; larger ones are refused before decoding.
        report: Receives counts of items without a usable picture, by reason, and of files that belong to no item.

    Returns:
        The items, with `image` a POSIX path relative to the parent of `target`, or null.

    Raises:
        DataError: `source` is not a folder, or a disk does not hand out a file: the picture would be missing for good.
    """
    if source is None:
        report.count(STAGE, "no folder of pictures", items.height)
        return items.with_columns(pl.lit(None, pl.String).alias("image"))
    if not source.is_dir():
        raise DataError(
            f"prepare.images={str(source)!r}: is not a folder; give the folder of pictures, or null for none"
        )
    target.mkdir(parents=True, exist_ok=True)
    ids, names = items["item_id"].to_list(), safe_names(items["item_id"].to_list())
    images = items["image"].to_list()
    finder = PictureFinder(str(source), ids, names, images)
    found = [_find(finder, *item) for item in zip(ids, images, names, strict=True)]
    importer = _Importer(finder.folder, target, max_pixels)
    with (
        _without_pillow_limit(),
        LateProgress("checking pictures", items.height, "pictures") as progress,
        ThreadPoolExecutor(N_THREADS) as pool,
    ):
        outcomes = []
        for outcome in pool.map(importer.run, ids, names, found):
            outcomes.append(outcome)
            progress.update(len(outcomes))
    _count(outcomes, finder.files, report)
    return items.with_columns(pl.Series("image", [outcome.image for outcome in outcomes], pl.String))


def check_picture(path: Path, max_pixels: int) -> str:
    """Check that a picture is usable and return the extension of its actual format.

    Args:
        path: File of the picture.
        max_pixels: Largest picture in pixels; the header of a larger one is enough to refuse it.

    Raises:
        UnusablePictureError: The picture cannot be used.
        DataError: The disk or the machine does not hand out the file, which says nothing about the picture.
    """
    try:
        _check_file(path)
        with Image.open(path, formats=_opened_formats()) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise UnusablePictureError("more pixels than prepare.max_image_pixels", f"{width} x {height}")
            if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
                raise UnusablePictureError(f"sides differ by more than {MAX_ASPECT_RATIO} times", f"{width} x {height}")
            extension = TRUE_EXTENSIONS[picture.format or ""]
            # a JPEG is read to its end but decoded at an eighth of its size
            picture.draft(picture.mode, (max(1, width // 8), max(1, height // 8)))
            picture.load()
            if picture.mode == "F":
                raise UnusablePictureError("colours are floating-point numbers of unknown range")
    except UnusablePictureError:
        raise
    except Image.DecompressionBombError as error:
        raise UnusablePictureError("more pixels than prepare.max_image_pixels", str(error)) from None
    except UnidentifiedImageError:
        raise _unidentified(path) from None
    except PermissionError:
        raise UnusablePictureError("a file that this user may not read") from None
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        if isinstance(error, OSError) and error.errno in _MACHINE:
            raise unreadable(path, error) from error
        raise UnusablePictureError("broken picture", str(error)) from None
    return extension


def _opened_formats() -> list[str]:
    """Return the formats that are opened, as far as Pillow was built with them; stereo pictures (MPO) open as JPEG."""
    Image.init()  # registers all of Pillow's
    return [name for name in TRUE_EXTENSIONS if name != "MPO" and name in Image.OPEN]


def _check_file(path: Path) -> None:
    """Refuse what is no file, such as a pipe, of which reading never ends, and an empty one."""
    try:
        about = path.stat()
    except FileNotFoundError:
        raise UnusablePictureError("a link to a file that is not there") from None
    if not stat.S_ISREG(about.st_mode):
        raise UnusablePictureError("not a file")
    if about.st_size == 0:
        raise UnusablePictureError("file of zero bytes")


def _unidentified(path: Path) -> UnusablePictureError:
    """Say what a file is that no format fits, as far as its first bytes tell."""
    with path.open("rb") as file:
        start = file.read(512)
    kind = next((kind for pattern, kind in _KINDS if pattern.match(start)), "")
    if kind == _AVIF and "AVIF" in Image.OPEN:  # the only format whose first bytes are not enough for Pillow
        return UnusablePictureError("broken picture", "AVIF")
    return UnusablePictureError("not a picture in a known format", kind)


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
        with Image.open(path, formats=_opened_formats()) as opened:
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
    """Result of one item's import: the picture's path in the data set, or the reason why there is none.

    `difference` says in what the file found differs from the name that was given.
    """

    image: str | None = None
    file: str | None = None
    difference: str | None = None
    reason: str | None = None
    example: str | None = None


class _Importer:
    """Checks and copies the picture of one item; immutable, since several threads use it."""

    def __init__(self, source: str, target: Path, max_pixels: int) -> None:
        self._source, self._target, self._max_pixels = source, target, max_pixels

    def run(self, item_id: str, name: str, found: _Outcome) -> _Outcome:
        """Import the picture of one item, if a file was found.

        Args:
            item_id: Id of the item.
            name: Name of the copy, without suffix.
            found: File of the picture, relative to the folder of pictures.
        """
        if found.file is None:
            return found
        path = Path(self._source, found.file)
        try:
            copy = self._target / (name + check_picture(path, self._max_pixels))
            if not (copy.exists() and copy.samefile(path)):
                shutil.copyfile(path, copy)
        except UnusablePictureError as error:
            example = " ".join((item_id, found.file, error.details)).rstrip()
            return replace(found, reason=error.reason, example=example)
        return replace(found, image=f"{self._target.name}/{copy.name}")


def _find(finder: PictureFinder, item_id: str, image: str | None, name: str) -> _Outcome:
    """Find the file of one item's picture, or the reason why there is none."""
    try:
        file, difference = finder.find(item_id, image, name)
    except UnusablePictureError as error:
        example = " ".join((item_id, error.details or image or "")).rstrip()
        return _Outcome(reason=error.reason, example=example)
    return _Outcome(file=file, difference=difference, example=f"{item_id} {image or ''}".rstrip() + f": {file}")


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
        counted = outcome.reason or outcome.difference
        if counted is not None:
            report.count(STAGE, counted, example=outcome.example)
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
