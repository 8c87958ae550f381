"""Results of the stages before training, for the terminal: data set, prompts and summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mllm_srec.reports.safe_text import shortened, shown_text
from mllm_srec.reports.terminal.plain_table import plain_table, shown_number

MAX_SHOWN = 200
"""Characters of an example; the table of summaries has all of them."""

PAGE = 80
"""Width of the table of a preparation."""

MAX_REASON, MAX_ROW, MAX_NUMBER = 200, 100, 22
"""Characters of a reason, of an example from a raw file, and of a number or hash; the report has all of them."""


def print_prepared(folder: Path, rows: Sequence[tuple[str, str, str]], done_before: bool) -> None:
    """Print what `prepare` kept, dropped and could not use; fits into a terminal of 80 characters.

    Args:
        folder: Folder of the data set.
        rows: Stage, reason and number of each line; texts of raw files among them are untrusted.
        done_before: True if the data set was already there.
    """
    verb = "was already prepared with the same settings" if done_before else "is prepared"
    table = plain_table(f"{folder} {verb}")
    table.expand = True  # as wide as its title
    table.add_column("where")
    table.add_column("what", overflow="fold")
    table.add_column("number", justify="right")
    for stage, what, number in rows:
        shown = Text(shown_text(what, MAX_REASON if number else MAX_ROW), style="" if number else "dim")
        table.add_row(stage, shown, shortened(number, MAX_NUMBER))
    Console(width=min(Console().width, PAGE) if Console().is_terminal else PAGE).print(table)


def print_prompts(report: Mapping[str, int]) -> None:
    """Print what the prompts leave out, in a few lines.

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
        lines.append(f"{report['n_cut_histories']:,} of them had room for only a part of the newest item")
    if report["n_cut_texts"]:
        lines.append(f"{report['n_cut_texts']:,} item texts were cut at data.prompt.max_item_tokens")
    if report["n_cut_preferences"]:
        lines.append(f"{report['n_cut_preferences']:,} preferences were cut at data.prompt.max_preference_tokens")
    for line in lines:
        Console().print(line, markup=False, highlight=False)


def print_quality(
    stage: str,
    quality: Mapping[str, int | float | None],
    examples: Mapping[str, Sequence[str]],
    random_weights: bool = False,
    doubts: Sequence[str] = (),
) -> None:
    """Print the checks of a summary stage, then texts that failed them; fits into a terminal of 80 characters.

    Counts of zero, which are what one hopes for, share one line.

    Args:
        stage: `image`, `item` or `preference`.
        quality: Numbers by name, None where there was nothing to measure. Names with a slash are details, which only
            `quality.json` has.
        examples: Untrusted texts by the name of the check that they fail, shown literally, on one line each.
        random_weights: True if the model that wrote them is untrained; a line then says so.
        doubts: Sentences on why the texts of the stage are hardly of use.
    """
    table = plain_table(f"summaries of the stage {stage}")
    table.add_column("check")
    table.add_column("number", justify="right")
    shown = {name: value for name, value in quality.items() if "/" not in name}
    none = [name for name, value in shown.items() if value == 0 and isinstance(value, int)]
    for name, value in shown.items():
        if name not in none:
            table.add_row(name, shown_number(value), style="yellow" if examples.get(name) else None)
    console = Console(soft_wrap=True)
    console.print(table)
    if none:
        console.print(Text(f"none found: {', '.join(none)}"), soft_wrap=False)
    for name, texts in examples.items():
        for text in texts:
            console.print(Text(f"{name}: {shown_text(text, MAX_SHOWN)}"))
    for doubt in doubts:
        console.print(Text(f"warning: {stage} summaries: {shown_text(doubt, 2 * MAX_SHOWN)}", style="yellow"))
    if random_weights:
        console.print(Text(f"a model with random weights wrote the {stage} summaries: they mean nothing"))
