"""Statistics with a bootstrap interval over users, where one user may have several rows.

Rows of one user (lists, positives, pairs) are dependent, so users are resampled and not rows. A resample counts how
often each user was drawn, and a statistic takes these counts as weights of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A statistic and its interval.

    Attributes:
        value: Statistic of the original rows; NaN where it is undefined.
        low: Lower end of the percentile interval; NaN where `value` is.
        high: Upper end of the interval; NaN where `value` is.
        n_users: Number of users.
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
    """Bootstrap a statistic over users: percentile interval (Efron & Tibshirani 1993, chapter 13).

    Args:
        statistic: Function of the rows' weights `(N,)`; weights of 1 give the statistic of the original rows.
        user: `(N,)` user of each row, any numbers.
        n_resamples: Number of resamples, at least 1.
        confidence: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.

    Returns:
        The statistic and its interval. The interval ignores resamples in which the statistic is undefined (such as an
        AUC without a positive).

    Raises:
        ValueError: If `n_resamples` or `confidence` is out of range.

    Example:
        >>> values = np.array([1.0, 1.0, 0.0])
        >>> bootstrap(lambda weights: weights @ values, user=[7, 7, 8]).value
        2.0
    """
    if n_resamples < 1:
        raise ValueError(f"n_resamples={n_resamples}: too small; give at least 1, better 1000 or more")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: out of range; give a number above 0 and below 1, such as 0.95")
    users, user_of_row = np.unique(np.asarray(user), return_inverse=True)
    if not len(users):
        return Estimate(np.nan, np.nan, np.nan, 0)
    value = statistic(np.ones(len(user_of_row)))
    generator = np.random.default_rng(seed)
    resampled = np.empty(n_resamples)
    for index in range(n_resamples):
        counts = np.bincount(generator.integers(len(users), size=len(users)), minlength=len(users))
        resampled[index] = statistic(counts[user_of_row].astype(np.float64))
    defined = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or not len(defined):
        return Estimate(np.nan, np.nan, np.nan, len(users))
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(value), float(low), float(high), len(users))


def clustered_mean(
    values: npt.ArrayLike, user: npt.ArrayLike, n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Compute the mean over rows with a bootstrap interval over users.

    Args:
        values: `(N,)` finite numbers; the mean of none is NaN.
        user: `(N,)` user of each row, any numbers.
        n_resamples: Number of resamples, at least 1.
        confidence: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.

    Returns:
        The mean and its interval.

    Raises:
        ValueError: If shapes differ, a value is not finite, or `n_resamples` or `confidence` is out of range.

    Example:
        >>> clustered_mean([1.0, 1.0, 0.0, 0.0], user=[7, 7, 8, 9]).value
        0.5
    """
    numbers, users = np.asarray(values, dtype=np.float64), np.asarray(user)
    if numbers.shape != users.shape or numbers.ndim != 1:
        raise ValueError(f"values, user: shapes {numbers.shape} and {users.shape} must be the same (N,)")
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"values: {np.count_nonzero(~np.isfinite(numbers))} of {len(numbers)} are not finite; leave them out and "
            "count them"
        )

    def mean(weights: Floats) -> float:
        total = float(weights.sum())
        return float(weights @ numbers) / total if total > 0 else np.nan

    return bootstrap(mean, users, n_resamples, confidence, seed)
