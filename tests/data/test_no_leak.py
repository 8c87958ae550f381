"""The rules of preparation proved on real data with plain pandas and Python.

Nothing of the package is used but the preparation itself: raw files are read here again, and every table that it
wrote is compared with what the rules say, row by row. A rule that is random is tested for its distribution.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.settings import CandidateSettings, ColumnMapping, PrepareSettings
from mllm_srec.data.tables.targets import build_tables

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"real data not there: {DATA}")

SOURCES = {
    "gift_cards": PrepareSettings(
        source="amazon2018",
        reviews=str(DATA / "amazon2018_gift_cards/Gift_Cards_5.json.gz"),
        metadata=str(DATA / "amazon2018_gift_cards/meta_Gift_Cards.json.gz"),
    ),
    "digital_music": PrepareSettings(
        source="amazon2014", reviews=str(DATA / "amazon2014_digital_music/reviews_Digital_Music_5.json.gz")
    ),
    "movielens": PrepareSettings(
        source="tables",
        reviews=str(DATA / "movielens_posters_small/ratings.csv"),
        metadata=str(DATA / "movielens_posters_small/movies.csv"),
        columns=ColumnMapping(user_id="userId", item_id="movieId", categories="genres"),
    ),
}
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


def prepare(folder: Path, settings: PrepareSettings, candidates: CandidateSettings) -> Prepared:
    report = prepare_dataset(folder, settings, candidates)
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES}
    return Prepared(tables, read_raw(settings), settings, candidates, report)


QUICK = {
    ("gift_cards", "random"),
    ("gift_cards", "leave_one_out"),
    ("gift_cards", "global_time"),
    ("digital_music", "random"),
}


def sets(*modes: str) -> list[Any]:
    """Parameters of the fixture `data`: every source in the given modes of splitting."""
    return [
        pytest.param(pair, id="-".join(pair), marks=() if pair in QUICK else pytest.mark.slow)
        for pair in itertools.product(SOURCES, modes)
    ]


def only(*modes: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("data", sets(*modes), indirect=True, scope="module")


@pytest.fixture(scope="module", params=sets("random", "leave_one_out", "global_time"))
def data(request, tmp_path_factory) -> Prepared:
    name, mode = request.param
    settings = replace(SOURCES[name], split=mode, seed=3)
    return prepare(tmp_path_factory.mktemp("data") / name, settings, CandidateSettings(seed=5))


@pytest.fixture(scope="module")
def variant(tmp_path_factory) -> Prepared:
    """Everything that is not a default: short histories, one list per like, few users and negatives, no k-core."""
    settings = replace(SOURCES["gift_cards"], max_history=3, k_core=1, seed=11)
    candidates = CandidateSettings(n_negatives=1000, unit="instance", seed=1)
    return prepare(tmp_path_factory.mktemp("data") / "variant", settings, candidates)


# --- which rows are kept ---------------------------------------------------------------------------------------------


def kept_rows(raw: pd.DataFrame, k: int) -> pd.DataFrame:
    """First row of each (user, item) by (timestamp, order), then the k-core, by the slow road."""
    rows = raw.sort_values(["timestamp", "order"]).drop_duplicates(["user_id", "item_id"])
    while True:
        users, items = rows["user_id"].value_counts(), rows["item_id"].value_counts()
        core = rows[rows["user_id"].map(users).ge(k) & rows["item_id"].map(items).ge(k)]
        if len(core) == len(rows):
            return core
        rows = core


def assert_kept(data: Prepared) -> None:
    columns = ["user_id", "item_id", "rating", "timestamp", "order"]
    expected = kept_rows(data.raw, data.settings.k_core)[columns].sort_values("order")
    got = data.interactions[columns].sort_values("order")
    assert got.astype(object).values.tolist() == expected.astype(object).values.tolist()
    assert sorted(data.items["item_id"]) == sorted(set(expected["item_id"]))
    n_repeats = int(data.raw.duplicated(["user_id", "item_id"]).sum())
    counted = [n for reasons in data.report.counts.values() for reason, n in reasons.items() if "repeat" in reason]
    assert sum(counted) == n_repeats


def test_rows_are_the_first_of_each_pair_in_the_core(data):
    assert_kept(data)


def test_rows_of_the_variant(variant):
    assert_kept(variant)
    assert len(variant.interactions) > len(kept_rows(variant.raw, 5))


def test_columns_and_types(data):
    columns = {
        "items": ["item_id", "title", "brand", "categories", "description", "price", "image", "image_urls"],
        "interactions": ["user_id", "item_id", "rating", "timestamp", "order", "review", "split"],
        "groups": ["group_id", "purpose", "user_id", "split", "timestamp", "order", "history", "disliked"],
        "samples": ["sample_id", "group_id", "user_id", "item_id", "label", "kind", "split"],
        "candidates": ["group_id", "user_id", "item_id", "label", "kind", "position", "split"],
    }
    assert {name: list(table.columns) for name, table in data.tables.items()} == columns
    for table, name, kind in [("interactions", "timestamp", "int64"), ("interactions", "order", "int64"),
                              ("groups", "group_id", "int64"), ("groups", "timestamp", "int64"),
                              ("samples", "sample_id", "int64"), ("samples", "label", "int8")]:  # fmt: skip
        assert str(data.tables[table][name].dtype) == kind, (table, name)
    assert data.groups["group_id"].is_unique
    assert data.samples["sample_id"].is_unique
    for table in TABLES:
        nullable = ["brand", "price", "image"]
        assert not data.tables[table].drop(columns=nullable, errors="ignore").isna().any().any()
    assert {split: set(data.tables[split]["split"]) for split in ("interactions", "groups", "samples")} == {
        name: {"train", "val", "test"} for name in ("interactions", "groups", "samples")
    }
    assert set(data.candidates["split"]) == {"val", "test"}


# --- splits ----------------------------------------------------------------------------------------------------------


def liked_by_user(data: Prepared) -> dict[str, list[tuple[Key, str, str]]]:
    """(key, item, split) of the likes of each user in order of keys."""
    return {
        user: [(key, item, split) for key, item, is_liked, split in rows if is_liked]
        for user, rows in data.by_user().items()
    }


@only("random", "leave_one_out")
def test_shares_of_each_user(data):
    for user, likes in liked_by_user(data).items():
        n, counts = len(likes), Counter(split for _, _, split in likes)
        if data.settings.split == "leave_one_out":
            held = 1 if n >= 3 else 0
            expected = {"train": n - 2 * held, "val": held, "test": held}
        else:
            held = max(1, round(0.1 * n))
            expected = {"train": n - 2 * held, "val": held, "test": held}
            if n < 3:
                expected = {"train": min(n, 1), "val": 0, "test": 1 if n == 2 else 0}
        assert {split: counts[split] for split in ("train", "val", "test")} == expected, (user, n)


@only("random")
def test_random_split_covers_users_and_items(data):
    likes = data.interactions[data.interactions["rating"] >= 4]
    in_train = set(likes.loc[likes["split"] == "train", "item_id"])
    assert set(likes.loc[likes["split"] == "train", "user_id"]) == set(likes["user_id"])
    n_likes = likes["user_id"].value_counts()
    assert set(likes.loc[likes["split"] == "test", "user_id"]) == set(n_likes[n_likes >= 2].index)
    assert improving_swap(likes, "train", set(likes["item_id"]), protected=set()) is None
    often = likes["item_id"].value_counts()
    twice = set(often[often >= 2].index)
    assert improving_swap(likes, "test", twice, protected=in_train) is None


def improving_swap(likes: pd.DataFrame, split: str, wanted: set[str], protected: set[str]) -> tuple[str, ...] | None:
    """A swap within a user that brings a wanted item into the split and takes none out, of it or of train; None: none.

    `protected`: items that have to stay in train.
    """
    counts = Counter(zip(likes["split"], likes["item_id"], strict=True))
    missing = {item for item in wanted if counts[split, item] == 0}
    for user, rows in likes[likes["user_id"].isin(likes[likes["item_id"].isin(missing)]["user_id"])].groupby("user_id"):
        inside = rows.loc[rows["split"] == split, "item_id"]
        for item, home in rows.loc[rows["item_id"].isin(missing), ["item_id", "split"]].itertuples(index=False):
            if home == "train" and item in protected and counts["train", item] == 1:
                continue
            for other in inside:
                if counts[split, other] > 1 or other not in wanted:
                    return str(user), item, home, other
    return None


@only("leave_one_out")
def test_leave_one_out_and_periods_of_dislikes(data):
    for rows in data.by_user().values():
        keys = [key for key, _, is_liked, _ in rows if is_liked]
        val, test = (keys[-2], keys[-1]) if len(keys) >= 3 else ((math.inf, 0), (math.inf, 0))
        for key, item, _, split in rows:
            assert split == ("train" if key < val else "val" if key < test else "test"), (key, item)


@only("global_time")
def test_global_time_cuts_at_quantiles(data):
    rows = data.interactions.sort_values(["timestamp", "order"])
    assert rows["split"].tolist() == sorted(rows["split"], key=["train", "val", "test"].index)
    likes = rows.loc[rows["rating"] >= 4, "split"].value_counts()
    assert abs(likes["train"] - 0.8 * likes.sum()) <= 1
    assert abs(likes["val"] - 0.1 * likes.sum()) <= 2


@only("random")
def test_dislikes_of_the_random_split_are_drawn_80_10_10(data):
    splits = data.interactions.loc[data.interactions["rating"] < 4, "split"]
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        spread = math.sqrt(len(splits) * share * (1 - share))
        assert abs((splits == split).sum() - share * len(splits)) < 4.5 * spread, split


# --- contexts --------------------------------------------------------------------------------------------------------


def assert_contexts(data: Prepared) -> None:
    by_user, longest = data.by_user(), data.settings.max_history
    for group in data.groups.itertuples():
        visible, key = VISIBLE[group.split], (group.timestamp, group.order)
        seen = [row for row in by_user[group.user_id] if row[0] < key and row[3] in visible]
        liked = [item for _, item, is_liked, _ in seen if is_liked]
        disliked = [item for _, item, is_liked, _ in seen if not is_liked]
        assert list(group.history) == liked[-longest:], group
        assert list(group.disliked) == disliked[-longest:], group


def test_context_is_what_is_visible_before_the_key(data):
    assert_contexts(data)
    assert (data.groups["history"].map(len) == 0).any()  # no history is kept, not dropped


def test_context_of_the_variant_keeps_the_latest_three(variant):
    assert_contexts(variant)
    assert variant.groups["history"].map(len).max() == 3


def test_no_target_is_in_its_own_context(data):
    seen = {group.group_id: {*group.history, *group.disliked} for group in data.groups.itertuples()}
    for table in (data.samples, data.candidates):
        for row in table[table["kind"] != "sampled"].itertuples():
            assert row.item_id not in seen[row.group_id]


# --- pair groups -----------------------------------------------------------------------------------------------------


def test_one_pair_group_per_interaction_at_its_own_key(data):
    pairs = data.groups[data.groups["purpose"] == "pair"]
    columns = ["user_id", "timestamp", "order", "split"]
    assert sorted(pairs[columns].itertuples(index=False, name=None)) == sorted(
        data.interactions[columns].itertuples(index=False, name=None)
    )


def test_samples_of_pair_groups(data):
    at_key = {(row.user_id, row.timestamp, row.order): row for row in data.interactions.itertuples()}
    pairs = data.groups[data.groups["purpose"] == "pair"]
    samples = grouped(data.samples)
    assert set(samples) == set(pairs["group_id"])
    for group in pairs.itertuples():
        target, rows = at_key[group.user_id, group.timestamp, group.order], samples[group.group_id]
        is_liked = target.rating >= 4
        assert {(row.user_id, row.split) for row in rows} == {(group.user_id, group.split)}
        real = [(row.item_id, row.label, row.kind) for row in rows if row.kind != "sampled"]
        assert real == [(target.item_id, int(is_liked), "liked" if is_liked else "disliked")]
        assert [row.label for row in rows if row.kind == "sampled"] == [0] * (1 if is_liked else 0)


def grouped(table: pd.DataFrame) -> dict[int, list[Any]]:
    """Rows of each group."""
    groups = defaultdict(list)
    for row in table.itertuples(index=False):
        groups[row.group_id].append(row)
    return groups


# --- rank groups -----------------------------------------------------------------------------------------------------


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


def test_one_rank_group_per_user_and_split_with_all_held_out_likes(data):
    expected = {}
    for user, likes in liked_by_user(data).items():
        for split in ("val", "test"):
            held = [(key, item) for key, item, where in likes if where == split]
            if held:
                expected[user, split] = (*min(held)[0], sorted(item for _, item in held))
    assert expected == found_lists(data)[0]


def test_one_rank_group_per_held_out_like(variant):
    held = variant.interactions[(variant.interactions["rating"] >= 4) & (variant.interactions["split"] != "train")]
    expected = sorted((r.user_id, r.split, r.timestamp, r.order, (r.item_id,)) for r in held.itertuples())
    assert expected == sorted((*user, t, o, tuple(items)) for user, t, o, items in found_lists(variant)[1])


def found_lists(data: Prepared) -> tuple[dict[tuple[str, str], tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Key and positives of each rank group: by (user, split), and as a list."""
    ranks = data.groups[data.groups["purpose"] == "rank"]
    rows = data.candidates.merge(ranks, on="group_id", suffixes=("", "_group"), validate="many_to_one")
    assert len(rows) == len(data.candidates)
    assert (rows["user_id"] == rows["user_id_group"]).all()
    assert (rows["split"] == rows["split_group"]).all()
    assert set(rows["group_id"]) == set(ranks["group_id"])
    positives = rows[rows["kind"] == "liked"].groupby("group_id")["item_id"].agg(sorted).to_dict()
    lists = [((g.user_id, g.split), g.timestamp, g.order, positives[g.group_id]) for g in ranks.itertuples()]
    return {user: (time, order, items) for user, time, order, items in lists}, lists


