"""Find the family of a backbone by `model_type` in config.json; files added to this folder are discovered."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import mllm_srec.families as room
from mllm_srec.families import text_only
from mllm_srec.families.base import Family
from mllm_srec.families.config_file import read_config
from mllm_srec.types import ConfigError, did_you_mean

NOT_YET = {"qwen3_vl": "Qwen3-VL feeds pictures into several layers, which packed rows do not do yet"}
"""Families that people ask for, and why they are refused."""


@cache
def families() -> Mapping[str, Family]:
    """Return the multimodal families by model type, in alphabetical order."""
    found = {}
    for module in sorted(pkgutil.iter_modules(room.__path__), key=lambda module: module.name):
        family = getattr(import_module(f"{room.__name__}.{module.name}"), "FAMILY", None)
        if isinstance(family, Family) and not family.text_only:
            found[family.model_type] = family
    return dict(sorted(found.items()))


def titles() -> str:
    """Return the names of the multimodal families as a phrase, such as "Qwen2-VL or Qwen2.5-VL"."""
    names = sorted(family.title for family in families().values())
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def family_of(config: Any, name: str = "the model", may_be_text_only: bool = True) -> Family:
    """Return the family of a model.

    Args:
        config: Configuration of transformers, or its `model_type`.
        name: Name of the model in errors.
        may_be_text_only: False refuses models that cannot see pictures.

    Raises:
        ConfigError: No family has this type, or the model cuts pictures into patches of another size.
    """
    model_type: str = config if isinstance(config, str) else config.model_type
    family = families().get(model_type)
    if family is None and may_be_text_only:
        family = text_only.family_for(model_type)
    if family is None:
        raise ConfigError(_refusal(name, model_type, may_be_text_only))
    if not isinstance(config, str):
        _check_patches(config, family, name)
    return family


def _check_patches(config: Any, family: Family, name: str) -> None:
    """Compare the patches of a model's vision tower with those of its family, by which pictures are cut."""
    vision = getattr(config, "vision_config", None)
    if family.text_only or vision is None:
        return
    ours = (family.patch_size, family.temporal_patch_size, family.spatial_merge)
    sizes = tuple(getattr(vision, size, None) for size in ("patch_size", "temporal_patch_size", "spatial_merge_size"))
    if sizes != ours:
        raise ConfigError(
            f"backbone={name!r}: its vision tower reads patches of (side, frames, merged) {sizes}, but {family.title} "
            f"of {ours}; give a {family.title} with these"
        )


def read_family(name: str, revision: str | None = None) -> Family:
    """Return the family of a hub model or a folder, text-only ones included.

    Raises:
        ConfigError: It cannot be read, or is of no family.
    """
    return family_of(read_config(name, revision), name)


def _refusal(name: str, model_type: str, may_be_text_only: bool) -> str:
    others = f", and any {text_only.FAMILY.title}" if may_be_text_only else ""
    reason = NOT_YET.get(model_type)
    hint = f"; {reason}" if reason else did_you_mean(model_type, list(families()))
    return (
        f"backbone={name!r}: is of type {model_type!r}; supported are {', '.join(families())} ({titles()}){others}"
        + hint
    )
