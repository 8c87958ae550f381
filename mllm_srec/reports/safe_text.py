"""Untrusted text made safe for a terminal: one line, no control characters, shown literally."""

from __future__ import annotations

import unicodedata

from rich.console import Console


def one_line(text: str) -> str:
    r"""Return a text on one line, without control characters and marks of direction; may be empty.

    >>> one_line("a\n b\x1b[31m")
    'a b[31m'
    """
    return "".join(letter for letter in " ".join(text.split()) if unicodedata.category(letter)[0] != "C")


def visible(text: str) -> str:
    """Return a name on one line; `?` if nothing of it is visible."""
    return one_line(text) or "?"


def shortened(label: str, n: int = 28) -> str:
    """Return a label on one line of at most `n` characters, which leaves room for a figure.

    >>> shortened("abcdef", 4)
    'abc…'
    """
    plain = one_line(label)
    return plain if len(plain) <= n else f"{plain[: n - 1]}…"


def shown_text(text: str, max_characters: int) -> str:
    """Return a text on one line, without control characters, cut after some characters.

    Args:
        text: Any text. Print the result as `rich.text.Text` or with markup off, since it may hold brackets.
        max_characters: Largest number of characters.
    """
    clean = one_line(text).strip()
    if not clean:
        return "(nothing to see)"
    return clean if len(clean) <= max_characters else f"{clean[:max_characters]}..."


def wide_console() -> Console:
    """Return a console that breaks no line of a file or a pipe."""
    return Console(soft_wrap=True) if Console().is_terminal else Console(width=200, soft_wrap=True)
