"""Recall and AUC of each positive of a candidate list by itself.

The mean of `recall` over the positives of a list is the list's recall, and that of `auc` its user AUC. So the value of
a list can be split by properties of its positives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mllm_srec.metrics.bins import Ints
from mllm_srec.metrics.clustered import Floats


@dataclass(frozen=True)
class PositiveRanks:
    """Ranks of P positives in their lists, as numbers of candidates above and tied; all `(P,)`.

    Attributes:
        n_above: Number of candidates with a higher score.
        n_tied: Number of candidates with the same score, itself included.
        negatives_above: Number of negatives with a higher score.
        negatives_tied: Number of negatives with the same score.
        n_negatives: Number of negatives in the list.
        is_ranked: Bool, False where a retriever missed the positive, which then has no rank.
    """

    n_above: Ints
    n_tied: Ints
    negatives_above: Ints
    negatives_tied: Ints
    n_negatives: Ints
    is_ranked: npt.NDArray[np.bool_]

    def recall(self, top_k: int) -> Floats:
        """Probability of a rank of at most `top_k`, over all orders of tied candidates; 0 where it was missed."""
        share = np.clip((top_k - self.n_above) / np.maximum(self.n_tied, 1), 0.0, 1.0)
        return np.where(self.is_ranked, share, 0.0)

    def auc(self) -> Floats:
        """Share of the list's negatives with a lower score, ties half; 0 where missed, NaN without negatives."""
        below = self.n_negatives - self.negatives_above - self.negatives_tied / 2
        share = np.divide(below, self.n_negatives, out=np.full(len(below), np.nan), where=self.n_negatives > 0)
        return np.where(self.is_ranked | np.isnan(share), share, 0.0)


def positive_ranks(scores: npt.ArrayLike, positive: npt.ArrayLike, list_index: npt.ArrayLike) -> PositiveRanks:
    """Rank the positives of complete lists.

    Args:
        scores: `(N,)`, higher is better; minus infinity for items that the retriever missed.
        positive: `(N,)` bool, or 0 and 1.
        list_index: `(N,)` list of each row, integers from 0.

    Returns:
        Ranks of the positives, in the order of their rows.

    Raises:
        ValueError: If a score is NaN.

    Example:
        >>> ranks = positive_ranks([0.9, 0.8, 0.1], positive=[0, 1, 1], list_index=[0, 0, 0])
        >>> ranks.n_above.tolist(), ranks.recall(top_k=2).tolist()
        ([1, 2], [1.0, 0.0])
    """
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(positive) == 1
    lists = np.asarray(list_index, dtype=np.int64)
    above, tied = _counts(values, lists)
    n_negatives = np.bincount(lists, ~labels, minlength=int(lists.max(initial=-1)) + 1).astype(np.int64)
    return ranks_from_counts(values[labels], lists[labels], above[labels], tied[labels], n_negatives[lists[labels]])


def ranks_from_counts(
    scores: npt.ArrayLike, list_index: npt.ArrayLike, n_above: Ints, n_tied: Ints, n_negatives: Ints
) -> PositiveRanks:
    """Rank positives from the numbers of candidates above them and tied with them.

    Args:
        scores: `(P,)` scores of all positives of their lists; minus infinity where missed.
        list_index: `(P,)` list of each positive, integers from 0.
        n_above: `(P,)` number of candidates with a higher score.
        n_tied: `(P,)` number of candidates with the same score, itself included.
        n_negatives: `(P,)` number of negatives in the list.

    Returns:
        Ranks of the positives, in the same order.

    Raises:
        ValueError: If a score is NaN.

    Example:
        >>> one, two = np.array([1]), np.array([2])
        >>> ranks_from_counts([0.8], list_index=[0], n_above=one, n_tied=one, n_negatives=two).auc().tolist()
        [0.5]
    """
    values = np.asarray(scores, dtype=np.float64)
    above, tied = _counts(values, np.asarray(list_index, dtype=np.int64))
    return PositiveRanks(n_above, n_tied, n_above - above, n_tied - tied, n_negatives, values != -np.inf)


def _counts(scores: Floats, lists: Ints) -> tuple[Ints, Ints]:
    """Count, for every row `(N,)`, the rows of its list with a higher score, and with the same (itself included)."""
    if np.isnan(scores).any():
        n_nan = np.count_nonzero(np.isnan(scores))
        raise ValueError(f"scores=nan: {n_nan} of {len(scores)} rows have no score; leave them out and count them")
    n_lists = int(lists.max(initial=-1)) + 1
    level = np.unique(scores, return_inverse=True)[1]  # equal scores share a level, infinite ones too
    blocks, block, size = np.unique(lists * (level.max(initial=0) + 1) + level, return_inverse=True, return_counts=True)
    list_of_block = blocks // (level.max(initial=0) + 1)
    up_to = np.cumsum(size)  # rows of earlier lists, and of the same list with at most this score
    ends = np.cumsum(np.bincount(lists, minlength=n_lists))
    above = ends[list_of_block] - up_to
    return above[block].astype(np.int64), size[block].astype(np.int64)
