"""The pretrained multimodal LLM: loading in NF4, LoRA on its language layers, and a census that checks both.

Only this file imports bitsandbytes and peft, and only where they are used: baselines run without them.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import transformers
from torch import nn

from mllm_srec.families.base import LANGUAGE_LAYERS, Family
from mllm_srec.families.config_file import first_line, hub_given_up_early, pinned_revision
from mllm_srec.families.lookup import family_of, read_family
from mllm_srec.models.backbone_files import BackboneInfo, describe_backbone
from mllm_srec.models.lora_targets import lora_targets
from mllm_srec.models.turns import MODEL_TURN
from mllm_srec.prompts.packing import attention_mask
from mllm_srec.types import ConfigError, PackedBatch

Finetune = Literal["lora", "full", "none"]
Quantization = Literal["nf4", "none"]
Dtype = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class LoraSettings:
    """Settings of the low-rank adapters; the article states none, so they are those of its closest relative.

    Args:
        r: Rank.
        alpha: Scale: the update is multiplied by alpha / r.
        dropout: Dropout before the adapter, in [0, 1).
        target_modules: Regular expression over full module names. The default stands for the linear layers of the
            language model, however the backbone's family names them.
    """

    r: int = 8
    alpha: int = 16
    dropout: float = 0.1
    target_modules: str = LANGUAGE_LAYERS

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        for name, value in (("r", self.r), ("alpha", self.alpha)):
            if value < 1:
                raise ConfigError(f"lora.{name}={value}: must be at least 1; give a positive number")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout={self.dropout}: must be in [0, 1); give a share below 1, such as 0.1")
        try:
            re.compile(self.target_modules)
        except re.error as error:
            raise ConfigError(
                f"lora.target_modules={self.target_modules!r}: is no regular expression ({error}); write .* for any "
                r"characters, such as '.*\.(q|v)_proj', or leave it at its default"
            ) from error


@dataclass(frozen=True)
class BackboneSettings:
    """Everything that decides the loaded weights.

    Args:
        name: Hub name or folder.
        revision: Revision of a hub model.
        finetune: `lora` trains adapters, `full` every weight, `none` nothing (zero-shot).
        lora: Settings of the adapters.
        quantization: `nf4` with double quantisation for the language layers, or `none`.
        dtype: Type of unquantised weights and of computation; `auto` is bfloat16 on a GPU and float32 on a CPU.
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
    """A loaded multimodal model with or without adapters, fed with packed rows.

    Args:
        net: Transformers model, wrapped by PEFT where it has adapters.
        info: Identity of the model, for checkpoints and results.
    """

    def __init__(self, net: nn.Module, info: BackboneInfo) -> None:
        super().__init__()
        self.net = net
        self.info = info
        self.family = family_of(self.base.config)

    @property
    def base(self) -> Any:
        """The transformers model below the adapters."""
        return self.net.get_base_model() if hasattr(self.net, "peft_config") else self.net  # type: ignore[operator]

    @property
    def language_model(self) -> Any:
        """The language layers below the head."""
        return self.base.get_submodule(self.family.language_model)

    @property
    def vision_tower(self) -> nn.Module:
        """The part that encodes pictures."""
        tower: nn.Module = self.base.get_submodule(self.family.vision_tower)
        return tower

    @property
    def lm_head(self) -> torch.Tensor:
        """Rows of the vocabulary `(V, D)`."""
        weight: torch.Tensor = self.base.lm_head.weight
        return weight

    def image_features(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> list[torch.Tensor]:
        """Encode pictures, one `(tokens, D)` each; without a graph where the vision tower is frozen."""
        trained = any(parameter.requires_grad for parameter in self.vision_tower.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            return self.family.encode_pictures(self.base.model, pixel_values, image_grid_thw)

    def without_adapters(self) -> AbstractContextManager[None]:
        """Switch the adapters off for a while: the weights as they were loaded."""
        disabled: AbstractContextManager[None] = self.net.disable_adapter()  # type: ignore[operator]
        return disabled

    def forward(self, batch: PackedBatch, pictures: tuple[torch.Tensor, ...] | None = None) -> torch.Tensor:
        """Compute the last hidden states `(R, T, D)` of packed rows; pictures as `pictures` returns them, if known."""
        pictures = self.pictures(batch) if pictures is None else pictures
        output = self.base.model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=attention_mask(batch["segment_ids"]),  # not a dictionary, which few families take
            use_cache=False,
            **(self.family.picture_inputs(pictures) if pictures else {}),
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def embed(self, batch: PackedBatch) -> torch.Tensor:
        """Embed tokens, and pictures at their placeholders: the input `(R, T, D)` of the first layer."""
        input_ids = batch["input_ids"]  # (R, T)
        embeddings: torch.Tensor = self.base.get_input_embeddings()(input_ids)  # (R, T, D)
        pictures = self.pictures(batch)
        if not pictures:
            return embeddings
        placeholders = (input_ids == self.base.config.image_token_id).unsqueeze(-1)  # (R, T, 1)
        return embeddings.masked_scatter(placeholders, torch.cat(pictures).to(embeddings))

    def pictures(self, batch: PackedBatch) -> tuple[torch.Tensor, ...]:
        """Return the pictures' features in the order of their placeholders; a picture shown twice is encoded once."""
        if "image_index" not in batch:
            return ()
        if "image_features" in batch:
            distinct = self.family.split_pictures(batch["image_features"], batch["image_grid_thw"])
        else:
            distinct = tuple(self.image_features(batch["pixel_values"], batch["image_grid_thw"]))
        return tuple(distinct[index] for index in batch["image_index"].tolist())


def load_backbone(settings: BackboneSettings, device: torch.device) -> Backbone:
    """Load weights onto `device`, freeze them, attach adapters, and check the outcome against the settings.

    Raises:
        ConfigError: An unsupported family, the wrong layers quantised, or no layer for the adapters.
    """
    info = describe_backbone(settings.name, settings.revision)
    pinned = replace(settings, revision=info.commit or settings.revision)
    return prepare_backbone(load_weights(pinned, device), info, settings)


def load_weights(settings: BackboneSettings, device: torch.device) -> Any:
    """Load a model of transformers, quantised as set.

    Args:
        settings: Name, quantisation and dtype.
        device: Device of the weights.

    Raises:
        ConfigError: The model cannot be read, or is of no family.
    """
    family = read_family(settings.name, settings.revision)
    dtype = _resolve_dtype(settings, device)
    options = {
        "revision": pinned_revision(settings.name, settings.revision),
        "dtype": dtype,
        "quantization_config": _four_bits(family, dtype) if settings.quantization == "nf4" else None,
        "device_map": {"": device},
        "attn_implementation": "sdpa",
        "output_loading_info": True,
    }
    try:
        with (
            hub_given_up_early(settings.name),
            MODEL_TURN,
        ):  # two threads that load at once would leave weights without data
            net, found = getattr(transformers, family.model_class).from_pretrained(settings.name, **options)
    except Exception as error:  # transformers, safetensors and torch raise almost any type here
        if isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error):
            raise
        raise ConfigError(
            f"backbone={settings.name!r}: its weights cannot be loaded ({first_line(error)}); download or copy the "
            "folder again, or give a model of the family that its config.json names"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f"backbone={settings.name!r}: its files lack {len(missing)} weights, such as {missing[0]}, which would be "
            "random; download or copy the folder again"
        )
    _keep_weight_layout(net)
    return net


def _four_bits(family: Family, dtype: torch.dtype) -> Any:
    """Return the settings of NF4 with double quantisation.

    Raises:
        ConfigError: bitsandbytes is not installed, or does not work on this machine.
    """
    try:
        import bitsandbytes  # noqa: F401 - transformers would ask for it deep inside, without saying what to set
    except Exception as error:
        raise ConfigError(
            f"model.quantization='nf4': bitsandbytes cannot be imported ({first_line(error)}); install it "
            "(`pip install bitsandbytes`), or set model.quantization to none"
        ) from error
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(family.not_quantised) or None,
    )


