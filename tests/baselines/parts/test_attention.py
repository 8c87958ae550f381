"""Masks written out, and attention against numpy, one query at a time."""

import numpy as np
import pytest
import torch

from mllm_srec.baselines.parts.attention import MultiHeadAttention, attention_mask

REAL = torch.tensor([[False, True, True], [False, False, False]])


def test_causal_mask():
    allowed = attention_mask(REAL, causal=True)
    assert allowed.shape == (2, 1, 3, 3)
    assert allowed[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert allowed[1, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_bidirectional_mask():
    allowed = attention_mask(REAL, causal=False)
    assert allowed[0, 0].int().tolist() == [[1, 1, 1], [0, 1, 1], [0, 1, 1]]
    assert allowed[1, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("n_heads", [1, 2])
def test_attention(project, n_heads):
    torch.manual_seed(0)
    hidden, width = 4, 4 // n_heads
    layer = MultiHeadAttention(hidden, n_heads, project).double()
    queries, states = torch.randn(2, 3, hidden).double(), torch.randn(2, 3, hidden).double()
    mask = attention_mask(REAL, causal=True)
    found = layer(queries, states, mask).detach().numpy()

    weights = {name: value.numpy() for name, value in layer.state_dict().items()}
    for row in range(2):
        for place in range(3):
            seen = [other for other in range(3) if mask[row, 0, place, other]]
            heads = []
            for head in range(n_heads):
                part = slice(head * width, (head + 1) * width)
                query = weights["to_query.weight"][part] @ queries[row, place].numpy()
                keys = [weights["to_key.weight"][part] @ states[row, other].numpy() for other in seen]
                values = [weights["to_value.weight"][part] @ states[row, other].numpy() for other in seen]
                energy = np.exp([query @ key / np.sqrt(width) for key in keys])
                heads.append(sum(e * v for e, v in zip(energy / energy.sum(), values, strict=True)))
            expected = np.concatenate(heads)
            if project:
                expected = weights["projection.weight"] @ expected
            np.testing.assert_allclose(found[row, place], expected, atol=1e-12)
