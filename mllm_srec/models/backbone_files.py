"""Identity of a backbone, read from its files before any weight is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mllm_srec.families.config_file import pinned_revision, read_config
from mllm_srec.families.lookup import family_of
from mllm_srec.models.weight_files import check_files, check_whole, hash_ends, hash_middles
from mllm_srec.types import ConfigError

RANDOM_MARK = "random_weights"
"""Key in the config.json of a model with untrained weights, so that every result can say so."""

MADE_FOR = "made_for"
"""Key in the config.json of a model that knows one kind of data and no other: the `prepare.source` of that data."""

_NO_IDENTITY = ("_name_or_path", "dtype", "transformers_version", MADE_FOR)
_NAMED_BEFORE = {"25c344f36796976c": "9da20687a855e2cd"}
"""Fingerprint of the shipped demo backbone, hashed whole -> its name in published results and old checkpoints."""


@dataclass(frozen=True)
class BackboneInfo:
    """Identity of a backbone.

    Attributes:
        name: Hub name or folder, as received.
        class_name: Class in transformers.
        fingerprint: Hash that differs between backbones with other shapes or weights.
        random_weights: True if the weights were never trained.
        commit: Commit of a hub model; None for a folder.
        made_for: `prepare.source` of the only data that the model knows; None for a model of the world.
        earlier_fingerprint: What versions called `fingerprint` that knew neither the commit nor the middle of large
            files; equal for models that differ only there. None where nothing changed.
    """

    name: str
    class_name: str
    fingerprint: str
    random_weights: bool
    commit: str | None = field(default=None, kw_only=True)
    made_for: str | None = field(default=None, kw_only=True)
    earlier_fingerprint: str | None = field(default=None, kw_only=True)

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
    return _info(name, revision, config, family.model_class, pictures=True)


def describe_writer(name: str, revision: str | None = None) -> WriterInfo:
    """Read the identity of a model that writes summaries: of a multimodal family, or any causal language model.

    Raises:
        ConfigError: The folder or hub model cannot be read, or is of no family.
    """
    config = read_config(name, revision)
    family = family_of(config, name)
    if family.text_only:
        info = _info(name, revision, config, family.model_class, pictures=False)
    else:
        info = describe_backbone(name, revision)
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
    return _info(name, revision, config, "AutoModel", pictures=False)


def foreign_note(info: BackboneInfo, source: str) -> str | None:
    """Return a sentence on a backbone that cannot know the data, or None; see `made_for_other_data`."""
    return made_for_other_data(info.label, info.made_for, source)


def made_for_other_data(label: str, made_for: str | None, source: str) -> str | None:
    """Return a sentence on a backbone that cannot know the data, or None.

    Args:
        label: Short name of the backbone.
        made_for: Source of the only data that it knows, from its config.json; None for a model of the world.
        source: Source of the data set, the manifest's `prepare.source`.
    """
    if made_for is None or made_for == source:
        return None
    return (
        f"the backbone {label} was made for data of prepare.source={made_for} and knows no other, and these are of "
        f"{source}: what it writes and how it scores mean nothing here; give another model.backbone"
    )


def folder_of(info: BackboneInfo) -> Path:
    """Return the folder of a backbone's files: its own, or the snapshot of a hub model in the local cache."""
    return Path(info.name) if info.commit is None else _snapshot(info.name, info.commit)


def hidden_size(name: str, revision: str | None = None) -> int:
    """Read D, the width of a model's last hidden states, and of the picture tokens that enter it."""
    return int(read_config(name, revision).get_text_config().hidden_size)


def _info(name: str, revision: str | None, config: Any, class_name: str, pictures: bool) -> BackboneInfo:
    """Check the model's files and hash what makes it another model."""
    random_weights = bool(getattr(config, RANDOM_MARK, False))
    stated = json.loads(config.to_json_string(use_diff=False))
    shapes = {key: value for key, value in stated.items() if key not in _NO_IDENTITY}
    before = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode())
    if Path(name).is_dir():
        check_files(Path(name), name, pictures)
        before.update(b"None")
        hash_ends(before, Path(name))
        digest, commit = before.copy(), None
        hash_middles(digest, Path(name), name)
    else:
        digest, commit = before.copy(), _commit(name, revision)
        digest.update(commit.encode())
        before.update(b"None")
    found, earlier = digest.hexdigest()[:16], before.hexdigest()[:16]
    found = _NAMED_BEFORE.get(found, found)
    return BackboneInfo(
        name,
        class_name,
        found,
        random_weights,
        commit=commit,
        made_for=getattr(config, MADE_FOR, None),
        earlier_fingerprint=None if earlier == found else earlier,
    )


def _commit(name: str, revision: str | None) -> str:
    """Return the commit of a hub model whose config.json was read, after checking what else of it is cached."""
    commit = pinned_revision(name, revision) or "main"
    check_whole(_snapshot(name, commit), name)
    return commit


def _snapshot(name: str, commit: str) -> Path:
    """Return the folder of a hub model in the local cache.

    Raises:
        ConfigError: The cache does not hold it.
    """
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=commit)
    if not isinstance(cached, str) or Path(cached).parent.name != commit:
        raise ConfigError(
            f"backbone={name!r} at {commit}: is not in the hub's cache; download it with `hf download`, or give a "
            "folder"
        )
    return Path(cached).parent
