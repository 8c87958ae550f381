"""What each positive of a candidate list gets by itself: its chance of a place in the top K, and its own AUC.

The mean of `recall` over the positives of a list is the list's recall, and that of `auc` its user AUC; so a list's
number can be split by what its positives are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mllm_srec.metrics.bins import Ints
from mllm_srec.metrics.clustered import Floats


@dataclass(frozen=True)
class Places:
    """Where P positives stand in their lists; all `(P,)`.

    Attributes:
        n_above: Candidates with a higher score.
        n_tied: Candidates with the same score, itself included.
        negatives_above: Negatives with a higher score.
        negatives_tied: Negatives with the same score.
        n_negatives: Negatives of the list.
        found: bool; False where a retriever missed the positive, which then has no place.
    """

    n_above: Ints
    n_tied: Ints
    negatives_above: Ints
    negatives_tied: Ints
    n_negatives: Ints
    found: npt.NDArray[np.bool_]

    def recall(self, top_k: int) -> Floats:
        """Probability of one of the first `top_k` places, over all orders of the tied; 0 where it was missed."""
        share = np.clip((top_k - self.n_above) / np.maximum(self.n_tied, 1), 0.0, 1.0)
        return np.where(self.found, share, 0.0)

    def auc(self) -> Floats:
        """Share of the list's negatives with a lower score, ties half; 0 where missed, NaN without negatives."""
        below = self.n_negatives - self.negatives_above - self.negatives_tied / 2
        share = np.divide(below, self.n_negatives, out=np.full(len(below), np.nan), where=self.n_negatives > 0)
        return np.where(self.found | np.isnan(share), share, 0.0)


def positive_places(scores: npt.ArrayLike, positive: npt.ArrayLike, list_index: npt.ArrayLike) -> Places:
    """Places of the positives of whole lists, in the order of their rows.

    Args:
        scores: `(N,)`, higher is better; minus infinity: missed by the retriever.
        positive: `(N,)` bool or 0 and 1.
        list_index: `(N,)` whole numbers.

    Raises:
        ValueError: A score is NaN.
    """
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(positive) == 1
    lists = np.asarray(list_index, dtype=np.int64)
    above, tied = _counts(values, lists)
    n_negatives = np.bincount(lists, ~labels, minlength=int(lists.max(initial=-1)) + 1).astype(np.int64)
    return places_among(values[labels], lists[labels], above[labels], tied[labels], n_negatives[lists[labels]])


def places_among(
    scores: npt.ArrayLike, list_index: npt.ArrayLike, n_above: Ints, n_tied: Ints, n_negatives: Ints
) -> Places:
    """Places of positives that know how many candidates are above them and tied with them.

    Args:
        scores: `(P,)` of all positives of their lists; minus infinity: missed.
        list_index: `(P,)` whole numbers.
        n_above: `(P,)` candidates with a higher score.
        n_tied: `(P,)` candidates with the same score, itself included.
        n_negatives: `(P,)` negatives of the list.

    Raises:
        ValueError: A score is NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    above, tied = _counts(values, np.asarray(list_index, dtype=np.int64))
    return Places(n_above, n_tied, n_above - above, n_tied - tied, n_negatives, values != -np.inf)


def _counts(scores: Floats, lists: Ints) -> tuple[Ints, Ints]:
    """Rows of the same list with a higher score, and with the same one (itself included), for every row `(N,)`."""
    if np.isnan(scores).any():
        raise ValueError(f"scores: {np.count_nonzero(np.isnan(scores))} of {len(scores)} are NaN")
    n_lists = int(lists.max(initial=-1)) + 1
    level = np.unique(scores, return_inverse=True)[1]  # equal scores share a level, infinite ones too
    blocks, block, size = np.unique(lists * (level.max(initial=0) + 1) + level, return_inverse=True, return_counts=True)
    of_list = blocks // (level.max(initial=0) + 1)
    up_to = np.cumsum(size)  # rows of earlier lists, and of the same with at most this score
    ends = np.cumsum(np.bincount(lists, minlength=n_lists))
    above = ends[of_list] - up_to
    return above[block].astype(np.int64), size[block].astype(np.int64)
