"""Stored picture features: the frozen vision tower's output per picture, memory-mapped."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import torch

from mllm_srec.files.reading import read_object, read_table, read_whole
from mllm_srec.types import ConfigError, DataError

INDEX_SCHEMA: dict[str, type[pl.DataType]] = {"picture": pl.String, "offset": pl.Int64, "n_tokens": pl.Int64}
"""Columns of `index.parquet`; `crc32` follows them, but in stores of earlier versions."""


class PictureFeatures(Protocol):
    """Source of the vision tower's output of pictures."""

    def features(self, pictures: Sequence[str]) -> torch.Tensor:
        """Return the features of the pictures, concatenated, `(sum of picture tokens, D)`."""
        ...


class FeatureStore:
    """Reads picture features by picture key; each is compared with its checksum when it is first read.

    Args:
        folder: Folder of a finished extraction (`pipeline.features`).

    Raises:
        ConfigError: The folder holds no finished store.
        DataError: A file of the store is damaged.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "meta.json").exists():
            raise ConfigError(f"{folder}: no finished feature store; run `fit` with data.pictures.serve=features")
        self.folder = folder
        self._remedy = f"delete {folder}, which is made again when it is needed"
        meta = read_object(folder / "meta.json", "the description of features", self._remedy, ("n_dims", "dtype"))
        self.n_dims: int = meta["n_dims"]
        index = read_table(folder / "index.parquet", "the index of features", self._remedy, schema=INDEX_SCHEMA)
        self._spans: dict[str, tuple[int, int]] = {
            key: (offset, n) for key, offset, n in index.select("picture", "offset", "n_tokens").iter_rows()
        }
        #: Checksums that are still to be compared; stores of earlier versions have none.
        self._unread = dict(index.select("picture", "crc32").iter_rows()) if "crc32" in index.columns else {}
        # numpy has no bfloat16: its bits are read as int16 and reinterpreted in `features`
        self._dtype = torch.bfloat16 if meta["dtype"] == "bfloat16" else torch.float32
        self._features = read_whole(folder / "features.bin", self._map, "the file of features", self._remedy)

    def _map(self, path: Path) -> np.ndarray:
        """Map the features into memory, `(tokens of all pictures, D)`."""
        numpy_type = np.dtype(np.int16 if self._dtype == torch.bfloat16 else np.float32)
        shape = (sum(n for _, n in self._spans.values()), self.n_dims)
        expected = shape[0] * shape[1] * numpy_type.itemsize
        if (size := path.stat().st_size) != expected:
            raise ValueError(f"it has {size} bytes, and its index describes {expected}")
        return np.memmap(path, dtype=numpy_type, mode="r", shape=shape) if size else np.empty(shape, numpy_type)

    def __contains__(self, picture: object) -> bool:
        return picture in self._spans

    def features(self, pictures: Sequence[str]) -> torch.Tensor:
        """Return the features of the pictures, concatenated, `(sum of picture tokens, D)`.

        Raises:
            DataError: Stored features are not those that were written.
        """
        rows = [self._read(picture) for picture in pictures]
        joined = torch.from_numpy(np.concatenate(rows))
        return joined.view(self._dtype) if self._dtype == torch.bfloat16 else joined

    def _read(self, picture: str) -> np.ndarray:
        """Copy the rows of one picture, and compare them with their checksum if this is the first time."""
        offset, n_rows = self._spans[picture]
        rows = np.array(self._features[offset : offset + n_rows])
        if (stated := self._unread.get(picture)) is not None:
            if zlib.crc32(rows.data) != stated:
                raise DataError(
                    f"{self.folder / 'features.bin'}: the features of the picture {picture} differ from their "
                    f"checksum, so they were changed or damaged; {self._remedy}"
                )
            self._unread.pop(picture, None)
        return rows
