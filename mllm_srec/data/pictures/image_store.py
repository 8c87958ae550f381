"""Store of a data set's resized pictures: uint8, memory-mapped, keyed by content and pixel budget.

Resized bytes are kept because they take a fifth of the space of the processor's float patches. The backbone's own
image processor rescales, normalises and cuts them into patches when a batch is served.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import torch
import transformers
from PIL import Image

from mllm_srec.data.pictures.files import as_shown
from mllm_srec.data.settings import PictureSettings
from mllm_srec.families.base import Grid, ImageProcessor
from mllm_srec.families.lookup import read_family
from mllm_srec.files.atomic import KEY, write_json, write_table
from mllm_srec.files.folders import atomic_folder, build_lock
from mllm_srec.files.progress import track
from mllm_srec.files.reading import read_table, read_whole
from mllm_srec.types import ConfigError, DataError

INDEX_SCHEMA: dict[str, type[pl.DataType]] = {
    "picture": pl.String,
    "offset": pl.Int64,
    "height": pl.Int64,
    "width": pl.Int64,
}
"""Columns of `index.parquet`; `crc32` follows them, but in stores of earlier versions."""

ITEM_SCHEMA: dict[str, type[pl.DataType]] = {"item_id": pl.String, "picture": pl.String}
"""Columns of `items.parquet`."""

_AGAIN = "prepare the data set again into another folder"


def load_image_processor(backbone: str, revision: str | None, settings: PictureSettings) -> ImageProcessor:
    """Load the backbone's image processor with our pixel budget, and try it on a large picture.

    Raises:
        ConfigError: The backbone cannot be read, is of no family, or cannot see pictures; or its processor does not
            keep the budget.
    """
    family = read_family(backbone, revision)
    processor = family.load_image_processor(backbone, revision, settings.min_pixels, settings.max_pixels)
    _check_budget(processor, (family.patch_size * family.spatial_merge) ** 2, settings.max_pixels)
    return processor


def _check_budget(processor: ImageProcessor, token_pixels: int, max_pixels: int) -> None:
    """Check that a square picture above the budget takes no more tokens than the budget has room for.

    Args:
        processor: Image processor with the budget.
        token_pixels: Pixels that one picture token covers.
        max_pixels: The budget.
    """
    side = min(max(1500, math.isqrt(2 * max_pixels)), 4000)
    height, width = processor.resize(np.zeros((side, side, 3), np.uint8)).shape[:2]
    n_tokens, most = processor.n_tokens(processor.grid(height, width)), max(1, max_pixels // token_pixels)
    if side**2 > max_pixels and n_tokens > most:
        raise ConfigError(
            f"data.pictures.max_pixels={max_pixels}: the backbone's image processor does not keep it: a picture of "
            f"{side} x {side} takes {n_tokens} tokens instead of {most} at most; install a version of "
            "transformers that pyproject.toml accepts"
        )


def processor_key(processor: ImageProcessor) -> str:
    """Hash everything that decides the pixels: class, library version, sizes, means."""
    content = {"transformers": transformers.__version__, **processor.facts}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


class ImageStore:
    """Reader of resized pictures, by item; each is compared with its checksum when it is first read.

    Args:
        folder: Folder that `build_image_store` wrote.
        processor: Image processor that it was built with.

    Raises:
        DataError: A file of the store is missing or damaged.
    """

    def __init__(self, folder: Path, processor: ImageProcessor) -> None:
        self.folder = folder
        self.processor = processor
        self._remedy = f"delete {folder}, which is made again when it is needed"
        index = read_table(folder / "index.parquet", "the index of pictures", self._remedy, schema=INDEX_SCHEMA)
        self._rows: dict[str, tuple[int, int, int]] = {
            key: (offset, height, width)
            for key, offset, height, width in index.select("picture", "offset", "height", "width").iter_rows()
        }
        #: Checksums that are still to be compared; stores of earlier versions have none.
        self._unread = dict(index.select("picture", "crc32").iter_rows()) if "crc32" in index.columns else {}
        items = read_table(folder / "items.parquet", "the table of pictured items", self._remedy, schema=ITEM_SCHEMA)
        self._keys: dict[str, str] = dict(items.select(*ITEM_SCHEMA).iter_rows())
        self._pixels = read_whole(folder / "pixels.bin", self._map, "the file of pixels", self._remedy)
        self._added: dict[str, np.ndarray] = {}  # pictures held in memory only

    def _map(self, path: Path) -> np.ndarray:
        """Map the pixels into memory."""
        expected = sum(height * width * 3 for _, height, width in self._rows.values())
        if (size := path.stat().st_size) != expected:
            raise ValueError(f"it has {size} bytes, and its index describes {expected}")
        return np.memmap(path, dtype=np.uint8, mode="r") if size else np.empty(0, np.uint8)

    @property
    def pictures(self) -> list[str]:
        """Keys of all distinct pictures, in the order of the store."""
        return list(self._rows)

    def picture_of(self, item_id: str) -> str | None:
        """Return the key of the item's picture, None where it has none; equal pictures share a key."""
        return self._keys.get(item_id)

    def add(self, item_id: str, path: Path) -> str:
        """Hold the picture of an item outside the data set in memory; the files stay as they are.

        Args:
            item_id: Id of the item; `picture_of` finds it from now on.
            path: Picture that `data.pictures.files.check_picture` accepted.

        Returns:
            The picture's key; equal to that of a stored picture with the same content.

        Raises:
            DataError: It cannot be read.
        """
        key, pixels = _read_resized(path, self.processor)
        if key not in self._rows:
            self._added[key] = pixels  # (height, width, 3)
        self._keys[item_id] = key
        return key

    def grid(self, picture: str) -> Grid:
        """Return the patches of the picture in time, height and width."""
        height, width = self._added[picture].shape[:2] if picture in self._added else self._rows[picture][1:]
        return self.processor.grid(height, width)

    def n_tokens(self, picture: str) -> int:
        """Count the tokens that the picture takes in a prompt."""
        return self.processor.n_tokens(self.grid(picture))

    def pixels(self, picture: str) -> np.ndarray:
        """Return the resized picture, uint8 `(height, width, 3)`.

        Raises:
            DataError: The stored pixels are not those that were written.
        """
        if picture in self._added:
            return self._added[picture]
        offset, height, width = self._rows[picture]
        found = np.asarray(self._pixels[offset : offset + height * width * 3])
        if (stated := self._unread.get(picture)) is not None:
            if zlib.crc32(found.data) != stated:
                raise DataError(
                    f"{self.folder / 'pixels.bin'}: the pixels of the picture {picture} differ from their checksum, so "
                    f"they were changed or damaged; {self._remedy}"
                )
            self._unread.pop(picture, None)  # another thread may have been faster
        return found.reshape(height, width, 3)

    def pixel_values(self, pictures: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the patches `(P, F)` float32 of the pictures, one after another, and their grids `(n, 3)`."""
        return self.processor.patches([self.pixels(picture) for picture in pictures])


def build_image_store(data_folder: Path, processor: ImageProcessor, items: pl.DataFrame) -> ImageStore:
    """Open the data set's image store for `processor`, after building it where it is missing.

    Args:
        data_folder: Folder of the prepared data set; the store goes to `image_store/<key>/` below it.
        processor: Image processor of the backbone.
        items: Columns `item_id` and `image` (relative to `data_folder`, null where there is none).

    Raises:
        DataError: A picture of the prepared data set is missing or cannot be read.
    """
    pictured = items.filter(pl.col("image").is_not_null())
    processed = processor_key(processor)
    folder = data_folder / "image_store" / store_name(data_folder, processed, pictured)
    if not (folder / "items.parquet").exists():
        with build_lock(folder):
            if not (folder / "items.parquet").exists():
                with atomic_folder(folder) as partial:
                    _write_store(partial, data_folder, processor, pictured)
                    write_json({"processor": processed}, partial / KEY)
    return ImageStore(folder, processor)


def store_name(data_folder: Path, processed: str, pictured: pl.DataFrame) -> str:
    """Hash the processor and, per item, the name, size and modification time of its picture file.

    Contents are hashed when the store is built; reading them all at every start would take minutes on large data sets.

    Args:
        data_folder: Folder of the prepared data set.
        processed: Hash of the processor, see `processor_key`.
        pictured: Items with a picture; columns `item_id` and `image`.

    Raises:
        DataError: A picture of the prepared data set is missing.
    """
    digest = hashlib.sha256(processed.encode())
    for item_id, image in pictured.select("item_id", "image").sort("item_id").iter_rows():
        status = read_whole(data_folder / image, Path.stat, "a picture", _AGAIN)
        digest.update(f"{item_id}\0{image}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _write_store(folder: Path, data_folder: Path, processor: ImageProcessor, items: pl.DataFrame) -> None:
    """Write pixels and tables; a picture that several items share is written once."""
    keys: dict[str, str] = {}
    rows: dict[str, tuple[int, int, int, int]] = {}
    offset = 0

    def load(row: tuple[str, str]) -> tuple[str, str, np.ndarray]:
        key, pixels = _read_resized(data_folder / row[1], processor)
        return row[0], key, pixels

    with ThreadPoolExecutor() as pool, (folder / "pixels.bin").open("wb") as out:
        loaded = pool.map(load, items.select("item_id", "image").iter_rows())
        for item_id, key, pixels in track(loaded, total=items.height, description="resizing pictures", unit="pictures"):
            keys[item_id] = key
            if key not in rows:
                rows[key] = (offset, pixels.shape[0], pixels.shape[1], zlib.crc32(pixels.tobytes()))
                out.write(pixels.tobytes())
                offset += pixels.size
    index = pl.DataFrame(
        [(key, *row) for key, row in rows.items()], schema={**INDEX_SCHEMA, "crc32": pl.Int64}, orient="row"
    )
    write_table(index, folder / "index.parquet")
    table = pl.DataFrame({"item_id": list(keys), "picture": list(keys.values())}, schema=ITEM_SCHEMA)
    write_table(table, folder / "items.parquet")


def _read_resized(path: Path, processor: ImageProcessor) -> tuple[str, np.ndarray]:
    """Return the content key of a picture file and its pixels `(height, width, 3)`, resized by the processor."""

    def read(file: Path) -> tuple[bytes, np.ndarray]:
        content = file.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            return content, np.asarray(as_shown(image))  # (height, width, 3)

    content, array = read_whole(path, read, "a picture", _AGAIN)
    return hashlib.sha256(content).hexdigest()[:32], processor.resize(array)
