"""Batches of groups: each once an epoch, by (seed, epoch), on any number of processes, from any position."""

import itertools

import numpy as np
import pytest

from mllm_srec.data.loading.sampler import GroupBatchSampler

LENGTHS = np.random.default_rng(0).integers(10, 200, 103)


def sampler(**changes):
    return GroupBatchSampler(LENGTHS, **{"batch_size": 4, "shuffle": True, **changes})


def flat(batches):
    return [index for batch in batches for index in batch]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_group_once(shuffle):
    batches = list(sampler(shuffle=shuffle))
    assert sorted(flat(batches)) == list(range(103))
    assert len(batches) == len(sampler(shuffle=shuffle)) == 26


def test_order_depends_on_seed_and_epoch_only():
    first = list(sampler(seed=1))
    assert first == list(sampler(seed=1))
    assert first != list(sampler(seed=2))
    assert first != list(sampler(seed=1, position=lambda: (1, 0)))


@pytest.mark.parametrize("world_size", [2, 3, 120])
def test_evaluation_shards_hold_every_group_once(world_size):
    shards = [list(sampler(shuffle=False, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert sorted(flat(flat(shards))) == list(range(103))
    assert [len(shard) for shard in shards] == [
        len(sampler(shuffle=False, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert all(shards), "a process without a batch would not take part in the loop that the others are in"
    assert (shards[-1] == [[]]) == (world_size == 120)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_training_shards_have_equal_lengths_and_hold_every_group(world_size):
    shards = [list(sampler(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(shard) for shard in shards}) == 1
    assert len(shards[0]) == len(sampler(world_size=world_size))
    assert set(flat(flat(shards))) == set(range(103))


def test_resumes_behind_the_last_batch():
    whole = list(sampler())
    assert list(sampler(position=lambda: (0, 10))) == whole[10:]
    assert list(sampler(position=lambda: (0, 26))) == list(sampler(position=lambda: (1, 0)))
    assert len(sampler(position=lambda: (0, 10))) == 26, "Lightning counts whole epochs"


def test_batches_hold_groups_of_similar_length():
    lengths = np.random.default_rng(1).integers(10, 200, 1000)
    padded = sum(len(batch) * lengths[batch].max() for batch in GroupBatchSampler(lengths, 8, shuffle=True))
    order = np.random.default_rng(2).permutation(1000).reshape(-1, 8)
    assert padded < 0.7 * sum(8 * lengths[batch].max() for batch in order)


def test_evaluation_begins_with_the_longest():
    first = next(iter(sampler(shuffle=False)))
    assert LENGTHS[first].min() >= np.sort(LENGTHS)[-4]


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size=0"):
        sampler(batch_size=0)


def test_no_groups_no_batches():
    assert list(GroupBatchSampler(np.zeros(0, int), 4, shuffle=True)) == []


@pytest.mark.parametrize("max_tokens", [1, 90, 10_000])
def test_batches_of_evaluation_keep_a_budget_of_tokens(max_tokens):
    made = GroupBatchSampler(LENGTHS, 7, shuffle=False, max_tokens=max_tokens)
    batches = list(made)
    assert sorted(flat(batches)) == list(range(len(LENGTHS)))
    assert len(made) == len(batches)
    for batch in batches:
        assert len(batch) <= 7
        assert len(batch) == 1 or LENGTHS[batch].sum() <= max_tokens
    if max_tokens == 90:
        following = [LENGTHS[a].sum() + LENGTHS[b[0]] for a, b in itertools.pairwise(batches) if len(a) < 7]
        assert all(total > 90 for total in following), "a batch was closed too early"


def test_fewer_batches_than_processes_train_on_each_process():
    shards = [list(GroupBatchSampler(LENGTHS[:4], 2, shuffle=True, rank=rank, world_size=5)) for rank in range(5)]
    assert [len(shard) for shard in shards] == [1] * 5
    assert set(flat(flat(shards))) == set(range(4))
