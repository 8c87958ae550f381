"""Batches of groups: of similar length, shuffled by (seed, epoch), sharded over processes, resumable in mid-epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

Position = Callable[[], tuple[int, int]]
"""Returns (epoch, batches of it already trained) of the running or restored training."""

POOL_BATCHES = 32
"""Groups are shuffled, then sorted by length within pools of this many batches: little padding, still random."""


class GroupBatchSampler(Sampler[list[int]]):
    """Yields lists of group indices; the order is a pure function of (seed, epoch).

    Args:
        lengths: Number of tokens of each group `(G,)`.
        batch_size: Groups per batch and process.
        shuffle: True for a new random order each epoch; False for longest first, so that memory runs out at once or
            never.
        seed: Seed of the order.
        rank: Index of this process.
        world_size: Number of processes.
        position: Function that gives the start of a pass; it is called at the beginning of each.
        max_tokens: Most tokens of a batch in evaluation; a longer group is a batch by itself. None: no limit.

    In training (shuffled), every process gets the same number of batches; if the number does not divide, the first
    batches are repeated. In evaluation, every group appears exactly once over all processes, and a process without
    groups gets one empty batch, so that it takes part in the same loop as the others.

    Raises:
        ValueError: `batch_size` is below 1.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        position: Position = lambda: (0, 0),
        max_tokens: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1; give the number of groups of a batch")
        self.lengths, self.batch_size, self.shuffle, self.seed = lengths, batch_size, shuffle, seed
        self.rank, self.world_size, self.position = rank, world_size, position
        self.max_tokens = max_tokens

    def __len__(self) -> int:
        """Number of batches of this process in a full epoch, including those already trained."""
        if self.shuffle:
            n_batches = -(-len(self.lengths) // self.batch_size)
            return -(-n_batches // self.world_size)
        return len(self._by_length())

    def next_pass(self) -> tuple[int, int]:
        """Return the epoch of the next pass and the batch at which it begins."""
        epoch, start = self.position()
        if start >= len(self):  # a checkpoint from the end of an epoch: continue with the next one
            return epoch + 1, 0
        return epoch, start

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this process, beginning at the current position."""
        epoch, start = self.next_pass()
        yield from (self._shuffled(epoch) if self.shuffle else self._by_length())[start:]

    def _by_length(self) -> list[list[int]]:
        longest_first = np.argsort(-self.lengths, kind="stable")
        batches: list[list[int]] = [[]]
        n_tokens = 0
        for index in longest_first[self.rank :: self.world_size].tolist():
            n_tokens += int(self.lengths[index])
            full = len(batches[-1]) == self.batch_size or (self.max_tokens is not None and n_tokens > self.max_tokens)
            if batches[-1] and full:
                batches.append([])
                n_tokens = int(self.lengths[index])
            batches[-1].append(index)
        return batches

    def _shuffled(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng([self.seed, epoch])
        batches: list[list[int]] = []
        for pool in _chunks(random.permutation(len(self.lengths)), self.batch_size * POOL_BATCHES):
            by_length = np.asarray(pool)[np.argsort(self.lengths[pool], kind="stable")]
            batches += _chunks(by_length, self.batch_size)
        order = random.permutation(len(batches))
        order = np.resize(order, -(-len(order) // self.world_size) * self.world_size)  # pads with the first batches
        return [batches[index] for index in order[self.rank :: self.world_size]]


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields the batches of another sampler with the epoch beside each group, for targets that change with it.

    Workers of a loader hold copies of its data set, which no call could tell the epoch; the entries carry it.

    Args:
        batches: The sampler of the groups.
    """

    def __init__(self, batches: GroupBatchSampler) -> None:
        self.batches = batches

    def __len__(self) -> int:
        """Number of batches of this process in a full epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of this process, beginning at the current position."""
        epoch, _ = self.batches.next_pass()
        for batch in self.batches:
            yield [(epoch, index) for index in batch]


def _chunks(indices: np.ndarray, size: int) -> list[list[int]]:
    return [indices[begin : begin + size].tolist() for begin in range(0, len(indices), size)]
