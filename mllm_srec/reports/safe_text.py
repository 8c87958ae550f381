"""Texts that nobody has read, on a terminal: shown literally, on one line, without anything that could steer it."""

from __future__ import annotations

import unicodedata

from rich.console import Console


def one_line(text: str) -> str:
    """A text on one line, without what could steer a terminal or write from right to left; may be empty."""
    return "".join(letter for letter in " ".join(text.split()) if unicodedata.category(letter)[0] != "C")


def shortened(label: str, n: int = 28) -> str:
    """A label on one line of at most `n` letters, which leaves room for a figure."""
    plain = one_line(label)
    return plain if len(plain) <= n else f"{plain[: n - 1]}…"


def shown_text(text: str, max_letters: int) -> str:
    """A text on one line, without control characters and half letters.

    Args:
        text: Any text. To be printed as `rich.text.Text` or with markup off, since brackets stay.
        max_letters: A longer one is cut there.
    """
    clean = one_line(text).strip()
    if not clean:
        return "(nothing to see)"
    return clean if len(clean) <= max_letters else f"{clean[:max_letters]}..."


def wide_console() -> Console:
    """A console that breaks no line of a file or pipe."""
    return Console(soft_wrap=True) if Console().is_terminal else Console(width=200, soft_wrap=True)
