"""Exact likelihoods of many short codes after one history, by a GPT-2: shared prefixes are computed once.

The history is run once. Codes with a common prefix share a branch: each distinct prefix is one token of a pass, which
attends to the history's keys and values and to the branch that leads to it. The first token needs no pass at all, and
codes of two tokens with 512 values need at most 512 branches, whatever the size of the catalogue. Likelihoods equal
those of one pass per candidate, up to the order of summation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_BRANCHES = 8192
"""Branches of one pass, over all its rows: limits the memory (though a row is never split), not the results."""

KeysValues = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer."""


@dataclass(frozen=True)
class Context:
    """B histories that were run through the model, padded on the right.

    Attributes:
        past: Keys and values of each layer, `(B, heads, T, d)`.
        mask: Bool `(B, T)`, False at padding.
        state: `(B, D)` final hidden state of the last token.
    """

    past: KeysValues
    mask: Tensor
    state: Tensor

    def rows(self, begin: int, end: int) -> Context:
        """Select the histories begin..end - 1."""
        past = [(keys[begin:end], values[begin:end]) for keys, values in self.past]
        return Context(past, self.mask[begin:end], self.state[begin:end])

    def root(self) -> Branches:
        """Make one branch without tokens for each history."""
        empty = [keys.new_zeros(len(keys), 1, 0, keys.shape[1], keys.shape[3]) for keys, _ in self.past]
        return Branches([(layer, layer) for layer in empty])


@dataclass(frozen=True)
class Branches:
    """P branches after each of B histories, all with the same number l of tokens.

    Attributes:
        past: Keys and values of each layer, `(B, P, l, heads, d)`.
    """

    past: KeysValues

    def pick(self, parent: Tensor) -> Branches:
        """Select the branch of each child: `parent` `(B, P')` holds its index."""
        rows = torch.arange(len(parent), device=parent.device)[:, None]  # (B, 1)
        return Branches([(keys[rows, parent], values[rows, parent]) for keys, values in self.past])


def grow(gpt2: Any, context: Context, branches: Branches, tokens: Tensor) -> tuple[Tensor, Branches]:
    """Append one token to each branch.

    Args:
        gpt2: `GPT2Model` in evaluation mode.
        context: The histories.
        branches: P branches after each history.
        tokens: `(B, P)` token to append to each branch.

    Returns:
        Final hidden states `(B, P, D)` of the tokens, and the longer branches.
    """
    length = branches.past[0][0].shape[2]
    positions = context.mask.sum(dim=1, keepdim=True) + length  # (B, 1)
    hidden = gpt2.wte(tokens) + gpt2.wpe(positions)  # (B, P, D)
    longer: KeysValues = []
    for block, past, own in zip(gpt2.h, context.past, branches.past, strict=True):
        attention = block.attn
        projected = attention.c_attn(block.ln_1(hidden))  # (B, P, 3 D)
        query, key, value = projected.view(*tokens.shape, 3, attention.num_heads, -1).unbind(2)  # (B, P, heads, d)
        pairs = zip(own, (key, value), strict=True)
        keys, values = (torch.cat([before, new.unsqueeze(2)], dim=2) for before, new in pairs)  # (B, P, l + 1, ...)
        longer.append((keys, values))
        attended = _attend(query * attention.scaling, past, (keys, values), context.mask)
        hidden = hidden + attention.c_proj(attended.flatten(2))
        hidden = hidden + block.mlp(block.ln_2(hidden))
    return gpt2.ln_f(hidden), Branches(longer)


