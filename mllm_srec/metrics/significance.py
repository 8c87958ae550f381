"""Is the difference of two runs more than luck of the users drawn: paired bootstrap over users, and Holm's correction.

Runs are compared user by user, on the same lists, since users differ far more than models do. What the test does not
know is luck of the seed: average a user's values over the seeds of a run first, and report mean and spread of seeds
beside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

User = TypeVar("User", bound=Hashable)

_DRAWS_AT_ONCE = 2**21  # users drawn in one chunk of resamples: 16 MB of indices and 16 MB of values
_ROUNDING = 1e-12  # relative; differences of this size are noise of float64


@dataclass(frozen=True)
class PairedDifference:
    """How much better `other` is than `base` on the same users, and how sure that is.

    Attributes:
        difference: Mean over users of other - base, in units of the metric.
        low: Lower end of the percentile interval of `difference`.
        high: Upper end.
        p_value: Two-sided, in (0, 1]: chance of such a difference if there were none.
        n_users: Users compared.
        n_changed: Users whose two values differ at all; few of them mean that little was compared.
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
    """Compare two runs from their tables of values per user; arguments and result as in `paired_bootstrap`.

    Args:
        base: User -> value of the run to compare with.
        other: User -> value of the run in question, for exactly the same users, in any order.
        n_resamples: Resamples, at least 1.
        confidence: Of the interval, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        ValueError: If a user is missing in one of the two, a value is not finite, or there are no users.
    """
    for name, values, counterpart in (("base", base, other), ("other", other, base)):
        missing = [user for user in counterpart if user not in values]
        if missing:
            raise ValueError(
                f"{name}: {len(missing)} of {len(counterpart)} users of the other run are missing, the first is "
                f"{missing[0]!r}. Only the same users can be compared: score both runs on the same candidate file, or "
                "remove these users from the other run and say so."
            )
        odd = [user for user, value in values.items() if value is None or not np.isfinite(value)]
        if odd:
            raise ValueError(
                f"{name}: got {values[odd[0]]} for {len(odd)} of {len(values)} users, the first is {odd[0]!r}; "
                "accepted are finite numbers. Users without a value must be left out of both runs and counted."
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
    """Paired bootstrap of a mean difference: users are drawn anew with replacement, both values of a user together.

    Interval: percentiles of the resampled differences (Efron & Tibshirani 1993, chapter 13). p-value: twice the smaller
    tail beyond 0, each (count + 1) / (n_resamples + 1), so that it is never 0 (Davison & Hinkley 1997, section 4.2) and
    agrees with the interval to within one resample. The smallest is 2 / (n_resamples + 1): .0002 by default, enough
    for Holm over 250 comparisons at .05.

    Too few users cannot be resampled into evidence: where k users differ and all agree, every resample does too. So
    p is never below 2^(1 - k), what the exact sign-flip test of k differences says at best. Below some thirty such
    users both numbers are still too optimistic.

    Args:
        base: `(users,)` finite values of the run to compare with.
        other: `(users,)` of the run in question; the same users in the same order.
        n_resamples: Resamples, at least 1.
        confidence: Of the interval, in (0, 1).
        seed: Seed of the resampling. The order of users does not matter.

    Raises:
        ValueError: If shapes differ, a value is not finite, there are no users, or another argument is out of range.

    >>> round(paired_bootstrap([0.1] * 50, [0.1, 0.2] * 25).difference, 3)
    0.05
    """
    differences = _differences(base, other)
    _check_resampling(n_resamples, confidence)
    means = _resampled_means(differences, n_resamples, seed)
    rounding = _ROUNDING * np.abs(differences).max()  # differences that cancel must count as 0 on both sides
    tail = min((means <= rounding).sum(), (means >= -rounding).sum())
    n_changed = int(np.count_nonzero(differences))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=min(1.0, max(2 * (int(tail) + 1) / (n_resamples + 1), 2.0 ** (1 - n_changed))),
        n_users=len(differences),
        n_changed=n_changed,
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust a family of p-values so that the chance of any false finding stays below the level (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1, and none may fall below a smaller one's result. Sharper than
    Bonferroni and valid however the tests depend on each other. Give it the whole family, such as all baselines times
    all metrics of a table: a family chosen after a look at the results protects from nothing.

    Args:
        p_values: Name of a comparison -> p-value in [0, 1].

    Returns:
        Name -> adjusted p-value in [0, 1], in the order given: a finding at level .05 if it is at most .05.

    Raises:
        ValueError: If a p-value is outside [0, 1] or NaN.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(
                f"p_values: got {p} for {name!r}; accepted are numbers from 0 to 1. Look at how it was made."
            )
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _differences(base: npt.ArrayLike, other: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """What `other` gains per user, sorted, so that a result depends on the values and not on the order of users.

    A difference that only rounding makes (means over seeds, added in another order) is 0: else a run could differ
    from itself by 1e-17 for every user, and be found significant.
    """
    arrays = {"base": np.asarray(base, dtype=np.float64), "other": np.asarray(other, dtype=np.float64)}
    shapes = [array.shape for array in arrays.values()]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or shapes[0][0] == 0:
        raise ValueError(
            f"base, other: got shapes {shapes[0]} and {shapes[1]}; both must be the same (users,), at least one user. "
            "Give one value per user, in the same order; compare_users does so for tables keyed by user."
        )
    for name, array in arrays.items():
        bad = ~np.isfinite(array)
        if bad.any():
            raise ValueError(
                f"{name}: got {array[bad][0]} for {bad.sum()} of {len(array)} users, the first at {bad.argmax()}; "
                "accepted are finite numbers. Users without a value must be left out of both runs and counted."
            )
    differences = np.sort(arrays["other"] - arrays["base"])  # (users,)
    largest = max(np.abs(array).max() for array in arrays.values())
    return np.where(np.abs(differences) <= _ROUNDING * largest, 0.0, differences)


def _check_resampling(n_resamples: int, confidence: float) -> None:
    if n_resamples < 1:
        raise ValueError(f"n_resamples: got {n_resamples}; it must be at least 1, better 10000 or more.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: got {confidence}; it must be above 0 and below 1, such as 0.95.")


def _resampled_means(values: npt.NDArray[np.float64], n_resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Means `(n_resamples,)` of as many values drawn with replacement, the same whatever the size of a chunk."""
    generator = np.random.default_rng(seed)
    n = len(values)
    rows = max(1, _DRAWS_AT_ONCE // n)
    chunks = [
        values[generator.integers(n, size=(min(rows, n_resamples - done), n))].mean(axis=1)
        for done in range(0, n_resamples, rows)
    ]
    return np.concatenate(chunks)
