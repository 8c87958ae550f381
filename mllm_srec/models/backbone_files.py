"""Identity of a backbone, read from its files before any weight is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_srec.families.lookup import family_of, read_config
from mllm_srec.types import ConfigError

RANDOM_MARK = "random_weights"
"""Key in the config.json of a model with untrained weights, so that every result can say so."""

_SAMPLE_BYTES = 1 << 20
_NO_IDENTITY = ("_name_or_path", "dtype", "transformers_version")


@dataclass(frozen=True)
class BackboneInfo:
    """Identity of a backbone.

    Attributes:
        name: Hub name or folder, as received.
        class_name: Class in transformers.
        fingerprint: Hash that differs between backbones with other shapes or weights.
        random_weights: True if the weights were never trained.
    """

    name: str
    class_name: str
    fingerprint: str
    random_weights: bool

    @property
    def label(self) -> str:
        """Hub name, or the last part of the folder's path."""
        return Path(self.name).name if Path(self.name).is_dir() else self.name


@dataclass(frozen=True)
class WriterInfo(BackboneInfo):
    """Identity of a model that writes summaries.

    Attributes:
        multimodal: True if it can see pictures.
        max_positions: Most tokens of a prompt and its answer together; None where its files name no limit.
    """

    multimodal: bool
    max_positions: int | None


def describe_backbone(name: str, revision: str | None = None) -> BackboneInfo:
    """Read the identity of a recommender's backbone.

    Raises:
        ConfigError: The folder or hub model cannot be read, or is of a family that is not supported.
    """
    config = read_config(name, revision)
    family = family_of(config, name, may_be_text_only=False)
    if "sliding_attention" in (getattr(config.text_config, "layer_types", None) or ()):
        raise ConfigError(
            f"backbone={name!r}: uses sliding-window attention, but packed rows need full attention; give another model"
        )
    return _info(name, config, family.model_class)


def describe_writer(name: str, revision: str | None = None) -> WriterInfo:
    """Read the identity of a model that writes summaries: of a multimodal family, or any causal language model.

    Raises:
        ConfigError: The folder or hub model cannot be read, or is of no family.
    """
    config = read_config(name, revision)
    family = family_of(config, name)
    info = _info(name, config, family.model_class) if family.text_only else describe_backbone(name, revision)
    max_positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return WriterInfo(**vars(info), multimodal=not family.text_only, max_positions=max_positions)


def describe_text_encoder(name: str, revision: str | None = None) -> BackboneInfo:
    """Read the identity of a model that turns texts into vectors: one stack of layers over text alone.

    Raises:
        ConfigError: The folder or hub model cannot be read, or reads more than text, or also writes.
    """
    config = read_config(name, revision)
    if config.is_encoder_decoder or config.get_text_config() is not config:
        raise ConfigError(
            f"text_encoder={name!r}: is of type {config.model_type!r}, which is no plain text encoder; give one such "
            "as sentence-transformers/all-MiniLM-L6-v2, or `backbone` for the recommender's own language model"
        )
    return _info(name, config, "AutoModel")


def hidden_size(name: str, revision: str | None = None) -> int:
    """Read D, the width of a model's last hidden states, and of the picture tokens that enter it."""
    return int(read_config(name, revision).get_text_config().hidden_size)


def _info(name: str, config: Any, class_name: str) -> BackboneInfo:
    fingerprint = _fingerprint(name, getattr(config, "_commit_hash", None), config.to_json_string(use_diff=False))
    return BackboneInfo(name, class_name, fingerprint, bool(getattr(config, RANDOM_MARK, False)))


def _fingerprint(name: str, commit: str | None, config: str) -> str:
    """Hash the commit of a hub model, or the shapes of a folder's model and a sample of each file of weights."""
    content = {key: value for key, value in json.loads(config).items() if key not in _NO_IDENTITY}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    digest.update(str(commit).encode())
    if Path(name).is_dir():
        for path in sorted([*Path(name).glob("*.safetensors"), *Path(name).glob("*.bin")]):
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            with path.open("rb") as weights:
                digest.update(weights.read(_SAMPLE_BYTES))
                weights.seek(max(0, path.stat().st_size - _SAMPLE_BYTES))
                digest.update(weights.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
