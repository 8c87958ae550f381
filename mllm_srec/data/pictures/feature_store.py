"""Stored picture features: the frozen vision tower's output per picture, memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import torch

from mllm_srec.types import ConfigError


class PictureFeatures(Protocol):
    """Source of the vision tower's output of pictures."""

    def features(self, pictures: Sequence[str]) -> torch.Tensor:
        """Return the features of the pictures, concatenated, `(sum of picture tokens, D)`."""
        ...


class FeatureStore:
    """Reads picture features by picture key.

    Args:
        folder: Folder of a finished extraction (`pipeline.features`).

    Raises:
        ConfigError: The folder holds no finished store.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "meta.json").exists():
            raise ConfigError(f"{folder}: no finished feature store; run `fit` with data.pictures.serve=features")
        meta = json.loads((folder / "meta.json").read_text())
        self.n_dims: int = meta["n_dims"]
        index = pl.read_parquet(folder / "index.parquet", glob=False)
        self._spans: dict[str, tuple[int, int]] = {
            key: (offset, n) for key, offset, n in index.select("picture", "offset", "n_tokens").iter_rows()
        }
        n_rows = sum(n for _, n in self._spans.values())
        path = folder / "features.bin"
        # numpy has no bfloat16: its bits are read as int16 and reinterpreted in `features`
        self._dtype = torch.bfloat16 if meta["dtype"] == "bfloat16" else torch.float32
        numpy_type = np.int16 if self._dtype == torch.bfloat16 else np.float32
        shape = (n_rows, self.n_dims)
        self._features = np.memmap(path, dtype=numpy_type, mode="r", shape=shape) if n_rows else np.empty(shape)

    def __contains__(self, picture: object) -> bool:
        return picture in self._spans

    def features(self, pictures: Sequence[str]) -> torch.Tensor:
        """Return the features of the pictures, concatenated, `(sum of picture tokens, D)`."""
        spans = [self._spans[picture] for picture in pictures]
        rows = [np.array(self._features[offset : offset + n]) for offset, n in spans]
        joined = torch.from_numpy(np.concatenate(rows))
        return joined.view(self._dtype) if self._dtype == torch.bfloat16 else joined
