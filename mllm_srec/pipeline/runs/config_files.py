"""YAML configuration files as every reader takes them: no key twice, no entry within itself, `~` is the home folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from mllm_srec.files.atomic import check_seal
from mllm_srec.types import ConfigError

INCLUDE = "include"
"""Key of a configuration file that names another one, whose settings hold where the file states none."""

_HOME = re.compile(r"^(?P<flag>--[\w.]+\+?=)?(?P<path>~\w*/.*)$", re.DOTALL)


class UniqueKeyLoader(yaml.SafeLoader):
    """Safe loader that refuses a key that is given twice: the second would silently replace the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a mapping of a node.

        Raises:
            MarkedYAMLError: A key is given twice or is no scalar; the error names it and its lines.
        """
        first: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                problem = "a key must be a name; write text that begins with a brace or bracket in quotes"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            key, line = key_node.value, key_node.start_mark.line + 1
            if key != "<<" and key in first:
                problem = f"{key!r} is given twice, first in line {first[key]}; give it once, with the content of both"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            first.setdefault(key, line)
        return super().construct_mapping(node, deep=deep)


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a configuration file, with no other file's settings; an empty one has none.

    Args:
        path: The file.

    Raises:
        ConfigError: It is no YAML mapping, or a run's settings that were changed; the message names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=UniqueKeyLoader)
        json.dumps(content, default=str, skipkeys=True)  # refuses what contains itself
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place, problem = (f", line {mark.line + 1}", error.problem) if mark else ("", error)  # type: ignore[union-attr]
        raise ConfigError(f"{path}{place} is not valid YAML: {problem}") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path} holds {type(content).__name__} {content!r}; sections such as `data:` are expected")
    try:
        check_seal(text)
    except ValueError as error:
        raise ConfigError(f"{path}: the settings of the run cannot be read ({error})") from error
    return content or {}


def read_with_included(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """Return a configuration file after those that it includes: to include a file is to give it before by `--config`.

    Args:
        path: The file; what its key `include` names is relative to its folder.
        seen: Files that include this one.

    Returns:
        Each file with its content, without the key `include`; of two that state a setting, the later one wins.

    Raises:
        ConfigError: See `read_config_file`; or `include` names no file, or files include each other.
    """
    settings = read_config_file(path)
    own = {key: value for key, value in settings.items() if key != INCLUDE}
    name = settings.get(INCLUDE)
    if name is None:
        return [(path, own)]
    if not isinstance(name, str):
        raise ConfigError(f"{INCLUDE}={name!r} in {path}: names no file; give one file, relative to this one")
    other = path.parent / Path(name).expanduser()
    if not other.is_file():
        raise ConfigError(f"{INCLUDE}={name!r} in {path}: {other} does not exist; give a file relative to this one")
    above = (*seen, path.resolve())
    if other.resolve() in above:
        raise ConfigError(f"{INCLUDE}={name!r} in {path}: the files include each other; leave one of them out")
    return [*read_with_included(other, above), (path, own)]


def with_home(value: Any) -> Any:
    """Return nested settings, or flags, with the home folder in place of `~` at the beginning of a path."""
    if isinstance(value, dict):
        return {key: with_home(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [with_home(entry) for entry in value]
    return _HOME.sub(_at_home, value) if isinstance(value, str) else value


def _at_home(match: re.Match[str]) -> str:
    return f"{match['flag'] or ''}{os.path.expanduser(match['path'])}"
