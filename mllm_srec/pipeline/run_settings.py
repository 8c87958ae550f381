"""The settings that a run folder holds; reading them loads no model library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mllm_srec.pipeline.run_folder import RunFolder
from mllm_srec.types import ConfigError


def read_settings(folder: Path | str, data_root: Path | str | None = None) -> dict[str, Any]:
    """Settings of a run folder.

    Args:
        folder: A run folder.
        data_root: Replaces `data.root`, where the data sets were moved.

    Raises:
        ConfigError: The folder holds no run.
    """
    path = RunFolder(Path(folder)).config
    if not path.is_file():
        raise ConfigError(f"{folder} is no run folder (no {path.name}); give one that `fit` wrote, such as runs/demo/a")
    settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if data_root is not None:
        settings["data"]["root"] = str(data_root)
    return settings
