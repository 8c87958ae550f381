"""Identity of a checkpoint of trained weights, and its checks on loading."""

from __future__ import annotations

from typing import Any

from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.models.backbone_files import BackboneInfo
from mllm_srec.types import ConfigError

MAX_NAMED = 5


def identity(settings: BackboneSettings, info: BackboneInfo) -> dict[str, Any]:
    """Collect the plain values that decide whether weights fit: backbone, quantisation, and what was trained."""
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
    """Compare the identity stored in a checkpoint with that of the loaded model.

    The backbone's name may differ (a moved folder); its fingerprint may not.

    Args:
        stored: Identity in the checkpoint, None where it holds none.
        current: Identity of the loaded model.

    Raises:
        ConfigError: The checkpoint is of another program or of a baseline, or a value differs; each is named.
    """
    if stored is None:
        raise ConfigError(
            "the checkpoint was not written by mllm_srec: it does not name its backbone; give one of a run folder"
        )
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
    """Compare the names of stored and trained weights, since a renamed module would silently load nothing.

    Raises:
        ConfigError: Keys are missing or unexpected; the first are named.
    """
    missing, unexpected = sorted(trained - stored), sorted(stored - trained)
    if missing or unexpected:
        raise ConfigError(
            f"the checkpoint does not fit the model: {len(missing)} trained weights are missing in it "
            f"{missing[:MAX_NAMED]}, {len(unexpected)} are unknown to the model {unexpected[:MAX_NAMED]}; install the "
            "versions of mllm_srec and transformers that wrote it"
        )
