"""The pretrained multimodal LLM: loading in NF4, LoRA on its language layers, and a census that proves both.

The only file that knows bitsandbytes and peft.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bitsandbytes as bnb
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mllm_srec.models.backbone_files import BackboneInfo, describe_backbone
from mllm_srec.prompts.geometry import attention_mask
from mllm_srec.types import ConfigError, PackedBatch

Finetune = Literal["lora", "full", "none"]
Quantization = Literal["nf4", "none"]
Dtype = Literal["auto", "float32", "bfloat16"]

SKIPPED = ["model.visual", "lm_head"]
"""Never quantised. The full prefix is needed: "visual" alone matches nothing, and a list replaces the default."""

LORA_TARGETS = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
"""Linear layers of the language model; the vision tower's are named otherwise and stay as they are."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (QLoRA; the article states no numbers, these are borrowed from its closest relative).

    Args:
        r: Rank.
        alpha: Scale: the update is multiplied by alpha / r.
        dropout: Dropout before the adapter, in [0, 1).
        target_modules: Regular expression over full module names.
    """

    r: int = 8
    alpha: int = 16
    dropout: float = 0.1
    target_modules: str = LORA_TARGETS

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if self.r < 1 or self.alpha < 1:
            raise ValueError(f"lora.r={self.r}, lora.alpha={self.alpha}; both are at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout={self.dropout}; give a share in [0, 1)")


@dataclass(frozen=True)
class BackboneSettings:
    """Everything that decides the loaded weights.

    Args:
        name: Hub name or folder.
        revision: Revision of a hub model.
        finetune: `lora` trains adapters, `full` every weight, `none` nothing (zero-shot).
        lora: The adapters.
        quantization: `nf4` with double quantisation for the language layers, or `none`.
        dtype: Of unquantised weights and computation; `auto` is bfloat16 on a GPU and float32 on a CPU.
        activation_checkpointing: Recompute the language layers' activations in the backward pass.
        seed: Seed of the adapters' initial values; the same on every process.
    """

    name: str
    revision: str | None = None
    finetune: Finetune = "lora"
    lora: LoraSettings = LoraSettings()
    quantization: Quantization = "nf4"
    dtype: Dtype = "auto"
    activation_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse combinations that cannot train."""
        if self.finetune == "full" and self.quantization != "none":
            raise ConfigError(
                f"finetune='full' with quantization={self.quantization!r}: 4-bit weights cannot be trained; "
                "set quantization to 'none', or finetune to 'lora'"
            )
        if self.finetune == "full" and self.dtype == "bfloat16":
            raise ConfigError(
                "finetune='full' with dtype='bfloat16': small updates of bfloat16 weights round away; leave dtype at "
                "'auto' (float32 weights) and set trainer.precision to bf16-mixed"
            )


