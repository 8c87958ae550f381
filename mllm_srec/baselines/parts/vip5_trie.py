"""Likelihood of many numbers under one encoder output: common beginnings are decoded once.

The tokens of all candidates of a row form a tree. Each of its nodes is decoded once, attending to the nodes on the
way from the root; that is teacher forcing of every number, without the repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mllm_srec.baselines.parts.vip5_prompts import IGNORED, padded


class NumberTrie(nn.Module):
    """Tree over the token strings of the numbers 1..N, each with the end-of-text token behind it.

    A node is a beginning: the root is the decoder's start token, and a number of k tokens ends in a node of depth k.

    Args:
        numbers: Tokens of the numbers 1..N.
        start: The decoder's start token.
        eos: The end-of-text token.
    """

    tokens: Tensor
    path: Tensor
    depth: Tensor
    nodes: Tensor
    labels: Tensor
    rank: Tensor

    def __init__(self, numbers: Sequence[Sequence[int]], start: int, eos: int) -> None:
        super().__init__()
        node_of: dict[tuple[int, ...], int] = {(): 0}
        paths: list[list[int]] = []
        for tokens in numbers:
            beginnings = [tuple(tokens[:k]) for k in range(len(tokens) + 1)]
            paths.append([node_of.setdefault(beginning, len(node_of)) for beginning in beginnings])
        ways = [[node_of[key[:k]] for k in range(len(key) + 1)] for key in node_of]
        order = sorted(range(len(numbers)), key=lambda i: tuple(numbers[i]))
        rank = torch.zeros(len(numbers) + 1, dtype=torch.long)
        rank[torch.tensor(order) + 1] = torch.arange(len(numbers))
        buffers = {
            "tokens": torch.tensor([key[-1] if key else start for key in node_of]),  # (n,)
            "path": padded(ways, 0),  # (n, L), nodes from the root to each node
            "depth": torch.tensor([len(key) for key in node_of]),  # (n,)
            "nodes": padded([[0], *paths], 0),  # (N + 1, L), nodes that predict a number's tokens
            "labels": padded([[IGNORED], *[[*tokens, eos] for tokens in numbers]], IGNORED),  # (N + 1, L)
            "rank": rank,  # (N + 1,), place in the order of strings: neighbours share most
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)


class Tree(NamedTuple):
    """The part of a trie that a row's candidates need, M nodes each."""

    nodes: Tensor  # (B, M) int64, ascending; repeats of the root behind them where a row has fewer
    path: Tensor  # (B, M, L) int64, columns of the nodes from the root to each node
    place: Tensor  # (B, C, L) int64, columns of the nodes that predict a candidate's tokens


def candidate_tree(trie: NumberTrie, numbers: Tensor) -> Tree:
    """The nodes that predict the tokens of `numbers` `(B, C)`, each once per row."""
    wanted = trie.nodes[numbers]  # (B, C, L)
    ordered, order = wanted.flatten(1).sort(dim=1)  # (B, C L)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    column = fresh.cumsum(dim=1) - 1
    place = torch.empty_like(column).scatter(1, order, column).view_as(wanted)
    size = int(column.max()) + 1
    beyond = len(trie.tokens)
    nodes = torch.full((len(numbers), size), beyond, device=numbers.device).scatter(1, column, ordered)  # (B, M)
    known = nodes.masked_fill(nodes == beyond, 0)
    path = torch.searchsorted(nodes, trie.path[known].flatten(1)).view(*known.shape, -1)  # (B, M, L)
    return Tree(known, path, place)


def log_likelihoods(t5: Any, trie: NumberTrie, memory: Tensor, memory_mask: Tensor, numbers: Tensor) -> Tensor:
    """Sum of log p of the tokens of each number, end of text included; float32 `(B, C)`.

    Args:
        t5: A `T5ForConditionalGeneration`, with adapters or without.
        trie: Of all numbers.
        memory: `(B, T, D)` output of the encoder.
        memory_mask: `(B, T)` bool.
        numbers: `(B, C)` from 1 to N.
    """
    tree = candidate_tree(trie, numbers)
    hidden = _decoded(t5, trie, memory, memory_mask, tree)  # (B, M, D)
    if t5.config.scale_decoder_outputs:
        hidden = hidden * t5.model_dim**-0.5
    logits = t5.lm_head(hidden).float()  # (B, M, V)
    labels = trie.labels[numbers]  # (B, C, L)
    picked = tree.place * logits.shape[-1] + labels.clamp(min=0)
    place = tree.place.flatten(1)
    chosen = logits.flatten(1).gather(1, picked.flatten(1)) - logits.logsumexp(dim=-1).gather(1, place)  # (B, C L)
    scores: Tensor = chosen.view_as(labels).masked_fill(labels == IGNORED, 0.0).sum(dim=-1)
    return scores


def _decoded(t5: Any, trie: NumberTrie, memory: Tensor, memory_mask: Tensor, tree: Tree) -> Tensor:
    """Last hidden states of the decoder at every node of the trees `(B, M, D)`."""
    decoder = t5.decoder
    depth = trie.depth[tree.nodes]  # (B, M)
    length = trie.path.shape[1]
    hidden = decoder.dropout(t5.shared(trie.tokens[tree.nodes]))  # (B, M, D)
    beyond = torch.arange(length, device=depth.device) > depth[..., None]  # (B, M, L)
    by_depth = decoder.block[0].layer[0].SelfAttention.compute_bias(length, length)[0]  # (H, L, L)
    bias = by_depth[:, depth].movedim(0, 2).masked_fill(beyond[:, :, None], float("-inf"))  # (B, M, H, L)
    blocked = torch.zeros_like(memory_mask, dtype=hidden.dtype).masked_fill(
        ~memory_mask, torch.finfo(hidden.dtype).min
    )[:, None, None]  # (B, 1, 1, T)
    for block in decoder.block:
        attention = block.layer[0]
        context = _tree_attention(attention.SelfAttention, attention.layer_norm(hidden), tree.path, bias)
        hidden = hidden + attention.dropout(attention.SelfAttention.o(context))
        hidden = block.layer[1](hidden, key_value_states=memory, attention_mask=blocked)[0]
        hidden = block.layer[2](hidden)
    last: Tensor = decoder.dropout(decoder.final_layer_norm(hidden))
    return last


def _tree_attention(attention: Any, hidden: Tensor, path: Tensor, bias: Tensor) -> Tensor:
    """Attention of every node to the nodes above it and to itself, before the output projection `(B, M, H K)`."""
    n_rows, n_nodes, length = path.shape
    heads = (attention.n_heads, attention.key_value_proj_dim)
    rows = torch.arange(n_rows, device=path.device)[:, None, None]
    query = attention.q(hidden).view(n_rows, n_nodes, *heads)  # (B, M, H, K)
    key = attention.k(hidden)[rows, path].view(n_rows, n_nodes, length, *heads)  # (B, M, L, H, K)
    value = attention.v(hidden)[rows, path].view(n_rows, n_nodes, length, *heads)
    weights = (torch.einsum("bmhk,bmlhk->bmhl", query, key) + bias).softmax(dim=-1)  # T5 does not scale
    return torch.einsum("bmhl,bmlhk->bmhk", weights, value).flatten(2)
