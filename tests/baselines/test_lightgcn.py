"""LightGCN and FREEDOM against dense NumPy, written from the papers' equations."""

import numpy as np
import pytest
import torch

from mllm_srec.baselines import freedom
from mllm_srec.baselines.freedom import FREEDOM, nearest_items
from mllm_srec.baselines.lightgcn import LightGCN
from mllm_srec.types import ConfigError
from tests.baselines.conftest import item_batch, train_data
from tests.baselines.graph_world import SEQUENCES, features_of, world


def adjacency(sequences, n_items):
    """Symmetric normalised adjacency (U + N, U + N)."""
    n_users = len(sequences)
    a = np.zeros((n_users + n_items,) * 2)
    for user, sequence in enumerate(sequences):
        for item in sequence:
            a[user, n_users + item - 1] = a[n_users + item - 1, user] = 1
    d = np.maximum(a.sum(1), 1e-9)
    return a / np.sqrt(np.outer(d, d))


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_vectors_are_means_over_powers_of_the_adjacency(n_layers):
    train = world()
    model = LightGCN(hidden=6, n_layers=n_layers)
    model.attach(train)
    e, a = model.embeddings.detach().double().numpy(), adjacency(SEQUENCES, train.n_items)
    expected = sum(np.linalg.matrix_power(a, k) @ e for k in range(n_layers + 1)) / (n_layers + 1)
    assert model.nodes().detach().numpy() == pytest.approx(expected, abs=1e-5)
    z, u = expected[: train.n_users], expected[train.n_users :]
    scores = model.score_all(item_batch([[], []], users=[1, 4], n_items=train.n_items))
    assert scores.detach().numpy() == pytest.approx(z[[0, 3]] @ u.T, abs=1e-5)


def test_the_regulariser_is_half_the_squared_norms_of_a_pair():
    model = LightGCN(hidden=4, reg=0.5)
    model.attach(world())
    e = model.embeddings.detach().numpy()
    users, liked, unseen = torch.tensor([0, 1]), torch.tensor([5, 6]), torch.tensor([7, 5])
    by_hand = 0.5 / 2 * np.mean([(e[[u, i, j]] ** 2).sum() for u, i, j in ((0, 5, 7), (1, 6, 5))])
    assert model.further_loss(torch.zeros(2, 4), users, liked, unseen).item() == pytest.approx(by_hand, rel=1e-5)


# --- FREEDOM ------------------------------------------------------------------------------------------------------


def item_graph(features, top_k, image_weight):
    """Frozen item graph (N, N): 1 / k to each of the k nearest, itself among them, for each modality."""
    total = np.zeros((len(features.image) - 1,) * 2)
    for values, has, weight in ((features.image, features.has_image, image_weight),
                                (features.text, features.has_text, 1 - image_weight)):  # fmt: skip
        owners = [i for i in range(1, len(values)) if has[i]]
        for i in owners:
            nearest = sorted(owners, key=lambda j: -float(values[i] @ values[j]))[:top_k]
            for j in nearest:
                total[i - 1, j - 1] += weight / len(nearest)
    return total


@pytest.mark.parametrize("chunk", [2, 1024])
def test_items_have_their_frozen_neighbourhood_added(chunk, monkeypatch):
    monkeypatch.setattr(freedom, "CHUNK", chunk)
    train = world()
    model = FREEDOM(hidden=6, n_layers=2, n_item_layers=2, top_k=3, image_weight=0.3)
    model.attach(train)
    e, a = model.embeddings.detach().double().numpy(), adjacency(SEQUENCES, train.n_items)
    s = item_graph(train.features, 3, 0.3)
    assert (s[2] > 0).sum() == 3  # item 3 has no picture
    expected = sum(np.linalg.matrix_power(a, k) @ e for k in range(3)) / 3
    expected[train.n_users :] += s @ s @ e[train.n_users :]
    assert model.nodes().detach().numpy() == pytest.approx(expected, abs=1e-5)


def test_training_sees_a_share_of_the_likes_and_scoring_all_of_them():
    train = world()
    model = FREEDOM(hidden=4, edge_dropout=0.5)
    model.attach(train)
    model.train()
    torch.manual_seed(0)
    one, other = model.training_nodes(), model.training_nodes()
    assert not torch.equal(one, other)
    torch.manual_seed(0)
    assert torch.equal(model.training_nodes(), one)
    assert torch.equal(model.nodes(), model.nodes())
    untouched = FREEDOM(hidden=4, edge_dropout=0.0)
    untouched.attach(train)
    assert torch.equal(untouched.training_nodes(), untouched.nodes())


def test_likes_between_popular_nodes_are_dropped_more_often():
    sequences = [[1, 2, 3, 4], [1], [1], [1], [5]]  # (user 5, item 5) has degrees 1 and 1, (user 1, item 1) 4 and 4
    train = train_data(sequences, 6, features_of(6))
    model = FREEDOM(hidden=2, edge_dropout=0.8)
    model.attach(train)
    weights = model.keep_weights.numpy()
    degree = {1: 4, 2: 1, 3: 1, 4: 1, 5: 1}
    by_hand = [1 / np.sqrt(len(sequence) * degree[item]) for sequence in sequences for item in sequence]
    assert weights == pytest.approx(np.array(by_hand), abs=1e-6)


def test_the_modality_loss_leaves_out_pairs_without_pictures():
    train = world()
    model = FREEDOM(hidden=4, modality_weight=2.0)
    model.attach(train)
    random = np.random.default_rng(0)
    vectors = random.normal(size=(5, 4)).astype(np.float32)
    liked, unseen = np.array([1, 3, 4, 2, 6]), np.array([2, 1, 5, 3, 4])  # item 3 has no picture, item 6 no text
    by_hand = 0.0
    for name, values, pairs in (
        ("image", train.features.image, [0, 2, 4]),
        ("text", train.features.text, [0, 1, 2, 3]),
    ):
        w = model.projections[name].weight.detach().numpy()
        gaps = [vectors[p] @ (w @ values[unseen[p]] - w @ values[liked[p]]) for p in pairs]
        by_hand += 2.0 * np.mean(np.log1p(np.exp(gaps)))
    nodes = [torch.from_numpy(items) + train.n_users - 1 for items in (liked, unseen)]
    found = model.further_loss(torch.from_numpy(vectors), torch.zeros(5, dtype=torch.long), *nodes)
    assert found.item() == pytest.approx(by_hand, rel=1e-5)


def test_nearest_items_when_few_have_features():
    values = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.6, 0.8]])
    rows, columns = nearest_items(values, torch.tensor([1.0, 0.0, 1.0]), 10)
    assert rows.tolist() == [0, 0, 2, 2]
    assert columns.tolist() == [0, 2, 2, 0]


@pytest.mark.parametrize(
    ("model_class", "settings"),
    [
        (LightGCN, {"hidden": 0}),
        (LightGCN, {"n_layers": -1}),
        (LightGCN, {"reg": -0.1}),
        (FREEDOM, {"top_k": 0}),
        (FREEDOM, {"image_weight": 1.5}),
        (FREEDOM, {"edge_dropout": 1.0}),
        (FREEDOM, {"modality_weight": -1.0}),
    ],
)
def test_bad_settings_are_refused(model_class, settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}="):
        model_class(**settings)
