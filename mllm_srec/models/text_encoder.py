"""Texts -> hidden states, by the recommender's own language model or a sentence encoder; neither is trained here."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
import transformers
from torch import Tensor

from mllm_srec.families.config_file import hub_given_up_early
from mllm_srec.models.backbone import BackboneSettings, load_backbone
from mllm_srec.models.backbone_files import BackboneInfo, describe_backbone, describe_text_encoder, hidden_size
from mllm_srec.prompts.encoding import PlainText, load_tokenizer
from mllm_srec.types import ConfigError, PackedBatch


class TextEncoder(Protocol):
    """A model that turns token ids into one vector per token."""

    @property
    def info(self) -> BackboneInfo:
        """Identity of the model."""
        ...

    @property
    def identity(self) -> str:
        """Key of the vectors: weights, and how they are loaded."""
        ...

    @property
    def width(self) -> int:
        """D, the width of a vector."""
        ...

    def encode(self, text: str, max_tokens: int) -> tuple[list[int], bool]:
        """Encode a text as at most `max_tokens` token ids; True beside them if it was cut."""
        ...

    def load(self, device: torch.device) -> None:
        """Load the weights; until then only texts are encoded."""
        ...

    def hidden(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Compute last hidden states `(B, T, D)` of ids `(B, T)` padded on the right; `mask` is False on padding."""
        ...


def mean_over_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average hidden states over the tokens that are not padding: `(B, D)` float32.

    Args:
        hidden: `(B, T, D)`.
        mask: Bool `(B, T)`, at least one True per row.
    """
    weights = mask.unsqueeze(-1).float()  # (B, T, 1)
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)  # (B, D)


class BackboneText:
    """Encoder by a backbone's language model: plain text without a chat, in which control tokens are mere characters.

    Args:
        settings: Settings of the backbone; `finetune` must be `none`.

    Raises:
        ConfigError: The backbone cannot be read, or would be trained.
    """

    def __init__(self, settings: BackboneSettings) -> None:
        if settings.finetune != "none":
            raise ConfigError(
                f"finetune={settings.finetune!r}: must be 'none' for a model that reads item texts; set it so"
            )
        self.settings = settings
        self.info = describe_backbone(settings.name, settings.revision)
        self.identity = f"{self.info.fingerprint} {settings.dtype} {settings.quantization}"
        self.width = hidden_size(settings.name, settings.revision)
        self._plain = PlainText(load_tokenizer(settings.name, settings.revision))
        self._net: Any = None

    def encode(self, text: str, max_tokens: int) -> tuple[list[int], bool]:
        """Encode a text as at most `max_tokens` token ids; True beside them if it was cut."""
        ids = self._plain.encode(text)
        return ids[:max_tokens], len(ids) > max_tokens

    def load(self, device: torch.device) -> None:
        """Load the backbone, in evaluation mode."""
        self._net = load_backbone(self.settings, device).eval()

    def hidden(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Compute last hidden states `(B, T, D)`; every text is a row that is all prefix."""
        plain, _ = self._net.family.positions(input_ids.new_zeros(input_ids.shape[1]).cpu(), (), -1, 0)  # (3, T)
        positions = plain.to(input_ids.device).unsqueeze(1).expand(-1, *input_ids.shape)  # (3, B, T)
        row = {"input_ids": input_ids, "position_ids": positions, "segment_ids": mask.long() - 1}
        hidden: Tensor = self._net(cast(PackedBatch, row))
        return hidden


class SentenceEncoder:
    """Encoder by a sentence model of transformers in float32, which reads the special tokens it was trained with.

    Args:
        name: Hub name or folder.
        revision: Revision of a hub model.

    Raises:
        ConfigError: The model cannot be read, or is no text encoder.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.name, self.revision = name, revision
        self.info = describe_text_encoder(name, revision)
        self.identity = f"{self.info.fingerprint} float32"
        self.width = hidden_size(name, revision)
        self._tokenizer = load_tokenizer(name, revision)
        self._net: Any = None

    def encode(self, text: str, max_tokens: int) -> tuple[list[int], bool]:
        """Encode a text as at most `max_tokens` token ids, special ones included; True beside them if it was cut.

        Raises:
            ConfigError: The encoder reads fewer tokens.
        """
        if max_tokens > self._tokenizer.model_max_length:
            raise ConfigError(
                f"max_text_tokens={max_tokens}: {self.info.name} reads {self._tokenizer.model_max_length} at most; "
                "give no more"
            )
        # `split_special_tokens`: "[SEP]" in a title is a string of characters like any other
        options = {"split_special_tokens": True, "verbose": False}
        ids: list[int] = self._tokenizer(text, **options)["input_ids"]
        if len(ids) <= max_tokens:
            return ids, False
        return self._tokenizer(text, truncation=True, max_length=max_tokens, **options)["input_ids"], True

    def load(self, device: torch.device) -> None:
        """Load the encoder, in evaluation mode.

        Raises:
            ConfigError: Its files lack weights.
        """
        revision = self.info.commit or self.revision
        options = {"revision": revision, "dtype": torch.float32, "output_loading_info": True}
        with hub_given_up_early(self.name):
            net, found = transformers.AutoModel.from_pretrained(self.name, **options)
        missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))  # which is not used
        if missing:
            raise ConfigError(
                f"text_encoder={self.name!r}: its files lack {len(missing)} weights, such as {missing[0]}, which would "
                "be random; download or copy the folder again"
            )
        self._net = net.to(device).eval()

    def hidden(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Compute last hidden states `(B, T, D)`."""
        hidden: Tensor = self._net(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
        return hidden
