"""A finished feature store, read back."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from mllm_srec.data.pictures.feature_store import FeatureStore
from mllm_srec.types import ConfigError


def write(folder, rows, dtype):
    (folder / "features.bin").write_bytes(
        rows.view(torch.int16).numpy().tobytes() if dtype == "bfloat16" else rows.numpy()
    )
    (folder / "meta.json").write_text(json.dumps({"n_dims": rows.shape[1], "dtype": dtype}))
    pl.DataFrame({"picture": ["a", "b"], "offset": [0, 3], "n_tokens": [3, 2]}).write_parquet(folder / "index.parquet")


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
