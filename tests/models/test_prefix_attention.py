"""Attention over contexts and targets in one row equals dense attention under a mask, head by head."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mllm_srec.models.prefix_attention import MAX_ROWS, Part, make_blocks, shared_prefix_attention
from mllm_srec.prompts.packing import attention_mask

LAYER = SimpleNamespace(layer_idx=0)


def states(heads, n_tokens, seed):
    return torch.randn(1, heads, n_tokens, 8, generator=torch.Generator().manual_seed(seed))


def dense(query, key, value, n_prefix, lengths):
    """One group under the mask of packed rows, keys and values repeated for the heads that share them."""
    segments = [0] * n_prefix + [s for s, n in enumerate(lengths, start=1) for _ in range(n)]
    mask = attention_mask(torch.tensor([segments]))
    repeats = query.shape[1] // key.shape[1]
    keys, values = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3).transpose(1, 2)


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 3), (4, 1), (2, 2)])
@pytest.mark.parametrize(
    "lengths",
    [[1], [5], [4, 4, 4], [4, 5, 5], [1, 2, 3, 5, 8, 13], [7] * (MAX_ROWS + 1), sorted([3, 4] * MAX_ROWS)],
)
def test_one_group(lengths, heads, kv_heads):
    n_tokens = 11 + sum(lengths)
    query, key, value = states(heads, n_tokens, 0), states(kv_heads, n_tokens, 1), states(kv_heads, n_tokens, 2)
    parts = [Part(slice(0, 11), make_blocks(lengths, 11, 11, heads // kv_heads))]
    found, _ = shared_prefix_attention(LAYER, query, key, value, None, 0.3, parts)
    torch.testing.assert_close(found, dense(query, key, value, 11, lengths), atol=1e-6, rtol=0)


def test_groups_do_not_see_each_other_and_an_empty_context_is_none():
    shapes = [(5, [2, 3]), (0, [4, 4]), (9, [1])]
    parts, expected, pieces, offset = [], [], [[], [], []], 0
    for seed, (n_prefix, lengths) in enumerate(shapes):
        n_tokens = n_prefix + sum(lengths)
        own = [states(heads, n_tokens, 10 * seed + h) for h, heads in enumerate((4, 2, 2))]
        parts.append(Part(slice(offset, offset + n_prefix), make_blocks(lengths, offset + n_prefix, n_prefix, 2)))
        offset += n_tokens
        expected.append(dense(*own, n_prefix, lengths))
        for piece, tensor in zip(pieces, own, strict=True):
            piece.append(tensor)
    found, _ = shared_prefix_attention(LAYER, *(torch.cat(piece, dim=2) for piece in pieces), None, 0.3, parts)
    torch.testing.assert_close(found, torch.cat(expected, dim=1), atol=1e-6, rtol=0)


def test_a_later_pass_reads_the_kept_context():
    query, key, value = states(4, 20, 0), states(2, 20, 1), states(2, 20, 2)
    whole = dense(query, key, value, 8, [3, 3, 6])
    cache = {}
    first = Part(slice(0, 8), make_blocks([3, 3], 8, 8, 2), keep=True, cache=cache)
    begin, _ = shared_prefix_attention(LAYER, query[:, :, :14], key[:, :, :14], value[:, :, :14], None, 0.3, [first])
    later = Part(None, make_blocks([6], 0, 8, 2), cache=cache)
    end, _ = shared_prefix_attention(LAYER, query[:, :, 14:], key[:, :, 14:], value[:, :, 14:], None, 0.3, [later])
    torch.testing.assert_close(torch.cat([begin, end], dim=1), whole, atol=1e-6, rtol=0)
    kept = cache[0][0]
    assert kept.untyped_storage().nbytes() == kept.nbytes, "the whole pass is kept, not the context alone"


def test_padding_within_a_block_is_bounded():
    blocks = make_blocks([4, 5, 5, 6, 20, 21, 64], 0, 3, 1)
    assert [block.shape for block in blocks] == [(3, 5), (1, 6), (2, 21), (1, 64)]
    assert [(block.begin, block.end) for block in blocks] == [(0, 14), (14, 20), (20, 61), (61, 125)]
    assert [block.tokens is None for block in blocks] == [False, True, False, True]
