"""A small untrained Qwen2-VL with its own tokenizer, so that every path runs without pretrained weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mllm_srec.models.backbone_files import RANDOM_MARK
from mllm_srec.prompts.templates import ANSWERS

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WORDS = (  # Qwen2's word pattern
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class RandomBackboneSettings:
    """Shape of an untrained Qwen2-VL.

    Args:
        hidden_size: Width of the language model.
        n_layers: Layers of the language model.
        n_heads: Attention heads; each is `hidden_size / n_heads` wide, a multiple of 8.
        mlp_ratio: Inner width of the language model's feed-forward layers, in units of `hidden_size`.
        vision_width: Width of the vision tower.
        vision_depth: Layers of the vision tower.
        vocab_size: Largest size of the vocabulary learned from the texts.
        seed: Seed of the weights.
    """

    hidden_size: int = 128
    n_layers: int = 4
    n_heads: int = 4
    mlp_ratio: int = 4
    vision_width: int = 96
    vision_depth: int = 3
    vocab_size: int = 4096
    seed: int = 0


def build_random_backbone(folder: Path, texts: Iterable[str], settings: RandomBackboneSettings) -> None:
    """Write model, tokenizer and image processor to `folder`, in the layout of any Qwen2-VL folder.

    Args:
        folder: Folder of the files, made if it is missing.
        texts: Texts whose words the tokenizer learns; frequent ones become single tokens.
        settings: Shape and seed.
    """
    tokenizer = build_tokenizer(texts, settings.vocab_size)
    tokenizer.save_pretrained(str(folder))
    build_model(tokenizer, settings).save_pretrained(str(folder))
    Qwen2VLImageProcessorPil().save_pretrained(str(folder))


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on `texts` with Qwen2's word pattern; the words of the responses are single tokens."""
    core = Tokenizer(BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    frequent = [response for response in ANSWERS.values() for _ in range(1000)]
    core.train_from_iterator([*frequent, *texts], trainer)
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, settings: RandomBackboneSettings
) -> Qwen2VLForConditionalGeneration:
    """Build an untrained Qwen2-VL for this vocabulary; its config.json marks the weights as random."""
    ids = tokenizer.get_vocab()
    head_dim = settings.hidden_size // settings.n_heads
    quarter, side = head_dim // 8, 3 * head_dim // 16  # 1/4, 3/8 and 3/8 of the head_dim / 2 frequencies
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": settings.hidden_size,
            "intermediate_size": settings.mlp_ratio * settings.hidden_size,
            "num_hidden_layers": settings.n_layers,
            "num_attention_heads": settings.n_heads,
            "num_key_value_heads": max(1, settings.n_heads // 2),
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [quarter, side, head_dim // 2 - quarter - side],
            },
        },
        vision_config={
            "depth": settings.vision_depth,
            "embed_dim": settings.vision_width,
            "hidden_size": settings.hidden_size,
            "num_heads": 4,
            "mlp_ratio": 2,
        },
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        tie_word_embeddings=True,
        **{RANDOM_MARK: True},
    )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return Qwen2VLForConditionalGeneration(config)
