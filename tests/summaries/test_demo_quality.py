"""Answers that are right, wrong or half right by construction, judged against the truth of a small demo shop."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.demo import words as demo_language
from mllm_srec.data.demo.shop import DAY_MS, item_truth, user_truth
from mllm_srec.data.demo.words import ATTRIBUTES, IMAGE_ATTRIBUTES, TEXT_ATTRIBUTES, VALUES
from mllm_srec.data.prepare import prepare_dataset
from mllm_srec.data.settings import CandidateSettings, DemoSettings, PrepareSettings
from mllm_srec.summaries.demo_quality import (
    attribute_accuracy,
    demo_quality,
    demo_settings,
    strongest_values,
    taste_accuracy,
)
from mllm_srec.summaries.preference_chains import build_chains
from mllm_srec.summaries.tables import ITEM_VIEW_SCHEMA, PREFERENCE_VIEW_SCHEMA
from mllm_srec.types import ConfigError, DataError

DEMO = DemoSettings(n_users=15, n_items=80, n_interactions=24, image_size=8, drift=0.2, seed=3)
TRUTH = {row["item_id"]: row for row in item_truth(DEMO).iter_rows(named=True)}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The small demo shop as `prepare` writes it."""
    folder = tmp_path_factory.mktemp("demo") / "shop"
    prepare_dataset(folder, PrepareSettings(source="demo", k_core=1, demo=DEMO), CandidateSettings(n_negatives=4))
    return PreparedDataset.open(folder)


def item_table(texts):
    """Item id -> text."""
    rows = [(item, text, "stop", 5, item) for item, text in texts.items()]
    return pl.DataFrame(rows, ITEM_VIEW_SCHEMA, orient="row")


def catalogue(without_picture=()):
    return pl.DataFrame(
        {"item_id": list(TRUTH), "image": [None if i in without_picture else f"{i}.png" for i in TRUTH]}
    )


def other(name, value):
    """Another value of an attribute."""
    return next(v for v in VALUES[name] if v != value)


# --- items --------------------------------------------------------------------------------------------------------


def test_the_true_answers_are_right(shop):
    seen = item_table({item: demo_language.image_summary(TRUTH[item]) for item in shop.items["item_id"]})
    numbers = demo_quality("image", seen, shop, "both")
    assert numbers["attribute_accuracy"] == 1.0
    assert {name for name in numbers if "/" in name} == {f"attribute_accuracy/{name}" for name in IMAGE_ATTRIBUTES}
    assert numbers["n_judged"] == 3 * shop.items.height
    assert numbers["chance"] == pytest.approx((1 / 6 + 1 / 6 + 1 / 4) / 3)
    known = item_table({item: demo_language.item_summary(TRUTH[item]) for item in shop.items["item_id"]})
    for modality, names in [("both", ATTRIBUTES), ("text", TEXT_ATTRIBUTES), ("image", IMAGE_ATTRIBUTES)]:
        numbers = demo_quality("item", known, shop, modality)
        assert [numbers[f"attribute_accuracy/{name}"] for name in names] == [1.0] * len(names)
        assert numbers["n_judged"] == len(names) * shop.items.height
    assert (numbers["n_items_without_picture"], numbers["n_items_without_summary"]) == (0, 0)


def test_a_caption_tells_the_category_alone(shop):
    table = item_table({item: demo_language.caption(TRUTH[item]) for item in shop.items["item_id"]})
    numbers = demo_quality("image", table, shop, "both")
    assert [numbers[f"attribute_accuracy/{name}"] for name in IMAGE_ATTRIBUTES] == [1.0, 0.0, 0.0]
    assert numbers["attribute_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("change", "right"),
    [
        (lambda row: f"{row['colour'].upper()} {row['pattern']} {row['category']}s!", 3),
        (lambda row: "", 0),
        (lambda row: "A picture.", 0),
        (lambda row: f"A {row['pattern']} {row['category']}.", 2),
        (lambda row: f"{row['colour']} or {other('colour', row['colour'])} {row['pattern']} {row['category']}", 2),
        (lambda row: f"{other('colour', row['colour'])} {row['pattern']} {row['category']}", 2),
        (lambda row: f"{row['colour']} {row['colour']} {row['pattern']} {row['category']}, by no brand", 3),
    ],
)
def test_an_answer_counts_where_it_names_the_true_value_only(change, right):
    items = list(TRUTH)[:10]
    table = item_table({item: change(TRUTH[item]) for item in items})
    numbers = attribute_accuracy(table, catalogue(), DEMO, "image")
    assert numbers["attribute_accuracy"] == pytest.approx(right / 3)
    assert (numbers["n_judged"], numbers["n_items_without_summary"]) == (30, len(TRUTH) - 10)


