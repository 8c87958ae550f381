"""Table 2 by pandas, on the small shop and on random tables; and tables that do not belong together."""

import dataclasses

import numpy as np
import pandas as pd
import polars as pl
import pytest

from mllm_srec.data.tables.statistics import dataset_statistics
from mllm_srec.types import DataError


def by_pandas(items, interactions, samples):
    """The same from the tables as pandas reads them."""
    table = pd.DataFrame({"user": interactions["user_id"], "item": interactions["item_id"]})
    crossed = pd.crosstab(table["user"], table["item"])
    kinds = pd.Series(samples["kind"]).value_counts()
    return {
        "users": crossed.shape[0],
        "items": crossed.shape[1],
        "interactions": int(crossed.to_numpy().sum()),
        "samples": len(samples),
        "sparsity": (crossed == 0).to_numpy().mean(),
        "positives": int(pd.Series(samples["label"]).sum()),
        "disliked": int(kinds.get("disliked", 0)),
        "sampled": int(kinds.get("sampled", 0)),
        "pictures": int(pd.Series(items["image"].to_list()).notna().sum()),
    }


def test_the_small_shop(shop):
    found = dataset_statistics(shop.items, shop.interactions, shop.samples)
    files = [pd.read_parquet(shop.folder / f"{name}.parquet") for name in ("interactions", "samples")]
    expected = by_pandas(shop.items, shop.interactions, shop.samples)
    assert found.as_row == pytest.approx(expected)
    assert (found.interactions, found.samples) == tuple(map(len, files))
    assert found.samples == found.positives + found.disliked + found.sampled
    assert found.positives == (files[0]["rating"] >= 4).sum() == found.sampled
    assert found.positives + found.disliked == found.interactions
    assert (found.users, found.items, found.pictures) == (12, 15, 14)


def test_by_hand():
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "image": ["a.png", None, None]})
    interactions = pl.DataFrame({"user_id": ["u", "u", "v", "v"], "item_id": ["a", "b", "b", "c"]})
    samples = pl.DataFrame(
        {"label": [1, 0, 0, 1, 0], "kind": ["liked", "sampled", "disliked", "liked", "sampled"]}
    )  # fmt: skip
    found = dataset_statistics(items, interactions, samples)
    assert dataclasses.astuple(found) == (2, 3, 4, 5, pytest.approx(1 / 3), 2, 1, 2, 1)


@pytest.fixture
def tables():
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame({"user_id": rng.integers(0, 6, 60), "item_id": rng.integers(0, 9, 60)}).drop_duplicates()
    interactions = pl.DataFrame({name: pairs[name].astype(str).to_list() for name in pairs})
    items = interactions.select("item_id").unique().with_columns(image=pl.lit("x.png"))
    samples = pl.DataFrame({"label": [1, 0], "kind": ["liked", "sampled"]})
    return {"items": items, "interactions": interactions, "samples": samples}


def test_tables_that_do_not_belong_together_are_refused(tables):
    dataset_statistics(**tables)
    doubled = pl.concat([tables["interactions"], tables["interactions"].head(2)])
    with pytest.raises(DataError, match="2 are duplicates and 0 have an item"):
        dataset_statistics(**{**tables, "interactions": doubled})
    with pytest.raises(DataError, match=r"[1-9]\d* have an item that `items` does not hold"):
        dataset_statistics(**{**tables, "items": tables["items"].head(3)})
    with pytest.raises(DataError, match=r"0 have an item that `items` does not hold, and [1-9]"):
        dataset_statistics(**{**tables, "interactions": tables["interactions"].head(2)})
    with pytest.raises(DataError, match=r"samples: the kinds of 2 are .*, which contradicts their labels"):
        dataset_statistics(**{**tables, "samples": tables["samples"].with_columns(label=pl.lit(1))})
    with pytest.raises(DataError, match="interactions: of 0,"):
        dataset_statistics(**{**tables, "interactions": tables["interactions"].clear()})
