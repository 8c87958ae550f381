"""Readers of a shop with rules on generated histories: which scores are written, that they are calibrated, and how
histories are cut and shuffled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mllm_srec.data.demo import readers
from mllm_srec.data.demo.ceilings import HINDSIGHT, RULES, SCORES, score_targets
from mllm_srec.data.demo.shop import DAY_MS, item_id, simulate, user_id
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import CandidateSettings, CorruptionSettings, DemoSettings, PrepareSettings
from mllm_srec.pipeline.evaluation.references import READERS
from tests.data.demo.ceiling_metrics import read_ceilings

RULED = DemoSettings(n_users=60, n_items=90, n_interactions=16, image_size=8, clutter=0.0, order=0.6, house=0.3)


def prepared(folder, demo=RULED, **changes):
    settings = PrepareSettings(source="demo", demo=demo, **{"split": "leave_one_out", **changes})
    prepare_dataset(folder, settings, CandidateSettings(n_negatives=20))
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("ruled") / "shop", replace(RULED, last_likes=3))


def columns(folder):
    return pl.read_parquet(folder / "ceilings.parquet").columns[3:]


# --- which scores there are -------------------------------------------------------------------------------------------


def test_a_shop_with_rules_has_the_scores_of_more_readers(shop):
    assert columns(shop) == [*SCORES, *RULES, "recent_both"]
    assert all(name.startswith(READERS) for name in columns(shop))
    table = pl.read_parquet(shop / "ceilings.parquet")
    assert table.null_count().sum_horizontal().item() == 0
    assert (table.select(SCORES).to_numpy() >= 0).all()


@pytest.mark.parametrize(
    ("demo", "split", "expected"),
    [
        ({"order": 0.0}, "leave_one_out", [*SCORES, *RULES]),
        ({"order": 0.0}, "random", [*SCORES, *HINDSIGHT, *RULES]),
        ({"order": 0.0, "house": 0.0, "last_likes": 2}, "leave_one_out", [*SCORES, "recent_both"]),
        # held-out likes decide what is shown: no reader would be exact
        ({}, "random", [*SCORES[:3], *RULES[:3]]),
    ],
)
def test_no_reader_is_written_where_it_would_be_no_ceiling(tmp_path, demo, split, expected):
    folder = prepared(tmp_path / "shop", replace(RULED, n_users=20, **demo), split=split)
    assert columns(folder) == expected


def test_of_bad_pictures_only_scores_of_texts_are_written(tmp_path):
    folder = prepared(tmp_path / "shop", replace(RULED, n_users=20), corruption=CorruptionSettings(kind="blank"))
    assert columns(folder) == ["oracle_text", "reader_text", "averaging_text"]


def test_who_knows_more_is_better(shop, tmp_path):
    larger = prepared(tmp_path / "shop", replace(RULED, n_users=250, n_items=200, n_interactions=24, last_likes=3))
    auc = {name: values["auc"] for name, values in read_ceilings(larger).items()}
    assert auc["oracle_both"] > auc["reader_both"] + 0.01
    for modality in ("both", "text", "image"):
        assert auc[f"reader_{modality}"] > auc[f"averaging_{modality}"] + 0.02
    for other in ("shuffled_both", "recent_both", "reader_text", "reader_image"):
        assert auc["reader_both"] > auc[other] + 0.02


def test_leave_one_out_hides_no_like_before_a_target(shop):
    """Before each like that is asked about, and each list, the context's user has no like but those it may see."""
    interactions, groups = (pl.read_parquet(shop / f"{name}.parquet") for name in ("interactions", "groups"))
    likes = interactions.filter(pl.col("rating") >= 4)
    asked = pl.concat(
        pl.read_parquet(shop / f"{name}.parquet").filter(pl.col("label") == 1).select("group_id", "split")
        for name in ("samples", "candidates")
    )
    rows = groups.join(asked.select("group_id").unique(), on="group_id").filter(pl.col("split") == "test")
    assert rows.height >= 2 * 55
    for row in rows.iter_rows(named=True):
        now = (row["timestamp"], row["order"])
        own = likes.filter(pl.col("user_id") == row["user_id"]).sort("timestamp", "order")
        before = [item for item, *key in own.select("item_id", "timestamp", "order").iter_rows() if tuple(key) < now]
        assert row["history"] == before


# --- calibration ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answered():
    """Readers' P(like) of what users were in truth shown on some days, before they rated it, and what came of it.

    All dislikes are reported: readers draw no conclusion from what is absent.
    """
    changes = {"n_users": 500, "n_items": 200, "n_interactions": 40, "disliked_share": 0.95}
    settings = replace(RULED, **changes, noise=0.1, drift=0.01, house=0.2)
    simulation, rng = simulate(settings), np.random.default_rng(0)
    assert simulation.reported[:, :40].all()
    rows, groups, targets, liked = [], [], [], []
    for user in range(settings.n_users):
        times = [int(simulation.first_day[user] + day) * DAY_MS for day in range(40)]
        seen = [item_id(i) for i in simulation.views[user, :40]]
        for time, item, rating in zip(times, seen, simulation.ratings[user], strict=False):
            rows.append((user_id(user), item, float(rating), time, len(rows), "train"))
        for day in rng.choice(np.arange(5, 40), 4, replace=False):
            groups.append((len(groups), user_id(user), "test", times[day], -1))
            targets.append((len(targets), seen[day]))
            liked.append(simulation.ratings[user, day] >= 4)
    with pytest.MonkeyPatch.context() as patch:  # P(like) alone, without the factor for what is shown
        patch.setattr(readers, "exposures", lambda exposure, events, pairs, kinds: np.ones(len(pairs)))
        scored = score_targets(
            pl.DataFrame(targets, ["group_id", "item_id"], orient="row"),
            pl.DataFrame(groups, ["group_id", "user_id", "split", "timestamp", "order"], orient="row"),
            pl.DataFrame(rows, ["user_id", "item_id", "rating", "timestamp", "order", "split"], orient="row"),
            settings,
        )
    return scored, np.array(liked)


