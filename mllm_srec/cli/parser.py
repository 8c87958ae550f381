"""Parser that refuses unknown names, names the file that contains them, and suggests the nearest valid one."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from mllm_srec.cli.messages import explained, unclear_values
from mllm_srec.files.atomic import check_seal
from mllm_srec.pipeline.runs.settings import current_settings, with_included
from mllm_srec.types import ConfigError, did_you_mean

_HOME_ARGUMENT = re.compile(r"^(?P<flag>--[\w.]+\+?=)?(?P<path>~\w*/.*)$", re.DOTALL)
_UNKNOWN_FLAG = re.compile(r"unrecognized arguments?: --?([\w.]+)")
_UNKNOWN_OPTION = re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'")
_OPTIONAL = re.compile(
    r'Parser key "(?P<key>[\w.]+)":\n.*Union subtypes.*  Errors:\n'
    r" *(?P<reason>- .*)\n *- Expected a <class 'NoneType'>.*",
    re.DOTALL,
)
_UNKNOWN_ARGUMENT = re.compile(r"^Option '([\w.]+)' is not accepted$")


class NearestNameMixin:
    """Adds "did you mean ...?" to the errors of a jsonargparse parser; flags are never completed from a prefix."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # else `--trainer.max_epoch` would pass as `--trainer.max_epochs`
        super().__init__(*args, **kwargs)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse arguments; `~` at the beginning of a path is the home folder, also behind a `=`."""
        given = args[0] if args else kwargs.pop("args", None)
        words = sys.argv[1:] if given is None else given
        words = [_HOME_ARGUMENT.sub(_at_home, word) if isinstance(word, str) else word for word in words]
        return super().parse_args(words, *args[1:], **kwargs)  # type: ignore[misc]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and the nearest valid name, and exit with status 2.

        Raises:
            ArgumentError: This parser reads the arguments of a chosen class; the one around it says where they stand.
        """
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        known = known_names(parser)
        name = _misspelt(message)
        hint = f"\n{suggestion(name, known)}" if name and name not in known else ""
        if not parser.exit_on_error:
            raise argparse.ArgumentError(None, f"{message}{hint}") from ex
        prog = parser.prog.replace(" [options]", "")
        text = _without_null(explained(message, known)).strip()
        print(f"{prog}: error: {text}{hint}\nTry '{prog} --help'.", file=sys.stderr)
        sys.exit(2)


class Parser(NearestNameMixin, jsonargparse.ArgumentParser):
    """Parser of the commands that need no Lightning."""


class ConfigFile(ActionConfigFile):
    """`--config FILE`: every key of the file is checked before it is read, so that an error can name both.

    Settings that were moved since the file was written get their current names.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Check and read the file `values`."""
        path = Path(str(values))
        if path.is_file():
            content = _read_file(parser, path)
            try:
                whole = with_included(content, path, lambda other: _read_file(parser, other))
                current = with_home(current_settings(whole, str(path)))
            except ConfigError as error:
                parser.error(str(error))
            _check_keys(parser, path, current)
            if unclear := [f"{path}: {message}" for message in unclear_values(current)]:
                parser.error("\n".join(unclear))
            if free := getattr(parser, "free", ()):
                parser.baselines += [current["baseline"]] if "baseline" in current else []
                current = without(current, free)
            if current != content:
                values = yaml.safe_dump(current, allow_unicode=True)
        super().__call__(parser, namespace, values, option_string)  # type: ignore[no-untyped-call]


