"""The model that writes summaries: a Qwen-VL, or a text-only language model such as Llama; never trained here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mllm_srec.models.backbone import BackboneSettings, census, check_census, load_backbone, load_weights
from mllm_srec.models.backbone_files import WriterInfo, describe_writer
from mllm_srec.types import ConfigError


@dataclass(frozen=True)
class Writer:
    """A loaded model.

    Attributes:
        net: The transformers model, frozen and in evaluation mode.
        info: What it is.
    """

    net: Any
    info: WriterInfo


def load_writer(settings: BackboneSettings, device: torch.device) -> Writer:
    """Load a model for generation only: on `device`, in NF4 where asked, frozen, in evaluation mode.

    Args:
        settings: The model; `finetune` must be `none`.
        device: Where to load.

    Raises:
        ConfigError: No model that can write, or layers quantised that must not be or the reverse.
    """
    if settings.finetune != "none":
        raise ConfigError(f"finetune={settings.finetune!r} for a model that writes summaries; it must be 'none'")
    info = describe_writer(settings.name, settings.revision)
    if info.multimodal:
        net = load_backbone(settings, device).net
    else:
        net = load_weights(info.class_name, settings, device)
        check_census(census(net), settings.quantization)
    return Writer(net.requires_grad_(False).eval(), info)
