"""Messages of jsonargparse in our words: which setting, which value, what is accepted, and how to write it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mllm_srec.types import did_you_mean

_KEY = re.compile(r'Parser key "([\w.]+)":')
_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: .*)?$", re.MULTILINE)
_REASON = re.compile(r"^ *- ", re.MULTILINE)
_VALUE = re.compile(r"(?:Got value|Given value): (.*)")
_ADDED = re.compile(r"unrecognized arguments?: --([\w.]+)\+")
_STRAY = re.compile(r"unrecognized arguments?: ([^-\s]\S*)")
_NO_MAPPING = re.compile(r"""Parser key "([\w.]+)":\s+Unable to load config ['"](.*?)['"]""")
_OPTIONAL = re.compile(
    r'Parser key "(?P<key>[\w.]+)":\n.*Union subtypes.*  Errors:\n'
    r" *(?P<reason>- .*)\n *- Expected a <class 'NoneType'>.*",
    re.DOTALL,
)
_VARIABLE = re.compile(r"\$\{[^}]*\}")

WORDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'tuple'>": "a list",
    "<class 'list'>": "a list",
    "<class 'dict'>": "a mapping",
    "<class 'NoneType'>": "null",
}
"""What is accepted, by the name that jsonargparse gives it."""


def explained(message: str, known: list[str]) -> str:
    """Say in our words what an error message of the parser says; messages of other kinds stay as they are.

    Args:
        message: Message of jsonargparse.
        known: Dotted names that the parser accepts.
    """
    if (added := _ADDED.search(message)) and added[1] in known:
        return (
            f"{added[1]}: takes no += (trainer.callbacks and data.cut_offs do); give the whole value, a list as "
            f'--{added[1]} \'["a", "b"]\''
        )
    if (section := _NO_MAPPING.search(message)) and (inside := _first_below(section[1], known)):
        return f"{section[1]}={section[2]!r}: has settings of its own; set them one by one, such as --{inside} VALUE"
    if stray := _STRAY.search(message):
        flag = f"--config {stray[1]}" if stray[1].endswith((".yaml", ".yml")) else "--section.key VALUE"
        return f"{message}\nsettings are given as flags, here {flag}"
    key, values, kinds = _KEY.search(message), _VALUE.findall(message), _EXPECTED.findall(message)
    known_kinds = all(kind in WORDS or kind.startswith("typing.Literal[") for kind in kinds)
    if len(kinds) < len(_REASON.findall(message)) or key is None or not values or not known_kinds:
        return _without_null(message)
    return _wrong_value(key[1], values[-1], kinds)


def _without_null(message: str) -> str:
    """Shorten the error about a value that may also be null to the reason why the value itself is refused."""
    found = _OPTIONAL.fullmatch(message.strip())
    return f"{found['key']}: {found['reason'].removeprefix('- ').strip()}" if found else message


def _first_below(section: str, known: list[str]) -> str | None:
    """The first setting of a section; None if it has none."""
    return next((name for name in known if name.startswith(f"{section}.")), None)


def _wrong_value(key: str, value: str, kinds: list[str]) -> str:
    """Say that a value is not of the kinds that a setting accepts."""
    choices = [
        str(choice) for kind in kinds if kind not in WORDS for choice in ast.literal_eval(kind[len("typing.Literal") :])
    ]
    words = list(dict.fromkeys(WORDS[kind] for kind in kinds if kind in WORDS))
    accepted = " or ".join([*([f"one of {', '.join(dict.fromkeys(choices))}"] if choices else []), *words])
    advice = did_you_mean(value, choices)
    if not advice and value == "None":
        advice = "; write null for no value" if "null" in words else "; it cannot be left empty, so give one"
    if not advice and "a list" in words:
        entries = ", ".join(_entry(entry.strip()) for entry in value.split(","))
        advice = f"; write --{key} '[{entries}]'"
    return f"{key}={value!r}: not {accepted}{advice or '; give one'}"


def _entry(text: str) -> str:
    """An entry of a list as JSON: numbers as they are, texts in quotes."""
    return text if re.fullmatch(r"-?\d+(\.\d+)?", text) else f'"{text}"'


def unclear_values(content: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Find values that are read as plain text though something else was surely meant.

    Args:
        content: Nested or dotted settings.
        prefix: Section of `content`, with a dot at its end.

    Yields:
        A message for each.
    """
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from unclear_values(value, f"{name}.")
        elif value == "None":
            yield f"{name}='None': is read as a text; write null, where a setting may be empty"
        elif isinstance(value, str) and (variable := _VARIABLE.search(value)):
            yield (
                f"{name}={value!r}: {variable[0]} is not replaced in settings; write the value itself, or give it as a "
                'flag in double quotes, where the shell replaces it: "..."'
            )
