"""Several runs against one: means, paired differences, and p-values corrected over the whole table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mllm_srec.metrics.significance import PairedDifference, holm, paired_bootstrap

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """One run under one metric, beside the base of the table.

    Attributes:
        run: Name of the run, or of several that differ in their seed only.
        metric: Such as `ndcg@10`.
        mean: Over users, of their values averaged over the seeds.
        seed_sd: Standard deviation (n - 1) of the means of the seeds; None for a single one.
        n_seeds: Runs behind the name.
        n_users: Users behind the mean.
        difference: To the base, user by user; None for the base itself.
        holm_p: Its p-value, corrected over all differences of the table; None for the base.
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
    values: Mapping[str, Mapping[str, Values]], n_resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> list[Compared]:
    """Compare every run with the first one, under every metric.

    Seeds of a run are averaged within each user before users are resampled: the interval and p speak of luck of the
    users drawn, `seed_sd` of luck of the seed. Holm's family is every difference of the table.

    Args:
        values: Run -> metric -> `(seeds, users)` finite values. Under one metric, all runs have the same users in the
            same order; another metric may have fewer of them.
        n_resamples: Resamples, at least 1.
        confidence: Of the intervals, in (0, 1).
        seed: Seed of the resampling, the same for every difference.

    Returns:
        Metric by metric, in the order of the first run; the base first.

    Raises:
        ValueError: If there are fewer than two runs, no metrics or other ones in a run, no seeds, other users, or a
            value is not finite.

    >>> rows = compare_with_first({"a": {"hr@5": np.zeros((1, 40))}, "b": {"hr@5": np.ones((1, 40))}})
    >>> [(row.run, row.mean, row.holm_p) for row in rows]
    [('a', 0.0, None), ('b', 1.0, 0.00019998000199980003)]
    """
    _check_table(values)
    base, *others = values
    averaged = {run: {metric: table.mean(axis=0) for metric, table in of.items()} for run, of in values.items()}
    differences = {
        (run, metric): paired_bootstrap(averaged[base][metric], averaged[run][metric], n_resamples, confidence, seed)
        for metric in values[base]
        for run in others
    }
    corrected = _holm({key: found.p_value for key, found in differences.items()})
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
    """Holm's correction for keys of two parts, which no joining of texts can mix up."""
    adjusted = holm({str(place): p for place, p in enumerate(p_values.values())})
    return dict(zip(p_values, adjusted.values(), strict=True))


def _seed_sd(values: Values) -> float | None:
    """Spread of the seeds' means of `(seeds, users)`."""
    return float(values.mean(axis=1).std(ddof=1)) if len(values) > 1 else None


def _check_table(values: Mapping[str, Mapping[str, Values]]) -> None:
    if len(values) < 2:
        raise ValueError(f"values: got {len(values)} runs ({', '.join(map(repr, values))}); give at least two.")
    metrics: Sequence[str] = list(next(iter(values.values())))
    for run, of in values.items():
        if not metrics or set(of) != set(metrics):
            raise ValueError(
                f"values: got metrics {list(of)} for {run!r} and {metrics} for the first run; all must have the same, "
                "at least one. Leave out what a run does not have."
            )
        for metric, table in of.items():
            if table.ndim != 2 or len(table) == 0:
                raise ValueError(
                    f"values: got shape {table.shape} for {metric!r} of {run!r}; it must be (seeds, users), at least "
                    "one seed. A single run is values[None]."
                )
