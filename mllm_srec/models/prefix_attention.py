"""Attention of one forward pass over contexts and their targets, all in a single row without padding.

A context attends to itself, causally. The targets of a group attend as rows of nearly equal length, to the context's
keys and values followed by their own. Transformers calls this by name in place of its own attention; a dense mask over
the whole row would cost as much as the rest of the layer. Each call says by its arguments which attention it means, so
that passes of both kinds may run in several threads at once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "mllm_srec_shared_prefix"
"""Name under which transformers finds `shared_prefix_attention`."""

MAX_PADDING = 1.25
"""Largest ratio of tokens between the longest and the shortest of the targets that attend together."""

MAX_ROWS = 32
"""Most targets that attend together: each copies the context's keys and values for the time of one layer."""

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Keys and values in one layer, each `(1, key-value heads, T, head width)`."""


@dataclass(frozen=True)
class Block:
    """Targets of one group that attend together: n tokens of the pass, laid out as C rows of at most t slots.

    Attributes:
        begin: First token of the block in the pass.
        end: One past its last token.
        shape: C and t.
        tokens: `(C, t)` token of the block in each slot, None where no row is shorter than t.
        slots: `(n,)` slot of each token, None likewise.
        mask: Bool `(heads per key-value head * t, T + t)`: the whole context, and the token's own row causally. Slots
            past a row's end follow all its tokens, so that no token sees them.
    """

    begin: int
    end: int
    shape: tuple[int, int]
    tokens: torch.Tensor | None
    slots: torch.Tensor | None
    mask: torch.Tensor

    def to(self, device: torch.device) -> Block:
        """Copy the block with its tensors on `device`."""
        tokens = None if self.tokens is None else self.tokens.to(device)
        slots = None if self.slots is None else self.slots.to(device)
        return replace(self, tokens=tokens, slots=slots, mask=self.mask.to(device))

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        """Lay the block's states out of those of the pass: `(1, heads, N, d)` -> `(C, heads, t, d)`."""
        own = states[0, :, self.begin : self.end]  # (heads, n, d)
        laid_out = (
            own.view(-1, *self.shape, own.shape[-1]) if self.tokens is None else own[:, self.tokens]
        )  # (heads, C, t, d)
        return laid_out.transpose(0, 1)

    def attend(self, query: torch.Tensor, own: KeysValues, prefix: KeysValues, scaling: float) -> torch.Tensor:
        """Compute the attention of the block's tokens.

        Args:
            query: Queries of the pass `(1, heads, N, d)`.
            own: Keys and values of the pass.
            prefix: Keys and values of the group's context.
            scaling: Factor of the scores.

        Returns:
            `(n, heads, d)`.
        """
        n_rows, width = self.shape
        heads, kv_heads = query.shape[1], own[0].shape[1]
        # Heads that share keys are stacked in one matrix, so that keys and values are not repeated.
        queries = self.rows(query).reshape(n_rows, kv_heads, -1, query.shape[-1])  # (C, kv heads, heads/kv * t, d)
        keys, values = (
            torch.cat([context.expand(n_rows, -1, -1, -1), self.rows(states)], dim=2)  # (C, kv heads, T + t, d)
            for context, states in zip(prefix, own, strict=True)
        )
        output = scaled_dot_product_attention(queries, keys, values, attn_mask=self.mask, scale=scaling)
        flat = output.reshape(n_rows, heads, width, -1).transpose(1, 2).flatten(0, 1)  # (C * t, heads, d)
        return flat if self.slots is None else flat[self.slots]


