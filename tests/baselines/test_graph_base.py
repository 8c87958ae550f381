"""BPR, sparse products and graphs of likes, against dense NumPy."""

import numpy as np
import pytest
import torch

from mllm_srec.baselines.graph_base import SparseMatrix, like_edges, undirected
from mllm_srec.baselines.parts.bpr import bpr_loss, feature_tensors
from mllm_srec.baselines.parts.train_data import ItemFeatures
from mllm_srec.types import ConfigError
from tests.baselines.conftest import train_data


def test_bpr_is_the_mean_of_minus_log_sigmoid():
    positive, negative = np.array([2.0, -1.0, 0.5, 100.0]), np.array([1.0, 1.0, 0.5, -100.0])
    by_hand = -np.log(1 / (1 + np.exp(-(positive - negative))))
    given = [torch.tensor(x) for x in (positive, negative)]
    assert bpr_loss(*given).item() == pytest.approx(by_hand.mean())
    assert by_hand[2] == pytest.approx(np.log(2))
    masked = bpr_loss(*given, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert masked.item() == pytest.approx((by_hand[0] + by_hand[2]) / 2)
    assert bpr_loss(*given, torch.zeros(4)).item() == 0


def test_features_say_who_has_them():
    image = np.zeros((4, 2), np.float32)
    image[2] = (0, 1)
    features = ItemFeatures(image, np.zeros((4, 3), np.float32), "made up")
    values, mask = feature_tensors(features, "image", "VBPR")
    assert values.tolist() == image.tolist()
    assert mask.tolist() == [0, 0, 1, 0]
    with pytest.raises(ConfigError, match="VBPR needs text features, but no item of 'made up' has any"):
        feature_tensors(features, "text", "VBPR")


def dense(matrix, n):
    return matrix(torch.eye(n)).numpy()


def test_a_product_and_its_gradient_are_the_dense_ones():
    random = np.random.default_rng(0)
    rows, columns = np.array([4, 0, 0, 2, 4, 4]), np.array([1, 2, 0, 1, 0, 2])  # rows 1 and 3 are empty
    values = random.normal(size=6).astype(np.float32)
    a = np.zeros((5, 3), np.float32)
    a[rows, columns] = values
    matrix = SparseMatrix(*(torch.from_numpy(x) for x in (rows, columns, values)), (5, 3))
    x, g = random.normal(size=(3, 7)).astype(np.float32), random.normal(size=(5, 7)).astype(np.float32)
    leaf = torch.tensor(x, requires_grad=True)
    product = matrix(leaf)
    (product * torch.from_numpy(g)).sum().backward()
    assert product.detach().numpy() == pytest.approx(a @ x, abs=1e-6)
    assert leaf.grad.numpy() == pytest.approx(a.T @ g, abs=1e-6)
    assert not matrix.state_dict()  # made again from the data, never loaded


def test_a_product_without_entries_is_zero():
    nothing = torch.zeros(0, dtype=torch.long)
    assert not SparseMatrix(nothing, nothing, torch.zeros(0), (4, 3))(torch.ones(3, 2)).any()


@pytest.mark.parametrize("normalisation", ["row", "symmetric"])
def test_graphs_of_likes_are_normalised(normalisation):
    sequences = [[1, 2, 3], [3], [3, 2], []]
    train = train_data(sequences, 5, disliked=[(4, 1), (2, 5)])
    adjacency = np.zeros((9, 9))
    for user, sequence in enumerate(sequences):
        for item in sequence:
            adjacency[user, 4 + item - 1] = adjacency[4 + item - 1, user] = 1
    degree = np.maximum(adjacency.sum(1), 1)
    expected = adjacency / (degree[:, None] if normalisation == "row" else np.sqrt(np.outer(degree, degree)))
    found = dense(undirected(*like_edges(train), 9, normalisation), 9)
    assert found == pytest.approx(expected, abs=1e-6)
    assert not found[3].any()
