"""BERT4Rec against numpy, written from the paper's equations, and the drawing of masks."""

import math

import numpy as np
import pytest
import torch

from mllm_srec.baselines.bert4rec import BERT4Rec, cloze_positions, random_prefixes
from mllm_srec.types import ConfigError
from tests.baselines.conftest import item_batch, left_padded, markov_chains, train_data, trained

N, D, LONGEST = 20, 8, 8
MASK = N + 1
HISTORIES = [[3], [7, 2, 9, 4], [1, 2, 3, 4, 5, 6, 7, 8], [], [20, 11]]


def attached(**settings):
    """A model whose every weight, norms and biases too, is random, so that none can be forgotten unseen."""
    model = BERT4Rec(**{"hidden": D, "max_history": LONGEST, **settings})
    model.attach(train_data(markov_chains(n_users=30, n_items=N), N))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3 + ("norm" in name))
        model.items.weight[0] = 0
    return model.eval()


# --- the oracle ---------------------------------------------------------------------------------------------------


def gelu(x):
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x])


def layer_norm(x, w, name):
    deviation = x - x.mean()
    return w[f"{name}.weight"] * deviation / np.sqrt((deviation**2).mean() + 1e-5) + w[f"{name}.bias"]


def attend(states, w, name, n_heads):
    """Vectors of all positions, which all look at all."""
    width, found = D // n_heads, [[] for _ in states]
    for head in range(n_heads):
        rows = slice(head * width, (head + 1) * width)
        query, key, value = (
            [w[f"{name}.to_{part}.weight"][rows] @ x for x in states] for part in ("query", "key", "value")
        )
        for place in range(len(states)):
            energy = np.exp([query[place] @ k / np.sqrt(width) for k in key])
            found[place] += list(sum(e * v for e, v in zip(energy / energy.sum(), value, strict=True)))
    return [w[f"{name}.projection.weight"] @ np.array(x) for x in found]


def oracle(model, numbers):
    """GELU(h W + b) at every position of one sequence of items and masks, which is not padded: (S, D)."""
    w = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    places = w["positions"][len(w["positions"]) - len(numbers) :]
    states = [layer_norm(e + p, w, "embedding_norm") for e, p in zip(w["items.weight"][numbers], places, strict=True)]
    for layer in range(model.n_layers):
        name = f"blocks.{layer}"
        found = attend(states, w, f"{name}.attention", model.n_heads)
        states = [layer_norm(x + a, w, f"{name}.attention_norm") for x, a in zip(states, found, strict=True)]
        for place, x in enumerate(states):
            inside = gelu(w[f"{name}.feed_forward.0.weight"] @ x + w[f"{name}.feed_forward.0.bias"])
            outside = w[f"{name}.feed_forward.2.weight"] @ inside + w[f"{name}.feed_forward.2.bias"]
            states[place] = layer_norm(x + outside, w, f"{name}.feed_forward_norm")
    return np.array([gelu(w["head.0.weight"] @ x + w["head.0.bias"]) for x in states])


def scores_of(model, vector):
    """Scores of items 1..N, without padding and mask."""
    weights = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    return weights["items.weight"][1 : N + 1] @ vector + weights["output_bias"][1:]


@pytest.mark.parametrize("shape", [{}, {"n_heads": 1, "n_layers": 1, "inner": 5}], ids=["paper", "other"])
@torch.no_grad()
def test_forward_with_a_mask_after_the_history(shape):
    model = attached(**shape)
    scores = model.score_all(item_batch(HISTORIES, n_items=N, length=LONGEST))
    for row, history in enumerate(HISTORIES):
        expected = scores_of(model, oracle(model, [*history, MASK])[-1])
        np.testing.assert_allclose(scores[row], expected, atol=1e-5)


@torch.no_grad()
def test_both_sides_of_a_mask_are_read():
    model = attached()
    found = model.encode(left_padded([[5, MASK, 7, 2]], LONGEST + 1))
    np.testing.assert_allclose(found[0, -4:], oracle(model, [5, MASK, 7, 2]), atol=1e-5)
    assert not torch.allclose(model.encode(left_padded([[5, MASK, 7, 3]], LONGEST + 1))[0, -3], found[0, -3])


@torch.no_grad()
def test_the_mask_is_not_ranked():
    model = attached()
    batch = item_batch(HISTORIES, n_items=N, length=LONGEST)
    before = model.score_all(batch)
    assert before.shape == (len(HISTORIES), N)
    assert model.item_vectors().shape == (N + 1, D)
    assert torch.equal(model.item_vectors()[1:], model.items.weight[1:MASK])


