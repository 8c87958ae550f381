"""What happened later leaves no trace in train."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl

from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.ratings import RatingRule
from mllm_srec.data.tables.targets import build_tables
from tests.data.no_leak.oracle import Prepared


def exchanged(data: Prepared, seed: int) -> pd.DataFrame:
    """Interactions in which every held-out item of a user is another that the user has in no train row."""
    random = np.random.default_rng(seed)
    catalogue = sorted(data.items["item_id"])
    rows = data.interactions.copy()
    for _, own in rows.groupby("user_id"):
        held = own[own["split"] != "train"]
        taken = set(own["item_id"])
        free = [item for item in catalogue if item not in taken]
        chosen = random.permutation(free)[: len(held)]
        rows.loc[held.index[: len(chosen)], "item_id"] = chosen
    return rows


def test_exchanging_held_out_items_changes_no_byte_of_train(data):
    """The tables built again, from the same train rows and other val and test items."""

    def train_bytes(groups: pl.DataFrame, samples: pl.DataFrame) -> str:
        train = pl.col("split") == "train"
        return groups.filter(train).write_ndjson() + samples.filter(train).write_ndjson()

    other_rows = exchanged(data, seed=17)
    changed = (other_rows["item_id"] != data.interactions["item_id"]).to_numpy()
    held_out = (data.interactions["split"] != "train").to_numpy()
    assert changed.sum() > 0.9 * held_out.sum()
    assert not (changed & ~held_out).any()
    items = pl.Series("item_id", sorted(data.items["item_id"]))
    built = [
        build_tables(RatingRule().mark(pl.from_pandas(rows)), items, data.settings, data.drawing, PrepareReport())
        for rows in (data.interactions, other_rows)
    ]
    stored = train_bytes(pl.from_pandas(data.groups), pl.from_pandas(data.samples))
    assert len(stored) > 10_000
    assert train_bytes(built[0].groups, built[0].samples) == stored, "what is compared is not what was prepared"
    assert train_bytes(built[1].groups, built[1].samples) == stored
    assert not built[0].candidates.equals(built[1].candidates)