@dataclass(frozen=True)
class Part:
    """One group within a pass.

    Attributes:
        context: Tokens of the context in the pass; None where an earlier pass computed it.
        blocks: Blocks of the targets, which follow the context.
        keep: True if a later pass needs the context.
        cache: Keys and values of the context by layer: filled where `keep`, read where `context` is None.
    """

    context: slice | None
    blocks: Sequence[Block]
    keep: bool = False
    cache: dict[int, KeysValues] = field(default_factory=dict)

    def attend(self, layer: int, query: torch.Tensor, own: KeysValues, scaling: float) -> list[torch.Tensor]:
        """Compute the attention of the group's tokens in `layer`, block by block, each `(n, heads, d)`."""
        if self.context is None:
            return [block.attend(query, own, self.cache[layer], scaling) for block in self.blocks]
        keys, values = own[0][:, :, self.context], own[1][:, :, self.context]
        if self.keep:  # copies: a view would keep the keys and values of the whole pass
            self.cache[layer] = (keys.clone(), values.clone())
        queries = query[:, :, self.context]  # (1, heads, T, d)
        output = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scaling, enable_gqa=True)
        targets = [block.attend(query, own, (keys, values), scaling) for block in self.blocks]
        return [output[0].transpose(0, 1), *targets]


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    parts: Sequence[Part] | None = None,
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute the attention of one pass; the layers of transformers call this.

    Args:
        module: Attention layer that `accept_parts` changed.
        query: `(1, heads, N, d)`.
        key: `(1, key-value heads, N, d)`.
        value: `(1, key-value heads, N, d)`.
        attention_mask: Mask of the layer's own attention; with `parts`, those decide who sees whom.
        scaling: Factor of the scores.
        parts: Groups of the pass, in the order of their tokens; None for the layer's own attention.
        others: Further arguments that transformers hands to every attention.

    Returns:
        `(1, N, heads, d)`, and the weights that the layer's own attention may return.
    """
    if parts is None:
        output: tuple[torch.Tensor, torch.Tensor | None] = module.config.own_attention(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return output
    pieces = [piece for part in parts for piece in part.attend(module.layer_idx, query, (key, value), scaling)]
    return torch.cat(pieces).unsqueeze(0), None


AttentionInterface.register(ATTENTION, shared_prefix_attention)


def accept_parts(layers: Sequence[Any]) -> None:
    """Have attention layers call `shared_prefix_attention`, which without `parts` calls the attention they had before.

    Only the layers' own view of their settings changes: the model's, from which masks are made and which is saved with
    the weights, stays as it is. To be called before every pass: it does nothing where it was called before.
    """
    for layer in layers:
        config = layer.self_attn.config  # read once: another thread may be doing the same
        if config._attn_implementation != ATTENTION:
            accepting = copy.copy(config)
            accepting.own_attention = AttentionInterface()[config._attn_implementation]
            accepting._attn_implementation = ATTENTION
            layer.self_attn.config = accepting


def make_blocks(lengths: Sequence[int], begin: int, n_prefix: int, heads_per_key: int) -> list[Block]:
    """Cut the targets of one group, which follow each other in the pass, into blocks.

    Args:
        lengths: Number of tokens of each target, ascending.
        begin: First token of the first target in the pass.
        n_prefix: Number of tokens of the context.
        heads_per_key: Attention heads per key-value head.
    """
    blocks, first = [], 0
    while first < len(lengths):
        longest = lengths[first] * MAX_PADDING
        chosen = [length for length in lengths[first : first + MAX_ROWS] if length <= longest]
        blocks.append(_block(chosen, begin, n_prefix, heads_per_key))
        begin, first = blocks[-1].end, first + len(chosen)
    return blocks


def _block(lengths: Sequence[int], begin: int, n_prefix: int, heads_per_key: int) -> Block:
    n_rows, width = len(lengths), max(lengths)
    causal = torch.ones(width, width, dtype=torch.bool).tril()  # (t, t)
    mask = torch.cat([torch.ones(width, n_prefix, dtype=torch.bool), causal], dim=1)  # (t, T + t)
    tokens = slots = None
    if min(lengths) < width:
        size = torch.tensor(lengths)[:, None]  # (C, 1)
        slot = torch.arange(width).expand(n_rows, width)  # (C, t)
        tokens = (size.cumsum(0) - size) + slot.minimum(size - 1)  # (C, t)
        slots = torch.nonzero((slot < size).flatten()).flatten()  # (n,)
    return Block(begin, begin + sum(lengths), (n_rows, width), tokens, slots, mask.repeat(heads_per_key, 1))