@torch.no_grad()
def test_padding_is_kept_out_whatever_its_embedding():
    model, batch = attached(), item_batch(HISTORIES, n_items=N, length=LONGEST)
    before = model.score_all(batch)
    model.items.weight[0] = 5.0
    assert torch.equal(model.score_all(batch), before)


# --- masks and loss -----------------------------------------------------------------------------------------------


def test_a_loss_of_the_last_item_asks_what_is_asked_at_test():
    model, sequences = (
        attached(last_only_share=1.0, random_prefixes=False),
        [[3, 9], [9], [4, 3, 8], [1, 2, 3, 4, 5, 6, 7, 8, 9]],
    )
    found = model.loss({"user": torch.arange(1, 5), "history": left_padded(sequences, LONGEST + 1)})
    scores = [scores_of(model, oracle(model, [*sequence[:-1], MASK])[-1]) for sequence in sequences]
    terms = [np.log(np.exp(s).sum()) - s[q[-1] - 1] for s, q in zip(scores, sequences, strict=True)]
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_a_loss_of_all_masked_is_over_every_real_position():
    model, sequences = attached(mask_ratio=1.0, last_only_share=0.0), [[3, 9], [9], [4, 3, 8]]
    found = model.loss({"user": torch.arange(1, 4), "history": left_padded(sequences, LONGEST + 1)})
    terms = []
    for sequence in sequences:
        for vector, item in zip(oracle(model, [MASK] * len(sequence)), sequence, strict=True):
            scores = scores_of(model, vector)
            terms.append(np.log(np.exp(scores).sum()) - scores[item - 1])
    assert len(terms) == 6
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-5)


def rows_of(lengths, width=10):
    return torch.arange(width)[None] >= width - torch.tensor(lengths)[:, None]


def test_masks_are_drawn_with_the_ratio():
    torch.manual_seed(0)
    real = rows_of([10] * 20_000)
    masked = cloze_positions(real, 0.4, torch.zeros(20_000, dtype=torch.bool))
    expected = 0.4 + 0.6**10 / 10  # where none was drawn, one is
    assert (masked.float().mean(dim=0) - expected).abs().max() < 5 * math.sqrt(0.24 / 20_000)


def test_never_is_no_position_masked_and_padding_never_is():
    torch.manual_seed(0)
    real = rows_of([1, 2, 3, 10] * 5000)
    for ratio in (0.0, 0.2, 1.0):
        masked = cloze_positions(real, ratio, torch.zeros(len(real), dtype=torch.bool))
        assert masked.any(dim=1).all()
        assert not (masked & ~real).any()
    assert torch.equal(masked, real)


def test_where_the_ratio_leaves_none_one_is_drawn_uniformly():
    torch.manual_seed(0)
    masked = cloze_positions(rows_of([4] * 20_000), 0.0, torch.zeros(20_000, dtype=torch.bool))
    assert (masked.sum(dim=1) == 1).all()
    share = masked.float().mean(dim=0)[-4:]
    assert (share - 0.25).abs().max() < 5 * math.sqrt(0.1875 / 20_000)


def test_last_only():
    masked = cloze_positions(rows_of([1, 4, 10]), 1.0, torch.tensor([True, True, False]))
    assert masked.int().sum(dim=1).tolist() == [1, 1, 10]
    assert masked[:, -1].all()


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.25, 0.22, 0.28), (1.0, 1, 1)])
def test_share_of_examples_that_mask_only_the_last(share, low, high):
    model = attached(mask_ratio=1.0, last_only_share=share, random_prefixes=False)
    seen = []
    model.items.register_forward_hook(lambda _, given, result: seen.append(given[0]))
    torch.manual_seed(0)
    model.loss({"user": torch.ones(5000, dtype=torch.long), "history": torch.full((5000, 3), 7)})
    only_last = (seen[0] == MASK).sum(dim=1) == 1
    assert low <= only_last.float().mean().item() <= high


def test_masks_differ_from_step_to_step():
    model, batch = attached(), {"user": torch.arange(1, 4), "history": torch.arange(1, 28).reshape(3, 9) % N + 1}
    losses = set()
    for seed in (0, 1, 2, 0):
        torch.manual_seed(seed)
        losses.add(model.loss(batch).item())
    assert len(losses) == 3


# --- training -----------------------------------------------------------------------------------------------------


