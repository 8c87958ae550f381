"""Short tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mllm_srec.types import EVAL_TOP_K

SHOWN = ["auc", "auc_disliked", "user_auc", *(f"{name}@{k}" for name in ("hr", "ndcg", "recall") for k in EVAL_TOP_K)]


def print_prepared(folder: Path, rows: Sequence[tuple[str, str, str]], done_before: bool) -> None:
    """What `prepare` kept, dropped and could not use."""
    verb = "was prepared already, with the same settings" if done_before else "is prepared"
    table = Table(title=f"{folder} {verb}", title_justify="left")
    table.add_column("where")
    table.add_column("what")
    table.add_column("number", justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


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
    if report["n_cut_texts"]:
        lines.append(f"{report['n_cut_texts']:,} item texts were cut at data.prompt.max_item_tokens")
    for line in lines:
        Console().print(line, markup=False, highlight=False)


def print_results(
    title: str,
    metrics: Mapping[str, Any],
    stage: str,
    references: Mapping[str, Mapping[str, float]],
    notes: Sequence[str],
) -> None:
    """Results of a stage beside reference rows.

    Args:
        title: Heading.
        metrics: Flat keys such as `test/auc`.
        stage: `val` or `test`.
        references: Name -> values by metric name without the stage: chance, popularity, ceilings.
        notes: Lines below the table.
    """
    names = [name for name in SHOWN if _number(metrics.get(f"{stage}/{name}")) is not None]
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    table.add_row("this run", *(_cell(metrics.get(f"{stage}/{name}")) for name in names), style="bold")
    for reference, values in references.items():
        table.add_row(reference, *(_cell(values.get(name)) for name in names))
    width = 24 + 15 * len(names)
    console = Console(width=None if Console().is_terminal else width)
    console.print(table)
    for note in notes:
        console.print(note, style="yellow" if "random" in note else None, markup=False, highlight=False)


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not math.isnan(value)
    return float(value) if usable else None


def _cell(value: Any) -> str:
    number = _number(value)
    return "-" if number is None else f"{number:.4f}"
