"""The look of all tables on the terminal: a bold title on the left, a line below the headings, no other lines."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mllm_srec.reports.safe_text import visible


def plain_table(title: str) -> Table:
    """Return an empty table.

    Args:
        title: Heading, an untrusted text.
    """
    return Table(
        title=Text(visible(title)), title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )


def shown_number(value: float | None) -> str:
    """Return a number as a table shows it: counts with separators, else four decimals; `-` for None and NaN.

    >>> shown_number(12345), shown_number(0.5), shown_number(None)
    ('12,345', '0.5000', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
