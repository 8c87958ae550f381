"""Chance, popularity and popularity of late, against plain Python."""

from collections import Counter

import numpy as np
import pytest
import torch

from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.baselines.popularity import DAY, Popularity, Random, RecencyPopularity
from mllm_srec.types import ConfigError
from tests.baselines.conftest import item_batch, train_data


def attached(model, train, seed=0):
    model.attach(train, seed)
    return model.eval()


# --- chance -------------------------------------------------------------------------------------------------------


def finalised(x):
    """MurmurHash3's 32-bit finaliser on Python's whole numbers."""
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def test_chance_is_the_hash_of_seed_user_and_item():
    model = attached(Random(), train_data([[1]] * 3, 50), seed=7)
    scores = model.score_all(item_batch([[]] * 3, n_items=50))
    by_hand = [[(finalised(finalised(finalised(7) ^ u) ^ i) >> 8) / 2**24 for i in range(1, 51)] for u in (1, 2, 3)]
    assert scores.dtype == torch.float32
    assert scores.tolist() == by_hand


def test_chance_is_uniform_and_differs_between_users_and_seeds():
    train = train_data([[1]] * 20, 500)
    batch = item_batch([[]] * 20, n_items=500)
    one, other = (attached(Random(), train, seed).score_all(batch).numpy() for seed in (0, 1))
    assert np.histogram(one, bins=10, range=(0, 1))[0] == pytest.approx(np.full(10, 1000), abs=150)
    together = np.corrcoef(np.vstack([one, other])) - np.eye(40)
    assert np.abs(together).max() < 0.2  # 780 pairs of 500 numbers: four standard deviations are .18


# --- popularity ---------------------------------------------------------------------------------------------------


def test_popularity_counts_likes_only():
    sequences = [[1, 2, 3], [3], [3, 2]]
    model = attached(Popularity(), train_data(sequences, 5, disliked=[(2, 1), (3, 4)]))
    counts = Counter(item for sequence in sequences for item in sequence)
    scores = model.score_all(item_batch([[1], []], n_items=5))
    assert scores.tolist() == [[float(counts[item]) for item in range(1, 6)]] * 2


# --- popularity of late -------------------------------------------------------------------------------------------


def timed_world(n=400, n_users=30, n_items=12, seed=0):
    random = np.random.default_rng(seed)
    user = np.sort(random.integers(1, n_users + 1, n))
    times = random.integers(0, 40, n) * DAY + 5
    return TrainData(user, random.integers(1, n_items + 1, n), random.random(n) < 0.7, times, n_users, n_items)


def test_recent_popularity_counts_strictly_before_the_context_and_within_the_window():
    train = timed_world()
    model = attached(RecencyPopularity(days=7), train)
    moments = [0, 5, 5 + DAY, 6 + DAY, 20 * DAY + 5, 20 * DAY + 4, 45 * DAY, 10**15]
    batch = item_batch([[]] * len(moments), n_items=12)
    batch["timestamp"] = torch.tensor(moments)
    by_hand = [
        [
            sum(i == item and like and end - 7 * DAY <= t < end for i, like, t in
                zip(train.item, train.liked, train.timestamp, strict=True))
            for item in range(1, 13)
        ]
        for end in moments
    ]  # fmt: skip
    assert np.sum(by_hand[4]) > 20
    assert model.score_all(batch).tolist() == by_hand
    del batch["catalogue"]
    assert model.score_candidates(batch).tolist() == by_hand


def test_a_window_longer_than_the_data_is_popularity_of_the_past():
    train = timed_world()
    batch = item_batch([[]], [[3, 1, 12]], timestamp=41 * DAY)
    late = attached(RecencyPopularity(days=10_000), train).score_candidates(batch)
    assert torch.equal(late, attached(Popularity(), train).score_candidates(batch))


def test_part_of_a_day_is_a_window_too():
    train = TrainData(*(np.array(x) for x in ([1, 1], [1, 2], [True, True], [0, DAY // 2])), 1, 2)
    batch = item_batch([[]], [[1, 2]], timestamp=DAY)
    assert attached(RecencyPopularity(days=0.5), train).score_candidates(batch).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("days", [0, -1, float("nan")])
def test_a_window_without_length_is_refused(days):
    with pytest.raises(ConfigError, match="days="):
        RecencyPopularity(days=days)


# --- what they share ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_class", [Random, Popularity, RecencyPopularity])
def test_candidates_are_columns_of_the_catalogue_and_rows_do_not_meet(model_class):
    model = attached(model_class(), timed_world())
    whole = item_batch([[1], [2], []], n_items=12, users=[4, 9, 30], timestamp=30 * DAY)
    candidates = [[3, 1, 12], [5, 6, 0], [7, 7, 2]]
    batch = item_batch([[1], [2], []], candidates, users=[4, 9, 30], timestamp=30 * DAY)
    scores, everything = model.score_candidates(batch), model.score_candidates(whole)
    assert everything.shape == (3, 12)
    assert scores.isfinite().all()
    for row in range(3):
        for column, item in enumerate(candidates[row]):
            assert item == 0 or scores[row, column] == everything[row, item - 1]
    alone = item_batch([[2]], candidates[1:2], users=[9], timestamp=30 * DAY)
    assert torch.equal(model.score_candidates(alone)[0, :2], scores[1, :2])


@pytest.mark.parametrize("model_class", [Random, Popularity, RecencyPopularity])
def test_there_is_nothing_to_train_and_nothing_to_keep(model_class):
    model = attached(model_class(), timed_world())
    assert not model.trained
    assert not [name for name in model.state_dict() if not name.startswith("stage_metrics")]
    with pytest.raises(ConfigError, match="nothing to train"):
        model.configure_optimizers()