def test_negatives_of_rank_groups(data):
    assert_negatives(data)


def test_where_fewer_are_left_all_are_taken(variant):
    assert_negatives(variant)
    sizes = variant.candidates.query("kind == 'sampled'").groupby("group_id").size()
    assert sizes.max() < variant.drawing.n_negatives
    counted = [n for fact, n in variant.report.facts.items() if "fewer" in fact]
    assert sum(counted) == len(sizes)


# --- how negatives are drawn -----------------------------------------------------------------------------------------


def assert_uniform(drawn: Counter[str], chances: dict[str, float], spreads: dict[str, float]) -> None:
    """Counts of the drawn items against their expectation: no item far off, and the sum of squares as it should be."""
    z = np.array([(drawn[item] - chances[item]) / math.sqrt(spreads[item]) for item in chances if spreads[item] > 0.5])
    assert len(z) > 20
    assert np.abs(z).max() < 5.5
    assert abs((z**2).sum() - len(z)) < 6 * math.sqrt(2 * len(z))


def test_pair_negatives_are_uniform_and_train_ones_ignore_what_is_held_out(data):
    catalogue = sorted(data.items["item_id"])
    rows = data.by_user()
    everything = {user: {item for _, item, _, _ in found} for user, found in rows.items()}
    trained = {user: {item for _, item, _, split in found if split == "train"} for user, found in rows.items()}
    sampled = data.samples[data.samples["kind"] == "sampled"]
    for is_train, part in sampled.groupby(sampled["split"] == "train"):
        taken = trained if is_train else everything
        drawn = Counter(part["item_id"])
        chances: dict[str, float] = dict.fromkeys(catalogue, 0.0)
        spreads = dict(chances)
        hits = expected = variance = 0.0
        for user, items in part.groupby("user_id")["item_id"]:
            free = set(catalogue) - taken[user]
            assert set(items) <= free
            p, n = 1 / len(free), len(items)
            for item in free:
                chances[item] += n * p
                spreads[item] += n * p * (1 - p)
            held = everything[user] - trained[user]
            share = len(held & free) * p
            hits += items.isin(held).sum()
            expected += n * share
            variance += n * share * (1 - share)
        assert_uniform(drawn, chances, spreads)
        if is_train:  # held-out items are negatives of train exactly as often as any other item
            assert expected > 0
            assert abs(hits - expected) < 4.5 * math.sqrt(variance), (hits, expected)
        else:
            assert hits == 0


