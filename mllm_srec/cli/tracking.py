"""Weights & Biases: whether a command could log there, found out without importing its library."""

from __future__ import annotations

import configparser
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mllm_srec.types import ConfigError

ADDRESS = "https://api.wandb.ai"
"""Server of Weights & Biases, unless another one is set."""

SILENT = ("offline", "disabled", "dryrun")
"""Values of WANDB_MODE that need no key."""

KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
"""Environment variables, each of which logs in."""


def check_tracking(tracking: Any, environment: Mapping[str, str] | None = None) -> None:
    """Refuse tracking without a key: the library would ask or fail only when everything is built.

    Args:
        tracking: Parsed settings of the `tracking` section.
        environment: Environment variables; None: those of this process.

    Raises:
        ConfigError: There is no key.
    """
    variables = os.environ if environment is None else environment
    if not tracking.wandb or tracking.offline or variables.get("WANDB_MODE") in SILENT:
        return
    if any(variables.get(name) for name in KEYS):
        return
    host = urlparse(_address(variables)).hostname or ""
    if not any(_has_entry(path, host) for path in _netrc_files(variables)):
        raise ConfigError(
            f"tracking.wandb=True: no key for {host} was found in WANDB_API_KEY or ~/.netrc; run `wandb login`, or set "
            "tracking.offline to true and upload the files later"
        )


def _address(variables: Mapping[str, str]) -> str:
    """Address of the server: of the environment, else of `wandb login --host`, else the public one."""
    if variables.get("WANDB_BASE_URL"):
        return variables["WANDB_BASE_URL"]
    folder = variables.get("WANDB_CONFIG_DIR") or str(Path.home() / ".config/wandb")
    settings = configparser.ConfigParser()
    try:
        settings.read(Path(folder, "settings"), encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return ADDRESS
    return settings.get("default", "base_url", fallback=ADDRESS)


def _netrc_files(variables: Mapping[str, str]) -> list[Path]:
    if variables.get("NETRC"):
        return [Path(variables["NETRC"]).expanduser()]
    return [Path.home() / name for name in (".netrc", "_netrc")]


def _has_entry(path: Path, host: str) -> bool:
    """Return True if a netrc file has a password for a host; one that cannot be read has none."""
    try:
        entry = netrc.netrc(str(path)).authenticators(host)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
    return entry is not None and bool(entry[2])
