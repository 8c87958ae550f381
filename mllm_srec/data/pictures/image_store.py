"""One store of resized pictures per data set: uint8, memory-mapped, keyed by content and pixel budget.

Resized bytes are a fifth of the processor's float patches, so they are what is kept; rescaling, normalisation and
patches are made from them when a batch is served, by the backbone's own image processor.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import transformers
from PIL import Image
from transformers.image_utils import SizeDict
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mllm_srec.data.pictures.files import as_shown
from mllm_srec.data.settings import PictureSettings
from mllm_srec.files.progress import track
from mllm_srec.prompts.geometry import MERGE, Grid
from mllm_srec.types import ConfigError, DataError


def load_image_processor(backbone: str, revision: str | None, settings: PictureSettings) -> Qwen2VLImageProcessorPil:
    """The backbone's image processor with our pixel budget: always the PIL class, which needs no torchvision."""
    return Qwen2VLImageProcessorPil.from_pretrained(
        backbone, revision=revision, size={"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}
    )


def processor_key(processor: Qwen2VLImageProcessorPil) -> str:
    """Short hash of everything that decides the pixels: class, library version, sizes, means."""
    content = {
        "class": type(processor).__name__,
        "transformers": transformers.__version__,
        **{
            name: getattr(processor, name)
            for name in ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std", "resample")
        },
        "size": [processor.size["shortest_edge"], processor.size["longest_edge"]],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


class ImageStore:
    """Reads resized pictures by item.

    Args:
        folder: Folder that `build_image_store` wrote.
        processor: The image processor that it was built with.
    """

    def __init__(self, folder: Path, processor: Qwen2VLImageProcessorPil) -> None:
        self.folder = folder
        self.processor = processor
        index = pl.read_parquet(folder / "index.parquet", glob=False)
        self._rows: dict[str, tuple[int, int, int]] = {
            key: (offset, height, width)
            for key, offset, height, width in index.select("picture", "offset", "height", "width").iter_rows()
        }
        self._keys: dict[str, str] = dict(pl.read_parquet(folder / "items.parquet", glob=False).iter_rows())
        pixels = folder / "pixels.bin"
        self._pixels = np.memmap(pixels, dtype=np.uint8, mode="r") if pixels.stat().st_size else np.empty(0, np.uint8)
        self._added: dict[str, np.ndarray] = {}  # pictures that are not in the file

    @property
    def pictures(self) -> list[str]:
        """Keys of all distinct pictures, in the order of the store."""
        return list(self._rows)

    def picture_of(self, item_id: str) -> str | None:
        """Key of the item's picture, None where it has none; equal pictures share a key."""
        return self._keys.get(item_id)

    def add(self, item_id: str, path: Path) -> str:
        """Hold one more picture in memory, of an item that the data set does not know; the files stay as they are.

        Args:
            item_id: The item, from now on known to `picture_of`.
            path: A picture that `data.pictures.check_picture` took.

        Returns:
            The picture's key, that of the stored picture where its content is the same.

        Raises:
            DataError: It cannot be read.
        """
        key, pixels = _read_resized(path, self.processor)
        if key not in self._rows:
            self._added[key] = pixels  # (height, width, 3)
        self._keys[item_id] = key
        return key

    def grid(self, picture: str) -> Grid:
        """Patches of the picture in time, height and width."""
        height, width = self._added[picture].shape[:2] if picture in self._added else self._rows[picture][1:]
        return 1, height // self.processor.patch_size, width // self.processor.patch_size

    def n_tokens(self, picture: str) -> int:
        """Tokens that the picture takes in a prompt."""
        return int(np.prod(self.grid(picture))) // MERGE**2

    def pixels(self, picture: str) -> np.ndarray:
        """The resized picture, uint8 `(height, width, 3)`."""
        if picture in self._added:
            return self._added[picture]
        offset, height, width = self._rows[picture]
        return np.asarray(self._pixels[offset : offset + height * width * 3]).reshape(height, width, 3)

    def pixel_values(self, pictures: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches `(P, 1176)` float32 of the pictures one after another, and their grids `(n, 3)`."""
        arrays = [self.pixels(picture) for picture in pictures]
        out = self.processor(images=arrays, do_resize=False, input_data_format="channels_last", return_tensors="pt")
        return out["pixel_values"], out["image_grid_thw"]


def build_image_store(data_folder: Path, processor: Qwen2VLImageProcessorPil, items: pl.DataFrame) -> ImageStore:
    """Open the data set's image store for `processor`; build it first where it is missing.

    Args:
        data_folder: Folder of the prepared data set; the store goes to `image_store/<key>/` below it.
        processor: The backbone's image processor.
        items: Columns `item_id` and `image` (relative to `data_folder`, null where there is none).

    Raises:
        DataError: A picture of the prepared data set is gone or cannot be read.
    """
    pictured = items.filter(pl.col("image").is_not_null())
    folder = data_folder / "image_store" / _store_key(data_folder, processor, pictured)
    if not (folder / "items.parquet").exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_store(partial, data_folder, processor, pictured)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return ImageStore(folder, processor)


def _store_key(data_folder: Path, processor: Qwen2VLImageProcessorPil, pictured: pl.DataFrame) -> str:
    """Short hash of processor and picture files: who shows which file, its size and time of change.

    Bytes are hashed when the store is built; reading all of them at every start would take minutes on large sets.

    Raises:
        DataError: A picture of the prepared data set is gone.
    """
    digest = hashlib.sha256(processor_key(processor).encode())
    for item_id, image in pictured.select("item_id", "image").sort("item_id").iter_rows():
        try:
            status = (data_folder / image).stat()
        except OSError as error:
            raise _unreadable(data_folder / image, error) from error
        digest.update(f"{item_id}\0{image}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _write_store(folder: Path, data_folder: Path, processor: Qwen2VLImageProcessorPil, items: pl.DataFrame) -> None:
    """Write pixels and tables; a picture that several items share is written once."""
    keys: dict[str, str] = {}
    rows: dict[str, tuple[int, int, int]] = {}
    offset = 0

    def load(row: tuple[str, str]) -> tuple[str, str, np.ndarray]:
        key, pixels = _read_resized(data_folder / row[1], processor)
        return row[0], key, pixels

    with ThreadPoolExecutor() as pool, (folder / "pixels.bin").open("wb") as out:
        loaded = pool.map(load, items.select("item_id", "image").iter_rows())
        for item_id, key, pixels in track(loaded, total=items.height, description="resizing pictures"):
            keys[item_id] = key
            if key not in rows:
                rows[key] = (offset, pixels.shape[0], pixels.shape[1])
                out.write(pixels.tobytes())
                offset += pixels.size
    pl.DataFrame(
        [(key, *row) for key, row in rows.items()],
        schema={"picture": pl.String, "offset": pl.Int64, "height": pl.Int64, "width": pl.Int64},
        orient="row",
    ).write_parquet(folder / "index.parquet")
    table = {"item_id": list(keys), "picture": list(keys.values())}
    pl.DataFrame(table, schema={"item_id": pl.String, "picture": pl.String}).write_parquet(folder / "items.parquet")


def _read_resized(path: Path, processor: Qwen2VLImageProcessorPil) -> tuple[str, np.ndarray]:
    """Content key of a picture file and its pixels `(height, width, 3)` after the processor's own resize."""
    try:
        content = path.read_bytes()
        with Image.open(path) as image:
            array = np.asarray(as_shown(image))  # (height, width, 3)
    except (OSError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    return hashlib.sha256(content).hexdigest()[:32], resize(array, processor)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"picture {path} cannot be read ({error}); prepare the data set again into another folder")


def resize(array: np.ndarray, processor: Qwen2VLImageProcessorPil) -> np.ndarray:
    """Resize `(height, width, 3)` uint8 to sides that are whole merged patches, within the pixel budget."""
    resized: Any = processor.resize(
        array.transpose(2, 0, 1),
        size=SizeDict(**dict(processor.size)),
        resample=processor.resample,
        factor=processor.patch_size * processor.merge_size,
    )
    if resized.dtype != np.uint8:
        raise ConfigError(f"the image processor returned {resized.dtype} from its resize instead of uint8")
    return np.ascontiguousarray(np.asarray(resized).transpose(1, 2, 0))