def test_markov_chain():
    """Histories of all lengths: a mask before which two items are masked too says little of the next one."""
    n_items = 15
    chains = [chain[: 3 + user % 6] for user, chain in enumerate(markov_chains(n_items=n_items, length=8))]
    model = BERT4Rec(hidden=32, n_layers=1, dropout=0.0, mask_ratio=0.2, max_history=7, lr=5e-3)
    trained(model, train_data(chains, n_items), steps=150)
    histories = [[(first + step) % n_items + 1 for step in range(4)] for first in range(n_items)]
    with torch.no_grad():
        scores = model.score_all(item_batch(histories, n_items=n_items, length=7))
    hits = scores.argmax(dim=1) == torch.tensor([(first + 4) % n_items for first in range(n_items)])
    assert hits.float().mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({}, {0: 1, 7: 1, 10**6: 1}),
        ({"warmup_steps": 4}, {0: 0.25, 1: 0.5, 3: 1, 4: 1, 100: 1}),
        ({"warmup_steps": 2, "decay_steps": 6}, {0: 0.5, 1: 1, 2: 1, 3: 0.75, 5: 0.25, 6: 0, 9: 0}),
        ({"decay_steps": 4}, {0: 1, 1: 0.75, 3: 0.25, 4: 0}),
    ],
)
def test_schedule(settings, factors):
    model = BERT4Rec(hidden=D, **settings)
    assert {step: model.lr_factor(step) for step in factors} == factors


def test_the_schedule_moves_the_optimizer_at_each_step():
    model = attached(warmup_steps=2, decay_steps=4, lr=0.1)
    made = model.configure_optimizers()
    optimizer, plan = made["optimizer"], made["lr_scheduler"]
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan["scheduler"].step()
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.05, 0])
    assert plan["interval"] == "step"
    assert isinstance(attached(lr=0.1).configure_optimizers(), torch.optim.Adam)


def test_defaults():
    model = attached(hidden=64)
    assert (model.inner, model.n_layers, model.n_heads, model.lr, model.patience) == (256, 2, 2, 1e-3, 50)
    assert (model.mask_ratio, model.last_only_share, model.initial_weights) == (0.4, 0.5, "xavier")


@pytest.mark.parametrize("initial_weights", ["xavier", "paper"])
def test_initial_weights(initial_weights):
    """Xavier's deviation is sqrt(2 / (in + out)); the paper's normal of 0.02 cut at 0.02 has 0.02 * 0.5396."""
    model = BERT4Rec(hidden=64, initial_weights=initial_weights)
    model.attach(train_data(markov_chains(n_users=5, n_items=N), N))
    inside = model.blocks[1].feed_forward[0]
    expected = math.sqrt(2 / (64 + 256)) if initial_weights == "xavier" else 0.02 * 0.5396
    assert inside.weight.std().item() == pytest.approx(expected, rel=0.03)
    assert initial_weights == "xavier" or inside.weight.abs().max() <= 0.02
    assert inside.bias.abs().max() == model.items.weight[0].abs().max() == 0
    assert model.items.weight[MASK].abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 1.5}, "mask_ratio=1.5: out of range; give a number from 0 to 1"),
        ({"last_only_share": -1}, "last_only_share=-1: out of range; give a number from 0 to 1"),
        ({"initial_weights": "zero"}, "initial_weights='zero': unknown; give one of xavier, paper"),
        ({"n_heads": 0}, "n_heads=0: not a divisor of hidden=64; give one of its divisors"),
        ({"warmup_steps": -1}, "warmup_steps=-1: too small; give at least 0"),
        ({"warmup_steps": 5, "decay_steps": 5}, "decay_steps=5: too small; give 0, or more than warmup_steps=5"),
        ({"dropout": 1}, "dropout=1: out of range; give a number from 0 to 1, 1 excluded"),
        ({"hidden": 0}, "hidden=0: too small; give at least 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError) as error:
        BERT4Rec(**settings)
    assert str(error.value) == message


def test_random_prefixes_end_at_every_item():
    sequences = [[4, 7, 2, 9], [5], [], [1, 2, 3, 4, 5, 6]]
    history = left_padded(sequences, 6)
    torch.manual_seed(0)
    ends = [set() for _ in sequences]
    for _ in range(400):
        cut = random_prefixes(history, torch.tensor([True, True, True, False]))
        for row, sequence in enumerate(sequences):
            kept = [value for value in cut[row].tolist() if value]
            assert cut[row].tolist() == [0] * (6 - len(kept)) + kept
            assert kept == sequence[: len(kept)]
            ends[row].add(len(kept))
    assert ends == [{1, 2, 3, 4}, {1}, {0}, {6}]


def test_each_length_of_a_prefix_is_as_likely():
    torch.manual_seed(1)
    history = left_padded([[1, 2, 3, 4]] * 20_000, 4)
    lengths = (random_prefixes(history, torch.ones(20_000, dtype=torch.bool)) > 0).sum(dim=1)
    shares = torch.bincount(lengths, minlength=5)[1:] / 20_000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.02, rtol=0)
