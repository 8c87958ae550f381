"""Significance of a difference between runs: paired tests over users, and Holm's correction.

Runs are compared user by user, on the same lists, since users differ far more than models do. The tests account for the
sample of users and not for the random seed: average each user's values over the seeds of a run first, and report mean
and standard deviation over seeds beside it. `seed_bootstrap.py` accounts for both.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

User = TypeVar("User", bound=Hashable)

EXACT_USERS = 20
"""Largest number of differing users whose sign flips are all counted, at most 2^19 sums."""

_DRAWS_AT_ONCE = 2**21  # users drawn in one chunk of resamples: 16 MB of indices and 16 MB of values
_ROUNDING = 1e-12  # relative; smaller differences are rounding errors of float64


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference between two runs on the same users, with its interval and p-value.

    Attributes:
        difference: Mean over users of other - base, in units of the metric.
        low: Lower end of the percentile interval of `difference`.
        high: Upper end of that interval.
        p_value: Two-sided p-value, in (0, 1], of the hypothesis that there is no difference.
        n_users: Number of users compared.
        n_changed: Number of users whose two values differ; if it is small, there is little evidence.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n_users: int
    n_changed: int


def compare_users(
    base: Mapping[User, float | None],
    other: Mapping[User, float | None],
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compare two runs by `paired_bootstrap`, from one value per user.

    Args:
        base: User -> value of the reference run.
        other: User -> value of the run under test, for exactly the same users, in any order.
        n_resamples: Number of resamples, at least 1.
        confidence: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.

    Returns:
        The mean of other - base over users, with its interval and p-value.

    Raises:
        ValueError: If a user is missing in one of the runs, a value is not finite, there are no users, or `n_resamples`
            or `confidence` is out of range.

    Example:
        >>> compare_users({"ann": 0.25, "bob": 0.5}, {"bob": 0.5, "ann": 0.75}).difference
        0.25
    """
    for name, values, counterpart in (("base", base, other), ("other", other, base)):
        missing = [user for user in counterpart if user not in values]
        if missing:
            raise ValueError(
                f"{name}: {len(missing)} of {len(counterpart)} users of the other run are missing, the first is "
                f"{missing[0]!r}; score both runs on the same candidate file, or remove these users from the other run "
                "and report it"
            )
        odd = [user for user, value in values.items() if value is None or not np.isfinite(value)]
        if odd:
            raise ValueError(
                f"{name}={values[odd[0]]}: {len(odd)} of {len(values)} users have no finite value, the first is "
                f"{odd[0]!r}; leave them out of both runs and count them"
            )
    pairs = np.array([(base[user], other[user]) for user in base], dtype=np.float64).reshape(-1, 2)  # (users, 2)
    return paired_bootstrap(pairs[:, 0], pairs[:, 1], n_resamples, confidence, seed)


