"""The network of VIP5: T5 with visual tokens in its input and small adapters in its frozen layers."""

from __future__ import annotations

from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5LayerNorm

from mllm_srec.baselines.parts.train_data import ItemFeatures
from mllm_srec.baselines.parts.vip5_prompts import ANSWERS, FIXED, PLACEHOLDER, USER, Prompts
from mllm_srec.families.config_file import first_line, hub_given_up_early
from mllm_srec.models.backbone_files import RANDOM_MARK
from mllm_srec.types import ConfigError

RANDOM = "random"
"""Name of the small untrained backbone."""

N_WORDS = 1024
"""Rows of the table of words, so words (and tokens) of the longest prompt."""

N_CATEGORIES = 2
"""Text and visual; the official table has 16 rows, of which two are used."""


def load_t5(backbone: str, dropout: float) -> tuple[Any, Any]:
    """Load a pretrained T5 and its tokenizer.

    Args:
        backbone: Folder or hub name.
        dropout: Dropout of all its layers.

    Returns:
        The model, a `T5ForConditionalGeneration`, and its tokenizer.

    Raises:
        ConfigError: If the backbone cannot be read or is not a T5.
    """
    try:
        with hub_given_up_early(backbone):
            tokenizer = AutoTokenizer.from_pretrained(backbone, use_fast=True)  # slow ones split words differently
            config = T5Config.from_pretrained(backbone)
            if config.model_type != "t5":
                raise ConfigError(f"backbone={backbone!r}: is of type {config.model_type!r}; give a T5")
            options = {"dropout_rate": dropout, "dtype": torch.float32, "output_loading_info": True}
            t5, found = T5ForConditionalGeneration.from_pretrained(backbone, **options)
            if found["missing_keys"]:
                raise ValueError(f"weights are missing, such as {sorted(found['missing_keys'])[0]}")
    except ConfigError:
        raise
    except Exception as error:  # transformers, safetensors and torch raise almost any type here
        raise ConfigError(
            f"backbone={backbone!r}: cannot be read: {first_line(error)}; give a folder or hub name of a T5 with "
            f"its tokenizer, or `{RANDOM}` with finetune: full for a small untrained one"
        ) from error
    return t5, tokenizer


def small_t5(hidden: int, n_layers: int, n_heads: int, dropout: float) -> tuple[Any, Any]:
    """Make a small T5 with random weights (torch's global random state) and the tokenizer of `small_tokenizer`.

    Args:
        hidden: D, width of the model.
        n_layers: Number of layers of the encoder, and of the decoder.
        n_heads: Number of attention heads, a divisor of D.
        dropout: Dropout of all layers.

    Returns:
        The model, a `T5ForConditionalGeneration`, and its tokenizer.
    """
    tokenizer = small_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=hidden,
        d_kv=hidden // n_heads,
        d_ff=4 * hidden,
        num_layers=n_layers,
        num_heads=n_heads,
        dropout_rate=dropout,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        **{RANDOM_MARK: True},
    )
    return T5ForConditionalGeneration(config), tokenizer


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of the prompts' words, single digits and T5's special tokens."""
    words = dict.fromkeys(word for phrase in (*FIXED, *ANSWERS) for word in phrase.split())
    vocabulary = ["<pad>", "</s>", "<unk>", PLACEHOLDER, USER, *"0123456789", *words]
    core = Tokenizer(models.WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[PLACEHOLDER],
    )


class Adapter(nn.Module):
    """Bottleneck adapter x + up(GELU(down(x))), initially almost the identity.

    Args:
        hidden: D, width of the states.
        reduction: Ratio of D to the inner width.
    """

    def __init__(self, hidden: int, reduction: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(hidden, hidden // reduction), nn.Linear(hidden // reduction, hidden)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=1e-2)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt states `(..., D)`; same shape."""
        adapted: Tensor = x + self.up(nn.functional.gelu(self.down(x)))
        return adapted


def insert_adapters(t5: Any, reduction: int) -> None:
    """Insert an adapter after every self-attention, cross-attention and feed-forward layer, before its residual sum.

    Args:
        t5: `T5ForConditionalGeneration`, changed in place.
        reduction: Ratio of the backbone's width to that of an adapter.

    Raises:
        ConfigError: If `reduction` exceeds the width.
    """
    hidden = t5.config.d_model
    if not 1 <= reduction <= hidden:
        raise ConfigError(f"adapter_reduction={reduction}: out of range; give 1 to {hidden}, the backbone's width")
    for block in (*t5.encoder.block, *t5.decoder.block):
        for layer in block.layer:
            for name in ("SelfAttention", "EncDecAttention"):
                if hasattr(layer, name):
                    attention = getattr(layer, name)
                    attention.o = nn.Sequential(attention.o, Adapter(hidden, reduction))
            if hasattr(layer, "DenseReluDense"):
                layer.DenseReluDense = nn.Sequential(layer.DenseReluDense, Adapter(hidden, reduction))


