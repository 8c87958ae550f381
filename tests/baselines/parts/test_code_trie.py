"""The trie: distinct beginnings by hand, likelihoods against one plain pass a candidate, and what a pass computes."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2Model

from mllm_srec.baselines.parts import code_trie
from mllm_srec.baselines.parts.code_trie import Context, code_levels, code_likelihoods

VOCABULARY = 7


@pytest.fixture(scope="module")
def gpt2():
    """A small decoder whose weights are large enough for every token to matter."""
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=VOCABULARY + 1, n_positions=32, n_embd=16, n_layer=2, n_head=2))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def histories():
    return [[7, 1, 2, 3, 4, 5], [7], [7, 6, 6]]


def context_of(gpt2, histories, width=6):
    """The histories padded on the right with token 0, run at once."""
    mask = torch.zeros(len(histories), width, dtype=torch.bool)
    tokens = torch.zeros(len(histories), width, dtype=torch.long)
    for row, history in enumerate(histories):
        tokens[row, : len(history)] = torch.tensor(history)
        mask[row, : len(history)] = True
    output = gpt2(input_ids=tokens, use_cache=True)
    state = output.last_hidden_state[range(len(histories)), mask.sum(1) - 1]
    return Context([(layer.keys, layer.values) for layer in output.past_key_values.layers], mask, state)


def naive(gpt2, history, code):
    """Log-likelihood of one code after one history by a plain forward pass, in float64 from its hidden states on."""
    hidden = gpt2(input_ids=torch.tensor([history + code]), use_cache=False).last_hidden_state[0].double().numpy()
    logits = hidden @ gpt2.wte.weight[:VOCABULARY].double().numpy().T
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return sum(log_p[len(history) - 1 + j, token] for j, token in enumerate(code))


def test_beginnings_are_found_once():
    codes = torch.tensor([[[1, 2, 0], [0, 2, 0], [1, 2, 1], [1, 0, 0]], [[3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]])
    first, second = code_levels(codes, 4)
    assert first.prefix.tolist() == [[1, 0, 1, 1], [0, 0, 0, 0]]
    assert second.prefix.tolist() == [[2, 0, 2, 1], [0, 0, 0, 0]]
    assert first.example.shape == (2, 2)
    assert second.example.shape == (2, 3)
    for level in (first, second):  # an example has the beginning that it stands for
        for row in range(2):
            for place in level.prefix[row].unique():
                assert level.prefix[row, level.example[row, place]] == place


def test_one_token_needs_no_beginning():
    assert code_levels(torch.tensor([[[1], [0]]]), 4) == []


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 4])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("limit", [8192, 20, 1])
def test_likelihoods_are_those_of_one_pass_a_candidate(gpt2, histories, n_tokens, shared, limit, monkeypatch):
    monkeypatch.setattr(code_trie, "MAX_BRANCHES", limit)  # all rows at once, some, one
    torch.manual_seed(n_tokens)
    codes = torch.randint(0, VOCABULARY, (1 if shared else 3, 11, n_tokens))
    found = code_likelihoods(gpt2, context_of(gpt2, histories), codes, VOCABULARY)
    expected = [
        [naive(gpt2, history, code.tolist()) for code in codes[0 if shared else row]]
        for row, history in enumerate(histories)
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)
    assert found.dtype == torch.float32


def test_all_codes_together_are_certain(gpt2, histories):
    codes = torch.cartesian_prod(*[torch.arange(VOCABULARY)] * 3).unsqueeze(0)  # (1, 343, 3)
    likelihood = code_likelihoods(gpt2, context_of(gpt2, histories), codes, VOCABULARY)
    torch.testing.assert_close(likelihood.exp().sum(dim=1), torch.ones(3), atol=1e-5, rtol=0)


def test_padding_behind_a_history_changes_nothing(gpt2, histories):
    codes = torch.randint(0, VOCABULARY, (1, 20, 3))
    narrow = code_likelihoods(gpt2, context_of(gpt2, histories, 6), codes, VOCABULARY)
    wide = code_likelihoods(gpt2, context_of(gpt2, histories, 20), codes, VOCABULARY)
    torch.testing.assert_close(narrow, wide, atol=1e-6, rtol=0)


def test_only_distinct_beginnings_are_computed(gpt2, histories, monkeypatch):
    computed, grow = [], code_trie.grow
    monkeypatch.setattr(code_trie, "grow", lambda *given: computed.append(tuple(given[3].shape)) or grow(*given))
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(7)).repeat(4, 1).unsqueeze(0)
    code_likelihoods(gpt2, context_of(gpt2, histories), codes, VOCABULARY)
    assert computed == [(3, 3), (3, 6)]  # of 168 candidates a row
