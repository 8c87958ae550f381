"""The taste model against its definition, written out a second time by enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mllm_srec.data.demo.truth import MODALITIES, TasteModel
from mllm_srec.data.settings import DemoSettings


def small_model(**changes):
    arguments = {
        "n_values": {"a": 3, "b": 4},
        "weights": {"a": 0.6, "b": 0.4},
        "noise": 0.2,
        "drift": 0.1,
        "like_share": 0.2,
    }
    return TasteModel(**(arguments | changes))


def test_each_state_likes_half_of_the_circle():
    model = small_model()
    assert model.likes("b").astype(int).tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]]
    assert model.likes("a").astype(int).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_transition_moves_to_neighbours_only():
    assert small_model().transition("b", 1) == pytest.approx(
        np.array([[0.9, 0.05, 0, 0.05], [0.05, 0.9, 0.05, 0], [0, 0.05, 0.9, 0.05], [0.05, 0, 0.05, 0.9]])
    )


def test_transition_over_days_sums_over_the_paths_between():
    model = small_model()
    one, three = model.transition("a", 1), model.transition("a", 3)
    for start, end in itertools.product(range(3), repeat=2):
        paths = sum(one[start, i] * one[i, j] * one[j, end] for i in range(3) for j in range(3))
        assert three[start, end] == pytest.approx(paths)
    assert model.transition("a", 0).tolist() == np.eye(3).tolist()


def test_pattern_has_the_first_attribute_in_the_highest_bit():
    model = small_model()
    tastes = np.array([[0, 0], [0, 0], [0, 0], [2, 3]])
    values = np.array([[0, 3], [1, 1], [0, 1], [2, 0]])
    assert model.pattern(tastes, values).tolist() == [2, 1, 3, 3]
    assert model.pattern(tastes[:, 1:], values[:, 1:], ["b"]).tolist() == [0, 1, 1, 1]


def test_ratings_are_cut_offs_on_a_noisy_utility():
    # Utilities of the patterns 00, 01, 10, 11 are -1, -0.2, 0.2, 1 with shares 2/6, 2/6, 1/6, 1/6: above their middles
    # -0.6, 0, 0.6 lie 2/3, 1/3, 1/6. A like_share of 0.2 is nearest to the last, so a rating of 4 begins at 0.6.
    table = small_model().rating_table()
    for n_ratings, cut in ((1, -0.17), (2, 0.27), (3, 0.6), (4, 0.71)):
        above = [1 / (1 + math.exp(-(u - cut) / 0.2)) for u in (-1, -0.2, 0.2, 1)]
        assert table[:, n_ratings:].sum(axis=1) == pytest.approx(above)
    assert table.sum(axis=1) == pytest.approx(np.ones(4))
    assert table.min() >= 0


def test_without_noise_a_rating_is_certain():
    table = small_model(noise=0).rating_table()
    assert table.tolist() == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("modality", ["text", "image"])
def test_hidden_attributes_are_averaged_out_exactly(modality):
    model = TasteModel.from_settings(DemoSettings(image_share=0.3))
    visible = MODALITIES[modality]
    hidden = [name for name in model.attributes if name not in visible]
    full, table = model.rating_table(), model.rating_table(visible)
    states = np.array([4, 2, 1, 5, 3])  # any taste: the average over items must not depend on it
    columns = [model.attributes.index(name) for name in visible]
    for shown in ([0, 0, 0], [4, 3, 2], [3, 1, 1]):
        rows = []
        for values in itertools.product(*(range(model.n_values[name]) for name in hidden)):
            item = np.zeros(5, dtype=int)
            item[columns] = np.array(shown)
            item[[model.attributes.index(name) for name in hidden]] = values
            rows.append(full[model.pattern(states, item)])
        pattern = model.pattern(states[columns], np.array(shown), visible)
        assert table[pattern] == pytest.approx(np.mean(rows, axis=0))


def test_weights_follow_image_share():
    weights = TasteModel.from_settings(DemoSettings(image_share=0.25)).weights
    assert weights == pytest.approx({"category": 0.2, "colour": 0.12, "pattern": 0.08, "brand": 0.36, "material": 0.24})


@pytest.mark.parametrize(("image_share", "useless"), [(0.0, "image"), (1.0, "text")])
def test_at_the_extremes_one_modality_adds_nothing(image_share, useless):
    model = TasteModel.from_settings(DemoSettings(image_share=image_share))
    table = model.rating_table(MODALITIES[useless]).reshape(2, 4, 5)  # category, then the two of that modality alone
    assert table == pytest.approx(np.repeat(table[:, :1], 4, axis=1))
    other = model.rating_table(MODALITIES["text" if useless == "image" else "image"]).reshape(2, 4, 5)
    assert np.ptp(other[..., 3:].sum(axis=-1), axis=1).max() > 0.5


def test_like_share_is_that_of_a_random_item():
    model = TasteModel.from_settings(DemoSettings())
    rng = np.random.default_rng(0)
    sizes = list(model.n_values.values())
    tastes, values = rng.integers(sizes, size=(200_000, 5)), rng.integers(sizes, size=(200_000, 5))
    simulated = model.rating_table()[model.pattern(tastes, values), 3:].sum(axis=1).mean()
    assert model.expected_like_share == pytest.approx(simulated, abs=0.004)
    assert model.expected_like_share == pytest.approx(0.125, abs=0.02)