def _is_four_bit(module: nn.Module) -> bool:
    """Return True for a layer of 4-bit weights; there is none where bitsandbytes was never imported."""
    bnb = sys.modules.get("bitsandbytes")
    return bnb is not None and isinstance(module, bnb.nn.Linear4bit)


def _keep_weight_layout(net: nn.Module) -> None:
    """Forbid bitsandbytes to repack 4-bit weights on processors with AVX512-BF16.

    It repacks them in the first forward pass in evaluation mode. From then on it computes in bfloat16, whatever the
    settings, and has no gradient: a fit would fail, or lose gradients, after its first validation (bitsandbytes 0.50).
    """
    for module in net.modules():
        if _is_four_bit(module):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # of bitsandbytes


def prepare_backbone(net: Any, info: BackboneInfo, settings: BackboneSettings) -> Backbone:
    """Freeze a loaded model, attach adapters and check the outcome; separate from loading so that tests can call it."""
    check_census(census(net), settings.quantization)
    net.requires_grad_(settings.finetune == "full")
    if settings.activation_checkpointing:
        # Only the language model: recomputing the frozen tower would gain nothing.
        net.get_submodule(family_of(net.config).language_model).activation_checkpointing_enable(
            {"use_reentrant": False}
        )
    if settings.finetune == "lora":
        net = _attach_lora(net, settings)
    return Backbone(net, info)


def _attach_lora(net: Any, settings: BackboneSettings) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    pattern = lora_targets(net, family_of(net.config), settings.lora.target_modules, settings.name)
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
    return adapted


def census(net: nn.Module) -> dict[str, int]:
    """Count linear layers by part and type, such as `{"language/Linear4bit": 196, "lm_head/Linear": 1}`."""
    counts: Counter[str] = Counter()
    family = family_of(net.config)
    head = net.get_output_embeddings()  # type: ignore[operator]  # `lm_head`, but for a few text-only families
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            part = "visual" if family.in_vision_tower(name) else "lm_head" if module is head else "language"
            kind = "Linear4bit" if _is_four_bit(module) else "Linear"
            counts[f"{part}/{kind}"] += 1
    return dict(counts)


def check_census(counts: dict[str, int], quantization: Quantization) -> None:
    """Check a census against `quantization`.

    Raises:
        ConfigError: The vision tower or the head is in 4 bits, or a language layer is not.
    """
    language = "language/Linear" if quantization == "nf4" else "language/Linear4bit"
    wrong = ("visual/Linear4bit", "lm_head/Linear4bit", language)
    found = {part: counts[part] for part in wrong if counts.get(part)}
    if found:
        raise ConfigError(
            f"quantization={quantization!r}: left these layers in the wrong type: {found} (all: {counts}), since the "
            "installed transformers or bitsandbytes treats skipped modules differently from the tested versions; "
            "install versions that pyproject.toml accepts"
        )


def _resolve_dtype(settings: BackboneSettings, device: torch.device) -> torch.dtype:
    if settings.dtype == "auto":
        frozen = settings.finetune != "full"  # trained weights stay in float32, as always in mixed precision
        return torch.bfloat16 if device.type == "cuda" and frozen else torch.float32
    return torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