def with_home(value: Any) -> Any:
    """Return nested settings with the home folder in place of `~` at the beginning of a path."""
    if isinstance(value, dict):
        return {key: with_home(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [with_home(entry) for entry in value]
    return _HOME_ARGUMENT.sub(_at_home, value) if isinstance(value, str) else value


def _at_home(match: re.Match[str]) -> str:
    return f"{match['flag'] or ''}{os.path.expanduser(match['path'])}"


def _read_file(parser: jsonargparse.ArgumentParser, path: Path) -> dict[str, Any]:
    """Read a YAML mapping; end with an error if the file holds something else."""
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=UniqueKeyLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place, problem = (f", line {mark.line + 1}", error.problem) if mark else ("", error)  # type: ignore[union-attr]
        parser.error(f"{path}{place} is not valid YAML: {problem}")
    if not isinstance(content, dict | None):
        parser.error(f"{path} holds {type(content).__name__} {content!r}; sections such as `data:` are expected")
    try:
        check_seal(text)
    except ValueError as error:
        parser.error(f"{path}: the settings of the run cannot be read ({error})")
    return content or {}


class UniqueKeyLoader(yaml.SafeLoader):
    """Safe loader that refuses a key that is given twice: the second would silently replace the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a mapping of a node.

        Raises:
            MarkedYAMLError: A key is given twice; the error names it and both lines.
        """
        first: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if isinstance(key_node, yaml.ScalarNode) and key != "<<" and key in first:
                problem = f"{key!r} is given twice, first in line {first[key]}; give it once, with the content of both"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            first.setdefault(key, line)
        return super().construct_mapping(node, deep=deep)


def without(content: Mapping[str, Any], names: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Return nested settings without those of these dotted names."""
    return {
        key: without(value, names, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in content.items()
        if f"{prefix}{key}" not in names
    }


def _check_keys(parser: jsonargparse.ArgumentParser, path: Path, content: Mapping[str, Any]) -> None:
    """End with an error if the file has a key that the parser does not know."""
    known = known_names(parser)
    unknown = list(_unknown_keys(content, "", known))
    if unknown:
        parser.error("\n".join(f"{path}: {suggestion(name, known)}" for name in unknown))


def _unknown_keys(content: Mapping[Any, Any], prefix: str, known: list[str]) -> Iterator[str]:
    """Dotted keys that are not known; below a key whose content is free, such as a callback's, nothing is checked."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        free = f"{name}.help" in known  # of a class that is chosen, which checks its arguments itself
        if name not in known:
            yield name
        elif isinstance(value, Mapping) and not free and any(entry.startswith(f"{name}.") for entry in known):
            yield from _unknown_keys(value, f"{name}.", known)


def known_names(parser: jsonargparse.ArgumentParser) -> list[str]:
    """All dotted names that a parser accepts, those of sections included."""
    names: set[str] = set()
    for action in parser._actions:
        for name in [action.dest, *(option.lstrip("-") for option in action.option_strings)]:
            if re.fullmatch(r"[\w.]+", name or ""):
                parts = name.split(".")
                names |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return sorted(names)


def suggestion(name: str, known: list[str]) -> str:
    """`'model.lrr' is not known; did you mean 'model.lr'?`.

    Suggests names whose last part is the same (the section is wrong), two at most; else the one like the whole name;
    else two whose last part is alike.
    """
    last = name.rpartition(".")[2]
    ends = {entry.rpartition(".")[2]: entry for entry in known}
    hint = (
        did_you_mean(name, [entry for entry in known if entry.rpartition(".")[2] == last], n=2, cutoff=0.0)
        or did_you_mean(name, known, cutoff=0.75)
        or did_you_mean(last, ends, n=2, cutoff=0.7)
    )
    return f"{name!r} is not known{hint}"


def _misspelt(message: str) -> str | None:
    """The unknown name that an error message of jsonargparse is about."""
    found = _UNKNOWN_FLAG.search(message) or _UNKNOWN_OPTION.search(message) or _UNKNOWN_ARGUMENT.search(message)
    return ".".join(found.groups()) if found else None


def _without_null(message: str) -> str:
    """Shorten the error about a value that may also be null to the reason why the value itself is refused."""
    found = _OPTIONAL.fullmatch(message.strip())
    return f"{found['key']}: {found['reason'].removeprefix('- ').strip()}" if found else message


def plain(value: Any) -> Any:
    """A parsed namespace as nested dicts."""
    return value.as_dict() if isinstance(value, jsonargparse.Namespace) else value


def instantiate(parser: jsonargparse.ArgumentParser, config: Any) -> Any:
    """Make the objects that a parsed configuration describes; the method's name changes with jsonargparse 4.49."""
    return getattr(parser, "instantiate", parser.instantiate_classes)(config)
