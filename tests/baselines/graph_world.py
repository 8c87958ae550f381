"""A tiny world where everything that can be missing is missing: likes of users and of items, pictures, texts."""

import numpy as np

from mllm_srec.baselines.parts.train_data import ItemFeatures
from tests.baselines.conftest import train_data

SEQUENCES = [[1, 2, 3], [3, 4], [], [5, 1, 2, 4], [2]]
N_ITEMS, NO_PICTURE, NO_TEXT = 7, 3, 6


def features_of(n_items):
    """Random unit features (5 and 4 wide); item 3 lacks a picture, item 6 a text."""
    random = np.random.default_rng(3)
    image, text = (random.normal(size=(n_items + 1, width)).astype(np.float32) for width in (5, 4))
    image[[0, NO_PICTURE]] = 0
    text[[0, NO_TEXT]] = 0
    for values in (image, text):
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return ItemFeatures(image, text, "made up")


def world():
    """Five users, of whom the third likes nothing; seven items, of which 6 and 7 are liked by nobody."""
    return train_data(SEQUENCES, N_ITEMS, features_of(N_ITEMS), disliked=[(3, 7)])
