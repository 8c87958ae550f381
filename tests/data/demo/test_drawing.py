from __future__ import annotations

import itertools

import numpy as np
import pytest

from mllm_srec.data.demo.drawing import draw_item
from mllm_srec.data.demo.words import CATEGORIES, COLOURS, PATTERNS

KINDS = list(itertools.product(CATEGORIES, COLOURS, PATTERNS))


@pytest.fixture(scope="module")
def clean():
    """One uncluttered picture of each kind, (56, 56, 3) of float."""
    return {kind: np.asarray(draw_item(*kind)).astype(float) for kind in KINDS}


def test_pictures_without_clutter_differ_exactly_where_attributes_do(clean):
    for kind in KINDS[::17]:
        again = np.asarray(draw_item(*kind, rng=np.random.default_rng(99)))
        assert (clean[kind] == again).all()
    flat = np.stack([clean[kind].ravel() for kind in KINDS]).astype(np.float32)
    nearest = [np.abs(flat[i + 1 :] - flat[i]).mean(axis=1).min() for i in range(len(flat) - 1)]
    assert min(nearest) > 3  # of 255, over the whole picture: visible, not a stray pixel


def test_clutter_changes_the_picture_with_its_seed():
    one, two, same = (
        np.asarray(draw_item("mug", "red", "dotted", clutter=0.5, rng=np.random.default_rng(seed)))
        for seed in (1, 2, 1)
    )
    assert (one == same).all()
    assert (one != two).any()


@pytest.mark.parametrize("clutter", [0.5, 1.0])
def test_the_colour_can_be_told_from_the_most_saturated_pixels(clean, clutter):
    def hue(picture):
        saturated = picture.reshape(-1, 3)[np.ptp(picture.reshape(-1, 3), axis=1).argsort()[-100:]]
        return np.median(saturated, axis=0)

    reference = {colour: hue(clean["bag", colour, "plain"]) for colour in COLOURS}
    for number, (category, colour, pattern) in enumerate(KINDS[::5]):
        picture = draw_item(category, colour, pattern, clutter=clutter, rng=np.random.default_rng(number))
        seen = hue(np.asarray(picture).astype(float))
        assert min(reference, key=lambda name: np.abs(reference[name] - seen).sum()) == colour


@pytest.mark.parametrize("size", [28, 56, 112])
def test_the_size_is_as_asked_for_and_the_product_inside(size):
    picture = draw_item("boot", "blue", "checked", size=size)
    assert picture.size == (size, size)
    assert picture.mode == "RGB"
    rim = np.concatenate([np.asarray(picture)[0], np.asarray(picture)[-1]])
    assert np.ptp(rim.astype(int), axis=1).max() < 30  # paper, no product
