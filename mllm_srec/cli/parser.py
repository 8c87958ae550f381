"""Parser that refuses unknown names, names the file that contains them, and suggests the nearest valid one."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from mllm_srec.cli.messages import explained, unclear_values
from mllm_srec.pipeline.runs.config_files import read_with_included, with_home
from mllm_srec.pipeline.runs.settings import current_settings
from mllm_srec.types import ConfigError, did_you_mean

_UNKNOWN_FLAG = re.compile(r"unrecognized arguments?: --?([\w.]+)")
_UNKNOWN_OPTION = re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'")
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
        return super().parse_args(with_home(list(words)), *args[1:], **kwargs)  # type: ignore[misc]

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
        text = explained(message, known).strip()
        print(f"{prog}: error: {text}{hint}\nTry '{prog} --help'.", file=sys.stderr)
        sys.exit(2)


class Parser(NearestNameMixin, jsonargparse.ArgumentParser):
    """Parser of the commands that need no Lightning."""


class ConfigFile(ActionConfigFile):
    """`--config FILE`: every key of the file is checked before it is read, so that an error can name both.

    Settings that were moved since the file was written get their current names.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Check and read the file `values`, after those that it includes."""
        path = Path(str(values))
        if not path.is_file():
            super().__call__(parser, namespace, values, option_string)  # type: ignore[no-untyped-call]
            return
        try:
            files = read_with_included(path)
            for file, content in files:
                current = self._checked(parser, file, with_home(current_settings(content, str(file))))
                _drop_replaced(namespace, current)
                if current != content or not current or len(files) > 1:  # an empty file could be anything
                    values = yaml.safe_dump(current, allow_unicode=True)
                super().__call__(parser, namespace, values, option_string)  # type: ignore[no-untyped-call]
        except ConfigError as error:
            parser.error(str(error))

    @staticmethod
    def _checked(parser: Any, path: Path, content: dict[str, Any]) -> dict[str, Any]:
        """Check the settings of one file, and return those that the parser is to read."""
        content = _sections(parser, path, content)
        _check_keys(parser, path, content)
        if unclear := [f"{path}: {message}" for message in unclear_values(content)]:
            parser.error("\n".join(unclear))
        if free := getattr(parser, "free", ()):
            parser.baselines += [content["baseline"]] if "baseline" in content else []
            content = without(content, free)
        return content


def _drop_replaced(namespace: Any, content: Mapping[Any, Any], prefix: str = "") -> None:
    """Drop a class that files before chose where a file chooses another, whose arguments are not those of the first."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        chosen = value.get("class_path") if isinstance(value, Mapping) else value
        before = namespace.get(f"{name}.class_path")
        if isinstance(before, str) and isinstance(chosen, str):
            if before.rpartition(".")[2] != chosen.rpartition(".")[2]:
                namespace[name] = None
        elif isinstance(value, Mapping):
            _drop_replaced(namespace, value, f"{name}.")


def without(content: Mapping[str, Any], names: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Return nested settings without those of these dotted names."""
    return {
        key: without(value, names, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in content.items()
        if f"{prefix}{key}" not in names
    }


def _sections(parser: jsonargparse.ArgumentParser, path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a file without empty sections; end with an error if a section is no mapping."""
    known = known_names(parser)

    def filled(section: Mapping[Any, Any], prefix: str) -> dict[Any, Any]:
        kept = {}
        for key, value in section.items():
            name = f"{prefix}{key}"
            below = [entry for entry in known if entry.startswith(f"{name}.")]
            if not below or f"{name}.help" in known:  # a value, or a class with settings of its own
                kept[key] = value
            elif isinstance(value, Mapping):
                kept[key] = filled(value, f"{name}.")
            elif value is not None:
                parser.error(
                    f"{path}: {name}={value!r}: has settings of its own; give them below it, such as {below[0]}"
                )
        return kept

    return filled(content, "")


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


def plain(value: Any) -> Any:
    """A parsed namespace as nested dicts."""
    return value.as_dict() if isinstance(value, jsonargparse.Namespace) else value


def instantiate(parser: jsonargparse.ArgumentParser, config: Any) -> Any:
    """Make the objects that a parsed configuration describes; the method's name changes with jsonargparse 4.49."""
    return getattr(parser, "instantiate", parser.instantiate_classes)(config)
