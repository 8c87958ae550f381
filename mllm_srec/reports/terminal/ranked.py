"""The answer of `rank` on the terminal: a user's history and preference, and the ranked items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from mllm_srec.reports.safe_text import shown_text, wide_console
from mllm_srec.reports.terminal.plain_table import plain_table

MAX_TITLE = 70
MAX_ID = 40
MAX_PREFERENCE = 2000
MAX_HISTORY = 10
"""Number of the latest items of a history that are shown."""

HELD_OUT = "* the user did like it: held out in the test split, so that neither training nor the history above says so"
NEW = "+ a new item, which the data set does not hold"


def print_person(
    user_id: str,
    history: Sequence[tuple[str, str]],
    preference: str | None,
    n_since: int,
    n_dropped: int,
) -> None:
    """Print what the prompt says about a user.

    Args:
        user_id: Id of the user.
        history: Ids and titles of liked items, oldest first.
        preference: The stored preference, if there is one.
        n_since: Number of items at the end of the history that are newer than the preference.
        n_dropped: Number of history lines for which the prompt had no room.
    """
    console = wide_console()
    shown = history[-MAX_HISTORY:]
    left_out = f", the latest {len(shown)}" if len(shown) < len(history) else ""
    known = f"{len(history):,} liked items{left_out}, oldest first" if history else "no history"
    console.print(Text(f"user {shown_text(user_id, MAX_ID)}: {known}", style="bold"))
    first_since = len(shown) - n_since
    for index, (item_id, title) in enumerate(shown):
        mark = "since" if preference is not None and index >= first_since else ""
        console.print(Text(f"  {mark:<6}{shown_text(item_id, MAX_ID):<14} {shown_text(title, MAX_TITLE)}"))
    if preference is not None:
        console.print(Text(f"preference, without the items marked since: {shown_text(preference, MAX_PREFERENCE)}"))
    if n_dropped:
        console.print(Text(f"{n_dropped:,} of the oldest items did not fit into the prompt (data.max_length)"))


def print_list(rows: Sequence[Mapping[str, Any]], source: str, n_ranked: int) -> None:
    """Print the ranked items.

    Args:
        rows: Rows of a ranked list, the best first; new items of lower ranks may follow.
        source: Description of the items that were ranked.
        n_ranked: Number of ranked items.
    """
    n_best = sum(row["rank"] == rank for rank, row in enumerate(rows, start=1))
    further = ", and the new ones" if n_best < len(rows) else ""
    ranked = f"{n_ranked:,} ranked items ({source}; nothing that the user met before)"
    table = plain_table(f"the best {n_best:,} of {ranked}{further}")
    for name, justify in (("rank", "right"), ("", "left"), ("item", "left"), ("title", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("probability", justify="right")
    table.add_column("score", justify="right")
    for row in rows:
        texts = [Text(shown_text(row["item_id"], MAX_ID)), Text(shown_text(row["title"], MAX_TITLE))]
        table.add_row(str(row["rank"]), _mark(row), *texts, f"{row['probability']:.4f}", f"{row['score']:.3f}")
    console = wide_console()
    console.print(table)
    for note, column in ((HELD_OUT, "held_out"), (NEW, "new")):
        if any(row[column] for row in rows):
            console.print(Text(note))


def _mark(row: Mapping[str, Any]) -> str:
    """Return the marks of `HELD_OUT` and `NEW`."""
    return ("*" if row["held_out"] else "") + ("+" if row["new"] else "")
