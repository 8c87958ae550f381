"""Ceilings on small tables made by hand in the shape of a prepared data set, and on the default shop as prepared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mllm_srec.data.demo.ceilings import HINDSIGHT, SCORES, score_targets, write_ceilings
from mllm_srec.data.demo.shop import DAY_MS, generate_demo, item_truth, user_truth
from mllm_srec.data.demo.truth import TasteModel
from mllm_srec.data.demo.words import VALUES
from mllm_srec.data.settings import CandidateSettings, DemoSettings, PrepareSettings
from mllm_srec.types import ConfigError, DataError
from tests.data.demo.ceiling_metrics import auc, read_ceilings

SMALL = DemoSettings(n_users=100, n_items=150, n_interactions=24, image_size=8, clutter=0.0)
SIZES = [len(values) for values in VALUES.values()]


def prepared(settings, folder):
    """Each user's last fifth of rows is test, the fifth before val; pairs for all test rows, one list."""
    raw = generate_demo(settings, folder / "pictures")
    rng, groups, samples, candidates, parts = np.random.default_rng(0), [], [], [], []
    for (user,), rows in raw.interactions.group_by("user_id", maintain_order=True):
        n, listed = rows.height, False
        split = ["train"] * (n - 2 * (n // 5)) + ["val"] * (n // 5) + ["test"] * (n // 5)
        parts.append(rows.with_columns(pl.Series("split", split)))
        unseen = sorted(set(raw.items["item_id"]) - set(rows["item_id"]))
        for row in parts[-1].filter(pl.col("split") == "test").iter_rows(named=True):
            key, liked = (user, "test", row["timestamp"], row["order"]), row["rating"] >= 4
            groups.append((len(groups), "pair", *key))
            samples.append(
                (len(groups) - 1, user, row["item_id"], int(liked), "liked" if liked else "disliked", "test")
            )
            if liked:
                samples.append((len(groups) - 1, user, rng.choice(unseen), 0, "sampled", "test"))
            if liked and not listed:
                listed = True
                groups.append((len(groups), "rank", *key))
                candidates.append((len(groups) - 1, user, row["item_id"], 1, "liked", 0, "test"))
                for position, item in enumerate(rng.choice(unseen, 30, replace=False), 1):
                    candidates.append((len(groups) - 1, user, item, 0, "sampled", position, "test"))
    columns = ["group_id", "user_id", "item_id", "label", "kind"]
    tables = {
        "interactions": pl.concat(parts),
        "groups": pl.DataFrame(groups, ["group_id", "purpose", "user_id", "split", "timestamp", "order"], orient="row"),
        "samples": pl.DataFrame(samples, [*columns, "split"], orient="row"),
        "candidates": pl.DataFrame(candidates, [*columns, "position", "split"], orient="row"),
    }
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    return tables


def ceilings(settings, folder):
    folder.mkdir(exist_ok=True)
    prepared(settings, folder)
    write_ceilings(folder, PrepareSettings(source="demo", demo=settings))
    return read_ceilings(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Settings, tables and folder of one small shop, its ceilings written."""
    settings, folder = replace(SMALL, drift=0.02), tmp_path_factory.mktemp("small")
    tables = prepared(settings, folder)
    write_ceilings(folder, PrepareSettings(source="demo", demo=settings))
    return settings, tables, folder


def test_every_scored_row_of_the_test_split_is_written(small):
    _, tables, folder = small
    written = pl.read_parquet(folder / "ceilings.parquet")
    assert written.columns == ["table", "group_id", "item_id", *SCORES]
    assert SCORES == ("oracle_both", "oracle_text", "oracle_image", "reader_both", "reader_text", "reader_image")
    keys = ["group_id", "item_id"]
    for name in ("samples", "candidates"):
        part = written.filter(pl.col("table") == name)
        assert part.select(keys).equals(tables[name].select(keys))
    scores = written.select(SCORES).to_numpy()
    assert scores.min() >= 0
    assert scores.max() <= 1
    metrics = read_ceilings(folder)
    assert list(metrics) == list(SCORES)
    assert metrics["reader_both"]["n_liked"] == tables["samples"].filter(pl.col("kind") == "liked").height
    assert metrics["reader_both"]["n_lists"] == tables["candidates"]["group_id"].n_unique()
    assert {"auc", "auc_disliked", "user_auc", "hr@5", "ndcg@20"} <= set(metrics["oracle_text"])


def test_the_oracle_scores_with_the_true_taste_of_the_day(small):
    settings, tables, folder = small
    model = TasteModel.from_settings(settings)
    tastes = {(row[0], row[1]): row[2:] for row in user_truth(settings).iter_rows()}
    items = {row[0]: row[1:] for row in item_truth(settings).iter_rows()}
    keys = {row["group_id"]: row for row in tables["groups"].iter_rows(named=True)}
    table = model.rating_table()
    for row in pl.read_parquet(folder / "ceilings.parquet").sample(200, seed=0).iter_rows(named=True):
        key = keys[row["group_id"]]
        taste = tastes[key["user_id"], key["timestamp"] // DAY_MS]
        bits = [
            (values.index(word) - state) % len(values) < len(values) // 2
            for values, word, state in zip(VALUES.values(), items[row["item_id"]], taste, strict=True)
        ]
        pattern = int("".join("01"[bit] for bit in bits), 2)
        assert row["oracle_both"] == pytest.approx(table[pattern, 3:].sum(), abs=1e-8)


def test_the_reader_is_the_day_by_day_posterior_of_what_the_context_may_show(small):
    settings, tables, folder = small
    model = TasteModel.from_settings(settings)
    ratings, grid = model.rating_table(), np.stack(np.indices(SIZES), axis=-1)  # (6, 6, 4, 6, 4, 5)
    items = {row[0]: np.array([v.index(w) for v, w in zip(VALUES.values(), row[1:], strict=True)])
             for row in item_truth(settings).iter_rows()}  # fmt: skip
    day = [model.transition(name, 1) for name in VALUES]
    scored = pl.read_parquet(folder / "ceilings.parquet")
    for group in tables["groups"].sample(6, seed=1).iter_rows(named=True):
        belief, today = np.full(SIZES, 1 / np.prod(SIZES)), None
        rows = tables["interactions"].filter(
            (pl.col("user_id") == group["user_id"])
            & (pl.col("timestamp") < group["timestamp"])
            & pl.col("split").is_in(["train", "val"])
        )
        events = [*rows.select("timestamp", "item_id", "rating").iter_rows(), (group["timestamp"], None, None)]
        for timestamp, item, rating in events:
            while today is not None and today < timestamp // DAY_MS:
                for axis in range(5):
                    belief = np.moveaxis(np.tensordot(belief, day[axis], (axis, 0)), -1, axis)
                today += 1
            today = timestamp // DAY_MS
            if item is not None:
                belief = belief * ratings[model.pattern(grid, items[item]), int(rating) - 1]
                belief /= belief.sum()
        for row in scored.filter(pl.col("group_id") == group["group_id"]).iter_rows(named=True):
            liked = ratings[model.pattern(grid, items[row["item_id"]]), 3:].sum(axis=-1)
            assert row["reader_both"] == pytest.approx((belief * liked).sum(), abs=1e-8)


def test_the_reader_sees_nothing_of_the_test_split_nor_of_the_future(small):
    settings, tables, folder = small
    targets = pl.concat([tables[name].select("group_id", "item_id") for name in ("samples", "candidates")])
    written = pl.read_parquet(folder / "ceilings.parquet").select(SCORES)
    hidden = tables["interactions"].with_columns(
        pl.when(pl.col("split") == "test").then(6 - pl.col("rating")).otherwise(pl.col("rating")).alias("rating")
    )
    assert score_targets(targets, tables["groups"], hidden, settings).select(SCORES).equals(written)
    first = tables["interactions"]["timestamp"].min()
    before = tables["groups"].with_columns(pl.lit(first).alias("timestamp"), pl.lit(0, pl.Int64).alias("order"))
    users = user_truth(settings).filter(pl.col("day") == first // DAY_MS)["user_id"].to_list()
    before = before.filter(pl.col("user_id").is_in(users))  # whoever was a member on that day
    empty = score_targets(targets.join(before, on="group_id", how="semi"), before, tables["interactions"], settings)
    share = TasteModel.from_settings(settings).expected_like_share
    assert empty.height > 0
    assert empty["reader_both"].to_list() == pytest.approx([share] * empty.height)
    visible = tables["interactions"].with_columns((6 - pl.col("rating")).alias("rating"))
    assert not score_targets(targets, tables["groups"], visible, settings).select(SCORES).equals(written)


# --- a reader who sees later ratings ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scattered(tmp_path_factory):
    """The same shop, its test rows drawn from all times, as a random split draws them; and the scored targets."""
    settings, folder = replace(SMALL, drift=0.02, n_users=40), tmp_path_factory.mktemp("scattered")
    raw, rng = generate_demo(settings, folder / "pictures"), np.random.default_rng(0)
    splits = rng.choice(["train", "val", "test"], raw.interactions.height, p=[0.7, 0.1, 0.2])
    rows = raw.interactions.with_columns(pl.Series("split", splits))
    groups = rows.filter(pl.col("split") == "test").with_row_index("group_id").cast({"group_id": pl.Int64})
    asked = groups.select("group_id", label=(pl.col("rating") >= 4).cast(pl.Int64), item_id="item_id")
    drawn = asked.select("group_id", label=pl.lit(0, pl.Int64)).with_columns(
        item_id=pl.Series(rng.choice(raw.items["item_id"].to_numpy(), groups.height))
    )
    targets = pl.concat([asked, drawn])
    tables = {"interactions": rows, "groups": groups.select("group_id", "user_id", "split", "timestamp", "order")}
    return settings, tables, score_targets(targets, tables["groups"], rows, settings)


def test_hindsight_is_the_day_by_day_posterior_of_earlier_and_later_ratings(scattered):
    settings, tables, scored = scattered
    model = TasteModel.from_settings(settings)
    ratings, grid = model.rating_table(), np.stack(np.indices(SIZES), axis=-1)
    items = {row[0]: np.array([v.index(w) for v, w in zip(VALUES.values(), row[1:], strict=True)])
             for row in item_truth(settings).iter_rows()}  # fmt: skip
    day = [model.transition(name, 1) for name in VALUES]

    def likelihood(events, today):
        """P(ratings | taste of `today`), the ratings being those furthest away first; scaled."""
        belief, at = np.ones(SIZES), None
        for timestamp, item, rating in [*events, (today * DAY_MS, None, None)]:
            for _ in range(0 if at is None else abs(timestamp // DAY_MS - at)):
                for axis in range(5):
                    belief = np.moveaxis(np.tensordot(day[axis], belief, (1, axis)), 0, axis)
            at = timestamp // DAY_MS
            if item is not None:
                belief = belief * ratings[model.pattern(grid, items[item]), int(rating) - 1]
                belief /= belief.sum()
        return belief

    n_later = 0
    for group in tables["groups"].sample(5, seed=3).iter_rows(named=True):
        rows = tables["interactions"].filter(
            (pl.col("user_id") == group["user_id"]) & pl.col("split").is_in(["train", "val"])
        )
        events = sorted(rows.select("timestamp", "order", "item_id", "rating").iter_rows())
        now = (group["timestamp"], group["order"])
        earlier = [(time, item, rating) for time, order, item, rating in events if (time, order) < now]
        later = [(time, item, rating) for time, order, item, rating in events[::-1] if (time, order) > now]
        n_later += len(later)
        belief = likelihood(earlier, group["timestamp"] // DAY_MS) * likelihood(later, group["timestamp"] // DAY_MS)
        belief /= belief.sum()
        for row in scored.filter(pl.col("group_id") == group["group_id"]).iter_rows(named=True):
            liked = ratings[model.pattern(grid, items[row["item_id"]]), 3:].sum(axis=-1)
            assert row["hindsight_both"] == pytest.approx((belief * liked).sum(), abs=1e-8)
    assert n_later > 20


def test_hindsight_knows_more_than_the_reader_and_nothing_of_the_test_split(scattered):
    settings, tables, scored = scattered
    liked = scored["label"].to_numpy() == 1
    area = {who: auc(scored[f"{who}_both"].to_numpy()[liked], scored[f"{who}_both"].to_numpy()[~liked])
            for who in ("hindsight", "reader")}  # fmt: skip
    assert area["hindsight"] > area["reader"] + 0.005
    hidden = tables["interactions"].with_columns(
        pl.when(pl.col("split") == "test").then(6 - pl.col("rating")).otherwise(pl.col("rating")).alias("rating")
    )
    again = score_targets(scored.select("group_id", "item_id"), tables["groups"], hidden, settings)
    assert again.select(*SCORES, *HINDSIGHT).equals(scored.select(*SCORES, *HINDSIGHT))


def test_there_is_no_hindsight_where_nothing_was_rated_later(small):
    _, _, folder = small
    assert not set(HINDSIGHT) & set(pl.read_parquet_schema(folder / "ceilings.parquet"))


def test_noise_lowers_both_ceilings(tmp_path):
    results = [ceilings(replace(SMALL, noise=noise), tmp_path / str(noise)) for noise in (0.0, 0.15, 0.6)]
    for score in ("oracle_both", "reader_both"):
        quiet, loud, louder = (result[score]["auc"] for result in results)
        assert quiet > loud + 0.02
        assert loud > louder + 0.02


def test_drift_lowers_the_reader_but_not_the_oracle(tmp_path):
    results = [ceilings(replace(SMALL, drift=drift), tmp_path / str(drift)) for drift in (0.0, 0.03, 0.5)]
    still, slow, fast = (result["reader_both"]["auc"] for result in results)
    assert still > slow + 0.02
    assert slow > fast + 0.05
    assert fast == pytest.approx(0.5, abs=0.08)
    # the oracle loses only this: without drift most likes of the catalogue are used up, and negatives are easier
    assert min(result["oracle_both"]["auc"] for result in results) > 0.88


@pytest.mark.parametrize(("image_share", "full", "poor"), [(0.0, "text", "image"), (1.0, "image", "text")])
def test_a_modality_that_holds_all_signal_is_as_good_as_both(tmp_path, image_share, full, poor):
    metrics = ceilings(replace(SMALL, image_share=image_share), tmp_path)
    scores = pl.read_parquet(tmp_path / "ceilings.parquet")
    for who in ("oracle", "reader"):
        assert scores[f"{who}_{full}"].to_list() == pytest.approx(scores[f"{who}_both"].to_list(), abs=1e-8)
        assert metrics[f"{who}_both"]["auc"] > metrics[f"{who}_{poor}"]["auc"] + 0.1


def test_tables_that_do_not_fit_the_settings_are_refused(small):
    settings, tables, folder = small
    with pytest.raises(ConfigError, match="'amazon2014'"):
        write_ceilings(folder, PrepareSettings())
    targets = tables["samples"].select("group_id", "item_id")
    strange = targets.with_columns(pl.lit("B000").alias("item_id"))
    with pytest.raises(DataError, match=r"name an unknown item.* such as 'B000'"):
        score_targets(strange, tables["groups"], tables["interactions"], settings)
    with pytest.raises(DataError, match=r"groups\.parquet: \d+ targets name no group of it"):
        score_targets(targets, tables["groups"].head(3), tables["interactions"], settings)
    with pytest.raises(DataError, match="unknown user on that day"):
        score_targets(targets, tables["groups"], tables["interactions"], replace(settings, n_users=50))


@pytest.mark.slow
@pytest.mark.parametrize("split", ["random", "leave_one_out"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_shop_is_worth_reading_with_both_modalities(tmp_path, split, seed):
    from mllm_srec.data.prepare import prepare_dataset

    settings = PrepareSettings(source="demo", split=split, seed=seed, demo=DemoSettings(seed=seed))
    prepare_dataset(tmp_path / "demo", settings, CandidateSettings(seed=seed))
    metrics = read_ceilings(tmp_path / "demo")
    auc = {name: metrics[name]["auc"] for name in SCORES}
    assert auc["reader_both"] >= 0.85
    assert auc["reader_both"] >= auc["reader_text"] + 0.05
    assert auc["reader_both"] >= auc["reader_image"] + 0.05
    for modality in ("both", "text", "image"):
        assert auc[f"oracle_{modality}"] >= auc[f"reader_{modality}"] - 0.01  # in expectation; leave room for luck