def test_rank_negatives_are_uniform_in_every_part_of_the_list(data):
    catalogue = sorted(data.items["item_id"])
    owned = {user: {item for _, item, _, _ in rows} for user, rows in data.by_user().items()}
    sampled = data.candidates[data.candidates["kind"] == "sampled"]
    for first, last in ((1, 5), (6, 50)):
        part = sampled[sampled["position"].between(first, last)]
        chances: dict[str, float] = dict.fromkeys(catalogue, 0.0)
        spreads = dict(chances)
        for user, n in part.groupby(["user_id", "group_id"]).size().items():
            free = set(catalogue) - owned[user[0]]
            p = n / len(free)
            for item in free:
                chances[item] += p
                spreads[item] += p * (1 - p)
        assert_uniform(Counter(part["item_id"]), chances, spreads)


# --- choices and seeds -----------------------------------------------------------------------------------------------


def test_drawn_users_and_first_negatives(tmp_path):
    settings = replace(SOURCES["gift_cards"], split="leave_one_out")
    everyone = prepare(tmp_path / "all", settings, CandidateSettings(seed=2))
    few = prepare(tmp_path / "few", settings, CandidateSettings(n_negatives=7, max_users=40, seed=2))
    ranks = few.groups[few.groups["purpose"] == "rank"]
    assert ranks.groupby("split")["user_id"].nunique().to_dict() == {"val": 40, "test": 40}
    assert len(ranks) == 80
    assert_negatives(few)
    assert set(ranks["user_id"]) < set(everyone.groups.loc[everyone.groups["purpose"] == "rank", "user_id"])
    by_place = ranks.loc[ranks["split"] == "test", "user_id"]
    users = sorted(set(everyone.interactions["user_id"]))
    places = [users.index(user) / len(users) for user in by_place]
    assert abs(np.mean(places) - 0.5) < 4.5 * math.sqrt(1 / 12 / 40)  # drawn from all of them, not the first


