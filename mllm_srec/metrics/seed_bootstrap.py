"""Bootstrap of the difference between two models over users and seeds: other users, and other trainings.

`paired_bootstrap` takes the seeds of a model as they are. Here they are drawn, too, each model's for itself, since seed
1 of one model has nothing in common with seed 1 of another. The users stay paired.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mllm_srec.metrics.significance import (
    EXACT_USERS,
    PairedDifference,
    check_resampling,
    paired_bootstrap,
)

Values = npt.NDArray[np.float64]

_CELLS_AT_ONCE = 2**21  # users times resamples of one chunk: 16 MB of counts


def seed_bootstrap(
    base: Values, other: Values, n_resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> PairedDifference:
    """Bootstrap the mean difference of two models: resample users for both together, and seeds for each alone.

    Interval and p-value are those of `paired_bootstrap`, from these resamples. A model with a single seed, or whose
    seeds all agree, adds no variance. With n seeds their variance is underestimated by the factor (n - 1) / n, as in
    every bootstrap: by a third with three seeds, so more seeds are better than this correction.

    Where at most `EXACT_USERS` users differ, p is also no smaller than that of the exact test over users: other seeds
    add no evidence.

    Args:
        base: `(seeds, users)` finite values of the reference model.
        other: `(seeds, users)` finite values of the model under test; the same users in the same order, and any number
            of seeds.
        n_resamples: Number of resamples, at least 1.
        confidence: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.

    Returns:
        The mean of other - base over seeds and users, with its interval and p-value; `n_changed` is the number of users
        whose values differ in the mean over seeds.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or `n_resamples` or `confidence` is out of range.

    Example:
        >>> ones, mixed = np.ones((2, 60)), np.stack([np.ones(60), np.zeros(60)])
        >>> seed_bootstrap(ones, mixed).p_value > 0.4  # half of the seeds see no difference at all
        True
    """
    check_resampling(n_resamples, confidence)
    of_users = paired_bootstrap(base.mean(axis=0), other.mean(axis=0), 1, confidence)
    means = _resampled(base, other, n_resamples, seed)
    rounding = 1e-12 * max(float(np.abs(base).max()), float(np.abs(other).max()))
    tail = min(int((means <= rounding).sum()), int((means >= -rounding).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (n_resamples + 1))
    if of_users.n_changed <= EXACT_USERS:
        p_value = max(p_value, of_users.p_value)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(of_users.difference, float(low), float(high), p_value, of_users.n_users, of_users.n_changed)


def _resampled(base: Values, other: Values, n_resamples: int, seed: int) -> Values:
    """Return the mean differences `(n_resamples,)` of drawn users and drawn seeds."""
    users, of_base, of_other = (np.random.default_rng([seed, number]) for number in range(3))
    n_users = base.shape[1]
    rows = max(1, _CELLS_AT_ONCE // n_users)
    parts = []
    for done in range(0, n_resamples, rows):
        n = min(rows, n_resamples - done)
        shares = users.multinomial(n_users, np.full(n_users, 1 / n_users), size=n) / n_users  # (n, users)
        parts.append(_of_drawn_seeds(shares @ other.T, of_other) - _of_drawn_seeds(shares @ base.T, of_base))
    return np.concatenate(parts)


def _of_drawn_seeds(means: Values, generator: np.random.Generator) -> Values:
    """Average as many seeds as there are, drawn with replacement, in each row of `(resamples, seeds)`."""
    drawn = generator.integers(means.shape[1], size=means.shape)
    return np.asarray(np.take_along_axis(means, drawn, axis=1).mean(axis=1))
