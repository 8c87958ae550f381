"""Catalogue lists: candidate lists of the whole catalogue, kept as exceptions and written out a few at a time.

All users times all items would not fit into memory. `Ragged`, lists of different lengths in two arrays, holds the
exceptions here and the histories of the item batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from mllm_srec.data.loading.examples import GroupExamples
from mllm_srec.types import LIST_KINDS

CHUNK = 256
"""Lists that are written out together."""


@dataclass(frozen=True)
class CatalogueLists:
    """Candidate lists of all items but those that each list excludes; the counterpart of `GroupExamples`.

    Attributes:
        group_id: `(G,)` int64.
        context: `(G,)` row of the group in the groups table.
        n_items: N, number of items of the catalogue.
        excluded: Items that are not in each list, as rows of the items table.
        positives: Relevant items of each list, as such rows.
        disliked: Items that the user disliked in the split, as such rows.
    """

    group_id: np.ndarray
    context: np.ndarray
    n_items: int
    excluded: Ragged
    positives: Ragged
    disliked: Ragged

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.group_id)

    @property
    def sizes(self) -> np.ndarray:
        """Number of candidates of each list `(G,)`."""
        return self.n_items - self.excluded.sizes

    @property
    def n_positives(self) -> np.ndarray:
        """Number of relevant candidates of each list `(G,)`."""
        return self.positives.sizes

    @property
    def n_missed(self) -> np.ndarray:
        """Zeros `(G,)`: no retriever, so no relevant item is missed."""
        return np.zeros(len(self), dtype=np.int64)

    def without(self, group_ids: Collection[int]) -> CatalogueLists:
        """Leave out these lists."""
        return self.take(np.flatnonzero(~np.isin(self.group_id, list(group_ids)))) if group_ids else self

    def only(self, group_ids: Collection[int]) -> CatalogueLists:
        """Keep only these lists, in their present order."""
        return self.take(np.flatnonzero(np.isin(self.group_id, list(group_ids))))

    def take(self, chosen: np.ndarray) -> CatalogueLists:
        """Select the lists at these indices `(n,)`, in this order."""
        parts = (part.take(chosen) for part in (self.excluded, self.positives, self.disliked))
        return CatalogueLists(self.group_id[chosen], self.context[chosen], self.n_items, *parts)

    def mask(self) -> np.ndarray:
        """Return bool `(G, N)`: True if the item is a candidate."""
        allowed = np.ones((len(self), self.n_items), dtype=np.bool_)
        allowed[self.excluded.rows(), self.excluded.values] = False
        return allowed

    def relevance(self) -> np.ndarray:
        """Return int64 `(G, N)`: 1 for a liked item, else 0."""
        relevant = np.zeros((len(self), self.n_items), dtype=np.int64)
        relevant[self.positives.rows(), self.positives.values] = 1
        return relevant

    def kind(self) -> np.ndarray:
        """Return int64 `(G, N)`: index into `types.LIST_KINDS`; -1 for an item that is not a candidate."""
        kinds = np.full((len(self), self.n_items), LIST_KINDS.index("unrated"), dtype=np.int64)
        kinds[self.disliked.rows(), self.disliked.values] = LIST_KINDS.index("disliked")
        kinds[self.positives.rows(), self.positives.values] = LIST_KINDS.index("liked")
        return np.where(self.mask(), kinds, -1)

    def written_out(self) -> GroupExamples:
        """Write out all candidates of these lists: positives first, then the others in catalogue order."""
        mask, relevance, kind = self.mask(), self.relevance(), self.kind()  # (G, N) each
        order = np.argsort(-relevance, axis=1, kind="stable")  # (G, N)
        rows = np.arange(len(self))[:, None]
        kept = mask[rows, order]  # (G, N)
        return GroupExamples(
            group_id=self.group_id,
            context=self.context,
            offsets=np.concatenate([[0], self.sizes.cumsum()]).astype(np.int64),
            item_index=order[kept],
            relevance=relevance[rows, order][kept],
            kind=kind[rows, order][kept],
            n_missed=self.n_missed,
        )

    def chunks(self, size: int = CHUNK) -> Iterator[CatalogueLists]:
        """Yield all lists, `size` at a time."""
        for begin in range(0, len(self), size):
            yield self.take(np.arange(begin, min(begin + size, len(self))))


@dataclass(frozen=True)
class Ragged:
    """G lists of integers of different lengths: list i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        offsets: `(G + 1,)` int64, beginning with 0.
        values: `(V,)` int64, all lists one after another.
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
        """Group values by the index of their list; within a list they keep their order.

        Args:
            keys: `(V,)` index of each value's list, in 0..n_lists - 1.
            values: `(V,)` integers.
            n_lists: G, number of lists, empty ones included.
        """
        order = np.argsort(keys, kind="stable")
        offsets = np.concatenate([[0], np.bincount(keys, minlength=n_lists).cumsum()]).astype(np.int64)
        return cls(offsets, values[order].astype(np.int64))

    def take(self, chosen: np.ndarray) -> Ragged:
        """Select the lists at these indices `(n,)`, in this order."""
        sizes = self.sizes[chosen]
        offsets = np.concatenate([[0], sizes.cumsum()]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        return Ragged(offsets, self.values[np.repeat(self.offsets[:-1][chosen], sizes) + within])

    def rows(self) -> np.ndarray:
        """Return the index of each value's list `(V,)`."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def left_padded(self, length: int) -> np.ndarray:
        """Return the last `length` values of each list `(G, length)`, with zeros on the left."""
        padded = np.zeros((len(self), length), dtype=np.int64)
        from_end = self.offsets[1:][self.rows()] - np.arange(len(self.values))  # 1 for the last
        kept = from_end <= length
        padded[self.rows()[kept], length - from_end[kept]] = self.values[kept]
        return padded  # (G, length)