def paired_bootstrap(
    base: npt.ArrayLike,
    other: npt.ArrayLike,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Bootstrap the mean difference of two runs: resample users with replacement, both values of a user together.

    Interval: percentiles of the resampled differences (Efron & Tibshirani 1993, chapter 13). p-value: twice the smaller
    tail beyond 0, a tail being (count + 1) / (n_resamples + 1): never 0 (Davison & Hinkley 1997, section 4.2), and it
    agrees with the interval to within one resample. The smallest is 2 / (n_resamples + 1): .0002 by default, enough
    for Holm over 250 comparisons at .05.

    Resampling creates no evidence: if only few users differ, nearly every resample agrees with them. So where at most
    `EXACT_USERS` differ, the p-value is that of the exact sign-flip test, `sign_flip_p`, and may contradict the
    interval, which is too narrow there. Up to some thirty differing users both are still too optimistic.

    Args:
        base: `(users,)` finite values of the reference run.
        other: `(users,)` finite values of the run under test; the same users in the same order.
        n_resamples: Number of resamples, at least 1.
        confidence: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling. The order of users does not matter.

    Returns:
        The mean of other - base over users, with its interval and p-value.

    Raises:
        ValueError: If shapes differ, a value is not finite, there are no users, or `n_resamples` or `confidence` is out
            of range.

    Example:
        >>> result = paired_bootstrap([0.1] * 50, [0.1, 0.2] * 25)
        >>> round(result.difference, 3), result.n_changed, result.p_value < 0.05
        (0.05, 25, True)
    """
    differences = _differences(base, other)
    check_resampling(n_resamples, confidence)
    means = _resampled_means(differences, n_resamples, seed)
    rounding = _ROUNDING * np.abs(differences).max()  # differences that cancel must count as 0 on both sides
    tail = min((means <= rounding).sum(), (means >= -rounding).sum())
    n_changed = int(np.count_nonzero(differences))
    resampled_p = min(1.0, 2 * (int(tail) + 1) / (n_resamples + 1))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=sign_flip_p(differences) if n_changed <= EXACT_USERS else resampled_p,
        n_users=len(differences),
        n_changed=n_changed,
    )


def sign_flip_p(differences: npt.NDArray[np.float64]) -> float:
    """Compute the two-sided p-value of the exact sign-flip test (Fisher 1935): either sign was as likely.

    It is the share of the 2^k sign patterns of the k differences other than 0 whose sum is at least as far from 0 as
    the observed one; equal sums count, so that it is never below 2^(1 - k).

    Args:
        differences: `(users,)` finite differences, at most `EXACT_USERS` of them other than 0.

    Returns:
        The p-value, in (0, 1]; 1 if nothing differs.

    Raises:
        ValueError: If more differ, whose patterns would be too many.

    Example:
        >>> sign_flip_p(np.array([1.0, 1.0, 0.0, -0.5]))  # of 8 sign patterns, 4 lie as far out
        0.5
    """
    sizes = np.abs(differences[differences != 0])
    if len(sizes) > EXACT_USERS:
        raise ValueError(f"differences: {len(sizes)} users differ; give at most {EXACT_USERS}, or resample")
    if not len(sizes):
        return 1.0
    sums = sizes[:1]  # the first sign stays: by symmetry the other half of the patterns has the same distances
    for size in sizes[1:]:
        sums = np.concatenate([sums + size, sums - size])
    observed = abs(float(differences.sum())) - _ROUNDING * float(sizes.sum())
    return float((np.abs(sums) >= observed).mean())


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust a family of p-values so that the chance of any false discovery stays below the level (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1, and then raised to its predecessor's result if that is larger.
    The method is more powerful than Bonferroni's and valid under any dependence of the tests. Give it the whole family,
    such as all baselines times all metrics of a table: a family chosen after seeing the results protects from nothing.

    Args:
        p_values: Name of a comparison -> p-value in [0, 1].

    Returns:
        Name -> adjusted p-value in [0, 1], in the order given; significant at level .05 if at most .05.

    Raises:
        ValueError: If a p-value is NaN or outside [0, 1].

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"p_values[{name!r}]={p}: not a probability; give numbers from 0 to 1")
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _differences(base: npt.ArrayLike, other: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Subtract user by user and sort, so that results do not depend on the order of users.

    A difference due to rounding alone (means over seeds, summed in another order) becomes 0: otherwise a run could
    differ from itself by 1e-17 for every user, which would be significant.
    """
    arrays = {"base": np.asarray(base, dtype=np.float64), "other": np.asarray(other, dtype=np.float64)}
    shapes = [array.shape for array in arrays.values()]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or shapes[0][0] == 0:
        raise ValueError(
            f"base, other: shapes {shapes[0]} and {shapes[1]} must be the same (users,), with at least one user; give "
            "one value per user, in the same order, or use compare_users for values keyed by user"
        )
    for name, array in arrays.items():
        bad = ~np.isfinite(array)
        if bad.any():
            raise ValueError(
                f"{name}={array[bad][0]}: {bad.sum()} of {len(array)} users have no finite value, the first at index "
                f"{bad.argmax()}; leave them out of both runs and count them"
            )
    differences = np.sort(arrays["other"] - arrays["base"])  # (users,)
    largest = max(np.abs(array).max() for array in arrays.values())
    return np.where(np.abs(differences) <= _ROUNDING * largest, 0.0, differences)


def check_resampling(n_resamples: int, confidence: float) -> None:
    """Refuse a number of resamples or a confidence that is out of range.

    Raises:
        ValueError: One is.

    Example:
        >>> check_resampling(1000, 95)
        Traceback (most recent call last):
        ValueError: confidence=95: out of range; give a number above 0 and below 1, such as 0.95
    """
    if n_resamples < 1:
        raise ValueError(f"n_resamples={n_resamples}: too small; give at least 1, better 10000 or more")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: out of range; give a number above 0 and below 1, such as 0.95")


def _resampled_means(values: npt.NDArray[np.float64], n_resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Means `(n_resamples,)` of as many values drawn with replacement; they do not depend on the size of a chunk."""
    generator = np.random.default_rng(seed)
    n = len(values)
    rows = max(1, _DRAWS_AT_ONCE // n)
    chunks = [
        values[generator.integers(n, size=(min(rows, n_resamples - done), n))].mean(axis=1)
        for done in range(0, n_resamples, rows)
    ]
    return np.concatenate(chunks)
