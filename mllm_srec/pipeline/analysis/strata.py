"""Strata of results: their settings, the rows of their table, and the counts that show that nothing was lost.

Each split begins with the stratum `all`, whose count is the sum of those of its strata, and ends with `left out`, the
count of rows without a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_srec.metrics.bins import Ints, check_edges
from mllm_srec.metrics.clustered import Estimate, Floats, bootstrap, clustered_mean
from mllm_srec.metrics.weighted_auc import SortedRows
from mllm_srec.types import ConfigError

Mask = npt.NDArray[np.bool_]
Users = npt.NDArray[np.str_]
ALL, LEFT_OUT = "all", "left out"


@dataclass(frozen=True)
class StrataSettings:
    """Settings of the split into strata.

    Args:
        history_bins: Lowest number of liked items of each bin of contexts; begins with 0.
        like_bins: Lowest number of train likes of each bin of positives' items; begins with 0.
        popularity_bins: Number of popularity bins in which negatives are matched.
        top_k: Cut-off of the recall of single positives.
        n_resamples: Number of resamples of the bootstrap over users.
        confidence: Confidence level of the intervals, in (0, 1).
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: A setting is out of range.
    """

    history_bins: tuple[int, ...] = (0, 1, 3, 6, 11, 21)
    like_bins: tuple[int, ...] = (0, 1, 3, 6, 11, 21)
    popularity_bins: int = 20
    top_k: int = 10
    n_resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Check bins and counts."""
        try:
            check_edges(self.history_bins, "history_bins")
            check_edges(self.like_bins, "like_bins")
        except ValueError as error:
            raise ConfigError(str(error)) from error
        for name in ("popularity_bins", "top_k", "n_resamples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1; give a positive number")

    def mean(self, values: Floats, user: Users) -> Estimate:
        """Return the mean over rows with its interval over users."""
        return clustered_mean(values, user, self.n_resamples, self.confidence, self.seed)

    def area(self, scores: Floats, positive: Mask, user: Users, weights: Floats | None = None) -> Estimate:
        """Return the pooled AUC, averaged over seeds, with its interval over users.

        Args:
            scores: Scores `(seeds, N)`.
            positive: Labels `(N,)`, True for positives.
            user: Users of the rows `(N,)`.
            weights: Weights of the rows `(N,)`; None: all 1.
        """
        rows = [SortedRows.of(seed, positive) for seed in scores]
        weight = np.ones(len(user)) if weights is None else weights

        def statistic(times: Floats) -> float:
            return float(np.mean([seed.auc(times * weight)[0] for seed in rows]))

        return bootstrap(statistic, user, self.n_resamples, self.confidence, self.seed)


class StratumRow(NamedTuple):
    """Value of one metric in one stratum; None: undefined."""

    analysis: str
    stratum: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    n_users: int
    unit: str


ROW_SCHEMA = {
    **dict.fromkeys(("analysis", "stratum", "metric"), pl.String),
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    **dict.fromkeys(("n", "n_users"), pl.Int64),
    "unit": pl.String,
}
"""Columns of `StratumRow`; `n` is the number of `unit`s: lists, positives or labelled targets."""


class Strata(NamedTuple):
    """Assignment of the rows of one metric to strata.

    Attributes:
        analysis: Name of the analysis.
        metric: Name of the metric.
        unit: Name of the rows' unit.
        bins: `(N,)` index in `labels` of each row.
        labels: Names of the strata.
        defined: `(N,)` True if the row has a value.
    """

    analysis: str
    metric: str
    unit: str
    bins: Ints
    labels: Sequence[str]
    defined: Mask

    def rows(self, estimate: Callable[[Mask], Estimate]) -> Iterator[StratumRow]:
        """Yield one row per stratum, estimated from the rows that have a value.

        Args:
            estimate: Mask of rows `(N,)` -> estimate.
        """
        for label, mask in ((ALL, self.defined), *self._strata()):
            yield stratum_row(self.analysis, label, self.metric, estimate(mask), int(mask.sum()), self.unit)
        yield from left_out(self.analysis, self.metric, int((~self.defined).sum()), self.unit)

    def _strata(self) -> Iterator[tuple[str, Mask]]:
        for index, label in enumerate(self.labels):
            yield label, self.defined & (self.bins == index)


def stratum_row(analysis: str, stratum: str, metric: str, estimate: Estimate, n: int, unit: str) -> StratumRow:
    """Make a row of an estimate from `n` lists, positives or targets."""
    value, low, high = (None if np.isnan(x) else x for x in (estimate.value, estimate.low, estimate.high))
    return StratumRow(analysis, stratum, metric, value, low, high, n, estimate.n_users, unit)


def left_out(analysis: str, metric: str, n: int, unit: str, of: str = "") -> list[StratumRow]:
    """Make a row that counts the units without a value; no row if there are none."""
    return [StratumRow(analysis, LEFT_OUT + of, metric, None, None, None, n, 0, unit)] if n else []
