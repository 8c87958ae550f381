"""Results of a run beside what they are compared with, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mllm_srec.reports.safe_text import wide_console
from mllm_srec.reports.tables.metric_words import headline_columns, shown_cut_offs
from mllm_srec.reports.terminal.plain_table import plain_table, shown_number

_HEADERS = {"popularity": "popular", "retriever, best order": "retriever, best", "hindsight, both": "later, both"}
"""Shorter names of reference columns."""

_HIDDEN = (
    *("oracle, text", "oracle, image", "hindsight, text", "hindsight, image"),
    *("averaging, text", "averaging, image", "shuffled, both"),
)
"""Reference columns that only `metrics.json` has: a terminal of 80 characters has no room for them."""


def print_results(
    title: str,
    metrics: Mapping[str, Any],
    split: str,
    references: Mapping[str, Mapping[str, float]],
    notes: Sequence[str],
    n_drawn: int | None = None,
) -> None:
    """Print results of a split beside reference columns; eight columns fit into a terminal of 80 characters.

    Args:
        title: Heading.
        metrics: Results by key, such as `test/auc`.
        split: `val` or `test`.
        references: Values by metric of chance, popularity and ceilings; their metrics are named without the split.
        notes: Lines below the table.
        n_drawn: Number of drawn candidates of a list; cut-offs that cover them all are not shown. None: not drawn.
    """
    references = {name: values for name, values in references.items() if name not in _HIDDEN}
    table = plain_table(title)
    table.add_column("")
    table.add_column("this run", justify="right", style="bold")
    for reference in references:
        table.add_column(_HEADERS.get(reference, reference).replace(", ", "\n"), justify="right")
    for name in headline_columns(shown_cut_offs({**metrics, f"{split}/m": n_drawn}, split)):
        value = _number(metrics.get(f"{split}/{name}"))
        if value is not None:
            others = [_number(values.get(name)) for values in references.values()]
            table.add_row(name, shown_number(value), *map(shown_number, others))
    console = wide_console()
    console.print(table)
    n_users, n_pairs = (metrics.get(f"{split}/{name}") for name in ("n_users", "n_pairs"))
    counted = f"measured on the lists of {n_users} users and on {n_pairs} labelled targets"
    if alike := metrics.get(f"{split}/n_without_negatives"):
        counted += f"; {alike} lists without negatives, in which every model scores 1, are left out"
    for note in (counted, *probability_notes(metrics, split), *notes):
        console.print(note, style="yellow" if "random" in note else None, markup=False, highlight=False)


def probability_notes(metrics: Mapping[str, Any], split: str) -> list[str]:
    """Return a line on how well the stated probabilities are calibrated; none for a model that states none.

    Args:
        metrics: Results by key, such as `test/ece`.
        split: `val` or `test`.
    """
    names = ("mean_probability", "share_liked", "ece", "yes_no_mass", "temperature")
    mean, liked, error, mass, temperature = (_number(metrics.get(f"{split}/{name}")) for name in names)
    if mean is None or liked is None or error is None:
        return []
    best = "none is best" if temperature is None else f"{temperature:.2f} would be best"
    left = "" if mass is None else f"; {mass:.4f} of the vocabulary's probability is on Yes and No"
    return [
        f"probability of a like: {mean:.3f} on average where {liked:.3f} are liked, calibration error {error:.3f}, "
        f"temperature 1 where {best}{left}"
    ]


def _number(value: Any) -> float | None:
    """Return a value as a float; None for a text, a missing value or NaN."""
    usable = isinstance(value, int | float) and not math.isnan(value)
    return float(value) if usable else None
