"""Bins of counts (items of a history, likes of an item): every count falls into exactly one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def check_edges(edges: Sequence[int], name: str = "edges") -> None:
    """Check that bins are not empty and cover every count.

    Args:
        edges: Lower edge of each bin, inclusive, starting at 0 and strictly increasing; the last bin is open.
        name: Name of the argument in the error message.

    Raises:
        ValueError: If `edges` do not start at 0, or do not increase.

    Example:
        >>> check_edges([1, 3])
        Traceback (most recent call last):
        ValueError: edges=[1, 3]: does not start at 0 and increase; give lower edges such as 0 1 3 6
    """
    if not edges or edges[0] != 0 or any(high <= low for low, high in pairwise(edges)):
        raise ValueError(f"{name}={list(edges)}: does not start at 0 and increase; give lower edges such as 0 1 3 6")


def bin_of(values: npt.ArrayLike, edges: Sequence[int]) -> Ints:
    """Find the bin of each count.

    Args:
        values: `(N,)` integers of at least 0.
        edges: Lower edge of each bin, starting at 0 and strictly increasing.

    Returns:
        `(N,)` indices of bins, from 0.

    Raises:
        ValueError: If a count is negative, or `edges` do not start at 0 and increase.

    Example:
        >>> bin_of([0, 1, 2, 3, 99], edges=[0, 1, 3]).tolist()
        [0, 1, 1, 2, 2]
    """
    check_edges(edges)
    numbers = np.asarray(values, dtype=np.int64)
    if numbers.size and numbers.min() < 0:
        raise ValueError(f"values={numbers.min()}: negative; give counts of at least 0")
    return np.searchsorted(np.asarray(edges), numbers, side="right").astype(np.int64) - 1


def bin_labels(edges: Sequence[int]) -> list[str]:
    """Name the bins by the counts that they hold.

    Args:
        edges: Lower edge of each bin, starting at 0 and strictly increasing.

    Returns:
        One label per bin.

    Raises:
        ValueError: If `edges` do not start at 0 and increase.

    Example:
        >>> bin_labels([0, 1, 3, 6])
        ['0', '1-2', '3-5', '6+']
    """
    check_edges(edges)
    ends = [high - 1 for high in edges[1:]]
    closed = [str(low) if low == high else f"{low}-{high}" for low, high in zip(edges[:-1], ends, strict=True)]
    return [*closed, f"{edges[-1]}+"]
