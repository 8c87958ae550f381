"""Modality codes against scikit-learn and numpy."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from mllm_srec.baselines.parts.modality_codes import initial_embeddings, kmeans, modality_codes, principal_components
from mllm_srec.types import ConfigError


def blobs(n=300, n_centres=6, size=8, spread=0.1, seed=0):
    random = np.random.default_rng(seed)
    label = random.integers(0, n_centres, n)
    return random.normal(0, 1, (n_centres, size))[label] + random.normal(0, spread, (n, size)), label


def inertia_of(x, centroids):
    return ((x[:, None] - centroids[None]) ** 2).sum(-1).min(1).sum()


@pytest.mark.parametrize("spread", [0.1, 0.5, 3.0])  # clusters apart, touching, none
def test_kmeans_is_as_good_as_sklearns(spread):
    x, _ = blobs(spread=spread)
    torch.manual_seed(0)
    centroids, inertia = kmeans(torch.from_numpy(x), 6)
    assert inertia == pytest.approx(inertia_of(x, centroids.numpy()), rel=1e-9)
    assert inertia <= 1.02 * KMeans(6, n_init=10, random_state=0).fit(x).inertia_


def test_kmeans_follows_the_seed():
    x = torch.from_numpy(blobs(spread=3.0)[0])
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(kmeans(x, 6, n_init=1)[0])
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])


def test_kmeans_survives_duplicates():
    x = torch.tensor([[0.0, 0.0]] * 5 + [[1.0, 1.0]] * 5).double()
    torch.manual_seed(0)
    centroids, inertia = kmeans(x, 4)
    assert centroids.shape == (4, 2)
    assert centroids.isfinite().all()
    assert inertia == 0


def test_principal_components_are_sklearns():
    x = np.random.default_rng(0).normal(size=(50, 9)) * np.arange(1, 10)
    ours = principal_components(torch.from_numpy(x), 4).numpy()
    np.testing.assert_allclose(np.abs(ours), np.abs(PCA(4).fit_transform(x)), atol=1e-9)
    assert principal_components(torch.from_numpy(x), 128).shape == (50, 9)


def test_codes_are_the_clusters():
    x, label = blobs()
    features = np.concatenate([np.zeros((1, 8)), x]).astype(np.float32)
    torch.manual_seed(0)
    codes = modality_codes(features, features.any(axis=1), 6, 1)
    pairs = {(int(a), int(b)) for a, b in zip(codes.links[1:, 0], label, strict=True)}
    assert len(pairs) == 6  # one to one
    assert codes.links[0].tolist() == [0]
    assert codes.links[1:].min() == 1
    assert codes.links.max() == 6


def test_links_are_the_nearest_centroids():
    features = np.concatenate([np.zeros((1, 5)), blobs(size=5, spread=1.0)[0]]).astype(np.float32)
    torch.manual_seed(0)
    codes = modality_codes(features, features.any(axis=1), 7, 3)
    reduced = PCA(5).fit_transform(features[1:].astype(float))
    ours = principal_components(torch.from_numpy(features[1:]).double(), 128).numpy()
    reduced *= np.sign((reduced * ours).sum(0))  # the sign of a component is free
    distance = ((reduced[:, None] - codes.centroids.numpy()[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(codes.links[1:].numpy() - 1, distance.argsort(1)[:, :3])


def test_items_without_the_modality_have_no_codes_and_do_not_count():
    features = np.concatenate([np.zeros((1, 8)), blobs()[0]]).astype(np.float32)
    present = np.ones(len(features), bool)
    present[[0, 3, 7]] = False
    other = features.copy()
    other[[3, 7]] = 100
    found = []
    for table in (features, other):
        torch.manual_seed(0)
        found.append(modality_codes(table, present, 6, 2))
    assert found[0].links.equal(found[1].links)
    assert (found[0].links == 0).all(dim=1).nonzero().flatten().tolist() == [0, 3, 7]


def test_a_modality_that_nobody_has():
    codes = modality_codes(np.zeros((4, 8), np.float32), np.zeros(4, bool), 2, 1)
    assert codes.links.tolist() == [[0]] * 4
    assert initial_embeddings(codes.centroids, 5).shape == (0, 5)


@pytest.mark.parametrize(
    ("n_clusters", "n_links", "named"), [(11, 1, "n_clusters=11"), (3, 4, "n_links=4"), (3, 0, "n_links=0")]
)
def test_impossible_numbers_are_refused(n_clusters, n_links, named):
    features = np.eye(11, 4, dtype=np.float32) + 1
    present = np.arange(11) > 0
    with pytest.raises(ConfigError, match=named):
        modality_codes(features, present, n_clusters, n_links)


def test_initial_embeddings_reach_from_end_to_end():
    centroids = torch.tensor([[0.0, 4.0, 9.0], [2.0, 1.0, -9.0]])
    torch.testing.assert_close(initial_embeddings(centroids, 2), torch.tensor([[-1, 1], [0.0, -0.5]]) / 2**0.5)
    wide = initial_embeddings(centroids, 4)
    torch.testing.assert_close(wide[:, :3], centroids / 9 / 2)
    assert wide[:, 3].tolist() == [0, 0]
    assert initial_embeddings(torch.ones(2, 2), 2).isfinite().all()
