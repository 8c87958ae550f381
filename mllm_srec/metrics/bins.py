"""Whole numbers (items of a history, likes of an item) -> strata, each number in exactly one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def check_edges(edges: Sequence[int], name: str = "edges") -> None:
    """Refuse bins that would lose a number, or hold none.

    Args:
        edges: Lowest number of each bin; the last one is open.
        name: What the message calls them.

    Raises:
        ValueError: They do not begin with 0, or do not rise.
    """
    if not edges or edges[0] != 0 or any(high <= low for low, high in pairwise(edges)):
        raise ValueError(
            f"{name}: got {list(edges)}; accepted are the lowest numbers of the bins, beginning with 0 and rising, "
            "such as 0 1 3 6: else a number would be in none of them"
        )


def bin_of(values: npt.ArrayLike, edges: Sequence[int]) -> Ints:
    """The bin of each number.

    Args:
        values: `(N,)` whole numbers of at least 0.
        edges: See `check_edges`.

    Returns:
        `(N,)` places in `edges`.

    Raises:
        ValueError: A number is negative, or `edges` lose some.

    >>> bin_of([0, 1, 2, 3, 99], [0, 1, 3]).tolist()
    [0, 1, 1, 2, 2]
    """
    check_edges(edges)
    numbers = np.asarray(values, dtype=np.int64)
    if numbers.size and numbers.min() < 0:
        raise ValueError(f"values: got {numbers.min()}; counts are at least 0")
    return np.searchsorted(np.asarray(edges), numbers, side="right").astype(np.int64) - 1


def bin_labels(edges: Sequence[int]) -> list[str]:
    """Names of the bins.

    >>> bin_labels([0, 1, 3, 6])
    ['0', '1-2', '3-5', '6+']
    """
    check_edges(edges)
    ends = [high - 1 for high in edges[1:]]
    closed = [str(low) if low == high else f"{low}-{high}" for low, high in zip(edges[:-1], ends, strict=True)]
    return [*closed, f"{edges[-1]}+"]
