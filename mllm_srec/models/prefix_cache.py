"""Scoring that computes every token once: all targets of a context share its keys and values.

The tokens of a batch run in passes of a bounded number of tokens, without padding and without repeating a prefix. A
list too long for one pass continues in the next one, for which the context's keys and values are kept. Scores equal
those of separate full rows up to the order of sums: positions are those of the packed rows, and `prefix_attention`
lets every token see what it would see there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from mllm_srec.models.backbone import Backbone
from mllm_srec.models.prefix_attention import KeysValues, Part, accept_parts, make_blocks
from mllm_srec.prompts.spans import PassGroup, Span, group_spans, plan_passes
from mllm_srec.types import PackedBatch

PASS_TOKENS = {"cpu": 1024, "cuda": 8192}
"""Default tokens of one pass by type of device: as many as fit a CPU's caches, or fill a GPU."""

Caches = dict[int, dict[int, KeysValues]]
"""Keys and values of contexts, by group and layer."""


def answer_states(backbone: Backbone, batch: PackedBatch, max_tokens: int | None = None) -> torch.Tensor:
    """Compute the hidden states that predict the first response token of every target.

    Args:
        backbone: Backbone in evaluation mode, since dropout or recomputed activations would make caching wrong.
        batch: Groups in any layout.
        max_tokens: Tokens of one forward pass, which bound its memory and change nothing else; None for `PASS_TOKENS`.

    Returns:
        `(B, C, D)`; zeros at masked candidates.

    Raises:
        ValueError: `max_tokens` is below 1.
    """
    embeddings = backbone.embed(batch)  # (R, T, D)
    text: Any = backbone.language_model
    heads_per_key = text.config.num_attention_heads // text.config.num_key_value_heads
    limit = PASS_TOKENS.get(embeddings.device.type, PASS_TOKENS["cuda"]) if max_tokens is None else max_tokens
    caches: Caches = defaultdict(dict)
    answers = embeddings.new_zeros(*batch["answer_index"].shape[:2], embeddings.shape[-1])  # (B, C, D)
    for groups in plan_passes(group_spans(batch), limit):
        rows, tokens = _locate([span for group in groups for span in _spans(group)], embeddings.device)  # (N,) each
        parts, last_tokens = _lay_out(groups, caches, heads_per_key, embeddings.device)
        columns = torch.tensor(last_tokens, device=embeddings.device).T  # (3, n): group, column, token of the pass
        positions = batch["position_ids"][:, None, rows, tokens]  # (3, 1, N)
        hidden = _forward(text, embeddings[rows, tokens].unsqueeze(0), positions, parts, columns[2])  # (n, D)
        answers = answers.index_put((columns[0], columns[1]), hidden.to(answers.dtype))
        for group in groups:
            if not group.continues:
                caches.pop(group.group, None)
    return answers


def _spans(group: PassGroup) -> list[Span]:
    """Return the spans of a group that the pass computes, in the order of its tokens."""
    return [*([group.prefix] if group.begins else []), *(span for _, span in group.targets)]


def _locate(spans: Sequence[Span], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return row and token of everything in `spans`, in order: `(N,)` each."""
    rows = torch.cat([torch.full((len(span),), span.row) for span in spans])  # (N,)
    tokens = torch.cat([torch.arange(span.begin, span.end) for span in spans])  # (N,)
    return rows.to(device), tokens.to(device)


def _lay_out(
    groups: Sequence[PassGroup], caches: Caches, heads_per_key: int, device: torch.device
) -> tuple[list[Part], list[tuple[int, int, int]]]:
    """Describe each group to the attention, and give (group, column, last token in the pass) of each target."""
    parts: list[Part] = []
    last_tokens: list[tuple[int, int, int]] = []
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
            last_tokens.append((group.group, column, offset - 1))
    return parts, last_tokens


def _forward(
    text: Any, embeddings: torch.Tensor, positions: torch.Tensor, parts: Sequence[Part], last_tokens: torch.Tensor
) -> torch.Tensor:
    """Compute the final hidden states `(n, D)` of the last tokens of a pass's targets.

    Args:
        text: Language layers whose parts are named as Qwen2's.
        embeddings: `(1, N, D)`.
        positions: M-RoPE `(3, 1, N)`.
        parts: Groups of the pass, which decide who sees whom.
        last_tokens: Places of the last tokens in the pass `(n,)`.
    """
    inputs = {
        "attention_mask": None,
        "position_embeddings": text.rotary_emb(embeddings, positions),
        "parts": parts,
    }
    accept_parts(text.layers)
    hidden = embeddings  # (1, N, D)
    for layer in text.layers[:-1]:
        hidden = layer(hidden, **inputs)  # (1, N, D)
    # The last layer needs most tokens as keys and values only: its feed-forward part runs on the last tokens.
    last = text.layers[-1]
    attended, _ = last.self_attn(hidden_states=last.input_layernorm(hidden), **inputs)  # (1, N, D)
    hidden = hidden[0, last_tokens] + attended[0, last_tokens]  # (n, D)
    hidden = hidden + last.mlp(last.post_attention_layernorm(hidden))  # (n, D)
    final: torch.Tensor = text.norm(hidden)  # (n, D)
    return final
