"""Comparison of several runs with a base: means, paired differences, and p-values corrected over the whole table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mllm_srec.metrics.seed_bootstrap import seed_bootstrap
from mllm_srec.metrics.significance import PairedDifference, holm, paired_bootstrap

Resample = Literal["users", "users_and_seeds"]
"""What intervals and p-values account for: that other users, or also other trainings, could have been measured."""

Values = npt.NDArray[np.float64]

FINDING = 0.05
"""Largest corrected p-value that is reported as a finding."""

FEW = 30
"""Number of differing users below which the interval is too optimistic, and the p-value too unless it is exact."""


@dataclass(frozen=True)
class Compared:
    """One run under one metric, compared with the base of the table.

    Attributes:
        run: Name of the run, or of a group of runs that differ in their seed only.
        metric: Name of the metric, such as `ndcg@10`.
        mean: Mean over users of their values averaged over seeds.
        seed_sd: Standard deviation (n - 1) of the seeds' means; None for a single seed.
        n_seeds: Number of runs in the group.
        n_users: Number of users in the mean.
        difference: Paired difference to the base; None for the base itself.
        holm_p: P-value of the difference, corrected over all differences of the table; None for the base.
    """

    run: str
    metric: str
    mean: float
    seed_sd: float | None
    n_seeds: int
    n_users: int
    difference: PairedDifference | None
    holm_p: float | None


def compare_with_first(
    values: Mapping[str, Mapping[str, Values]],
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    resample: Resample = "users",
) -> list[Compared]:
    """Compare every run with the first one, under every metric.

    With `resample="users"` the seeds of a run are averaged within each user before users are resampled: interval and
    p-value describe the variance between users, `seed_sd` that between seeds. With `users_and_seeds` they describe
    both. Holm's family is every difference of the table.

    Args:
        values: Run -> metric -> `(seeds, users)` finite values. Under one metric, all runs have the same users in the
            same order; another metric may have fewer of them.
        n_resamples: Number of resamples, at least 1.
        confidence: Coverage of the intervals, in (0, 1).
        seed: Seed of the resampling, the same for every difference.
        resample: What is resampled.

    Returns:
        One entry per metric and run: metric by metric in the order of the first run, and the base first.

    Raises:
        ValueError: If there are fewer than two runs, a run has no seeds or not the first one's metrics and users, a
            value is not finite, or `n_resamples` or `confidence` is out of range.

    Example:
        >>> rows = compare_with_first({"a": {"hr@5": np.zeros((1, 40))}, "b": {"hr@5": np.ones((1, 40))}})
        >>> [(row.run, row.mean, row.holm_p is not None and row.holm_p < 0.05) for row in rows]
        [('a', 0.0, False), ('b', 1.0, True)]
    """
    _check_table(values)
    base, *others = values
    averaged = {run: {metric: table.mean(axis=0) for metric, table in tables.items()} for run, tables in values.items()}
    differences = {
        (run, metric): paired_bootstrap(averaged[base][metric], averaged[run][metric], n_resamples, confidence, seed)
        if resample == "users"
        else seed_bootstrap(values[base][metric], values[run][metric], n_resamples, confidence, seed)
        for metric in values[base]
        for run in others
    }
    corrected = _holm({key: difference.p_value for key, difference in differences.items()})
    return [
        Compared(
            run=run,
            metric=metric,
            mean=float(averaged[run][metric].mean()),
            seed_sd=_seed_sd(values[run][metric]),
            n_seeds=len(values[run][metric]),
            n_users=len(averaged[run][metric]),
            difference=differences.get((run, metric)),
            holm_p=corrected.get((run, metric)),
        )
        for metric in values[base]
        for run in values
    ]


def _holm(p_values: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Apply Holm's correction to p-values keyed by run and metric."""
    adjusted = holm({str(index): p for index, p in enumerate(p_values.values())})
    return dict(zip(p_values, adjusted.values(), strict=True))


def _seed_sd(values: Values) -> float | None:
    """Standard deviation of the seeds' means of `(seeds, users)`."""
    return float(values.mean(axis=1).std(ddof=1)) if len(values) > 1 else None


def _check_table(values: Mapping[str, Mapping[str, Values]]) -> None:
    if len(values) < 2:
        raise ValueError(f"values: {len(values)} runs ({', '.join(map(repr, values))}) are too few; give at least two")
    metrics: Sequence[str] = list(next(iter(values.values())))
    for run, tables in values.items():
        if not metrics or set(tables) != set(metrics):
            raise ValueError(
                f"values: metrics {list(tables)} of {run!r} and {metrics} of the first run must be the same, at least "
                "one; leave out metrics that a run does not have"
            )
        for metric, table in tables.items():
            if table.ndim != 2 or len(table) == 0:
                raise ValueError(
                    f"values: shape {table.shape} of {metric!r} of {run!r} must be (seeds, users), with at least one "
                    "seed; give a single run as values[None]"
                )
