"""Short tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mllm_srec.reports.safe_text import wide_console
from mllm_srec.reports.tables.metric_words import headline_columns

_HEADERS = {"popularity": "popular", "retriever, best order": "retriever, best"}
"""Shorter names of reference columns."""

_HIDDEN = ("oracle, text", "oracle, image")
"""Reference columns that only `metrics.json` has: a terminal of 80 characters has no room for them."""


def print_prepared(folder: Path, rows: Sequence[tuple[str, str, str]], done_before: bool) -> None:
    """What `prepare` kept, dropped and could not use."""
    verb = "was prepared already, with the same settings" if done_before else "is prepared"
    table = Table(title=f"{folder} {verb}", title_justify="left")
    table.add_column("where")
    table.add_column("what")
    table.add_column("number", justify="right")
    for row in rows:
        table.add_row(*row)
    wide_console().print(table)


def print_prompts(report: Mapping[str, int]) -> None:
    """What building the prompts had to shorten, in a line or two.

    Args:
        report: Fields of `PromptReport`.
    """
    lines = [
        f"prompts: {report['n_contexts']:,} contexts, {report['n_without_history']:,} without history; "
        f"{report['n_without_picture']:,} items without a picture"
    ]
    if report["n_shortened"]:
        lines.append(
            f"{report['n_shortened']:,} contexts were too long for data.max_length: "
            f"{report['n_dropped_items']:,} of their oldest history items were left out"
        )
    if report["n_cut_histories"]:
        lines.append(f"{report['n_cut_histories']:,} of them had room for a part of the newest item only")
    if report["n_cut_texts"]:
        lines.append(f"{report['n_cut_texts']:,} item texts were cut at data.prompt.max_item_tokens")
    if report["n_cut_preferences"]:
        lines.append(f"{report['n_cut_preferences']:,} preferences were cut at data.prompt.max_preference_tokens")
    for line in lines:
        Console().print(line, markup=False, highlight=False)


def print_results(
    title: str,
    metrics: Mapping[str, Any],
    stage: str,
    references: Mapping[str, Mapping[str, float]],
    notes: Sequence[str],
) -> None:
    """Results of a stage beside reference columns; eight columns fit into a terminal of 80 characters.

    Args:
        title: Heading.
        metrics: Flat keys such as `test/auc`.
        stage: `val` or `test`.
        references: Name -> values by metric name without the stage: chance, popularity, ceilings.
        notes: Lines below the table.
    """
    references = {name: values for name, values in references.items() if name not in _HIDDEN}
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("this run", justify="right", style="bold")
    for reference in references:
        table.add_column(_HEADERS.get(reference, reference).replace(", ", "\n"), justify="right")
    for name in headline_columns():
        value = metrics.get(f"{stage}/{name}")
        if _number(value) is not None:
            table.add_row(name, _cell(value), *(_cell(values.get(name)) for values in references.values()))
    console = wide_console()
    console.print(table)
    n_users, n_pairs = (metrics.get(f"{stage}/{name}") for name in ("n_users", "n_pairs"))
    counted = f"measured on the lists of {n_users} users and on {n_pairs} labelled targets"
    for note in (counted, *probability_notes(metrics, stage), *notes):
        console.print(note, style="yellow" if "random" in note else None, markup=False, highlight=False)


def probability_notes(metrics: Mapping[str, Any], stage: str) -> list[str]:
    """A line on whether the stated probabilities can be believed; none where a model states none."""
    names = ("mean_probability", "share_liked", "ece", "yes_no_mass", "temperature")
    mean, liked, error, mass, temperature = (_number(metrics.get(f"{stage}/{name}")) for name in names)
    if mean is None or liked is None or error is None:
        return []
    best = "none is best" if temperature is None else f"{temperature:.2f} would be best"
    left = "" if mass is None else f"; {mass:.4f} of the vocabulary's probability is on Yes and No"
    return [
        f"probability of a like: {mean:.3f} on average where {liked:.3f} are liked, calibration error {error:.3f}, "
        f"temperature 1 where {best}{left}"
    ]


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not math.isnan(value)
    return float(value) if usable else None


def _cell(value: Any) -> str:
    number = _number(value)
    return "-" if number is None else f"{number:.4f}"
