"""The words of a command line as settings: every place that looks at what was typed cuts them here.

A setting is typed as `--name value` or `--name=value`; a word that begins with a dash is no value of the one before.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

import yaml

Flag = tuple[str, str, tuple[str, ...]]
"""Name without leading dashes, value (empty if there is none), and the words that say so."""


def flags(arguments: Sequence[str]) -> Iterator[Flag]:
    """Yield the flags of a command line in their order; words that belong to none are left out.

    >>> list(flags(["--a.b", "1", "--c=d", "-e"]))
    [('a.b', '1', ('--a.b', '1')), ('c', 'd', ('--c=d',)), ('e', '', ('-e',))]
    """
    for name, value, words in _parts(arguments):
        if name:
            yield name, value, words


def without_flags(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """Return a command line without the flags of these names, or below them, and their values.

    >>> without_flags(["--a.b", "1", "--c=d", "-e"], ["a", "e"])
    ['--c=d']
    """
    kept: list[str] = []
    for name, _, words in _parts(arguments):
        plain = name.rstrip("+")
        if not name or not any(plain == entry or plain.startswith(f"{entry}.") for entry in names):
            kept += words
    return kept


def typed_names(arguments: Sequence[str]) -> list[str]:
    """Return the dotted names of the settings on a command line; a section in braces gives those of its keys.

    >>> typed_names(["--model", "{lr: 1, lora: {r: 2}}", "--name=a"])
    ['model.lr', 'model.lora.r', 'name']
    """
    found: list[str] = []
    for name, value, _ in flags(arguments):
        section = mapping(value)
        found += [name] if section is None else _below(name, section)
    return found


def mapping(value: str) -> dict[str, object] | None:
    """Return a value that is written as a mapping in braces; None if it is none, or cannot be read."""
    if not value.lstrip().startswith("{"):
        return None
    try:
        content = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _below(prefix: str, section: dict[str, object]) -> list[str]:
    names: list[str] = []
    for key, value in section.items():
        name = f"{prefix}.{key}"
        names += _below(name, value) if isinstance(value, dict) and value else [name]
    return names


def _parts(arguments: Sequence[str]) -> Iterator[Flag]:
    """Yield flags, and other words with an empty name."""
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or not word.strip("-"):
            yield "", word, (word,)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if equals or not words or _is_flag(words[0]):
            yield name, value, (word,)
        else:
            following = words.pop(0)
            yield name, following, (word, following)


def _is_flag(word: str) -> bool:
    """Return True for a word that begins a flag, and not for a negative number."""
    return word.startswith("-") and re.match(r"-\.?\d", word) is None and word.strip("-") != ""
