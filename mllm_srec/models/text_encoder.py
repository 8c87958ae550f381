"""Texts -> hidden states: by the recommender's own language model, or by a sentence encoder; never trained here."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
import transformers
from torch import Tensor

from mllm_srec.models.backbone import BackboneSettings, load_backbone
from mllm_srec.models.backbone_files import BackboneInfo, describe_backbone, describe_text_encoder, hidden_size
from mllm_srec.prompts.encoding import PlainText, load_tokenizer
from mllm_srec.types import ConfigError, PackedBatch


class TextEncoder(Protocol):
    """Whatever turns token ids into one vector a token."""

    @property
    def info(self) -> BackboneInfo:
        """What the model is."""
        ...

    @property
    def identity(self) -> str:
        """Names the numbers that come out: weights and how they are loaded."""
        ...

    @property
    def width(self) -> int:
        """D, numbers of a vector."""
        ...

    def encode(self, text: str, max_tokens: int) -> tuple[list[int], bool]:
        """Token ids of a text, at most `max_tokens`, and whether it was cut."""
        ...

    def load(self, device: torch.device) -> None:
        """Load the weights; until then only texts are encoded."""
        ...

    def hidden(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states `(B, T, D)` of ids `(B, T)` padded on the right; `mask` is False on padding."""
        ...


def mean_over_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Float32 mean `(B, D)` over the tokens that are no padding.

    Args:
        hidden: `(B, T, D)`.
        mask: Bool `(B, T)`, at least one True a row.
    """
    weights = mask.unsqueeze(-1).float()  # (B, T, 1)
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)  # (B, D)


class BackboneText:
    """The language model of a Qwen-VL on plain text: no chat around it, and control tokens are letters.

    Args:
        settings: The backbone; `finetune` must be `none`.

    Raises:
        ConfigError: It cannot be read, or would be trained.
    """

    def __init__(self, settings: BackboneSettings) -> None:
        if settings.finetune != "none":
            raise ConfigError(f"finetune={settings.finetune!r} for a model that reads item texts; it must be 'none'")
        self.settings = settings
        self.info = describe_backbone(settings.name, settings.revision)
        self.identity = f"{self.info.fingerprint} {settings.dtype} {settings.quantization}"
        self.width = hidden_size(settings.name, settings.revision)
        self._plain = PlainText(load_tokenizer(settings.name, settings.revision))
        self._net: Any = None

    def encode(self, text: str, max_tokens: int) -> tuple[list[int], bool]:
        """Token ids of a text, at most `max_tokens`, and whether it was cut."""
        ids = self._plain.encode(text)
        return ids[:max_tokens], len(ids) > max_tokens

    def load(self, device: torch.device) -> None:
        """Load the backbone, in evaluation mode."""
        self._net = load_backbone(self.settings, device).eval()

    def hidden(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states `(B, T, D)`; every text is a row that is all prefix."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand(3, *input_ids.shape)  # (3, B, T)
        row = {"input_ids": input_ids, "position_ids": positions, "segment_ids": mask.long() - 1}
        hidden: Tensor = self._net(cast(PackedBatch, row))
        return hidden


class SentenceEncoder:
    """A transformers encoder in float32 with its own tokenizer, whose special tokens are read along, as in training.

    Args:
        name: Hub name or folder.
        revision: Revision of a hub model.

    Raises:
        ConfigError: It cannot be read, or is no text encoder.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.name, self.revision = name, revision
        self.info = describe_text_encoder(name, revision)
        self.identity = f"{self.info.fingerprint} float32"
        self.width = hidden_size(name, revision)
        self._tokenizer = load_tokenizer(name, revision)
        self._net: Any = None

    def encode(self, text: str, max_tokens: int) -> tuple[list[int], bool]:
        """Token ids of a text, at most `max_tokens` with the special ones, and whether it was cut.

        Raises:
            ConfigError: The encoder cannot read that many tokens.
        """
        if max_tokens > self._tokenizer.model_max_length:
            raise ConfigError(
                f"max_text_tokens={max_tokens}, but {self.info.name} reads {self._tokenizer.model_max_length} at most"
            )
        # `split_special_tokens`: a title that holds "[SEP]" is letters like any other
        options = {"split_special_tokens": True, "verbose": False}
        ids: list[int] = self._tokenizer(text, **options)["input_ids"]
        if len(ids) <= max_tokens:
            return ids, False
        return self._tokenizer(text, truncation=True, max_length=max_tokens, **options)["input_ids"], True

    def load(self, device: torch.device) -> None:
        """Load the encoder, in evaluation mode."""
        net = transformers.AutoModel.from_pretrained(self.name, revision=self.revision, dtype=torch.float32)
        self._net = net.to(device).eval()

    def hidden(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states `(B, T, D)`."""
        hidden: Tensor = self._net(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
        return hidden
