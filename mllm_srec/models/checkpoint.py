"""What a checkpoint of trained weights belongs to, and the checks when it is read again."""

from __future__ import annotations

from typing import Any

from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.models.backbone_files import BackboneInfo
from mllm_srec.types import ConfigError

MAX_NAMED = 5


def identity(settings: BackboneSettings, info: BackboneInfo) -> dict[str, Any]:
    """Plain values that decide whether weights fit: backbone, quantisation, kind and shape of what was trained."""
    lora = settings.lora if settings.finetune == "lora" else None
    return {
        "backbone": info.name,
        "fingerprint": info.fingerprint,
        "finetune": settings.finetune,
        "quantization": settings.quantization,
        "lora.r": lora.r if lora else None,
        "lora.alpha": lora.alpha if lora else None,
        "lora.target_modules": lora.target_modules if lora else None,
    }


def check_identity(stored: dict[str, Any] | None, current: dict[str, Any]) -> None:
    """Compare what a checkpoint was trained on with what is loaded now.

    The backbone's name may differ (a moved folder); its fingerprint may not.

    Raises:
        ConfigError: It is of a baseline, or naming every differing key with both values.
    """
    if stored is None:
        raise ConfigError("this checkpoint was not written by mllm_srec: it does not say which backbone it belongs to")
    if "model" in stored:
        raise ConfigError(
            f"the checkpoint belongs to the baseline {stored['model']}, not to the recommender; give its settings too "
            "(baseline), best as --config with the config.yaml of its run folder"
        )
    differing = [key for key in current if key != "backbone" and stored.get(key) != current[key]]
    if differing:
        lines = [f"  {key}: checkpoint {stored.get(key)!r}, now {current[key]!r}" for key in differing]
        raise ConfigError(
            f"the checkpoint was trained with other settings (backbone {stored.get('backbone')!r}, now "
            f"{current['backbone']!r}):\n" + "\n".join(lines) + "\nGive the settings of its run folder's config.yaml"
        )


def check_keys(stored: set[str], trained: set[str]) -> None:
    """Compare names of stored and trained weights: a renamed module would silently load nothing.

    Raises:
        ConfigError: Naming the first keys that are missing or unexpected.
    """
    missing, unexpected = sorted(trained - stored), sorted(stored - trained)
    if missing or unexpected:
        raise ConfigError(
            f"the checkpoint does not fit the model: {len(missing)} trained weights are missing in it "
            f"{missing[:MAX_NAMED]}, {len(unexpected)} are unknown to the model {unexpected[:MAX_NAMED]}"
        )
