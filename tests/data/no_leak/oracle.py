"""What the tables of preparation must hold, worked out from raw files with plain pandas and Python.

Nothing of the package is used but the preparation itself: raw files are read here again.
"""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import CandidateSettings, PrepareSettings

VISIBLE = {"train": {"train"}, "val": {"train"}, "test": {"train", "val"}}
TABLES = ("items", "interactions", "groups", "samples", "candidates")

Key = tuple[int, int]


@dataclass
class Prepared:
    """What was written, what the raw file holds, and the settings."""

    tables: dict[str, pd.DataFrame]
    raw: pd.DataFrame
    settings: PrepareSettings
    drawing: CandidateSettings
    report: Any

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name in TABLES:
            return self.tables[name]
        raise AttributeError(name)

    def by_user(self) -> dict[str, list[tuple[Key, str, bool, str]]]:
        """(key, item, liked, split) of each user in order of keys."""
        rows = defaultdict(list)
        for row in self.interactions.itertuples():
            rows[row.user_id].append(((row.timestamp, row.order), row.item_id, row.rating >= 4, row.split))
        return {user: sorted(found) for user, found in rows.items()}


def prepare(folder: Path, settings: PrepareSettings, candidates: CandidateSettings) -> Prepared:
    report = prepare_dataset(folder, settings, candidates)
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES}
    return Prepared(tables, read_raw(settings), settings, candidates, report)


def read_raw(settings: PrepareSettings) -> pd.DataFrame:
    path = Path(str(settings.reviews))
    if settings.source == "tables":
        table = pd.read_csv(path, dtype={"userId": str, "movieId": str})
        table = table.rename(columns={"userId": "user_id", "movieId": "item_id"})
    else:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            table = pd.DataFrame([json.loads(line) for line in file])
        names = {"reviewerID": "user_id", "asin": "item_id", "overall": "rating", "unixReviewTime": "timestamp"}
        table = table.rename(columns=names)
    table = table[["user_id", "item_id", "rating", "timestamp"]].assign(order=range(len(table)))
    return table.assign(timestamp=table["timestamp"] * 1000)


def kept_rows(raw: pd.DataFrame, k: int) -> pd.DataFrame:
    """First row of each (user, item) by (timestamp, order), then the k-core, by the slow road."""
    rows = raw.sort_values(["timestamp", "order"]).drop_duplicates(["user_id", "item_id"])
    while True:
        users, items = rows["user_id"].value_counts(), rows["item_id"].value_counts()
        core = rows[rows["user_id"].map(users).ge(k) & rows["item_id"].map(items).ge(k)]
        if len(core) == len(rows):
            return core
        rows = core


def liked_by_user(data: Prepared) -> dict[str, list[tuple[Key, str, str]]]:
    """(key, item, split) of the likes of each user in order of keys."""
    return {
        user: [(key, item, split) for key, item, is_liked, split in rows if is_liked]
        for user, rows in data.by_user().items()
    }


def grouped(table: pd.DataFrame) -> dict[int, list[Any]]:
    """Rows of each group."""
    groups = defaultdict(list)
    for row in table.itertuples(index=False):
        groups[row.group_id].append(row)
    return groups


def assert_negatives(data: Prepared) -> None:
    """Sampled candidates: none of the user's items, no repeats, as many as asked for or as there are."""
    owned = {user: {item for _, item, _, _ in rows} for user, rows in data.by_user().items()}
    catalogue = set(data.items["item_id"])
    for rows in grouped(data.candidates).values():
        drawn = [row for row in rows if row.kind == "sampled"]
        free = catalogue - owned[rows[0].user_id]
        items = {row.item_id for row in drawn}
        assert items <= free
        assert len(items) == len(drawn) == min(data.drawing.n_negatives, len(free))
        assert sorted(row.position for row in drawn) == list(range(1, len(drawn) + 1))
        assert {row.label for row in drawn} <= {0}
        assert {(row.kind, row.label, row.position) for row in rows if row.kind != "sampled"} == {("liked", 1, 0)}


def assert_uniform(drawn: Counter[str], chances: dict[str, float], spreads: dict[str, float]) -> None:
    """Counts of the drawn items against their expectation: no item far off, and the sum of squares as it should be."""
    z = np.array([(drawn[item] - chances[item]) / math.sqrt(spreads[item]) for item in chances if spreads[item] > 0.5])
    assert len(z) > 20
    assert np.abs(z).max() < 5.5
    assert abs((z**2).sum() - len(z)) < 6 * math.sqrt(2 * len(z))
