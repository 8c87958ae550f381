"""Identity of a checkpoint of trained weights, and its checks on loading."""

from __future__ import annotations

import warnings
from typing import Any

from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.models.backbone_files import BackboneInfo
from mllm_srec.types import ConfigError

MAX_NAMED = 5

_NOT_COMPARED = ("backbone", "commit")
"""Parts of an identity that only errors name: the fingerprint follows the commit, and a folder may move."""


def identity(settings: BackboneSettings, info: BackboneInfo) -> dict[str, Any]:
    """Collect the plain values that decide whether weights fit: backbone, quantisation, and what was trained."""
    lora = settings.lora if settings.finetune == "lora" else None
    return {
        "backbone": info.name,
        "commit": info.commit,
        "fingerprint": info.fingerprint,
        "finetune": settings.finetune,
        "quantization": settings.quantization,
        "lora.r": lora.r if lora else None,
        "lora.alpha": lora.alpha if lora else None,
        "lora.target_modules": lora.target_modules if lora else None,
    }


def check_identity(
    stored: dict[str, Any] | None, current: dict[str, Any], earlier_fingerprint: str | None = None
) -> None:
    """Compare the identity stored in a checkpoint with that of the loaded model.

    The backbone's name may differ (a moved folder); its fingerprint may not. One of an earlier version is accepted with
    a warning, since it does not tell similar models apart.

    Args:
        stored: Identity in the checkpoint, None where it holds none.
        current: Identity of the loaded model.
        earlier_fingerprint: The loaded model's `BackboneInfo.earlier_fingerprint`.

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
    if earlier_fingerprint is not None and stored.get("fingerprint") == earlier_fingerprint:
        warnings.warn(
            f"the checkpoint names its backbone by its shape and a part of its weights only: it was written by an "
            f"earlier version, on {stored.get('backbone')!r}; see to it that {_named(current)} is the same model",
            stacklevel=2,
        )
        stored = {**stored, "fingerprint": current["fingerprint"]}
    differing = [key for key in current if key not in _NOT_COMPARED and stored.get(key) != current[key]]
    if differing:
        lines = [f"  {key}: checkpoint {stored.get(key)!r}, now {current[key]!r}" for key in differing]
        raise ConfigError(
            f"the checkpoint was trained with other settings (backbone {_named(stored)}, now {_named(current)}):\n"
            + "\n".join(lines)
            + "\nGive the settings of its run folder's config.yaml"
            + (f", and --model.revision {stored['commit']}" if _other_commit(stored, current) else "")
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


def _named(identity: dict[str, Any]) -> str:
    """Name a backbone, with its commit where it has one."""
    commit = identity.get("commit")
    return f"{identity.get('backbone')!r}" + (f" at commit {commit}" if commit else "")


def _other_commit(stored: dict[str, Any], current: dict[str, Any]) -> bool:
    """Return True if two identities name one hub model at different commits."""
    commit = stored.get("commit")
    return bool(commit) and stored.get("backbone") == current["backbone"] and commit != current["commit"]
