"""ItemKNN against sets of users."""

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfTransformer

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


def likes_of(sequences):
    """Items as documents and users as terms: (N, U) of 0 and 1."""
    x = np.zeros((N_ITEMS, len(sequences)))
    for user, sequence in enumerate(sequences):
        x[np.array(sequence) - 1, user] = 1
    return x


def scores_by(similarity):
    np.fill_diagonal(similarity, 0)
    return np.array([similarity[np.array(history, int) - 1].sum(0) for history in HISTORIES])


@pytest.mark.parametrize("shrinkage", [0.0, 5.0])
def test_tfidf_is_that_of_text_retrieval(sequences, shrinkage):
    """scikit-learn's smooth idf, but for the 1 that it adds to every weight."""
    x = likes_of(sequences)
    weighted = x * (TfidfTransformer(smooth_idf=True).fit(x).idf_ - 1)
    norms = np.sqrt((weighted**2).sum(1))
    similarity = weighted @ weighted.T / np.maximum(np.outer(norms, norms) + shrinkage, 1e-12)
    found = attached(sequences, weighting="tfidf", shrinkage=shrinkage).score_all(
        item_batch(HISTORIES, n_items=N_ITEMS)
    )
    assert found.numpy() == pytest.approx(scores_by(similarity), abs=1e-5)


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (100.0, 0.8), (0.0, 1.0)])
def test_bm25_is_a_product_of_weights(sequences, k1, b):
    x = likes_of(sequences)
    weighted, mean = np.zeros_like(x), x.sum() / N_ITEMS
    for item, user in zip(*np.nonzero(x), strict=True):
        idf = np.log((N_ITEMS + 1) / (x[:, user].sum() + 1))
        weighted[item, user] = idf * (k1 + 1) / (k1 * (1 - b + b * x[item].sum() / mean) + 1)
    model = attached(sequences, weighting="bm25", shrinkage=0.0, bm25_k1=k1, bm25_b=b)
    scores = model.score_all(item_batch(HISTORIES, n_items=N_ITEMS)).numpy()
    assert scores == pytest.approx(scores_by(weighted @ weighted.T), rel=1e-4, abs=1e-5)


def test_a_user_who_likes_everything_says_nothing():
    everything, pair = list(range(1, N_ITEMS + 1)), [1, 2]
    for settings in ({"weighting": "tfidf"}, {"weighting": "bm25", "shrinkage": 0.0}):
        scores = attached([everything, pair], **settings).score_all(item_batch([[1]], n_items=N_ITEMS))[0]
        assert scores.nonzero().flatten().tolist() == [1]


def test_without_weighting_the_numbers_are_those_of_before(sequences):
    """Bit for bit: counts are whole numbers, and the cosine is one division."""
    model, users = attached(sequences, top_k=100), [set(sequence.tolist()) for sequence in sequences]
    likes = torch.tensor([float(sum(i in user for user in users)) for i in range(N_ITEMS + 1)])
    both = torch.tensor([[float(sum({i, j} <= user for user in users)) for j in range(N_ITEMS + 1)]
                         for i in range(N_ITEMS + 1)])  # fmt: skip
    expected = both / (torch.outer(likes, likes).sqrt() + 10.0)
    kept = torch.zeros_like(expected).scatter_(1, model.neighbours, model.similarity)
    assert torch.equal(kept, expected.fill_diagonal_(0.0))


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 0},
        {"shrinkage": -1.0},
        {"weighting": "idf"},
        {"bm25_k1": -1.0},
        {"bm25_b": 1.5},
        {"shrinkage": 10.0, "weighting": "bm25"},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=f"^{next(iter(settings))}="):
        ItemKNN(**settings)
