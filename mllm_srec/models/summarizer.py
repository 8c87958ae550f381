"""Writes summaries: the LightningModule of the three offline stages (VIU, IMSG and TUBC of the article, Eq. 1-2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch

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
    """Answers chats with any instruction-tuned model; predict only.

    One instance serves any number of `Trainer.predict` calls in a row, as the steps of a preference chain need, and
    loads its model once. Summaries go out through a `BasePredictionWriter`: call `predict` with
    `return_predictions=False`, since Lightning refuses to collect frozen records.

    Args:
        name: Hub name or folder of a Qwen-VL, or of a causal language model with a chat template.
        revision: Revision of a hub model.
        quantization: `nf4` with double quantisation, or `none`.
        dtype: Of unquantised weights; `auto` is bfloat16 on a GPU and float32 on a CPU.
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
        """Load tokenizer and model on this process's own device, once."""
        if self.writer is not None:
            return
        device = self.trainer.strategy.root_device if self._trainer is not None else torch.device("cpu")
        self.chat = ChatEncoder(load_tokenizer(self.settings.name, self.settings.revision))
        self.writer = load_writer(self.settings, device)

    def predict_step(self, batch: GenerationBatch, batch_idx: int) -> list[Summary]:
        """Answers in the order of the batch; none for the empty batch of a process that got no prompts.

        Raises:
            ConfigError: The model is not loaded, or is text-only and the batch shows pictures.
        """
        if not batch["keys"]:
            return []
        if self.writer is None or self.chat is None:
            raise ConfigError("the model is not loaded yet; call configure_model() first, or use a Trainer")
        if "image_grid_thw" in batch and not self.writer.info.multimodal:
            raise ConfigError(
                f"the batch shows pictures, but {self.settings.name!r} is a text-only model; give a Qwen2-VL or "
                "Qwen2.5-VL as backbone of this stage"
            )
        stop_ids = self.chat.stop_ids
        answers = generate(self.writer.net, batch, self.decoding, stop_ids, self.chat.pad_token_id)
        return [
            Summary(key, self.chat.decode(ids), finish_reason(ids, stop_ids), len(ids))
            for key, ids in zip(batch["keys"], answers, strict=True)
        ]


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
