"""Scoring in which every token is computed once: the keys and values of a context serve all its targets.

The tokens of a batch run in passes of a bounded number of tokens, without padding and without a prefix twice. A list
too long for one pass goes on in the next one, for which the context's keys and values are kept. Scores equal those of
separate full rows up to the order of sums: positions are those of the packed rows, and `prefix_attention` lets every
token see what it would see there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mllm_srec.models.backbone import Backbone
from mllm_srec.models.prefix_attention import ATTENTION, KeysValues, Part, make_blocks
from mllm_srec.prompts.spans import PassGroup, Span, group_spans, plan_passes
from mllm_srec.types import PackedBatch

PASS_TOKENS = {"cpu": 1024, "cuda": 8192}
"""Default tokens of one pass by kind of device: what stays in a CPU's caches, what fills a GPU."""

Caches = dict[int, dict[int, KeysValues]]
"""By group and layer."""


def answer_states(backbone: Backbone, batch: PackedBatch, max_tokens: int | None = None) -> torch.Tensor:
    """Hidden states that predict the first response token of every target.

    Args:
        backbone: In evaluation mode: with dropout, or activations computed again, caching means nothing.
        batch: Groups in any layout.
        max_tokens: Tokens of one forward pass; bounds the memory and changes nothing else. None takes `PASS_TOKENS`.

    Returns:
        `(B, C, D)`; zeros at masked candidates.

    Raises:
        ValueError: `max_tokens` is below 1.
    """
    embeddings = backbone.embed(batch)  # (R, T, D)
    text: Any = backbone.base.model.language_model
    heads_per_key = text.config.num_attention_heads // text.config.num_key_value_heads
    limit = PASS_TOKENS.get(embeddings.device.type, PASS_TOKENS["cuda"]) if max_tokens is None else max_tokens
    caches: Caches = defaultdict(dict)
    answers = embeddings.new_zeros(*batch["answer_index"].shape[:2], embeddings.shape[-1])  # (B, C, D)
    for groups in plan_passes(group_spans(batch), limit):
        rows, tokens = _places([span for group in groups for span in _spans(group)], embeddings.device)  # (N,) each
        parts, asked = _lay_out(groups, caches, heads_per_key, embeddings.device)
        columns = torch.tensor(asked, device=embeddings.device).T  # (3, n): group, column, token of the pass
        positions = batch["position_ids"][:, None, rows, tokens]  # (3, 1, N)
        hidden = _forward(text, embeddings[rows, tokens].unsqueeze(0), positions, parts, columns[2])  # (n, D)
        answers = answers.index_put((columns[0], columns[1]), hidden.to(answers.dtype))
        for group in groups:
            if not group.continues:
                caches.pop(group.group, None)
    return answers


def _spans(group: PassGroup) -> list[Span]:
    """What the pass computes of a group, in the order of its tokens."""
    return [*([group.prefix] if group.begins else []), *(span for _, span in group.targets)]


def _places(spans: Sequence[Span], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and token of everything in `spans`, one behind the other: `(N,)` each."""
    rows = torch.cat([torch.full((len(span),), span.row) for span in spans])  # (N,)
    tokens = torch.cat([torch.arange(span.begin, span.end) for span in spans])  # (N,)
    return rows.to(device), tokens.to(device)


def _lay_out(
    groups: Sequence[PassGroup], caches: Caches, heads_per_key: int, device: torch.device
) -> tuple[list[Part], list[tuple[int, int, int]]]:
    """What attention needs to know of each group, and (group, column, last token in the pass) of each target."""
    parts: list[Part] = []
    asked: list[tuple[int, int, int]] = []
    offset = 0
    for group in groups:
        begin = offset + len(group.prefix) * group.begins
        lengths = [len(span) for _, span in group.targets]
        blocks = [block.to(device) for block in make_blocks(lengths, begin, len(group.prefix), heads_per_key)]
        context = slice(offset, begin) if group.begins else None
        parts.append(Part(context, blocks, group.continues, caches[group.group]))
        offset = begin
        for (column, _), length in zip(group.targets, lengths, strict=True):
            offset += length
            asked.append((group.group, column, offset - 1))
    return parts, asked


def _forward(
    text: Any, embeddings: torch.Tensor, positions: torch.Tensor, parts: Sequence[Part], asked: torch.Tensor
) -> torch.Tensor:
    """Final hidden states `(n, D)` of the tokens `asked` `(n,)` of one pass.

    Args:
        text: The language model of a Qwen-VL.
        embeddings: `(1, N, D)`.
        positions: M-RoPE `(3, 1, N)`.
        parts: Who sees whom.
        asked: Tokens of the pass.
    """
    inputs = {
        "attention_mask": None,
        "position_embeddings": text.rotary_emb(embeddings, positions),
        "parts": parts,
    }
    hidden = embeddings  # (1, N, D)
    with _attention(text.config):
        for layer in text.layers[:-1]:
            hidden = layer(hidden, **inputs)  # (1, N, D)
        # Of the last layer, most tokens are needed as keys and values only: its feed-forward part runs on the answers.
        last = text.layers[-1]
        attended, _ = last.self_attn(hidden_states=last.input_layernorm(hidden), **inputs)  # (1, N, D)
    hidden = hidden[0, asked] + attended[0, asked]  # (n, D)
    hidden = hidden + last.mlp(last.post_attention_layernorm(hidden))  # (n, D)
    final: torch.Tensor = text.norm(hidden)  # (n, D)
    return final


@contextmanager
def _attention(config: Any) -> Iterator[None]:
    """Let the layers look up our attention; the packed rows of training keep the model's own."""
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before
