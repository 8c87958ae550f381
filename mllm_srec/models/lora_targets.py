"""Layers that get adapters: which modules `lora.target_modules` names, and a check of them that loads no weights."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from torch import nn

from mllm_srec.families.base import LANGUAGE_LAYERS, Family
from mllm_srec.families.config_file import read_config
from mllm_srec.families.lookup import family_of
from mllm_srec.types import ConfigError


def lora_targets(net: nn.Module, family: Family, pattern: str, name: str) -> str:
    """Return the regular expression over full module names of the layers that get adapters.

    Args:
        net: Model of transformers, with or without weights.
        family: Its family.
        pattern: `lora.target_modules`; the default stands for the family's own pattern.
        name: Name of the model for errors.

    Raises:
        ConfigError: It names no module, one outside the language model, or one that is no linear layer.
    """
    if pattern == LANGUAGE_LAYERS:
        pattern = family.lora_targets
    named = [(path, module) for path, module in net.named_modules() if re.fullmatch(pattern, path)]
    if not named:
        raise ConfigError(
            f"lora.target_modules={pattern!r}: names no module of {name}; it must match whole names, such as "
            f"{family.language_model}.layers.0.self_attn.q_proj; leave it at its default, or begin it with .*"
        )
    outside = [path for path, _ in named if not path.startswith(f"{family.language_model}.")]
    if outside:
        raise ConfigError(
            f"lora.target_modules={pattern!r}: reaches beyond the language model: {outside[0]} and "
            f"{len(outside) - 1} more; name language layers only, such as {family.lora_targets}"
        )
    others = [f"{path} ({type(module).__name__})" for path, module in named if not isinstance(module, nn.Linear)]
    if others:
        raise ConfigError(
            f"lora.target_modules={pattern!r}: names {others[0]} and {len(others) - 1} more that are no linear layers; "
            f"name those only, such as {family.lora_targets}"
        )
    return pattern


def check_lora_targets(name: str, revision: str | None, pattern: str) -> None:
    """Check a pattern of one's own on the model's modules without weights, before anything is computed with it.

    Args:
        name: Hub name or folder of the model.
        revision: Revision of a hub model.
        pattern: `lora.target_modules`.

    Raises:
        ConfigError: See `lora_targets`.
    """
    if pattern == LANGUAGE_LAYERS:
        return
    config: Any = read_config(name, revision)
    family = family_of(config, name)
    with torch.device("meta"):
        net = getattr(transformers, family.model_class)(config)
    lora_targets(net, family, pattern, name)
