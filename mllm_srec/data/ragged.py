"""Lists of different lengths in two flat arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """G lists of whole numbers: list i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        offsets: `(G + 1,)` int64, from 0.
        values: `(V,)` int64.
    """

    offsets: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Length of each list `(G,)`."""
        return np.diff(self.offsets)

    @classmethod
    def grouped(cls, keys: np.ndarray, values: np.ndarray, n_lists: int) -> Ragged:
        """Values by the number of their list; within a list they stay in order.

        Args:
            keys: `(V,)` in 0..n_lists - 1.
            values: `(V,)`.
            n_lists: G.
        """
        order = np.argsort(keys, kind="stable")
        offsets = np.concatenate([[0], np.bincount(keys, minlength=n_lists).cumsum()]).astype(np.int64)
        return cls(offsets, values[order].astype(np.int64))

    def take(self, chosen: np.ndarray) -> Ragged:
        """The lists at these places `(n,)`, in this order."""
        sizes = self.sizes[chosen]
        offsets = np.concatenate([[0], sizes.cumsum()]).astype(np.int64)
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        return Ragged(offsets, self.values[np.repeat(self.offsets[:-1][chosen], sizes) + place])

    def rows(self) -> np.ndarray:
        """Number of the list that each value is in, `(V,)`."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def left_padded(self, length: int) -> np.ndarray:
        """The last `length` values of each list `(G, length)`, zeros on the left."""
        padded = np.zeros((len(self), length), dtype=np.int64)
        from_end = self.offsets[1:][self.rows()] - np.arange(len(self.values))  # 1 for the last
        kept = from_end <= length
        padded[self.rows()[kept], length - from_end[kept]] = self.values[kept]
        return padded  # (G, length)
