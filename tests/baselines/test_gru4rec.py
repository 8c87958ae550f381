"""GRU encoder against numpy, from the equations of Cho et al. (2014), one step at a time."""

import numpy as np
import pytest
import torch

from mllm_srec.baselines.gru4rec import GRU4Rec
from mllm_srec.types import ConfigError
from tests.baselines.conftest import item_batch, left_padded, markov_chains, train_data, trained

N, D, H, LONGEST = 20, 6, 5, 9
HISTORIES = [[3], [7, 2, 9, 4], [1, 2, 3, 4, 5, 6, 7, 8, 9], [20, 11]]


def attached(**settings):
    model = GRU4Rec(**{"hidden": D, "gru_hidden": H, "max_history": LONGEST, **settings})
    model.attach(train_data(markov_chains(n_users=30, n_items=N), N))
    torch.nn.init.normal_(model.linear.bias, generator=torch.Generator().manual_seed(1))  # zero at first
    return model.eval()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(inputs, from_input, from_state):
    """States of one layer; the reset gate acts on the product with the state, as in torch."""
    state, states = np.zeros(H), []
    for x in inputs:
        reset_x, update_x, new_x = np.split(from_input @ x, 3)
        reset_h, update_h, new_h = np.split(from_state @ state, 3)
        reset, update = sigmoid(reset_x + reset_h), sigmoid(update_x + update_h)
        state = (1 - update) * np.tanh(new_x + reset * new_h) + update * state
        states.append(state)
    return states


def oracle(model, history):
    w = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    states = list(w["items.weight"][history])
    for layer in range(model.n_layers):
        states = gru(states, w[f"gru.weight_ih_l{layer}"], w[f"gru.weight_hh_l{layer}"])
    return np.array([w["linear.weight"] @ state + w["linear.bias"] for state in states])


@pytest.mark.parametrize("n_layers", [1, 2])
@torch.no_grad()
def test_forward(n_layers):
    model = attached(n_layers=n_layers)
    found = model.encode(left_padded(HISTORIES, LONGEST))
    scores = model.score_all(item_batch(HISTORIES, n_items=N, length=LONGEST))
    for row, history in enumerate(HISTORIES):
        expected = oracle(model, history)
        np.testing.assert_allclose(found[row, -len(history) :], expected, atol=1e-5)
        np.testing.assert_allclose(scores[row], model.items.weight[1:].numpy() @ expected[-1], atol=1e-5)


@torch.no_grad()
def test_later_items_leave_earlier_outputs_bit_equal():
    model, before = attached(), left_padded(HISTORIES, LONGEST)
    after = before.clone()
    after[:, -1] = 13
    one, other = model.encode(before), model.encode(after)
    assert torch.equal(one[:, :-1], other[:, :-1])
    assert not torch.equal(one[:, -1], other[:, -1])


def test_loss_is_cross_entropy_at_every_position_with_a_next_item():
    model, sequences = attached(), [[5, 6, 7], [9], [4, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    terms = []
    for sequence in sequences:
        for state, target in zip(oracle(model, sequence)[:-1], sequence[1:], strict=True):
            scores = model.items.weight.detach().numpy()[1:] @ state
            terms.append(np.log(np.exp(scores).sum()) - scores[target - 1])
    found = model.loss({"user": torch.arange(1, 5), "history": left_padded(sequences, LONGEST + 1)})
    assert len(terms) == 2 + 0 + 1 + 9
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_markov_chain():
    n_items = 15
    model = GRU4Rec(hidden=32, gru_hidden=32, max_history=7, lr=5e-3)
    trained(model, train_data(markov_chains(n_items=n_items, length=8), n_items), steps=150)
    histories = [[(first + step) % n_items + 1 for step in range(4)] for first in range(n_items)]
    with torch.no_grad():
        scores = model.score_all(item_batch(histories, n_items=n_items))
    hits = scores.argmax(dim=1) == torch.tensor([(first + 4) % n_items for first in range(n_items)])
    assert hits.float().mean() > 0.9


def test_defaults():
    model = GRU4Rec()
    model.attach(train_data(markov_chains(n_users=5, n_items=N), N))
    assert (model.items.weight.shape, model.gru.weight_hh_l0.shape) == ((N + 1, 64), (3 * 128, 128))
    assert (model.linear.weight.shape, model.dropout.p, model.gru.bias) == ((64, 128), 0.3, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden=0: too small; give at least 1"),
        ({"gru_hidden": -2}, "gru_hidden=-2: too small; give at least 1"),
        ({"n_layers": 0}, "n_layers=0: too small; give at least 1"),
        ({"dropout": -0.1}, "dropout=-0.1: out of range; give a number from 0 to 1, 1 excluded"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError) as error:
        GRU4Rec(**settings)
    assert str(error.value) == message