def test_same_seed_same_tables_in_another_process_and_other_seeds_other_ones(tmp_path):
    settings = SOURCES["gift_cards"]
    first = prepare(tmp_path / "first", settings, CandidateSettings())
    program = (
        "import sys; from pathlib import Path; from mllm_srec.data.prepare import prepare_dataset; "
        "from mllm_srec.data.settings import CandidateSettings, PrepareSettings; "
        "prepare_dataset(Path(sys.argv[1]), "
        "PrepareSettings('amazon2018', reviews=sys.argv[2], metadata=sys.argv[3]), CandidateSettings())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "again"), str(settings.reviews), str(settings.metadata)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "77", "POLARS_MAX_THREADS": "1"})
    for name in TABLES:
        pd.testing.assert_frame_equal(first.tables[name], pd.read_parquet(tmp_path / "again" / f"{name}.parquet"))

    split_seed = prepare(tmp_path / "split", replace(settings, seed=1), CandidateSettings())
    draw_seed = prepare(tmp_path / "draw", settings, CandidateSettings(seed=1))
    assert not split_seed.interactions["split"].equals(first.interactions["split"])
    assert draw_seed.interactions.equals(first.interactions)
    assert not draw_seed.candidates["item_id"].equals(first.candidates["item_id"])
    assert not draw_seed.samples["item_id"].equals(first.samples["item_id"])


# --- what happened later leaves no trace in train ---------------------------------------------------------------------


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
        build_tables(pl.from_pandas(rows), items, data.settings, data.drawing, PrepareReport())
        for rows in (data.interactions, other_rows)
    ]
    stored = train_bytes(pl.from_pandas(data.groups), pl.from_pandas(data.samples))
    assert len(stored) > 10_000
    assert train_bytes(built[0].groups, built[0].samples) == stored, "what is compared is not what was prepared"
    assert train_bytes(built[1].groups, built[1].samples) == stored
    assert not built[0].candidates.equals(built[1].candidates)
