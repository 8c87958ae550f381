"""A parser that answers a misspelt name with the nearest valid one."""

from __future__ import annotations

import difflib
import re
import sys
from typing import Any, NoReturn

import jsonargparse

_UNKNOWN_KEY = re.compile(r"""[Kk]ey ["']?([\w.]+)["']? is not expected|unrecognized arguments?: --([\w.]+)""")
_DOES_NOT_ACCEPT = re.compile(r"""does not accept (?:nested key|option) ["']?([\w.]+)["']?""")


class NearestNameMixin:
    """Adds "did you mean ...?" to the errors of a jsonargparse parser."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and the nearest valid name, and exit with status 2."""
        known = known_names(self)  # type: ignore[arg-type]
        name = _misspelt(message)
        near = nearest(name, known) if name else []
        hint = f"\n{name!r} is not known; did you mean {' or '.join(map(repr, near))}?" if near else ""
        prog = getattr(self, "prog", "mllm_srec")
        print(f"{prog}: error: {message.strip()}{hint}\nTry '{prog} --help'.", file=sys.stderr)
        sys.exit(2)


class Parser(NearestNameMixin, jsonargparse.ArgumentParser):
    """Parser of the commands that need no Lightning."""


def known_names(parser: jsonargparse.ArgumentParser) -> list[str]:
    """All dotted names that a parser accepts."""
    names: set[str] = set()
    for action in parser._actions:
        for name in [action.dest, *(option.lstrip("-") for option in action.option_strings)]:
            if re.fullmatch(r"[\w.]+", name or ""):
                names.add(name)
    return sorted(names)


def nearest(name: str, known: list[str]) -> list[str]:
    """Up to two valid names that are most like `name`; its last part counts when the whole does not help."""
    found = difflib.get_close_matches(name, known, n=2, cutoff=0.75)
    if found:
        return found
    last = {entry.rpartition(".")[2]: entry for entry in known}
    return [last[part] for part in difflib.get_close_matches(name.rpartition(".")[2], list(last), n=1, cutoff=0.7)]


def _misspelt(message: str) -> str | None:
    """The unknown name that an error message is about."""
    found = _UNKNOWN_KEY.search(message) or _DOES_NOT_ACCEPT.search(message)
    return next((group for group in found.groups() if group), None) if found else None


def plain(value: Any) -> Any:
    """A parsed namespace as nested dicts."""
    return value.as_dict() if isinstance(value, jsonargparse.Namespace) else value
