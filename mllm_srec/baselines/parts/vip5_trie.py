"""Likelihoods of many item numbers given one encoder output: common prefixes are decoded once.

The tokens of all candidates of a row form a tree. Each of its nodes is decoded once, attending to the nodes on the path
from the root: teacher forcing of every number, without repeated work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mllm_srec.baselines.parts.vip5_prompts import IGNORED, padded


class NumberTrie(nn.Module):
    """Prefix tree of the tokens of the numbers 1..N, each followed by the end-of-text token.

    A node is a prefix: the root is the decoder's start token, and a number of k tokens ends in a node of depth k.

    Args:
        numbers: Tokens of the numbers 1..N.
        start: Start token of the decoder.
        eos: End-of-text token.
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
            prefixes = [tuple(tokens[:k]) for k in range(len(tokens) + 1)]
            paths.append([node_of.setdefault(prefix, len(node_of)) for prefix in prefixes])
        node_paths = [[node_of[key[:k]] for k in range(len(key) + 1)] for key in node_of]
        order = sorted(range(len(numbers)), key=lambda i: tuple(numbers[i]))
        rank = torch.zeros(len(numbers) + 1, dtype=torch.long)
        rank[torch.tensor(order) + 1] = torch.arange(len(numbers))
        buffers = {
            "tokens": torch.tensor([key[-1] if key else start for key in node_of]),  # (n,)
            "path": padded(node_paths, 0),  # (n, L), nodes from the root to each node
            "depth": torch.tensor([len(key) for key in node_of]),  # (n,)
            "nodes": padded([[0], *paths], 0),  # (N + 1, L), nodes that predict a number's tokens
            "labels": padded([[IGNORED], *[[*tokens, eos] for tokens in numbers]], IGNORED),  # (N + 1, L)
            "rank": rank,  # (N + 1,), rank in lexicographic order, in which neighbours share the longest prefixes
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)


class Tree(NamedTuple):
    """The part of a trie that a row's candidates need, with M nodes per row."""

    nodes: Tensor  # (B, M) int64, ascending; rows with fewer nodes are padded by the root
    path: Tensor  # (B, M, L) int64, columns of the nodes from the root to each node
    column: Tensor  # (B, C, L) int64, columns of the nodes that predict a candidate's tokens


def candidate_tree(trie: NumberTrie, numbers: Tensor) -> Tree:
    """Collect the nodes that predict the tokens of `numbers` `(B, C)`, each once per row."""
    wanted = trie.nodes[numbers]  # (B, C, L)
    ordered, order = wanted.flatten(1).sort(dim=1)  # (B, C L)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    index = is_new.cumsum(dim=1) - 1
    column = torch.empty_like(index).scatter(1, order, index).view_as(wanted)
    size = int(index.max()) + 1
    beyond = len(trie.tokens)
    padded_nodes = torch.full((len(numbers), size), beyond, device=numbers.device).scatter(1, index, ordered)  # (B, M)
    nodes = padded_nodes.masked_fill(padded_nodes == beyond, 0)
    path = torch.searchsorted(padded_nodes, trie.path[nodes].flatten(1)).view(*nodes.shape, -1)  # (B, M, L)
    return Tree(nodes, path, column)


def log_likelihoods(t5: Any, trie: NumberTrie, memory: Tensor, memory_mask: Tensor, numbers: Tensor) -> Tensor:
    """Sum log p over the tokens of each number, the end-of-text token included.

    Args:
        t5: `T5ForConditionalGeneration`, with adapters or without.
        trie: Prefix tree of all numbers.
        memory: `(B, T, D)` output of the encoder.
        memory_mask: Bool `(B, T)`, False at padding.
        numbers: `(B, C)` numbers from 1 to N.

    Returns:
        Float32 `(B, C)`, at most 0.
    """
    tree = candidate_tree(trie, numbers)
    hidden = _decoded(t5, trie, memory, memory_mask, tree)  # (B, M, D)
    if t5.config.scale_decoder_outputs:
        hidden = hidden * t5.model_dim**-0.5
    logits = t5.lm_head(hidden).float()  # (B, M, V)
    labels = trie.labels[numbers]  # (B, C, L)
    picked = tree.column * logits.shape[-1] + labels.clamp(min=0)
    column = tree.column.flatten(1)
    chosen = logits.flatten(1).gather(1, picked.flatten(1)) - logits.logsumexp(dim=-1).gather(1, column)  # (B, C L)
    scores: Tensor = chosen.view_as(labels).masked_fill(labels == IGNORED, 0.0).sum(dim=-1)
    return scores


def _decoded(t5: Any, trie: NumberTrie, memory: Tensor, memory_mask: Tensor, tree: Tree) -> Tensor:
    """Final hidden states of the decoder at every node of the trees: `(B, M, D)`."""
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
    """Attention of every node to the nodes above it and to itself, before the output projection: `(B, M, H K)`."""
    n_rows, n_nodes, length = path.shape
    heads = (attention.n_heads, attention.key_value_proj_dim)
    rows = torch.arange(n_rows, device=path.device)[:, None, None]
    query = attention.q(hidden).view(n_rows, n_nodes, *heads)  # (B, M, H, K)
    key = attention.k(hidden)[rows, path].view(n_rows, n_nodes, length, *heads)  # (B, M, L, H, K)
    value = attention.v(hidden)[rows, path].view(n_rows, n_nodes, length, *heads)
    weights = (torch.einsum("bmhk,bmlhk->bmhl", query, key) + bias).softmax(dim=-1)  # T5 does not scale
    return torch.einsum("bmhl,bmlhk->bmhk", weights, value).flatten(2)
