"""How results are split into strata: settings, rows of the table, and the rule that nothing is lost on the way.

Each split begins with the stratum `all`, and ends with `left out` where rows have no value: the counts between them add
up to that of `all`.
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
    """How results are split.

    Args:
        history_bins: Lowest number of liked items of each bin of contexts; begins with 0.
        like_bins: Lowest number of train likes of each bin of positives' items; begins with 0.
        popularity_bins: Bins of popularity in which negatives are matched.
        top_k: Cut-off of the recall of single positives.
        n_resamples: Resamples of the bootstrap over users.
        confidence: Of the intervals, in (0, 1).
        seed: Of the bootstrap.

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
        """Check the bins."""
        try:
            check_edges(self.history_bins, "history_bins")
            check_edges(self.like_bins, "like_bins")
        except ValueError as error:
            raise ConfigError(str(error)) from error
        for name in ("popularity_bins", "top_k", "n_resamples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}; it must be at least 1")

    def mean(self, values: Floats, user: Users) -> Estimate:
        """Mean over rows with its interval over users."""
        return clustered_mean(values, user, self.n_resamples, self.confidence, self.seed)

    def area(self, scores: Floats, positive: Mask, user: Users, weights: Floats | None = None) -> Estimate:
        """Pooled AUC with its interval over users, averaged over seeds.

        Args:
            scores: `(seeds, N)`.
            positive: `(N,)`.
            user: `(N,)`.
            weights: `(N,)`; None: all 1.
        """
        rows = [SortedRows.of(seed, positive) for seed in scores]
        own = np.ones(len(user)) if weights is None else weights

        def statistic(times: Floats) -> float:
            return float(np.mean([seed.auc(times * own)[0] for seed in rows]))

        return bootstrap(statistic, user, self.n_resamples, self.confidence, self.seed)


class StratumRow(NamedTuple):
    """One number of one stratum; None: there is none."""

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
"""Columns of `StratumRow`; `n` counts the `unit`: lists, positives or labelled targets."""


class Strata(NamedTuple):
    """How rows of one metric fall into strata.

    Attributes:
        analysis: Name of the split.
        metric: What is measured of the rows.
        unit: What the rows are.
        bins: `(N,)` place in `labels` of each row.
        labels: Names of the strata.
        known: `(N,)` whether a row has a value.
    """

    analysis: str
    metric: str
    unit: str
    bins: Ints
    labels: Sequence[str]
    known: Mask

    def rows(self, estimate: Callable[[Mask], Estimate]) -> Iterator[StratumRow]:
        """One row a stratum, from rows that have a value.

        Args:
            estimate: Mask of rows `(N,)` -> number.
        """
        for label, own in ((ALL, self.known), *self._strata()):
            yield stratum_row(self.analysis, label, self.metric, estimate(own), int(own.sum()), self.unit)
        yield from left_out(self.analysis, self.metric, int((~self.known).sum()), self.unit)

    def _strata(self) -> Iterator[tuple[str, Mask]]:
        for place, label in enumerate(self.labels):
            yield label, self.known & (self.bins == place)


def stratum_row(analysis: str, stratum: str, metric: str, estimate: Estimate, n: int, unit: str) -> StratumRow:
    """A row with what was found of its `n` lists, positives or targets."""
    value, low, high = (None if np.isnan(x) else x for x in (estimate.value, estimate.low, estimate.high))
    return StratumRow(analysis, stratum, metric, value, low, high, n, estimate.n_users, unit)


def left_out(analysis: str, metric: str, n: int, unit: str, of: str = "") -> list[StratumRow]:
    """A row that counts what has no value; none where there is nothing to count."""
    return [StratumRow(analysis, LEFT_OUT + of, metric, None, None, None, n, 0, unit)] if n else []
