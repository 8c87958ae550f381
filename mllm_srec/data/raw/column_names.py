"""Look-up of the columns that settings name; an error says what the first line tells about the file's format."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mllm_srec.data.raw.blocks import show_line
from mllm_srec.types import DataError, did_you_mean

MAX_NAMES = 12
"""Most column names that an error lists."""

_SEPARATORS = ("::", "\t", ";", "|", ",", " ")


def check_columns(
    path: Path, columns: Mapping[str, str], available: Sequence[str], first_line: str = "", separator: str = ""
) -> list[str]:
    """Return the requested column names without duplicates.

    Args:
        path: File that the columns are of.
        columns: Setting -> name of the column it requests.
        available: Columns that the file has, in order.
        first_line: The line that names the columns, of a text table that has one.
        separator: Separator by which it was split; empty for other tables.

    Raises:
        DataError: A column is not available or not unique; the message names it, its setting, the most similar column,
            and what the first line looks like if it names no columns.
    """
    for setting, column in columns.items():
        if column not in available:
            raise DataError(
                f"{path}: no column {column!r} among {_listed(available)}; "
                + (
                    _format_hint(first_line, available, separator, next(iter(columns)))
                    or _name_hint(setting, column, available, separator)
                )
            )
        if list(available).count(column) > 1:
            raise DataError(
                f"{path}: {list(available).count(column)} columns are called {column!r}, which "
                f"prepare.columns.{setting} names; rename all but one"
            )
    return list(dict.fromkeys(columns.values()))


def guess_separator(line: str, besides: str = "") -> str | None:
    """Return the separator that seems to divide a line, other than `besides`; None if it has none."""
    counts = {
        mark: line.count(mark) for mark in _SEPARATORS if mark != besides and (mark != " " or " " in line.strip())
    }
    return max(counts, key=lambda mark: (counts[mark] > 0, mark != " ", counts[mark])) if any(counts.values()) else None


def looks_like_data(names: Sequence[str]) -> bool:
    """True if a number is among what should be column names."""
    return any(name.replace(".", "", 1).replace("-", "", 1).isdigit() for name in names)


def by_number(setting: str) -> str:
    """Return the words about a table without a line of names, with one of its settings as the example."""
    return f"prepare.columns.header: false, with columns by number ({setting}: 1)"


def _format_hint(first_line: str, available: Sequence[str], separator: str, setting: str) -> str:
    """Say what the first line of a text table looks like; "" if it may well name columns."""
    if not first_line:
        return ""
    if first_line.lower().startswith("sep="):
        return (
            "the first line is a spreadsheet's note of its separator; delete it and set prepare.columns.separator: "
            f"{first_line[4:5]!r}"
        )
    if first_line.startswith(("{", "[")):
        return "the file seems to hold JSON; name it .jsonl (one object a line) or .json"
    if first_line.startswith("<"):
        return "the file seems to be a page of the web, in place of a download; get the file again"
    other = guess_separator(first_line, besides=separator) if len(available) == 1 else None
    if other is not None:
        parts = [part.strip() for part in first_line.split(other)]
        number = f", and {by_number(setting)}" if looks_like_data(parts) else ""
        return f"the file seems to be separated by {other!r}; set prepare.columns.separator: {other!r}{number}"
    if looks_like_data(available):
        return f"the first line looks like a row; if no line names the columns, set {by_number(setting)}"
    return ""


def _name_hint(setting: str, column: str, available: Collection[str], separator: str) -> str:
    by_lower = {name.lower(): name for name in available}
    if separator and all(name.isdigit() for name in available):
        return (
            f"with prepare.columns.header: false, set prepare.columns.{setting} to a number from 1 to {len(available)}"
        )
    first = " (the first line must name the columns, else set prepare.columns.header: false)" if separator else ""
    near = did_you_mean(column.lower(), by_lower, cutoff=0.5)
    return f"set prepare.columns.{setting} to one of these{first}{near}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(show_line(name, 40)) for name in list(names)[:MAX_NAMES])
    return shown + (f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else "")
