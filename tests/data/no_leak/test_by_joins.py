"""The same rules once more, by joins of whole tables instead of row by row."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.prepare import prepare_dataset
from tests.data.no_leak.sources import CARDS, SOURCES, drawing

N_SEEN = {"gift_cards": 500, "gift_cards_whole": 1000}
"""At least so many history items are looked at."""


@pytest.mark.parametrize("split", ["random", "leave_one_out", "global_time"])
@pytest.mark.parametrize("name", CARDS)
def test_real_reviews_against_pandas(tmp_path, name, split):
    settings = replace(SOURCES[name], split=split)
    prepare_dataset(tmp_path / "cards", settings, drawing(name))
    data = PreparedDataset.open(tmp_path / "cards")
    raw = pd.read_json(settings.reviews, lines=True)
    raw = raw.sort_values("unixReviewTime", kind="stable").drop_duplicates(["reviewerID", "asin"])
    while True:  # one side after the other
        size = len(raw)
        for column in ("reviewerID", "asin"):
            raw = raw[raw.groupby(column)[column].transform("size") >= 5]
        if len(raw) == size:
            break
    expected = set(zip(raw["reviewerID"], raw["asin"], raw["unixReviewTime"] * 1000, raw["overall"], strict=True))
    assert set(data.interactions.select("user_id", "item_id", "timestamp", "rating").rows()) == expected
    seen = data.interactions.to_pandas()
    lists = data.candidates.to_pandas().merge(seen, on=["user_id", "item_id"], how="left", suffixes=("", "_seen"))
    assert lists.loc[lists["kind"] == "sampled", "rating"].isna().all()
    positives = lists[lists["kind"] == "liked"]
    assert (positives["split"] == positives["split_seen"]).all()
    assert len(positives) == ((seen["rating"] >= 4) & (seen["split"] != "train")).sum()
    # every history item happened before its context, in a split that the context may see
    groups = data.groups.to_pandas().explode("history").dropna(subset="history")
    pairs = groups.merge(seen, left_on=["user_id", "history"], right_on=["user_id", "item_id"], suffixes=("", "_seen"))
    assert len(pairs) == len(groups) > N_SEEN[name]
    key = pairs["timestamp"] * 10**6 + pairs["order"]
    assert (pairs["timestamp_seen"] * 10**6 + pairs["order_seen"] < key).all()
    allowed = {("train", "train"), ("val", "train"), ("test", "train"), ("test", "val")}
    assert set(zip(pairs["split"], pairs["split_seen"], strict=True)) <= allowed