class VisualTokens(nn.Module):
    """Projection of image features to visual tokens: an MLP with Tanh, split into tokens, each normalised.

    Items without a picture share learnt tokens, which exist only if there are such items.

    Args:
        features: Features of the items; `features.image` is `(N + 1, D_image)`.
        hidden: D, width of a token.
        n_tokens: Visual tokens per item.
    """

    image: Tensor
    has_image: Tensor

    def __init__(self, features: ItemFeatures, hidden: int, n_tokens: int) -> None:
        super().__init__()
        self.n_tokens = n_tokens
        self.register_buffer("image", torch.from_numpy(features.image).float(), persistent=False)
        self.register_buffer("has_image", torch.from_numpy(features.has_image), persistent=False)
        inner = max(1, hidden * n_tokens // 2)
        self.projection = nn.Sequential(
            nn.Linear(features.image.shape[1], inner), nn.Tanh(), nn.Linear(inner, hidden * n_tokens)
        )
        self.norm = T5LayerNorm(hidden)
        complete = bool(self.has_image[1:].all())
        self.no_picture = None if complete else nn.Parameter(torch.randn(n_tokens, hidden))

    def forward(self, items: Tensor) -> Tensor:
        """Compute the tokens of items `(n,)`, one item after another: `(n * n_tokens, D)`."""
        unique, inverse = torch.unique(items, return_inverse=True)  # an item is in many histories of a batch
        tokens: Tensor = self.norm(self.projection(self.image[unique]).unflatten(1, (self.n_tokens, -1)))  # (m, n_v, D)
        if self.no_picture is not None:
            tokens = torch.where(self.has_image[unique][:, None, None], tokens, self.no_picture)
        return tokens[inverse].flatten(0, 1)


class VIP5Network(nn.Module):
    """T5 that reads prompts with visual tokens.

    Args:
        t5: `T5ForConditionalGeneration`, with adapters or without.
        features: Features of the items.
        n_visual_tokens: Visual tokens per item.
    """

    def __init__(self, t5: Any, features: ItemFeatures, n_visual_tokens: int) -> None:
        super().__init__()
        self.t5 = t5
        hidden = t5.config.d_model
        self.visual = VisualTokens(features, hidden, n_visual_tokens)
        self.whole_words = nn.Embedding(N_WORDS, hidden)
        self.categories = nn.Embedding(N_CATEGORIES, hidden)

    def freeze(self, finetune: Literal["adapters", "full"], strict: bool) -> None:
        """Freeze the weights that a mode does not train.

        Args:
            finetune: `adapters` freezes T5 except adapters and layer norms; `full` freezes nothing.
            strict: With `adapters`, also freeze the tables of words and categories, as the official code does by
                accident.
        """
        if finetune == "full":
            return
        self.t5.requires_grad_(False)
        for module in self.t5.modules():
            if isinstance(module, (Adapter, T5LayerNorm)):
                module.requires_grad_(True)
        for table in (self.whole_words, self.categories):
            table.requires_grad_(not strict)

    def encode(self, prompts: Prompts) -> Tensor:
        """Run the encoder on prompts: `(B, T, D)`."""
        text: Tensor = self.t5.shared(prompts.tokens)  # (B, T, D)
        visual = self.visual(prompts.items).to(text.dtype)
        merged = text.masked_scatter(prompts.visual[..., None], visual)
        embedded = merged + self.whole_words(prompts.words) + self.categories(prompts.visual.long())
        output: Tensor = self.t5.encoder(inputs_embeds=embedded, attention_mask=prompts.mask.long()).last_hidden_state
        return output

    def decode(self, memory: Tensor, prompts: Prompts, labels: Tensor) -> Tensor:
        """Compute the logits `(B, L, V)` that predict each of `labels` `(B, L)` from the ones before it."""
        output = self.t5(
            encoder_outputs=(memory,),
            attention_mask=prompts.mask.long(),
            decoder_input_ids=self.t5._shift_right(labels),
            use_cache=False,
        )
        logits: Tensor = output.logits
        return logits
