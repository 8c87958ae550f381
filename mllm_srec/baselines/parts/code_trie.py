"""Exact likelihoods of many short codes after one history, on a GPT-2: what codes share is computed once.

The history runs once. Codes that begin alike share a branch: each distinct beginning is one token of a pass, which
attends to its history's keys and values and to the branch that leads to it. The first token costs no pass at all, and
two tokens of 512 values at most 512 of them for a catalogue of any size. Likelihoods equal those of one pass a
candidate up to the order of sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_BRANCHES = 8192
"""Branches of one pass, over all its rows: bounds the memory (a row runs whole) and changes nothing else."""

KeysValues = list[tuple[Tensor, Tensor]]
"""Keys and values, layer by layer."""


@dataclass(frozen=True)
class Context:
    """B histories that were run through the model, aligned on the left.

    Attributes:
        past: Each `(B, heads, T, d)`.
        mask: `(B, T)` bool, False behind the end of a history.
        state: `(B, D)` final hidden state of the last token.
    """

    past: KeysValues
    mask: Tensor
    state: Tensor

    def rows(self, begin: int, end: int) -> Context:
        """Histories begin..end - 1."""
        past = [(keys[begin:end], values[begin:end]) for keys, values in self.past]
        return Context(past, self.mask[begin:end], self.state[begin:end])

    def root(self) -> Branches:
        """One branch a history, of no token."""
        empty = [keys.new_zeros(len(keys), 1, 0, keys.shape[1], keys.shape[3]) for keys, _ in self.past]
        return Branches([(layer, layer) for layer in empty])


@dataclass(frozen=True)
class Branches:
    """P branches behind each of B histories, all of the same number of tokens l.

    Attributes:
        past: Each `(B, P, l, heads, d)`.
    """

    past: KeysValues

    def pick(self, parent: Tensor) -> Branches:
        """The branches `parent` `(B, P')`, one for each of their children."""
        rows = torch.arange(len(parent), device=parent.device)[:, None]  # (B, 1)
        return Branches([(keys[rows, parent], values[rows, parent]) for keys, values in self.past])


def grow(gpt2: Any, context: Context, branches: Branches, tokens: Tensor) -> tuple[Tensor, Branches]:
    """Append one token to each branch.

    Args:
        gpt2: A `GPT2Model` in evaluation mode.
        context: The histories.
        branches: P of each.
        tokens: `(B, P)`.

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
    """Attention of `(B, P, heads, d)` scaled queries to the history and to their own branch, of the same shape."""
    to_history = torch.einsum("bphd,bhtd->bhpt", query, past[0])  # (B, heads, P, T)
    to_history = to_history.masked_fill(~mask[:, None, None], float("-inf"))
    to_branch = torch.einsum("bphd,bplhd->bhpl", query, own[0])  # (B, heads, P, l + 1)
    weights = torch.cat([to_history, to_branch], dim=-1).softmax(dim=-1)
    n_past = to_history.shape[-1]
    history = torch.einsum("bhpt,bhtd->bphd", weights[..., :n_past], past[1])
    return history + torch.einsum("bhpl,bplhd->bphd", weights[..., n_past:], own[1])


@dataclass(frozen=True)
class Level:
    """Distinct beginnings of equal length of the candidates' codes; R is B, or 1 where all rows have the same ones.

    Attributes:
        place: `(R, C)` which beginning a candidate has, 0..P - 1.
        example: `(R, P)` a candidate that has it; any candidate where a row has fewer than P.
    """

    place: Tensor
    example: Tensor


def code_levels(codes: Tensor, n_tokens: int) -> list[Level]:
    """Beginnings of 1, 2, .., t - 1 tokens.

    Args:
        codes: `(R, C, t)` tokens of the candidates.
        n_tokens: V, the vocabulary.
    """
    levels: list[Level] = []
    place = torch.zeros_like(codes[..., 0])  # (R, C)
    for tokens in codes.unbind(dim=-1)[:-1]:
        ordered, order = (place * n_tokens + tokens).sort(dim=1)  # (R, C): equal beginnings stand together
        changes = (ordered[:, 1:] != ordered[:, :-1]).long().cumsum(dim=1)
        found = torch.cat([torch.zeros_like(order[:, :1]), changes], dim=1)  # (R, C)
        place = torch.empty_like(order).scatter(1, order, found)
        n_found = int(found.max()) + 1
        levels.append(Level(place, order.new_zeros(len(order), n_found).scatter(1, found, order)))
    return levels


def code_likelihoods(gpt2: Any, context: Context, codes: Tensor, n_tokens: int) -> Tensor:
    """Log-likelihood of every candidate: sum over j of log p(c_j | history, c_<j).

    Args:
        gpt2: A `GPT2Model` in evaluation mode, whose token embeddings are the output layer too.
        context: The histories.
        codes: `(B, C, t)` tokens of the candidates, or `(1, C, t)` where they are the same in all rows.
        n_tokens: V; tokens from this one on are never an outcome.

    Returns:
        `(B, C)` float32, at most 0.
    """
    levels = code_levels(codes, n_tokens)
    n_rows, width = len(context.state), max((level.example.shape[1] for level in levels), default=1)
    step = max(1, MAX_BRANCHES // width)
    shared = len(codes) == 1
    parts = []
    for begin in range(0, n_rows, step):
        rows = slice(None) if shared else slice(begin, begin + step)
        chosen = [Level(level.place[rows], level.example[rows]) for level in levels]
        parts.append(_likelihoods(gpt2, context.rows(begin, begin + step), codes[rows], chosen, n_tokens))
    return torch.cat(parts)


def _likelihoods(gpt2: Any, context: Context, codes: Tensor, levels: list[Level], n_tokens: int) -> Tensor:
    """As `code_likelihoods`, in one pass a level."""
    n_rows = len(context.state)
    tokens = [column.expand(n_rows, -1) for column in codes.unbind(dim=-1)]  # t of (B, C)
    likelihood = log_probabilities(gpt2, context.state, n_tokens).gather(1, tokens[0])  # (B, C)
    branches, parents = context.root(), torch.zeros_like(tokens[0])  # (B, C)
    for level, last, following in zip(levels, tokens[:-1], tokens[1:], strict=True):
        place, example = level.place.expand(n_rows, -1), level.example.expand(n_rows, -1)  # (B, C), (B, P)
        branches = branches.pick(parents.gather(1, example))
        hidden, branches = grow(gpt2, context, branches, last.gather(1, example))  # (B, P, D)
        step = log_probabilities(gpt2, hidden, n_tokens).flatten(1)  # (B, P * V)
        likelihood = likelihood + step.gather(1, place * n_tokens + following)
        parents = place
    return likelihood


def log_probabilities(gpt2: Any, hidden: Tensor, n_tokens: int) -> Tensor:
    """Float32 log-probabilities `(..., V)` of the next token, from hidden states `(..., D)`."""
    return torch.log_softmax(token_logits(gpt2, hidden, n_tokens).float(), dim=-1)


def token_logits(gpt2: Any, hidden: Tensor, n_tokens: int) -> Tensor:
    """Logits `(..., V)` of the next token: products with the token embeddings, as in GPT-2."""
    return torch.nn.functional.linear(hidden, gpt2.wte.weight[:n_tokens])
