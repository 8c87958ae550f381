"""ItemKNN against sets of users."""

import numpy as np
import pytest
import torch

from mllm_srec.baselines import item_knn
from mllm_srec.baselines.item_knn import ItemKNN
from mllm_srec.types import ConfigError
from tests.baselines.conftest import item_batch, train_data

N_ITEMS = 25


@pytest.fixture
def sequences():
    random = np.random.default_rng(1)
    weights = np.arange(N_ITEMS, 0, -1) / np.arange(N_ITEMS, 0, -1).sum()
    return [random.choice(N_ITEMS - 1, random.integers(1, 9), replace=False, p=weights[1:] / weights[1:].sum()) + 1
            for _ in range(60)]  # fmt: skip


def cosines(sequences, shrinkage):
    """Similarities (N + 1, N + 1) by sets of users; an item is not similar to itself."""
    likers = [{u for u, sequence in enumerate(sequences) if item in sequence} for item in range(N_ITEMS + 1)]
    found = np.zeros((N_ITEMS + 1, N_ITEMS + 1))
    for i in range(1, N_ITEMS + 1):
        for j in range(1, N_ITEMS + 1):
            common = len(likers[i] & likers[j])
            if i != j and common:
                found[i, j] = common / (np.sqrt(len(likers[i]) * len(likers[j])) + shrinkage)
    return found


def attached(sequences, **settings):
    model = ItemKNN(**settings)
    model.attach(train_data(sequences, N_ITEMS, disliked=[(1, N_ITEMS)]))
    return model.eval()


HISTORIES = [[1, 2, 3], [4], [], [9, 1, 20, 5]]


@pytest.mark.parametrize("shrinkage", [0.0, 10.0])
@pytest.mark.parametrize("chunk", [4, 256])
def test_scores_are_sums_of_shrunk_cosines(sequences, shrinkage, chunk, monkeypatch):
    monkeypatch.setattr(item_knn, "CHUNK", chunk)
    model = attached(sequences, top_k=100, shrinkage=shrinkage)
    by_hand = np.array([cosines(sequences, shrinkage)[history].sum(0)[1:] for history in HISTORIES])
    scores = model.score_all(item_batch(HISTORIES, n_items=N_ITEMS))
    assert scores.numpy() == pytest.approx(by_hand, abs=1e-6)
    assert by_hand[0].max() > 0
    assert not scores[2].any()  # nothing is known of an empty history
    assert not scores[:, N_ITEMS - 1].any()  # disliked only


def test_only_the_nearest_count(sequences):
    model = attached(sequences, top_k=3, shrinkage=1.0)
    expected = cosines(sequences, 1.0)
    for item in range(1, N_ITEMS + 1):
        scores = model.score_all(item_batch([[item]], n_items=N_ITEMS))[0].numpy()
        kept = np.flatnonzero(scores)
        assert scores[kept] == pytest.approx(expected[item, kept + 1], abs=1e-6)
        assert np.sort(scores)[-3:] == pytest.approx(np.sort(expected[item])[-3:], abs=1e-6)
        assert len(kept) <= 3


def test_the_latest_item_alone(sequences):
    batch = item_batch(HISTORIES, n_items=N_ITEMS)
    latest = item_batch([history[-1:] for history in HISTORIES], n_items=N_ITEMS)
    one, all_of_them = attached(sequences, last_only=True), attached(sequences)
    assert torch.equal(one.score_all(batch), all_of_them.score_all(latest))
    assert not torch.equal(one.score_all(batch), all_of_them.score_all(batch))


def test_history_beyond_max_history_is_not_looked_at(sequences):
    model = attached(sequences, max_history=2)
    whole, cut = (item_batch([history], n_items=N_ITEMS) for history in ([9, 1, 20, 5], [20, 5]))
    assert torch.equal(model.score_all(whole), model.score_all(cut))


def test_padding_columns_and_neighbouring_rows_do_not_matter(sequences):
    model = attached(sequences, top_k=5)
    candidates = [[3, 1, 25], [5, 6, 0], [7, 7, 2], [1, 2, 3]]
    everything = model.score_candidates(item_batch(HISTORIES, n_items=N_ITEMS))
    scores = model.score_candidates(item_batch(HISTORIES, candidates))
    for row, items in enumerate(candidates):
        assert all(scores[row, c] == everything[row, i - 1] for c, i in enumerate(items) if i)
    padded = item_batch(HISTORIES, candidates, length=22)
    assert torch.equal(model.score_candidates(padded), scores)
    alone = item_batch(HISTORIES[3:], candidates[3:])
    assert torch.equal(model.score_candidates(alone), scores[3:])


def test_a_chain_brings_its_neighbours_first():
    """Items of a chain that were liked together most are those next to each other."""
    chains = [[(start + step) % 30 + 1 for step in range(10)] for start in range(30)]  # all items equally popular
    model = ItemKNN(last_only=True, shrinkage=0.0)
    model.attach(train_data(chains, 30))
    scores = model.score_all(item_batch([[i] for i in range(1, 31)], n_items=30))
    nearest = scores.topk(2).indices + 1
    assert [set(row.tolist()) for row in nearest] == [{(i - 2) % 30 + 1, i % 30 + 1} for i in range(1, 31)]


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"shrinkage": -1.0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}="):
        ItemKNN(**settings)
