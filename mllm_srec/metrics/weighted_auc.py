"""AUC of weighted rows, pooled or within each list, and weights that match negatives to the positives' popularity.

A pair of a positive with weight v and a negative with weight w counts v * w times: 1 for a win, 1/2 for a tie. With
all weights 1 it is `metrics.auc`.

**Popularity-matched AUC.** Uniformly drawn negatives are less popular than positives, so popularity alone already
scores well. Here popularity (train likes of the item) is cut into bins b at quantiles of the positives; with P_b
positives and N_b negatives in a bin, each of its negatives weighs P_b / N_b. The weighted negatives then spread over
the bins exactly as the positives do, as if they had been drawn by the positives' popularity, and the bin itself, used
as a score, gets exactly 1/2. A positive in a bin without negatives cannot be compared with anything: it weighs 0, and
the caller has to count it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mllm_srec.metrics.bins import Ints, bin_of
from mllm_srec.metrics.clustered import Floats


@dataclass(frozen=True)
class SortedRows:
    """Rows sorted once by list and score, for AUCs under many different weights.

    Attributes:
        order: `(N,)` indices of the rows, list by list, scores ascending.
        positive: Bool `(N,)`, in that order.
        block: `(M,)` first row of each block of equal scores within a list.
        block_list: `(M,)` list of each block.
        n_lists: Number of lists.

    Example:
        >>> rows = SortedRows.of(scores=[0.9, 0.8, 0.1], positive=[1, 0, 0])
        >>> rows.auc(weights=[1, 1, 1]).tolist()
        [1.0]
    """

    order: Ints
    positive: npt.NDArray[np.bool_]
    block: Ints
    block_list: Ints
    n_lists: int

    @classmethod
    def of(
        cls, scores: npt.ArrayLike, positive: npt.ArrayLike, list_index: npt.ArrayLike | None = None, n_lists: int = 1
    ) -> SortedRows:
        """Sort rows by list, then by score.

        Args:
            scores: `(N,)`, higher is better; minus infinity is below every number and ties with itself.
            positive: `(N,)` bool, or 0 and 1.
            list_index: `(N,)` integers below `n_lists`; None if all rows are one list.
            n_lists: Number of lists.

        Returns:
            The sorted rows.

        Raises:
            ValueError: If shapes differ, a score is NaN, or `positive` is not binary.
        """
        values, labels = np.asarray(scores, dtype=np.float64), np.asarray(positive)
        lists = np.zeros(values.shape, np.int64) if list_index is None else np.asarray(list_index, dtype=np.int64)
        if values.ndim != 1 or not values.shape == labels.shape == lists.shape:
            raise ValueError(
                f"scores, positive, list_index: shapes {values.shape}, {labels.shape} and {lists.shape} must be the "
                "same (N,)"
            )
        if np.isnan(values).any() or not np.isin(labels, (0, 1)).all():
            raise ValueError("scores, positive: NaN, or labels other than 0 and 1; leave these rows out and count them")
        order = np.lexsort((values, lists))
        ascending, of_list = values[order], lists[order]
        changed = (ascending[1:] != ascending[:-1]) | (of_list[1:] != of_list[:-1])
        block = np.flatnonzero(np.concatenate([[True], changed]))[: len(order)]
        return cls(order, labels[order] == 1, block, of_list[block], n_lists)

    def auc(self, weights: npt.ArrayLike) -> Floats:
        """Area under the ROC curve of each list.

        Args:
            weights: `(N,)` weights of at least 0, in the original order of the rows.

        Returns:
            `(n_lists,)` in [0, 1]; NaN where the positives or the negatives of a list have no weight.
        """
        if not len(self.order):
            return np.full(self.n_lists, np.nan)
        of_rows = np.asarray(weights, dtype=np.float64)[self.order]
        positives = np.add.reduceat(np.where(self.positive, of_rows, 0.0), self.block)  # (M,)
        negatives = np.add.reduceat(np.where(self.positive, 0.0, of_rows), self.block)  # (M,)
        n_positive = np.bincount(self.block_list, positives, self.n_lists)
        n_negative = np.bincount(self.block_list, negatives, self.n_lists)
        before = np.concatenate([[0.0], np.cumsum(n_negative)[:-1]])  # (n_lists,) negatives of earlier lists
        below = np.cumsum(negatives) - negatives - before[self.block_list]
        wins = np.bincount(self.block_list, positives * (below + negatives / 2), self.n_lists)
        pairs = n_positive * n_negative
        areas: Floats = np.divide(wins, pairs, out=np.full(self.n_lists, np.nan), where=pairs > 0)
        return areas


def popularity_edges(positives: npt.ArrayLike, n_bins: int) -> list[int]:
    """Cut popularity into bins that hold about equally many positives.

    Args:
        positives: `(P,)` train likes of the positives' items.
        n_bins: Number of bins, at least 1; there are fewer where many positives are equally popular.

    Returns:
        Lower edge of each bin, the first 0.

    Raises:
        ValueError: If `n_bins` is below 1.

    Example:
        >>> popularity_edges([1, 1, 2, 5, 9, 9], n_bins=3)
        [0, 2, 9]
    """
    if n_bins < 1:
        raise ValueError(f"n_bins={n_bins}: too small; give at least 1")
    likes = np.sort(np.asarray(positives, dtype=np.int64))
    cuts = likes[[len(likes) * k // n_bins for k in range(1, n_bins)]] if len(likes) else likes
    return [0, *(int(cut) for cut in np.unique(cuts) if cut > 0)]


def matching_weights(likes: npt.ArrayLike, positive: npt.ArrayLike, edges: list[int]) -> Floats:
    """Weigh rows so that negatives are as popular as positives; see the head of this file.

    Args:
        likes: `(N,)` train likes of each row's item.
        positive: `(N,)` bool, or 0 and 1.
        edges: Lower edges of the bins, from `popularity_edges`.

    Returns:
        `(N,)`: P_b / N_b for negatives; 1 for positives, or 0 where their bin has no negatives.

    Raises:
        ValueError: If a number of likes is negative, or `edges` do not start at 0 and increase.

    Example:
        >>> matching_weights([5, 5, 5, 0, 0], positive=[1, 0, 0, 0, 1], edges=[0, 5]).tolist()
        [1.0, 0.5, 0.5, 1.0, 1.0]
    """
    labels, bins = np.asarray(positive) == 1, bin_of(likes, edges)
    n_positive = np.bincount(bins[labels], minlength=len(edges)).astype(np.float64)  # (bins,)
    n_negative = np.bincount(bins[~labels], minlength=len(edges)).astype(np.float64)  # (bins,)
    ratio = np.divide(n_positive, n_negative, out=np.zeros(len(edges)), where=n_negative > 0)
    return np.where(labels, n_negative[bins] > 0, ratio[bins])
