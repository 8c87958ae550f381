"""A finished feature store, read back."""

import json
import zlib

import numpy as np
import polars as pl
import pytest
import torch

from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.types import ConfigError, DataError


def write(folder, rows, dtype, checked=True):
    (folder / "features.bin").write_bytes(
        rows.view(torch.int16).numpy().tobytes() if dtype == "bfloat16" else rows.numpy()
    )
    (folder / "meta.json").write_text(json.dumps({"n_dims": rows.shape[1], "dtype": dtype}))
    index = pl.DataFrame({"picture": ["a", "b"], "offset": [0, 3], "n_tokens": [3, 2]})
    content = (folder / "features.bin").read_bytes()
    cut = 3 * len(content) // 5
    checksums = pl.Series("crc32", [zlib.crc32(content[:cut]), zlib.crc32(content[cut:])], dtype=pl.Int64)
    (index.with_columns(checksums) if checked else index).write_parquet(folder / "index.parquet")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_each_picture_in_the_order_asked(tmp_path, dtype):
    rows = torch.arange(20.0).reshape(5, 4).to(getattr(torch, dtype))
    write(tmp_path, rows, dtype)
    found = FeatureStore(tmp_path).features(["b", "a", "b"])
    assert found.dtype == rows.dtype
    assert torch.equal(found, torch.cat([rows[3:], rows[:3], rows[3:]]))


def test_an_unfinished_store_is_refused(tmp_path):
    (tmp_path / "features.bin").write_bytes(np.zeros(4, np.float32).tobytes())
    with pytest.raises(ConfigError, match="no finished feature store"):
        FeatureStore(tmp_path)


ROWS = torch.arange(20.0).reshape(5, 4)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_flipped_bits_are_found_when_their_picture_is_read(tmp_path, dtype):
    write(tmp_path, ROWS.to(getattr(torch, dtype)), dtype)
    flip(tmp_path / "features.bin", -1)
    store = FeatureStore(tmp_path)
    assert len(store.features(["a"])) == 3
    for _ in range(2):
        with pytest.raises(DataError, match=r"features\.bin: the features of the picture b differ .*; delete "):
            store.features(["a", "b"])


def test_a_store_without_checksums_is_read_as_before(tmp_path):
    write(tmp_path, ROWS, "float32", checked=False)
    assert torch.equal(FeatureStore(tmp_path).features(["a", "b"]), ROWS)


@pytest.mark.parametrize("name", ["features.bin", "index.parquet", "meta.json"])
@pytest.mark.parametrize("damage", ["emptied", "cut", "longer", "gone"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    write(tmp_path, ROWS, "float32")
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes({"emptied": b"", "cut": content[: len(content) // 2], "longer": content * 2, "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    kind = ConfigError if (name, damage) == ("meta.json", "gone") else DataError
    if (name, damage) == ("index.parquet", "longer"):  # Parquet is read from its end: the same table
        assert torch.equal(FeatureStore(tmp_path).features(["a", "b"]), ROWS)
        return
    with pytest.raises(kind, match=rf"{tmp_path}"):
        FeatureStore(tmp_path)
