import itertools

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from mllm_srec.data.tables.split_repair import TEST, TRAIN, VAL, repair


def random_case(seed):
    """2-4 users with 2-4 likes each among few items, split as the rule says: (user, item, split)."""
    rng = np.random.default_rng(seed)
    n_items = int(rng.integers(3, 8))
    rows = []
    for user in range(rng.integers(2, 5)):
        n = min(n_items, int(rng.integers(2, 5)))
        split = [TEST, TRAIN] if n == 2 else [TEST, VAL] + [TRAIN] * (n - 2)
        rows += [
            (user, item, code) for item, code in zip(rng.choice(n_items, n, False), rng.permutation(split), strict=True)
        ]
    user, item, split = np.array(rows).T
    return user, np.unique(item, return_inverse=True)[1], split


def most_items_in_train(user, item, split):
    """Try every way to hand out each user's splits."""
    rows = [np.flatnonzero(user == name) for name in np.unique(user)]
    ways = [sorted(set(itertools.permutations(split[own].tolist()))) for own in rows]
    best = 0
    for way in itertools.product(*ways):
        tried = split.copy()
        for own, codes in zip(rows, way, strict=True):
            tried[own] = codes
        best = max(best, len(set(item[tried == TRAIN])))
    return best


@pytest.mark.parametrize("seed", range(40))
def test_train_gets_as_many_items_as_any_assignment_could_give(seed):
    user, item, split = random_case(seed)
    repaired, _ = repair(user, item, split, np.random.default_rng(0))
    assert len(set(item[repaired == TRAIN])) == most_items_in_train(user, item, split)
    for name in np.unique(user):  # swaps within users only
        assert sorted(repaired[user == name]) == sorted(split[user == name])


@pytest.mark.parametrize("seed", range(40))
def test_no_single_swap_could_bring_another_item_into_test(seed):
    user, item, split = random_case(seed)
    repaired, _ = repair(user, item, split, np.random.default_rng(0))
    popular = {i for i in item.tolist() if (item == i).sum() >= 2}

    def good(codes):
        return set(item[codes == TRAIN]), popular & set(item[codes == TEST])

    train, test = good(repaired)
    for a, b in itertools.permutations(range(user.size), 2):
        if user[a] == user[b]:
            other = repaired.copy()
            other[[a, b]] = repaired[[b, a]]
            more_train, more_test = good(other)
            assert not (more_train >= train and more_test > test)


def test_a_chain_of_swaps_where_no_single_swap_helps():
    # item 2 lacks a train row; its user 0 can only push out item 1, which must then enter at user 1 in place of item 0,
    # which user 2 has in train too
    user = np.array([0, 0, 1, 1, 2, 2])
    item = np.array([2, 1, 1, 0, 0, 1])
    split = np.array([TEST, TRAIN, TEST, TRAIN, TRAIN, TEST])
    repaired, moved = repair(user, item, split, np.random.default_rng(0))
    assert repaired[:2].tolist() == [TRAIN, TEST]
    assert sorted(item[repaired == TRAIN]) == [0, 1, 2]
    assert moved == 4


def test_nothing_to_repair_is_left_alone():
    user, item = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    split = np.array([TRAIN, TEST, TEST, TRAIN])
    repaired, moved = repair(user, item, split, np.random.default_rng(0))
    assert (repaired.tolist(), moved) == (split.tolist(), 0)
    nothing = np.array([], dtype=np.int64)
    assert repair(nothing, nothing, nothing, np.random.default_rng(0))[0].size == 0


@pytest.mark.parametrize("seed", range(10))
def test_scarce_places_are_used_almost_as_well_as_possible(seed):
    # 60 users with one test place each for 40 items; the bound is the maximum matching of items to test places
    rng = np.random.default_rng(seed)
    rows = []
    for name in range(60):
        n = int(rng.integers(2, 9))
        codes = [TEST] + ([VAL] if n > 2 else []) + [TRAIN] * (n - 1 - (n > 2))
        rows += list(zip([name] * n, rng.choice(40, n, replace=False), rng.permutation(codes), strict=True))
    user, item, split = np.array(rows).T
    repaired, _ = repair(user, item, split, np.random.default_rng(0))
    wanted = np.flatnonzero(np.bincount(item, minlength=40) >= 2)
    graph = csr_matrix((np.ones(user.size), (item, user)), shape=(40, 60))[wanted]
    bound = int((maximum_bipartite_matching(graph) >= 0).sum())
    assert len(set(item[repaired == TEST]) & set(wanted)) >= bound - 1
    assert len(set(item[repaired == TRAIN])) == len(set(item))


def test_nothing_to_repair_where_nobody_has_two_likes():
    """One like a user: all in train, nothing in test to hand over; an item liked by two stays uncovered."""
    user, item = np.array([0, 1, 2]), np.array([0, 0, 1])
    repaired, moved = repair(user, item, np.full(3, TRAIN), np.random.default_rng(0))
    assert repaired.tolist() == [TRAIN] * 3
    assert moved == 0
