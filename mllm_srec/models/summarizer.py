"""LightningModule that writes summaries in the three offline stages (VIU, IMSG and TUBC of the article, Eq. 1-2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch

from mllm_srec.families.lookup import read_family, titles
from mllm_srec.models.backbone import (
    BackboneSettings,
    Dtype,
    Quantization,
    census,
    check_census,
    load_backbone,
    load_weights,
)
from mllm_srec.models.backbone_files import WriterInfo, describe_writer
from mllm_srec.models.generation import finish_reason, generate
from mllm_srec.prompts.chat import ChatEncoder
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.encoding import load_tokenizer
from mllm_srec.prompts.summaries import Summary
from mllm_srec.types import ConfigError, GenerationBatch


class SummaryGenerator(pl.LightningModule):
    """Writer of answers to chats, by any instruction-tuned model; for `Trainer.predict` only.

    One instance serves any number of `Trainer.predict` calls, as the steps of a preference chain need, and loads its
    model once. Summaries leave through a `BasePredictionWriter`: call `predict` with `return_predictions=False`, since
    Lightning refuses to collect frozen records.

    Args:
        name: Hub name or folder of a multimodal model, or of a causal language model with a chat template.
        revision: Revision of a hub model.
        quantization: `nf4` with double quantisation, or `none`.
        dtype: Type of unquantised weights; `auto` is bfloat16 on a GPU and float32 on a CPU.
        decoding: Length and sampling.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        quantization: Quantization = "nf4",
        dtype: Dtype = "auto",
        decoding: GenerationSettings = GenerationSettings(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.settings = BackboneSettings(
            name=name, revision=revision, finetune="none", quantization=quantization, dtype=dtype
        )
        self.decoding = decoding
        self.chat: ChatEncoder | None = None
        # Not a module of this one: Lightning would carry the weights to the CPU after each call, and back at the next.
        self.writer: Writer | None = None

    def configure_model(self) -> None:
        """Load the tokenizer, and the model on this process's device, once."""
        if self.writer is not None:
            return
        device = self.trainer.strategy.root_device if self._trainer is not None else torch.device("cpu")
        name, revision = self.settings.name, self.settings.revision
        self.chat = ChatEncoder(load_tokenizer(name, revision), read_family(name, revision))
        self.writer = load_writer(self.settings, device)

    def predict_step(self, batch: GenerationBatch, batch_idx: int) -> list[Summary]:
        """Answer the chats in the order of the batch; a process without prompts gets an empty batch and answers none.

        Raises:
            ConfigError: The model is not loaded, or is text-only and the batch shows pictures.
        """
        if not batch["keys"]:
            return []
        if self.writer is None or self.chat is None:
            raise ConfigError("the model is not loaded yet; call configure_model() first, or use a Trainer")
        if "image_grid_thw" in batch and not self.writer.info.multimodal:
            raise ConfigError(
                f"backbone={self.settings.name!r}: is a text-only model, but the batch shows pictures; give a "
                f"{titles()} as backbone of this stage"
            )
        stop_ids = self.chat.stop_ids
        answers = generate(self.writer.net, batch, self.decoding, stop_ids, self.chat.pad_token_id)
        return [
            Summary(key, self.chat.decode(ids), finish_reason(ids, stop_ids), len(ids))
            for key, ids in zip(batch["keys"], answers, strict=True)
        ]


@dataclass(frozen=True)
class Writer:
    """A loaded model that writes summaries.

    Attributes:
        net: Transformers model, frozen and in evaluation mode.
        info: Identity of the model.
    """

    net: Any
    info: WriterInfo


def load_writer(settings: BackboneSettings, device: torch.device) -> Writer:
    """Load a model for generation only: frozen and in evaluation mode.

    Args:
        settings: Settings of the model; `finetune` must be `none`.
        device: Device of the weights.

    Raises:
        ConfigError: The model cannot write, or the wrong layers are quantised.
    """
    if settings.finetune != "none":
        raise ConfigError(
            f"finetune={settings.finetune!r}: a model that writes summaries is not trained; set it to 'none'"
        )
    info = describe_writer(settings.name, settings.revision)
    if info.multimodal:
        net = load_backbone(settings, device).net
    else:
        net = load_weights(settings, device)
        check_census(census(net), settings.quantization)
    return Writer(net.requires_grad_(False).eval(), info)