def test_some_wrong_answers_are_some_of_all():
    texts = {item: demo_language.item_summary(row) for item, row in TRUTH.items()}
    for item in list(texts)[:4]:
        texts[item] = demo_language.item_summary(TRUTH[item] | {"brand": other("brand", TRUTH[item]["brand"])})
    numbers = attribute_accuracy(item_table(texts), catalogue(), DEMO, "both")
    assert numbers["attribute_accuracy/brand"] == pytest.approx(1 - 4 / 80)
    assert numbers["attribute_accuracy/colour"] == 1.0
    assert numbers["attribute_accuracy"] == pytest.approx(1 - 4 / 400)


def test_what_only_a_missing_picture_shows_is_not_judged():
    blind = list(TRUTH)[:8]
    texts = {i: f"{TRUTH[i]['category']} {TRUTH[i]['brand']} {TRUTH[i]['material']}" for i in blind}
    numbers = attribute_accuracy(item_table(texts), catalogue(blind), DEMO, "both")
    assert (numbers["attribute_accuracy"], numbers["n_judged"]) == (1.0, 24)
    assert numbers["attribute_accuracy/colour"] is None
    assert (numbers["n_items_without_picture"], numbers["n_items_without_summary"]) == (8, 72)
    numbers = attribute_accuracy(item_table(texts), catalogue(blind), DEMO, "image")
    assert (numbers["attribute_accuracy"], numbers["n_judged"]) == (None, 0)
    # the stage image owes such items nothing
    seen = {item: demo_language.image_summary(row) for item, row in TRUTH.items() if item not in blind[1:]}
    numbers = attribute_accuracy(item_table(seen), catalogue(blind[1:]), DEMO, "image")
    assert (numbers["attribute_accuracy"], numbers["n_items_without_summary"]) == (1.0, 0)


def test_without_summaries_there_is_nothing_to_judge(shop):
    numbers = demo_quality("item", item_table({}), shop, "both")
    assert (numbers["attribute_accuracy"], numbers["chance"], numbers["n_judged"]) == (None, None, 0)
    assert numbers["n_items_without_summary"] == shop.items.height


def test_items_of_another_shop_are_refused():
    with pytest.raises(DataError, match=r"1 of 2 summaries .* no item_id such as 'B0'"):
        attribute_accuracy(item_table({"I00000": "x", "B0": "y"}), catalogue(), DEMO, "image")


# --- preferences --------------------------------------------------------------------------------------------------

STATES = {(row["user_id"], row["day"]): row for row in user_truth(DEMO).iter_rows(named=True)}


