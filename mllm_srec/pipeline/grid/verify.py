"""Compare cells that were run again with the stored ones: which numbers are equal, and how far the others are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mllm_srec.pipeline.grid.plan import Cell
from mllm_srec.pipeline.grid.results import CellRecord, place
from mllm_srec.reports.tables.metric_words import find_metric
from mllm_srec.types import ConfigError

TOLERANCE = 1e-3
"""Largest difference of a number that is still the same result.

Where a model was trained, a mean over lists may also differ by what one list adds to it: sums in another order (other
threads, another processor) lead to other roundings, which training carries on. `docs/experiments.md` says what was
measured.
"""

EQUAL = 1e-12
"""Largest difference that the order of a sum alone makes, which counts as none."""

MUST_BE_EQUAL = ("test/candidates_hash", "test/evaluator", "test/m", "test/n_users", "test/n_pairs", "test/split")
"""Results that say what was measured: a difference means other data, and not another rounding."""

NO_LONGER_COUNTED = "n_user_auc"
"""Last part of the keys of a count that earlier versions stored, and that nothing needs any more."""

COST_AND_COUNTS = ("fit/", "test/tokens", "test/summaries/tokens")
"""Beginnings of the keys that are no results."""


@dataclass(frozen=True)
class Verdict:
    """How a cell that was run again compares with the stored one.

    Attributes:
        name: Row, data set and seed.
        n_equal: Number of results that are equal to the last digit.
        differences: Key -> absolute difference of the other results, the largest first.
        other: Lines on what must be equal and is not.
        allowed: Key -> largest difference that passes.
    """

    name: str
    n_equal: int
    differences: Mapping[str, float]
    other: tuple[str, ...]
    allowed: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """True if the same was measured and no result differs by more than it may."""
        return not self.other and all(by <= self.allowed[key] for key, by in self.differences.items())

    @property
    def lines(self) -> list[str]:
        """Verdict for the terminal, the largest differences named."""
        n, far = len(self.differences), [key for key, by in self.differences.items() if by > self.allowed[key]]
        head = (
            f"{self.name}: {'the same' if self.passed else 'NOT the same'}, {self.n_equal} results equal to the digit"
        )
        if n:
            key, by = next(iter(self.differences.items()))
            head += f", {n} differ, most of all {key} by {by:.2g} (allowed {self.allowed[key]:.2g})"
        return [head, *(f"  {line}" for line in self.other), *(f"  {key}: {self.differences[key]:.2g}" for key in far)]


def compare_records(
    again: Sequence[CellRecord], stored: Sequence[CellRecord], tolerance: float = TOLERANCE
) -> list[Verdict]:
    """Compare cells with stored cells of the same row, data set and seed.

    Args:
        again: Cells that were run again, each of which passed `check_stored`.
        stored: Cells of `read_records`.
        tolerance: Largest difference that passes, see `TOLERANCE`.
    """
    known = {place(record): record for record in stored}
    return [_verdict(record, known[place(record)], tolerance) for record in again]


def _verdict(again: CellRecord, stored: CellRecord, tolerance: float) -> Verdict:
    new, old = again["metrics"], stored["metrics"]
    other = [
        f"{key}: {old.get(key)!r} is stored, now {new.get(key)!r}"
        for key in MUST_BE_EQUAL
        if key in old and old[key] != new.get(key)
    ]
    if again["config_hash"] != stored["config_hash"]:
        other.append("the settings of this cell have changed since it was stored")
    other += [f"{key}: {_shown(old, key)} is stored, now {_shown(new, key)}" for key in _defined_in_one(old, new)]
    shared = [key for key in old if key in new and _is_result(key, old[key]) and _is_result(key, new[key])]
    by = {key: abs(float(new[key]) - float(old[key])) for key in shared}
    if not shared:
        other.append("the two have no result in common")
    apart = dict(sorted(((key, value) for key, value in by.items() if value > EQUAL), key=lambda pair: -pair[1]))
    name = f"{again['row']} on {again['data_set']}, seed {again['seed']}"
    allowed = {key: _allowed(key, new, tolerance) for key in apart}
    return Verdict(name, len(shared) - len(apart), apart, tuple(other), allowed)


def check_stored(cells: Sequence[Cell], stored: Sequence[CellRecord]) -> None:
    """Check that every cell has a stored one to be compared with, before it is run again.

    Args:
        cells: Cells that will run.
        stored: Cells of `read_records`.

    Raises:
        ConfigError: There is no such stored cell.
    """
    known = {place(record) for record in stored}
    for cell in cells:
        if (cell.data_set, cell.row, cell.seed) not in known:
            raise ConfigError(
                f"verify: nothing is stored of row {cell.row!r}, data set {cell.data_set!r}, seed {cell.seed}; there "
                f"are {', '.join(sorted({str(key[1]) for key in known}))} on "
                f"{', '.join(sorted({str(key[0]) for key in known}))} with seeds "
                f"{', '.join(map(str, sorted({key[2] for key in known})))}"
            )


def _defined_in_one(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the stored results that are numbers in one of two cells only: the other lacks them, or holds null."""
    odd = [key for key in old if _is_result(key, old[key]) != _is_result(key, new.get(key))]
    return [key for key in odd if key in new or not key.endswith(NO_LONGER_COUNTED)]


def _shown(metrics: Mapping[str, Any], key: str) -> str:
    return repr(metrics[key]) if key in metrics else "missing"


def _allowed(key: str, metrics: Mapping[str, Any], tolerance: float) -> float:
    """Return how far a result may differ: of a trained model, a mean over lists by one list."""
    split, _, name = key.partition("/")
    metric, n_lists = find_metric(name), metrics.get(f"{split}/n_users")
    if "fit/steps" not in metrics or metric is None or not metric.per_user or not n_lists:
        return tolerance
    return max(tolerance, 1 / float(n_lists))


def _is_result(key: str, value: Any) -> bool:
    """Return True for numbers that say how good a model is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return is_number and not key.startswith(COST_AND_COUNTS)