@pytest.mark.parametrize("reader", SCORES)
def test_stated_probabilities_are_those_that_come_true(answered, reader):
    """In each sixth of the answers, from the lowest to the highest, and over all."""
    scored, liked = answered
    stated = scored[reader].to_numpy()
    for group in (np.arange(len(stated)), *np.array_split(np.argsort(stated), 6)):
        spread = (stated[group] * (1 - stated[group])).sum() ** 0.5 / len(group)
        assert liked[group].mean() == pytest.approx(stated[group].mean(), abs=3.5 * spread + 1e-3)


def test_whoever_does_not_know_the_house_is_wrong_about_its_brands(answered):
    """The reader of the mean law is right on average, and not where the house has a taste."""
    scored, liked = answered
    stated, known = scored["averaging_both"].to_numpy(), scored["reader_both"].to_numpy()
    assert stated.mean() == pytest.approx(liked.mean(), abs=0.03)
    assert ((stated - liked) ** 2).mean() > ((known - liked) ** 2).mean() + 0.005


# --- cutting and shuffling --------------------------------------------------------------------------------------------


@pytest.fixture
def events():
    """Two users; the second has two contexts."""
    rows = [
        ("u", 1, 0, 10, 5.0, None), ("u", 2, 1, 11, 1.0, None), ("u", 3, 2, 12, 4.0, None), ("u", 9, 3, 13, 5.0, None),
        ("u", 9, 4, None, None, 0),
        ("v", 1, 0, 20, 4.0, None), ("v", 4, 1, None, None, 1), ("v", 4, 1, 21, 5.0, None), ("v", 8, 2, 22, 2.0, None),
        ("v", 9, 3, None, None, 2),
    ]  # fmt: skip
    table = pl.DataFrame(
        rows, ["user_id", "day", "order", "item", "rating", "context"], orient="row", infer_schema_length=None
    )
    day = pl.col("day")
    return table.with_columns(
        pl.col("context").cast(pl.UInt32),
        (day * DAY_MS).alias("timestamp"),
        pl.col("user_id").rank("dense").cast(pl.Int64).sub(1).alias("user"),
        pl.int_range(pl.len()).over("user_id").alias("turn"),
        (day - day.shift(1)).over("user_id").fill_null(0).alias("gap"),
    )


def told(events):
    """Context -> (item, rating, days since the event before) of what is read before it, in order."""
    return {
        user: [row for row in rows.sort("turn").select("item", "rating", "gap").iter_rows() if row[0] is not None]
        for (user,), rows in events.group_by("user")
    }


def test_each_context_gets_a_history_of_its_own(events):
    alone = readers.one_context_each(events)
    assert told(alone) == {
        0: [(10, 5.0, 0), (11, 1.0, 1), (12, 4.0, 1), (13, 5.0, 6)],
        1: [(20, 4.0, 0)],
        2: [(20, 4.0, 0), (21, 5.0, 3), (22, 2.0, 4)],
    }
    last = alone.filter(pl.col("turn") == pl.col("turn").max().over("user")).sort("user")
    assert last["context"].to_list() == [0, 1, 2]
    assert last["gap"].to_list() == [0, 3, 1]


@pytest.mark.parametrize(
    ("n", "items"),
    [
        (1, {0: [13], 1: [20], 2: [21, 22]}),
        (2, {0: [12, 13], 1: [20], 2: [20, 21, 22]}),
        (3, {0: [10, 11, 12, 13], 1: [20], 2: [20, 21, 22]}),
        (9, {0: [10, 11, 12, 13], 1: [20], 2: [20, 21, 22]}),
    ],
)
def test_the_latest_likes_and_what_came_after_the_first_of_them(events, n, items):
    cut = readers.latest_likes(readers.one_context_each(events), n)
    assert {context: [item for item, *_ in rows] for context, rows in told(cut).items()} == items


def test_likes_are_exchanged_and_dislikes_and_days_stay(events):
    alone, orders = readers.one_context_each(events), set()
    for seed in range(30):
        mixed = told(readers.shuffled_likes(alone, np.random.default_rng(seed)))
        for context, rows in told(alone).items():
            assert sorted(row[:2] for row in mixed[context]) == sorted(row[:2] for row in rows)
            assert [row[2] for row in mixed[context]] == [row[2] for row in rows]
        assert mixed[0][1] == (11, 1.0, 1)
        orders.add(tuple(item for item, *_ in mixed[0]))
    assert len(orders) == 6


def test_a_recent_reader_of_more_likes_than_there_are_is_the_reader(shop):
    interactions, groups = (pl.read_parquet(shop / f"{name}.parquet") for name in ("interactions", "groups"))
    pairs = pl.read_parquet(shop / "samples.parquet").filter(pl.col("split") == "test")
    scored = score_targets(pairs, groups, interactions, replace(RULED, last_likes=99))
    assert scored["recent_both"].to_list() == pytest.approx(scored["reader_both"].to_list(), abs=1e-9)
