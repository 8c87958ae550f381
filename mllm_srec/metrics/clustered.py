"""Means and areas with a bootstrap interval over users, where a user may own several rows.

Rows of one user (their lists, positives, pairs) hang together, so users are drawn anew and not rows: a resample gives
each user the number of times it was drawn, and every statistic here takes such numbers as weights of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A number and its interval.

    Attributes:
        value: Of the rows as they are; NaN where it is undefined.
        low: Lower end of the percentile interval; NaN with `value`.
        high: Upper end.
        n_users: Users that were drawn from.
    """

    value: float
    low: float
    high: float
    n_users: int


def bootstrap(
    statistic: Callable[[Floats], float],
    user: npt.ArrayLike,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Percentile interval of a statistic over users drawn with replacement (Efron & Tibshirani 1993, chapter 13).

    Args:
        statistic: Weights of the rows `(N,)` -> number; all ones give the value itself.
        user: `(N,)` whose row it is, any numbers.
        n_resamples: Resamples, at least 1.
        confidence: Of the interval, in (0, 1).
        seed: Of the draws.

    Returns:
        The estimate. Resamples in which the statistic is undefined (no positive was drawn) are left out of the
        interval.

    Raises:
        ValueError: `n_resamples` or `confidence` is out of range.
    """
    if n_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"n_resamples, confidence: got {n_resamples} and {confidence}; accepted are at least 1, and a number "
            "between 0 and 1"
        )
    names, place = np.unique(np.asarray(user), return_inverse=True)
    if not len(names):
        return Estimate(np.nan, np.nan, np.nan, 0)
    value = statistic(np.ones(len(place)))
    generator = np.random.default_rng(seed)
    drawn = np.empty(n_resamples)
    for index in range(n_resamples):
        times = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        drawn[index] = statistic(times[place].astype(np.float64))
    defined = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(defined):
        return Estimate(np.nan, np.nan, np.nan, len(names))
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(value), float(low), float(high), len(names))


def clustered_mean(
    values: npt.ArrayLike, user: npt.ArrayLike, n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Mean over rows, its interval over users.

    Args:
        values: `(N,)` finite numbers; none give NaN.
        user: `(N,)` whose row it is.
        n_resamples: Resamples, at least 1.
        confidence: Of the interval, in (0, 1).
        seed: Of the draws.

    Raises:
        ValueError: Shapes differ, or a value is not finite.

    >>> clustered_mean([1.0, 1.0, 0.0], [7, 7, 8]).value
    0.6666666666666666
    """
    numbers, owner = np.asarray(values, dtype=np.float64), np.asarray(user)
    if numbers.shape != owner.shape or numbers.ndim != 1:
        raise ValueError(f"values, user: got shapes {numbers.shape} and {owner.shape}; both must be the same (N,)")
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"values: {np.count_nonzero(~np.isfinite(numbers))} of {len(numbers)} are not finite; leave them out and "
            "count them"
        )
    return bootstrap(
        lambda weights: _ratio(float(weights @ numbers), float(weights.sum())), owner, n_resamples, confidence, seed
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else np.nan
