"""The generated shop: contract, determinism, and that each thing depends on nothing but what it should."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mllm_srec.data.demo import shop as demo_shop
from mllm_srec.data.demo import words as demo_words
from mllm_srec.data.demo.shop import DAY_MS, generate_demo, item_truth, simulate, user_truth
from mllm_srec.data.demo.truth import TasteModel
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, ITEM_SCHEMA, USER_SCHEMA
from mllm_srec.data.settings import DemoSettings
from mllm_srec.types import ConfigError

SMALL = DemoSettings(n_users=40, n_items=60, n_interactions=12)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return generate_demo(SMALL, folder), folder


def pixels(folder):
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}


def test_tables_have_the_raw_schema(shop):
    raw, folder = shop
    assert raw.interactions.schema == pl.Schema(INTERACTION_SCHEMA)
    assert raw.items.schema == pl.Schema(ITEM_SCHEMA)
    assert raw.users.schema == pl.Schema(USER_SCHEMA)
    assert (raw.items.height, raw.users.height) == (60, 40)
    assert sorted(path.name for path in folder.iterdir()) == sorted(raw.items["image"])
    assert raw.items["image"][7] == f"{raw.items['item_id'][7]}.png"
    assert all(picture.shape == (56, 56, 3) for picture in pixels(folder).values())


def test_interactions_are_in_order_of_time_one_a_day_and_user(shop):
    interactions = shop[0].interactions
    assert interactions["timestamp"].is_sorted()
    assert interactions["order"].to_list() == list(range(interactions.height))
    days = interactions.select("user_id", pl.col("timestamp") // DAY_MS)
    assert days.is_unique().all()
    assert interactions.select("user_id", "item_id").is_unique().all()
    assert interactions["timestamp"].min() >= 1_672_531_200_000  # 2023-01-01 in milliseconds


def test_each_user_has_the_number_of_interactions_asked_for():
    n_reported = simulate(DemoSettings()).reported.sum(axis=1)
    assert n_reported.max() == 32
    assert (n_reported == 32).sum() >= 295  # a few users like fewer of the 300 items than four fifths of 32
    assert n_reported.min() >= 28
    few = simulate(replace(SMALL, n_interactions=60)).reported.sum(axis=1)
    assert few.tolist() == [60] * 40  # the whole catalogue: every view is reported


@pytest.mark.parametrize("changes", [{}, {"noise": 0.3}, {"image_share": 1.0}, {"like_share": 0.3}])
def test_about_a_fifth_of_the_interactions_are_dislikes(changes):
    simulation = simulate(DemoSettings(**changes))
    assert (simulation.ratings[simulation.reported] >= 4).mean() == pytest.approx(0.80, abs=0.03)


def test_the_same_settings_give_the_same_bytes_in_another_process(shop, tmp_path):
    code = (
        "import sys; from pathlib import Path; from mllm_srec.data.demo.shop import *\n"
        "raw = generate_demo(DemoSettings(n_users=40, n_items=60, n_interactions=12), Path(sys.argv[1]))\n"
        "import hashlib; print(hashlib.sha256(repr([t.rows() for t in "
        "(raw.interactions, raw.items, raw.users)]).encode()).hexdigest())"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    raw, folder = shop
    text = repr([table.rows() for table in (raw.interactions, raw.items, raw.users)])
    assert result.stdout.strip() == hashlib.sha256(text.encode()).hexdigest()
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_another_seed_gives_another_shop(shop, tmp_path):
    other = generate_demo(replace(SMALL, seed=1), tmp_path)
    assert not other.items.equals(shop[0].items)
    assert not other.interactions.drop("order").equals(shop[0].interactions.drop("order"))


def test_clutter_and_picture_size_leave_tastes_and_ratings_alone(shop, tmp_path):
    other = generate_demo(replace(SMALL, clutter=0.0, image_size=28), tmp_path)
    assert other.interactions.equals(shop[0].interactions)
    assert other.items["title"][0] != shop[0].items["title"][0] or other.items["title"][1] != shop[0].items["title"][1]
    assert next(iter(pixels(tmp_path).values())).shape == (28, 28, 3)


def test_texts_name_brand_material_and_category_and_never_colour_or_pattern(shop):
    raw, _ = shop
    secret = {*demo_words.COLOURS, *demo_words.PATTERNS}
    for item, truth in zip(raw.items.iter_rows(named=True), item_truth(SMALL).iter_rows(named=True), strict=True):
        for text in (item["title"], item["description"]):
            words = set(re.findall(r"[a-z]+", text.lower()))
            assert words.isdisjoint(secret)
            for name in ("brand", "material", "category"):
                others = {value.lower() for value in demo_words.VALUES[name]} - {truth[name].lower()}
                assert truth[name].lower() in words
                assert words.isdisjoint(others)
        assert item["brand"] == truth["brand"]
        assert item["categories"] == ["Demo Shop", demo_words.PLURALS[truth["category"]]]
    for text in [*raw.interactions["review"], *raw.users["profile"]]:
        assert set(re.findall(r"[a-z]+", text.lower())).isdisjoint(secret)


def test_pictures_do_not_depend_on_brand_and_material(shop, tmp_path, monkeypatch):
    draw = demo_shop._draw_values

    def rebranded(*args):
        values = draw(*args)
        values[:, 3] = (values[:, 3] + 1) % 6
        values[:, 4] = (values[:, 4] + 1) % 4
        return values

    monkeypatch.setattr(demo_shop, "_draw_values", rebranded)
    other = generate_demo(SMALL, tmp_path)
    assert (other.items["brand"] != shop[0].items["brand"]).all()
    before, after = pixels(shop[1]), pixels(tmp_path)
    assert all((before[name] == after[name]).all() for name in before)


def test_texts_do_not_depend_on_colour_and_pattern(shop, tmp_path, monkeypatch):
    draw = demo_shop._draw_values

    def repainted(*args):
        values = draw(*args)
        values[:, 1] = (values[:, 1] + 1) % 6
        values[:, 2] = (values[:, 2] + 1) % 4
        return values

    monkeypatch.setattr(demo_shop, "_draw_values", repainted)
    other = generate_demo(SMALL, tmp_path)
    assert other.items.equals(shop[0].items)
    assert any((pixels(shop[1])[name] != picture).any() for name, picture in pixels(tmp_path).items())


def test_noiseless_ratings_are_those_of_the_true_taste_of_the_day(tmp_path):
    settings = replace(SMALL, noise=0.0, drift=0.05, n_interactions=20)
    raw, model = generate_demo(settings, tmp_path), TasteModel.from_settings(settings)
    joined = (
        raw.interactions.with_columns((pl.col("timestamp") // DAY_MS).alias("day"))
        .join(user_truth(settings), on=["user_id", "day"], how="left", validate="m:1")
        .join(item_truth(settings), on="item_id", suffix="_word")
    )
    assert joined.height == raw.interactions.height
    for row in joined.iter_rows(named=True):
        utility = 0.0
        for name, values in demo_words.VALUES.items():
            liked = (values.index(row[f"{name}_word"]) - row[name]) % len(values) < len(values) // 2
            utility += model.weights[name] if liked else -model.weights[name]
        cuts = [0.56 - 0.77, 0.56 - 0.33, 0.56, 0.56 + 0.11]  # see test_demo_truth
        assert row["rating"] == 1 + sum(utility > cut for cut in cuts)


def test_tastes_move_one_step_with_the_probability_of_drift():
    settings = DemoSettings(drift=0.1)
    truth = user_truth(settings)
    for name, values in demo_words.VALUES.items():
        step = (truth[name].diff() % len(values)).filter(truth["user_id"] == truth["user_id"].shift(1))
        assert set(step.unique()) == {0, 1, len(values) - 1}
        assert (step == 0).mean() == pytest.approx(0.9, abs=0.01)
        assert (step == 1).mean() == pytest.approx(0.05, abs=0.01)


def test_what_is_seen_does_not_depend_on_taste():
    simulation = simulate(DemoSettings(n_users=2000, n_items=100, n_interactions=10))
    model = TasteModel.from_settings(DemoSettings())
    seen = model.pattern(simulation.tastes, simulation.values[simulation.views])
    expected = model.pattern(simulation.tastes[:, :, None], simulation.values[None, None, :])
    share = np.bincount(expected.ravel(), minlength=32) / expected.size
    assert np.bincount(seen.ravel(), minlength=32) / seen.size == pytest.approx(share, abs=0.004)
    assert all(len(set(row)) == len(row) for row in simulation.views.tolist())


def test_tones_of_reviews_follow_ratings():
    rng = np.random.default_rng(0)
    tones = {rating: [demo_words.review(rating, rng) for _ in range(400)] for rating in range(1, 6)}
    love = {
        rating: np.mean([text.startswith(demo_words._OPENINGS[5]) for text in texts]) for rating, texts in tones.items()
    }
    assert love[5] == pytest.approx(0.925, abs=0.05)
    assert love[4] == pytest.approx(0.075, abs=0.05)
    assert love[1] == love[2] == love[3] == 0


def test_every_phrase_of_the_shop_is_in_the_vocabulary(shop):
    known = " ".join(demo_words.vocabulary()).lower()
    words = set(re.findall(r"[a-z]+", known)) | {"year", "old", "a"}
    raw, _ = shop
    texts = [*raw.items["title"], *raw.items["description"], *raw.interactions["review"], *raw.users["profile"]]
    assert {word for text in texts for word in re.findall(r"[a-z]+", text.lower())} <= words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drift": 1.5}, r"prepare\.demo\.drift=1\.5: out of range; give a number from 0 to 1"),
        ({"image_share": -0.1}, r"image_share=-0\.1: out of range"),
        ({"noise": -1.0}, r"noise=-1\.0: too small; give 0"),
        ({"n_users": 0}, r"n_users=0: too small; give a whole number of at least 1"),
        ({"n_items": 10}, r"n_interactions=12: more than the 10 items"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        simulate(replace(SMALL, **changes))
