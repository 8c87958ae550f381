"""What a backbone is, read from its files before any weight is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mllm_srec.types import ConfigError

FAMILIES = {"qwen2_vl": "Qwen2VLForConditionalGeneration", "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration"}
"""Model types that the packed layout is tested with, and their classes in transformers."""

RANDOM_MARK = "random_weights"
"""Key of config.json that a model with untrained weights carries, so that every result can say so."""

_SAMPLE_BYTES = 1 << 20
_NO_IDENTITY = ("_name_or_path", "dtype", "transformers_version")


@dataclass(frozen=True)
class BackboneInfo:
    """Identity of a backbone.

    Attributes:
        name: Hub name or folder, as given.
        class_name: Class in transformers.
        fingerprint: Hash that differs between backbones with other shapes or weights.
        random_weights: The weights were never trained.
    """

    name: str
    class_name: str
    fingerprint: str
    random_weights: bool

    @property
    def label(self) -> str:
        """Hub name, or the folder's own name without where it lies."""
        return Path(self.name).name if Path(self.name).is_dir() else self.name


@dataclass(frozen=True)
class WriterInfo(BackboneInfo):
    """Identity of a model that writes summaries.

    Attributes:
        multimodal: It can be shown pictures.
        max_positions: Tokens of its longest text, prompt and answer together; None where its files name no limit.
    """

    multimodal: bool
    max_positions: int | None


def describe_backbone(name: str, revision: str | None = None) -> BackboneInfo:
    """Read the identity of a recommender's backbone.

    Raises:
        ConfigError: The folder or hub model cannot be read, or is of a family that is not supported.
    """
    config = _read_config(name, revision)
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"backbone {name!r} is of type {config.model_type!r}; supported are {', '.join(sorted(FAMILIES))} "
            "(Qwen2-VL and Qwen2.5-VL; Qwen3-VL feeds pictures into several layers, which packed rows do not do yet)"
        )
    if "sliding_attention" in (getattr(config.text_config, "layer_types", None) or ()):
        raise ConfigError(f"backbone {name!r} uses sliding-window attention; packed rows need full attention")
    return _info(name, config, FAMILIES[config.model_type])


def describe_writer(name: str, revision: str | None = None) -> WriterInfo:
    """Read the identity of a model that writes summaries: a Qwen-VL, or any causal language model.

    Raises:
        ConfigError: The folder or hub model cannot be read, or is neither of the two.
    """
    config = _read_config(name, revision)
    multimodal = config.model_type in FAMILIES
    if not multimodal and config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConfigError(
            f"backbone {name!r} is of type {config.model_type!r}, which cannot write summaries; give a Qwen2-VL, a "
            "Qwen2.5-VL, or a text-only causal language model with a chat template, such as Llama-3.1-8B-Instruct"
        )
    info = (
        describe_backbone(name, revision)
        if multimodal
        else _info(name, config, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type])
    )
    max_positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return WriterInfo(**vars(info), multimodal=multimodal, max_positions=max_positions)


def describe_text_encoder(name: str, revision: str | None = None) -> BackboneInfo:
    """Read the identity of a model that turns texts into vectors: one stack of layers over text alone.

    Raises:
        ConfigError: The folder or hub model cannot be read, or reads more than text, or also writes.
    """
    config = _read_config(name, revision)
    if config.is_encoder_decoder or config.get_text_config() is not config:
        raise ConfigError(
            f"text encoder {name!r} is of type {config.model_type!r}, which is no plain text encoder; give one such as "
            "sentence-transformers/all-MiniLM-L6-v2, or `backbone` for the recommender's own language model"
        )
    return _info(name, config, "AutoModel")


def hidden_size(name: str, revision: str | None = None) -> int:
    """D, the width of a model's last hidden states; pictures enter a Qwen-VL at the same width."""
    return int(_read_config(name, revision).get_text_config().hidden_size)


def _read_config(name: str, revision: str | None) -> Any:
    try:
        return AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"backbone {name!r} (revision {revision}) cannot be read: {error}\n"
            "Give a folder with config.json and weights, or the name of a hub model that is reachable or cached"
        ) from error


def _info(name: str, config: Any, class_name: str) -> BackboneInfo:
    fingerprint = _fingerprint(name, getattr(config, "_commit_hash", None), config.to_json_string(use_diff=False))
    return BackboneInfo(name, class_name, fingerprint, bool(getattr(config, RANDOM_MARK, False)))


def _fingerprint(name: str, commit: str | None, config: str) -> str:
    """Commit of a hub model; of a folder, its shapes and a sample of each file of weights."""
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