def _attend(query: Tensor, past: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """Attention of scaled queries `(B, P, heads, d)` to the history and to their own branch; same shape."""
    to_history = torch.einsum("bphd,bhtd->bhpt", query, past[0])  # (B, heads, P, T)
    to_history = to_history.masked_fill(~mask[:, None, None], float("-inf"))
    to_branch = torch.einsum("bphd,bplhd->bhpl", query, own[0])  # (B, heads, P, l + 1)
    weights = torch.cat([to_history, to_branch], dim=-1).softmax(dim=-1)
    n_past = to_history.shape[-1]
    history = torch.einsum("bhpt,bhtd->bphd", weights[..., :n_past], past[1])
    return history + torch.einsum("bhpl,bplhd->bphd", weights[..., n_past:], own[1])


@dataclass(frozen=True)
class Level:
    """Distinct prefixes of equal length among the candidates' codes; R is B, or 1 if all rows have the same candidates.

    Attributes:
        prefix: `(R, C)` index of each candidate's prefix, 0..P - 1.
        example: `(R, P)` a candidate with that prefix; arbitrary where a row has fewer than P.
    """

    prefix: Tensor
    example: Tensor


def code_levels(codes: Tensor, n_tokens: int) -> list[Level]:
    """Find the distinct prefixes of 1, 2, .., t - 1 tokens.

    Args:
        codes: `(R, C, t)` tokens of the candidates.
        n_tokens: V, size of the vocabulary.

    Returns:
        One level for each length.
    """
    levels: list[Level] = []
    prefix = torch.zeros_like(codes[..., 0])  # (R, C)
    for tokens in codes.unbind(dim=-1)[:-1]:
        ordered, order = (prefix * n_tokens + tokens).sort(dim=1)  # (R, C): equal prefixes are adjacent
        changes = (ordered[:, 1:] != ordered[:, :-1]).long().cumsum(dim=1)
        index = torch.cat([torch.zeros_like(order[:, :1]), changes], dim=1)  # (R, C)
        prefix = torch.empty_like(order).scatter(1, order, index)
        n_prefixes = int(index.max()) + 1
        levels.append(Level(prefix, order.new_zeros(len(order), n_prefixes).scatter(1, index, order)))
    return levels


def code_likelihoods(gpt2: Any, context: Context, codes: Tensor, n_tokens: int) -> Tensor:
    """Compute the log-likelihood of every candidate: sum over j of log p(c_j | history, c_<j).

    Args:
        gpt2: `GPT2Model` in evaluation mode, whose token embeddings are the output layer too.
        context: The histories.
        codes: `(B, C, t)` tokens of the candidates, or `(1, C, t)` if all rows have the same candidates.
        n_tokens: V, size of the vocabulary; higher tokens, such as the start token, are never predicted.

    Returns:
        Float32 `(B, C)`, at most 0.
    """
    levels = code_levels(codes, n_tokens)
    n_rows, width = len(context.state), max((level.example.shape[1] for level in levels), default=1)
    step = max(1, MAX_BRANCHES // width)
    shared = len(codes) == 1
    parts = []
    for begin in range(0, n_rows, step):
        rows = slice(None) if shared else slice(begin, begin + step)
        chosen = [Level(level.prefix[rows], level.example[rows]) for level in levels]
        parts.append(_likelihoods(gpt2, context.rows(begin, begin + step), codes[rows], chosen, n_tokens))
    return torch.cat(parts)


def _likelihoods(gpt2: Any, context: Context, codes: Tensor, levels: list[Level], n_tokens: int) -> Tensor:
    """Log-likelihoods `(B, C)` of one chunk of rows, with one pass per level."""
    n_rows = len(context.state)
    tokens = [column.expand(n_rows, -1) for column in codes.unbind(dim=-1)]  # t of (B, C)
    likelihood = log_probabilities(gpt2, context.state, n_tokens).gather(1, tokens[0])  # (B, C)
    branches, parents = context.root(), torch.zeros_like(tokens[0])  # (B, C)
    for level, last, next_token in zip(levels, tokens[:-1], tokens[1:], strict=True):
        prefix, example = level.prefix.expand(n_rows, -1), level.example.expand(n_rows, -1)  # (B, C), (B, P)
        branches = branches.pick(parents.gather(1, example))
        hidden, branches = grow(gpt2, context, branches, last.gather(1, example))  # (B, P, D)
        step = log_probabilities(gpt2, hidden, n_tokens).flatten(1)  # (B, P * V)
        likelihood = likelihood + step.gather(1, prefix * n_tokens + next_token)
        parents = prefix
    return likelihood


def log_probabilities(gpt2: Any, hidden: Tensor, n_tokens: int) -> Tensor:
    """Compute float32 log-probabilities `(..., V)` of the next token from hidden states `(..., D)`."""
    return torch.log_softmax(token_logits(gpt2, hidden, n_tokens).float(), dim=-1)


def token_logits(gpt2: Any, hidden: Tensor, n_tokens: int) -> Tensor:
    """Compute logits `(..., V)` of the next token: products with the token embeddings, as in GPT-2."""
    return torch.nn.functional.linear(hidden, gpt2.wte.weight[:n_tokens])