class Backbone(nn.Module):
    """A loaded Qwen-VL with or without adapters, fed with packed rows.

    Args:
        net: The transformers model, wrapped by PEFT where it has adapters.
        info: What the model is, for checkpoints and results.
    """

    def __init__(self, net: nn.Module, info: BackboneInfo) -> None:
        super().__init__()
        self.net = net
        self.info = info

    @property
    def base(self) -> Any:
        """The transformers model below the adapters."""
        return self.net.get_base_model() if hasattr(self.net, "peft_config") else self.net  # type: ignore[operator]

    @property
    def lm_head(self) -> torch.Tensor:
        """Rows of the vocabulary `(V, D)`."""
        weight: torch.Tensor = self.base.lm_head.weight
        return weight

    def image_features(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> list[torch.Tensor]:
        """The vision tower's output, one `(tokens, D)` per picture; without a graph where the tower is frozen."""
        trained = any(parameter.requires_grad for parameter in self.base.model.visual.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            return list(self.base.model.get_image_features(pixel_values, image_grid_thw).pooler_output)

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Last hidden states `(R, T, D)` of packed rows."""
        pictures = self.pictures(batch)
        encoded = {"image": BaseModelOutputWithPooling(pooler_output=pictures)} if pictures else None
        output = self.base.model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask={"full_attention": attention_mask(batch["segment_ids"])},
            mm_encoder_outputs=encoded,
            use_cache=False,
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def embed(self, batch: PackedBatch) -> torch.Tensor:
        """What enters the first layer `(R, T, D)`: embeddings of tokens, and of pictures at their placeholders."""
        input_ids = batch["input_ids"]  # (R, T)
        embeddings: torch.Tensor = self.base.get_input_embeddings()(input_ids)  # (R, T, D)
        pictures = self.pictures(batch)
        if not pictures:
            return embeddings
        placeholders = (input_ids == self.base.config.image_token_id).unsqueeze(-1)  # (R, T, 1)
        return embeddings.masked_scatter(placeholders, torch.cat(pictures).to(embeddings))

    def pictures(self, batch: PackedBatch) -> tuple[torch.Tensor, ...]:
        """Features of the pictures in the order of their placeholders; a picture shown twice is encoded once."""
        if "image_index" not in batch:
            return ()
        if "image_features" in batch:
            sizes = (batch["image_grid_thw"].prod(dim=1) // self.base.model.visual.spatial_merge_size**2).tolist()
            distinct: Sequence[torch.Tensor] = torch.split(batch["image_features"], sizes)
        else:
            distinct = self.image_features(batch["pixel_values"], batch["image_grid_thw"])
        return tuple(distinct[index] for index in batch["image_index"].tolist())

    def save_adapter(self, folder: Path) -> None:
        """Write what was trained in the format of its own library: PEFT for adapters, transformers for all weights."""
        if hasattr(self.net, "peft_config"):
            self.net.save_pretrained(str(folder), save_embedding_layers=False)  # type: ignore[operator]
        else:
            self.base.save_pretrained(str(folder))


def load_backbone(settings: BackboneSettings, device: torch.device) -> Backbone:
    """Load weights onto `device`, freeze them, attach adapters, and check that the result is what was asked for.

    Raises:
        ConfigError: Another model family, layers quantised that must not be or the reverse, no layer for the adapters.
    """
    info = describe_backbone(settings.name, settings.revision)
    return prepare_backbone(load_weights(info.class_name, settings, device, SKIPPED), info, settings)


def load_weights(
    class_name: str, settings: BackboneSettings, device: torch.device, skipped: list[str] | None = None
) -> Any:
    """A model of transformers on `device`, quantised where asked.

    Args:
        class_name: Class in transformers.
        settings: Name, quantisation and dtype.
        device: Where to load.
        skipped: Modules that are never quantised; None leaves it to transformers, which spares the head only.
    """
    dtype = _resolve_dtype(settings, device)
    quantization = None
    if settings.quantization == "nf4":
        quantization = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=skipped,
        )
    net = getattr(transformers, class_name).from_pretrained(
        settings.name,
        revision=settings.revision,
        dtype=dtype,
        quantization_config=quantization,
        device_map={"": device},
        attn_implementation="sdpa",
    )
    _keep_weight_layout(net)
    return net


def _keep_weight_layout(net: nn.Module) -> None:
    """Forbid bitsandbytes to repack 4-bit weights on processors with AVX512-BF16.

    It does so in the first forward pass in evaluation mode. From then on it computes in bfloat16, whatever was asked
    for, and has no gradient: a fit would break, or lose gradients, after its first validation (bitsandbytes 0.50).
    """
    for module in net.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def prepare_backbone(net: Any, info: BackboneInfo, settings: BackboneSettings) -> Backbone:
    """Freeze a loaded model, attach adapters and check the outcome; apart from loading so that tests can use it."""
    check_census(census(net), settings.quantization)
    net.requires_grad_(settings.finetune == "full")
    if settings.activation_checkpointing:
        # Only the language model: on the whole model the frozen tower would be recomputed for nothing.
        net.model.language_model.activation_checkpointing_enable({"use_reentrant": False})
    if settings.finetune == "lora":
        net = _attach_lora(net, settings)
    return Backbone(net, info)


def _attach_lora(net: Any, settings: BackboneSettings) -> nn.Module:
    pattern = settings.lora.target_modules
    if not any(re.fullmatch(pattern, name) for name, _ in net.named_modules()):
        raise ConfigError(
            f"lora.target_modules={pattern!r} names no module of {settings.name}; leave it at its default"
        )
    config = LoraConfig(
        r=settings.lora.r,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules=pattern,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)  # equal adapters on every process
        adapted: nn.Module = get_peft_model(net, config)
    outside = [name for name, p in adapted.named_parameters() if p.requires_grad and ".language_model." not in name]
    if outside:
        raise ConfigError(
            f"lora.target_modules={pattern!r} reaches beyond the language model: {outside[0]} and "
            f"{len(outside) - 1} more; name language layers only, such as {LORA_TARGETS}"
        )
    return adapted


def census(net: nn.Module) -> dict[str, int]:
    """Number of linear layers by place and type, such as `{"language/Linear4bit": 196, "lm_head/Linear": 1}`."""
    counts: Counter[str] = Counter()
    head = net.get_output_embeddings()  # type: ignore[operator]  # `lm_head`, but for a few text-only families
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            place = "visual" if ".visual." in f".{name}." else "lm_head" if module is head else "language"
            kind = "Linear4bit" if isinstance(module, bnb.nn.Linear4bit) else "Linear"
            counts[f"{place}/{kind}"] += 1
    return dict(counts)


def check_census(counts: dict[str, int], quantization: Quantization) -> None:
    """Compare a census with what `quantization` promises.

    Raises:
        ConfigError: Tower or head in 4 bits, or a language layer that is not.
    """
    language = "language/Linear" if quantization == "nf4" else "language/Linear4bit"
    wrong = ("visual/Linear4bit", "lm_head/Linear4bit", language)
    found = {place: counts[place] for place in wrong if counts.get(place)}
    if found:
        raise ConfigError(
            f"quantization={quantization!r} left these layers in the wrong type: {found} (all: {counts}); "
            "the installed transformers or bitsandbytes treats skipped modules differently from the tested versions"
        )


def _resolve_dtype(settings: BackboneSettings, device: torch.device) -> torch.dtype:
    if settings.dtype == "auto":
        frozen = settings.finetune != "full"  # weights that are trained stay in float32, as with any mixed precision
        return torch.bfloat16 if device.type == "cuda" and frozen else torch.float32
    return torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