def liked(user, time, name):
    """Values that a user likes on the day of a time, by the definition of the circle."""
    values, state = VALUES[name], STATES[user, time // DAY_MS][name]
    return {values[(state + step) % len(values)] for step in range(len(values) // 2)}


def preference_table(shop, text):
    """One row per step of every chain; `text` gets user and timestamp, and whether the state is the chain's last."""
    rows = []
    for chain in build_chains(shop.interactions):
        steps = chain.steps(3, 3, refined=True)
        for step in steps:
            written = text(chain.user_id, step.key[0], step is steps[-1])
            key = f"{chain.user_id}{chain.visible}{step.index}"
            rows.append((chain.user_id, chain.visible, step.index, *step.key, written, "stop", 9, key))
    assert len(rows) > len({row[:2] for row in rows}) > 20  # several states to a chain
    return pl.DataFrame(rows, PREFERENCE_VIEW_SCHEMA, orient="row")


def said(values_of, level="surely"):
    """A text that names, of each attribute, the values that a function of user, time and attribute returns."""

    def text(user, time, is_last):
        return demo_language.preference({n: dict.fromkeys(sorted(values_of(user, time, n)), level) for n in ATTRIBUTES})

    return text


@pytest.mark.parametrize(
    ("values_of", "accuracy", "strongest", "named"),
    [
        (liked, 1.0, 1.0, 0.5),
        (lambda u, t, n: set(VALUES[n]) - liked(u, t, n), 0.0, 0.0, 0.5),
        (lambda u, t, n: set(), 0.5, None, 0.0),
        (lambda u, t, n: VALUES[n], 0.5, 1.0, 1.0),
        (lambda u, t, n: list(liked(u, t, n))[:1], None, 1.0, None),
    ],
)
def test_known_tastes_and_their_opposites(shop, values_of, accuracy, strongest, named):
    table = preference_table(shop, said(values_of))
    numbers = demo_quality("preference", table, shop, "both")
    sizes = [len(values) for values in VALUES.values()]
    if accuracy is None:  # one of the liked half is named
        accuracy, named = 1 - sum(n // 2 - 1 for n in sizes) / sum(sizes), np.mean([1 / n for n in sizes])
    for prefix in ("", "all_states/"):
        assert numbers[f"{prefix}current_taste_accuracy"] == pytest.approx(accuracy)
        assert numbers[f"{prefix}strongest_taste_accuracy"] == strongest
        assert numbers[f"{prefix}named_share"] == pytest.approx(named)
    n_chains = table.select("user_id", "visible").unique().height
    assert (numbers["n_chains"], numbers["chance"]) == (n_chains, 0.5)
    assert numbers["n_strongest_judged"] == (0 if strongest is None else n_chains * 5)
    assert numbers["all_states/n_strongest_judged"] == (0 if strongest is None else table.height * 5)


def test_any_guess_is_measured_as_counted_by_hand(shop):
    random = np.random.default_rng(0)

    def guess(user, time, is_last):
        tastes = {n: {v: demo_language.LEVELS[random.integers(4)] for v in VALUES[n] if random.random() < 0.4}
                  for n in ATTRIBUTES}  # fmt: skip
        guesses[user, time, len(guesses)] = tastes, is_last
        return demo_language.preference(tastes)

    guesses = {}
    numbers = taste_accuracy(preference_table(shop, guess), DEMO, IMAGE_ATTRIBUTES)
    for prefix in ("", "all_states/"):
        best, shares, by_name = [], [], {name: [] for name in IMAGE_ATTRIBUTES}
        for (user, time, _), (tastes, is_last) in guesses.items():
            for name in IMAGE_ATTRIBUTES if is_last or prefix else ():
                truth, levels = liked(user, time, name), tastes[name]
                by_name[name] += [(v in levels) == (v in truth) for v in VALUES[name]]
                shares.append(len(levels) / len(VALUES[name]))
                if levels:
                    top = max(levels.values(), key=demo_language.LEVELS.index)
                    best.append(any(v in truth for v, level in levels.items() if level == top))
        right = [answer for answers in by_name.values() for answer in answers]
        assert numbers[f"{prefix}current_taste_accuracy"] == pytest.approx(np.mean(right))
        assert numbers[f"{prefix}strongest_taste_accuracy"] == pytest.approx(np.mean(best))
        assert numbers[f"{prefix}n_strongest_judged"] == len(best)
        assert numbers[f"{prefix}named_share"] == pytest.approx(np.mean(shares))
        if not prefix:
            for name, answers in by_name.items():
                assert numbers[f"current_taste_accuracy/{name}"] == pytest.approx(np.mean(answers))
    assert "current_taste_accuracy/brand" not in numbers


def test_the_taste_of_the_states_own_day_counts(shop):
    def days_ago(user, time, name):
        return liked(user, max(time - 4 * DAY_MS, min(d for u, d in STATES if u == user) * DAY_MS), name)

    stale = demo_quality("preference", preference_table(shop, said(days_ago)), shop, "both")
    assert 0.5 < stale["current_taste_accuracy"] < 0.95  # tastes drift fast in this shop


def test_last_states_are_apart_from_the_others(shop):
    right = said(liked)
    table = preference_table(shop, lambda user, time, is_last: right(user, time, is_last) if is_last else "")
    numbers = demo_quality("preference", table.sample(fraction=1, shuffle=True, seed=1), shop, "both")
    n_last = numbers["n_chains"]
    assert numbers["current_taste_accuracy"] == 1.0
    assert numbers["all_states/current_taste_accuracy"] == pytest.approx(0.5 + 0.5 * n_last / table.height)


def test_modality_chooses_the_attributes(shop):
    def only_text(user, time, name):
        return liked(user, time, name) if name in TEXT_ATTRIBUTES else ()

    table = preference_table(shop, said(only_text))
    sizes = {name: len(VALUES[name]) for name in ATTRIBUTES}
    n_unsaid = sum(n for name, n in sizes.items() if name not in TEXT_ATTRIBUTES)
    expected = {
        "text": 1.0,
        "image": 1 - 0.5 * n_unsaid / sum(sizes[name] for name in IMAGE_ATTRIBUTES),
        "both": 1 - 0.5 * n_unsaid / sum(sizes.values()),
    }
    for modality, accuracy in expected.items():
        numbers = demo_quality("preference", table, shop, modality)
        assert numbers["current_taste_accuracy"] == pytest.approx(accuracy)


def test_without_preferences_there_is_nothing_to_measure(shop):
    numbers = demo_quality("preference", pl.DataFrame(schema=PREFERENCE_VIEW_SCHEMA), shop, "both")
    assert numbers["current_taste_accuracy"] is None
    assert numbers["all_states/named_share"] is None
    assert (numbers["n_chains"], numbers["n_strongest_judged"]) == (0, 0)


def test_users_and_days_of_another_shop_are_refused(shop):
    table = preference_table(shop, said(liked))
    with pytest.raises(DataError, match="no user_id such as 'U0"):
        taste_accuracy(table.with_columns(pl.col("timestamp") - 1000 * DAY_MS), DEMO, ATTRIBUTES)
    with pytest.raises(DataError, match="no user_id such as 'X'"):
        taste_accuracy(table.with_columns(user_id=pl.lit("X")), DEMO, ATTRIBUTES)


@pytest.mark.parametrize(
    ("text", "strongest"),
    [
        ("likes maybe mug, surely lamp, surely Kites; mostly red.", {"category": {"lamp", "kite"}, "colour": {"red"}}),
        ("SURELY  hemp, probably wool", {"material": {"hemp"}}),
        ("maybe red; red, surely", {"colour": {"red"}}),
        ("surely the red one, blue", {}),
        ("unsurely red", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_the_strongest_level_of_each_attribute(text, strongest):
    assert strongest_values(text) == strongest


# --- which shop ---------------------------------------------------------------------------------------------------


def test_the_manifest_recreates_the_settings(shop):
    assert demo_settings(shop.manifest) == DEMO
    assert demo_settings({"prepare": {"source": "tables"}}) is None
    changed = replace(DEMO, seed=4)
    assert demo_settings({"prepare": {"source": "demo", "demo": vars(changed)}}) == changed


def test_other_data_sets_are_not_judged(shop):
    other_source = PreparedDataset(shop.folder, {"prepare": {"source": "amazon2014"}})
    assert demo_quality("item", item_table({"B0": "A mug."}), other_source, "both") == {}


def test_settings_of_another_version_are_refused():
    with pytest.raises(ConfigError, match="another version"):
        demo_settings({"prepare": {"source": "demo", "demo": {"n_shops": 3}}})
