"""What the checks of a summary stage found, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mllm_srec.reports.safe_text import shown_text

MAX_SHOWN = 200
"""Letters of an example; the table of summaries has all of them."""


def print_quality(
    stage: str,
    quality: Mapping[str, int | float | None],
    examples: Mapping[str, Sequence[str]],
    random_weights: bool = False,
) -> None:
    """A table of numbers, then the texts that failed; fits into a terminal of 80 characters.

    Args:
        stage: `image`, `item` or `preference`.
        quality: Numbers by name, None where there was nothing to measure. Names with a slash are details, which
            `quality.json` has.
        examples: Texts by the name of the check that they fail. Nobody has read them: they are shown literally, on one
            line each, without anything that could steer a terminal.
        random_weights: True if the model that wrote them is untrained, which is said.
    """
    table = Table(
        title=f"summaries of the stage {stage}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("check")
    table.add_column("number", justify="right")
    for name, value in quality.items():
        if "/" not in name:
            table.add_row(name, _cell(value), style="yellow" if examples.get(name) else None)
    console = Console(soft_wrap=True)
    console.print(table)
    for name, texts in examples.items():
        for text in texts:
            console.print(Text(f"{name}: {shown_text(text, MAX_SHOWN)}"))
    if random_weights:
        console.print(Text(f"the {stage} summaries were written by a model of random weights: they say nothing"))


def _cell(value: int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
