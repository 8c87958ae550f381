"""Settings of configuration files and of finished runs, also of those written before a setting moved.

`MOVED` is the one table of old and new names. Every reader of a YAML file goes through `current_settings`, so that old
run folders and configuration files keep working.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from mllm_srec.files.atomic import check_seal
from mllm_srec.files.reading import read_whole
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import ConfigError

MOVED: dict[str, str | None] = {
    "data.packing.loss_on": "model.loss_on",
    "data.packing.padding_side": None,
}
"""Old dotted name -> new one; None for a setting that no longer exists."""

WITHOUT_EFFECT: dict[str, Any] = {"data.packing.padding_side": "right"}
"""Settings that no longer exist -> the value that changes nothing; any other value is refused."""


def current_settings(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Give settings of an earlier version their current names.

    Args:
        settings: Nested settings, as in a YAML file; not changed.
        source: Where they come from, for the error.

    Returns:
        The same settings, with names that this version knows.

    Raises:
        ConfigError: A setting that no longer exists has a value that had an effect, or a setting is given under its old
            and its new name.
    """
    current = deepcopy(dict(settings))
    for old, new in MOVED.items():
        section, _, name = old.rpartition(".")
        parent = _section(current, section)
        if parent is None or name not in parent:
            continue
        value = parent.pop(name)
        if new is None:
            if value != WITHOUT_EFFECT[old]:
                raise ConfigError(f"{old}={value!r} in {source}: this setting no longer exists; leave it out")
            continue
        target, _, new_name = new.rpartition(".")
        into = _section(current, target)
        if into is None:  # the section is missing, or null
            into = current[target] = {}
        if into.setdefault(new_name, value) != value:
            raise ConfigError(f"{old}={value!r} in {source}: it is now called {new}, which is {into[new_name]!r} there")
    return current


def _section(settings: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the mapping below a dotted name; None if there is none."""
    found: Any = settings
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def read_settings(folder: Path | str, data_root: Path | str | None = None) -> dict[str, Any]:
    """Read the settings of a run folder.

    Args:
        folder: A run folder.
        data_root: Replaces `data.root`, for data sets that were moved.

    Raises:
        ConfigError: The folder holds no run.
        DataError: Its settings cannot be read.
    """
    path = RunFolder(Path(folder)).config
    if not path.is_file():
        raise ConfigError(
            f"run={str(folder)!r}: not a run folder (it has no {path.name}); give one that `fit` wrote, such as "
            "runs/demo/a"
        )
    remedy = "give another run, or write its settings anew by `fit` with the same --config files and another --name"
    settings = current_settings(read_whole(path, _read_yaml, "the settings of a run", remedy), str(path))
    if data_root is not None:
        settings["data"]["root"] = str(data_root)
    return settings


def _read_yaml(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    if not isinstance(content, dict) or not isinstance(content.get("data", {}), dict | None):
        raise ValueError("it holds no sections such as `data:`")
    check_seal(text)
    return content
