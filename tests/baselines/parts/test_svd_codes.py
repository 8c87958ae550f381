"""Codes of items against numpy's SVD, bins counted by hand, and what must not enter them."""

import numpy as np
import pytest
import torch

from mllm_srec.baselines.parts.svd_codes import collision_rate, item_codes, item_components, like_matrix, quantile_codes
from mllm_srec.types import ConfigError
from tests.baselines.conftest import train_data


def random_likes(n_users=40, n_items=25, seed=0):
    random = np.random.default_rng(seed)
    return [(random.permutation(n_items)[: random.integers(2, 9)] + 1).tolist() for _ in range(n_users)]


def test_the_matrix_has_a_one_for_every_like_and_nothing_else():
    train = train_data([[2, 1, 2], [3]], n_items=4, disliked=[(2, 1)])  # item 2 liked twice, item 1 disliked
    assert like_matrix(train).to_dense().tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize("layout", ["sparse", "dense"])
@pytest.mark.parametrize(("n_users", "n_items"), [(40, 25), (15, 60)])
def test_components_are_those_of_numpy(layout, n_users, n_items):
    sequences = random_likes(n_users, n_items)
    dense = np.zeros((n_users, n_items))
    for user, items in enumerate(sequences):
        dense[user, np.array(items) - 1] = 1
    matrix = like_matrix(train_data(sequences, n_items)) if layout == "sparse" else torch.from_numpy(dense)
    torch.manual_seed(0)
    found = item_components(matrix, 4).numpy()
    expected = np.linalg.svd(dense)[2][:4].T
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-8)
    assert (found[np.abs(found).argmax(axis=0), range(4)] > 0).all()


def test_signs_do_not_depend_on_the_random_start():
    matrix = like_matrix(train_data(random_likes(), 25))
    several = []
    for seed in range(5):
        torch.manual_seed(seed)
        several.append(item_components(matrix, 3))
    for other in several[1:]:
        torch.testing.assert_close(other, several[0])


@pytest.mark.parametrize(("n_values", "expected"), [(2, [1, 0, 1, 0, 1, 0]), (3, [2, 0, 1, 1, 2, 0])])
def test_bins_hold_equally_many_items(n_values, expected):
    values = torch.tensor([9.0, -4.0, 3.0, 2.0, 5.0, 1.0], dtype=torch.float64)
    codes = quantile_codes(torch.stack([values, -values], dim=1), n_values)
    assert codes[:, 0].tolist() == expected
    assert codes[:, 1].tolist() == [n_values - 1 - code for code in expected]


@pytest.mark.parametrize(("n_items", "n_values"), [(100, 7), (13, 13), (5, 8)])
def test_bins_differ_by_one_item_at_most_whatever_the_values(n_items, n_values):
    skewed = torch.arange(n_items, dtype=torch.float64).mul(0.05).exp().flip(0).unsqueeze(1)
    codes = quantile_codes(skewed, n_values).flatten()
    sizes = np.bincount(codes, minlength=n_values)
    assert sizes.max() - sizes.min() <= 1
    assert (codes.diff() <= 0).all()


def test_the_scale_of_a_component_does_not_matter_to_the_noise():
    """Without min-max scaling, noise of 1e-5 would shuffle values that lie 1e-7 apart."""
    values = torch.arange(20, dtype=torch.float64).unsqueeze(1) * 1e-7 + 3
    assert quantile_codes(values, 20).flatten().tolist() == list(range(20))


def test_equal_items_are_told_apart_by_seeded_noise():
    equal = torch.zeros(50, 2, dtype=torch.float64)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(quantile_codes(equal, 5))
    assert np.bincount(drawn[0][:, 0]).tolist() == [10] * 5
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


def test_the_share_of_items_without_codes_of_their_own():
    codes = torch.tensor([[0, 1], [1, 0], [0, 1], [2, 2], [0, 1], [1, 1]])
    assert collision_rate(codes) == pytest.approx(3 / 6)
    assert collision_rate(torch.arange(4).unsqueeze(1)) == 0


def test_one_token_is_the_items_row_whatever_the_likes():
    assert item_codes(train_data([[3, 1]], n_items=4), 1, 2).flatten().tolist() == [0, 1, 2, 3]


def test_items_liked_by_the_same_users_share_their_first_code():
    """Two separate groups of users and items; the larger one fills the leading component."""
    random = np.random.default_rng(0)
    sequences = [(random.permutation(10)[:8] + 1).tolist() for _ in range(40)]
    sequences += [(random.permutation(10)[:8] + 11).tolist() for _ in range(20)]
    torch.manual_seed(0)
    first = item_codes(train_data(sequences, n_items=20), 2, 2)[:, 0]
    assert first.tolist() == [1] * 10 + [0] * 10


def test_dislikes_leave_the_codes_alone():
    likes = random_likes()
    torch.manual_seed(3)
    codes = item_codes(train_data(likes, 25), 2, 8)
    torch.manual_seed(3)
    assert item_codes(train_data(likes, 25, disliked=[(u, 1 + u % 25) for u in range(1, 30)]), 2, 8).equal(codes)


def test_more_tokens_than_components_are_refused():
    with pytest.raises(ConfigError, match=r"n_tokens=3: 2 users x 9 items have 2 components; give at most 2"):
        item_codes(train_data([[1, 2], [3]], n_items=9), 3, 4)
