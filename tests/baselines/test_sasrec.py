"""SASRec against numpy, written from the paper's equations, one user and one prefix at a time."""

import numpy as np
import pytest
import torch

from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.baselines.sasrec import SASRec
from mllm_srec.types import ConfigError
from tests.baselines.conftest import item_batch, left_padded, markov_chains, train_data, trained

N, D, LONGEST = 20, 8, 9
HISTORIES = [[3], [7, 2, 9, 4], [1, 2, 3, 4, 5, 6, 7, 8, 9], [20, 11]]
LOSSES = ["bce", "ce", "gbce", "sampled_softmax"]


def attached(**settings):
    """A model whose every weight, norms and biases too, is random, so that none can be forgotten unseen."""
    given = {"hidden": D, "max_history": LONGEST, "n_negatives": 6, **settings}
    model = SASRec(**given)
    model.attach(train_data(markov_chains(n_users=30, n_items=N), N))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2 + ("norm" in name))
        model.items.weight[0] = 0
    return model.eval()


# --- the oracle ---------------------------------------------------------------------------------------------------


def layer_norm(x, w, name):
    deviation = x - x.mean()
    return w[f"{name}.weight"] * deviation / np.sqrt((deviation**2).mean() + 1e-5) + w[f"{name}.bias"]


def attend(asks, states, w, name, n_heads):
    """Vector of the last position, which looks at all states so far."""
    found, width = [], D // n_heads
    for head in range(n_heads):
        rows = slice(head * width, (head + 1) * width)
        query = w[f"{name}.to_query.weight"][rows] @ asks
        energy = np.array([query @ (w[f"{name}.to_key.weight"][rows] @ x) for x in states]) / np.sqrt(width)
        share = np.exp(energy) / np.exp(energy).sum()
        found += list(sum(s * (w[f"{name}.to_value.weight"][rows] @ x) for s, x in zip(share, states, strict=True)))
    return np.array(found)


def feed_forward(x, w, name):
    inside = np.maximum(0, w[f"{name}.0.weight"] @ x + w[f"{name}.0.bias"])
    return w[f"{name}.2.weight"] @ inside + w[f"{name}.2.bias"]


def block(states, w, name, n_heads, norm):
    after = []
    for t in range(len(states)):
        normed = [layer_norm(x, w, f"{name}.attention_norm") for x in states[: t + 1]]
        if norm == "pre":
            x = states[t] + attend(normed[t], normed, w, f"{name}.attention", n_heads)
            after.append(x + feed_forward(layer_norm(x, w, f"{name}.feed_forward_norm"), w, f"{name}.feed_forward"))
        else:
            x = normed[t] + attend(normed[t], states[: t + 1], w, f"{name}.attention", n_heads)
            y = layer_norm(x, w, f"{name}.feed_forward_norm")
            after.append(y + feed_forward(y, w, f"{name}.feed_forward"))
    return after


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gated_block(states, w, name, n_heads):
    """LiGR: x + s(G x + g) * f(LN(x)), with attention that has an output projection, then with SwiGLU."""
    after = []
    for t in range(len(states)):
        normed = [layer_norm(x, w, f"{name}.attention_norm") for x in states[: t + 1]]
        added = w[f"{name}.attention.projection.weight"] @ attend(normed[t], normed, w, f"{name}.attention", n_heads)
        gate = w[f"{name}.attention_gate.weight"] @ states[t] + w[f"{name}.attention_gate.bias"]
        x = states[t] + sigmoid(gate) * added
        inside = w[f"{name}.feed_forward.to_gate.weight"] @ (y := layer_norm(x, w, f"{name}.feed_forward_norm"))
        inside = inside * sigmoid(inside) * (w[f"{name}.feed_forward.to_value.weight"] @ y)
        gate = w[f"{name}.feed_forward_gate.weight"] @ x + w[f"{name}.feed_forward_gate.bias"]
        after.append(x + sigmoid(gate) * (w[f"{name}.feed_forward.output.weight"] @ inside))
    return after


def oracle(model, history, norm):
    """F_t of every position of one history, which is not padded: (S, D)."""
    w = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    last = model.max_history - 1
    states = [
        np.sqrt(D) * w["items.weight"][item] + w["positions"][last - (len(history) - 1 - t)]
        for t, item in enumerate(history)
    ]
    for layer in range(model.n_layers):
        name = f"blocks.{layer}"
        gated = model.block == "ligr"
        states = gated_block(states, w, name, model.n_heads) if gated else block(states, w, name, model.n_heads, norm)
    return np.array([layer_norm(x, w, "last_norm") for x in states])


# --- forward ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["pre", "original"])
@pytest.mark.parametrize("shape", [{}, {"n_heads": 2, "n_layers": 1, "inner": 5}], ids=["paper", "other"])
@torch.no_grad()
def test_forward(norm, shape):
    model = attached(norm=norm, **shape)
    found = model.encode(left_padded(HISTORIES, LONGEST))
    scores = model.score_all(item_batch(HISTORIES, n_items=N, length=LONGEST))
    for row, history in enumerate(HISTORIES):
        expected = oracle(model, history, norm)
        np.testing.assert_allclose(found[row, -len(history) :], expected, atol=1e-5)
        np.testing.assert_allclose(scores[row], model.items.weight[1:].numpy() @ expected[-1], atol=1e-5)


@pytest.mark.parametrize("shape", [{}, {"n_heads": 2, "n_layers": 1, "inner": 5}], ids=["authors", "other"])
@torch.no_grad()
def test_forward_through_gates(shape):
    model = attached(block="ligr", **shape)
    found = model.encode(left_padded(HISTORIES, LONGEST))
    for row, history in enumerate(HISTORIES):
        np.testing.assert_allclose(found[row, -len(history) :], oracle(model, history, "pre"), atol=1e-5)
    assert model.blocks[0].feed_forward.output.in_features == shape.get("inner", 4 * D)


def test_the_two_norms_differ():
    histories = left_padded(HISTORIES, LONGEST)
    assert not torch.allclose(attached(norm="pre").encode(histories), attached(norm="original").encode(histories))


@pytest.mark.parametrize("norm", ["pre", "original"])
@torch.no_grad()
def test_later_items_leave_earlier_outputs_bit_equal(norm):
    model = attached(norm=norm)
    before = left_padded(HISTORIES, LONGEST)
    for place in range(1, LONGEST):
        after = before.clone()
        after[:, place:] = torch.where(before[:, place:] > 0, before[:, place:] % N + 1, 0)
        one, other = model.encode(before), model.encode(after)
        assert torch.equal(one[:, :place], other[:, :place])
        assert not torch.equal(one[:, place:], other[:, place:])


@torch.no_grad()
def test_padding_is_kept_out_whatever_its_embedding():
    model, histories = attached(), left_padded(HISTORIES, LONGEST)
    before = model.encode(histories)[:, -1]
    model.items.weight[0] = 5.0
    assert torch.equal(model.encode(histories)[:, -1], before)


# --- losses -------------------------------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """Negatives known to the test, in place of drawn ones."""

    def forward(self, users, n):
        self.users = users
        return (users[:, None] * 3 + torch.arange(n)) % N + 1


def softplus(x):
    return np.log1p(np.exp(x))


def terms_of(model, loss, sequences, users, shared):
    """Loss of every position with a next item, in numpy."""
    table = model.items.weight.detach().numpy().astype(np.float64)
    for user, sequence in zip(users, sequences, strict=True):
        states = oracle(model, sequence[:-1], "pre") if len(sequence) > 1 else []
        for state, target in zip(states, sequence[1:], strict=True):
            scores = table @ state
            drawn = [(user * 3 + k) % N + 1 for k in range(6)]
            if loss == "bce":
                yield softplus(-scores[target]) + softplus(scores[drawn[0]])
            elif loss == "gbce":
                power = 1 - 0.75 * (1 - 6 / (N - 1))
                yield (power * softplus(-scores[target]) + sum(softplus(scores[k]) for k in drawn)) / 7
            elif loss == "ce":
                yield np.log(np.exp(scores[1:]).sum()) - scores[target]
            else:
                others = sum(np.exp(scores[k]) * N / 6 for k in shared if k != target)
                yield np.log(np.exp(scores[target]) + others) - scores[target]


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_is_over_every_position_with_a_next_item_and_no_other(loss):
    model = attached(loss=loss)
    model.sampler = Fixed()
    sequences, users = [[5, 6, 7], [9], [4, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]], [4, 1, 2, 9]
    torch.manual_seed(8)
    shared = torch.randint(1, N + 1, (6,)).tolist()
    torch.manual_seed(8)
    found = model.loss({"user": torch.tensor(users), "history": left_padded(sequences, LONGEST + 1)})
    expected = list(terms_of(model, loss, sequences, users, shared))
    assert len(expected) == 2 + 0 + 1 + 9
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_known_items_do_not_compete_where_they_are_spared():
    """Known is what the user's train rows hold, disliked items too, and not only what this batch shows."""
    liked = [[5, 6, 7, 11], [9, 2], [4, 3, 12]]
    train = train_data(liked, N)
    disliked = TrainData(
        user=np.insert(train.user, 4, 1), item=np.insert(train.item, 4, 8), liked=np.insert(train.liked, 4, False),
        timestamp=np.insert(train.timestamp, 4, 10**6), n_users=train.n_users, n_items=N,
    )  # fmt: skip
    model = SASRec(loss="ce", hidden=D, max_history=LONGEST, dropout=0.0, spare_known=True)
    model.attach(disliked)
    model.eval()
    table = model.items.weight.detach().numpy().astype(np.float64)
    expected = []
    for known, sequence in (({5, 6, 7, 11, 8}, [5, 6, 7]), ({4, 3, 12}, [4, 3, 12])):
        for state, target in zip(oracle(model, sequence[:-1], "pre"), sequence[1:], strict=True):
            others = [i for i in range(1, N + 1) if i == target or i not in known]
            expected.append(np.log(np.exp(table[others] @ state).sum()) - table[target] @ state)
    batch = {"user": torch.tensor([1, 3]), "history": left_padded([[5, 6, 7], [4, 3, 12]], LONGEST + 1)}
    assert model.loss(batch).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_negatives_are_drawn_for_the_user_of_the_position_and_never_known_to_them():
    chains = markov_chains(n_users=5, n_items=N)
    model = SASRec(loss="gbce", hidden=D, max_history=LONGEST, n_negatives=15)
    model.attach(train_data(chains, N))
    drawn = []
    model.sampler.register_forward_hook(lambda _, given, result: drawn.append((given[0], result)))
    model.loss({"user": torch.arange(1, 6), "history": left_padded(chains, LONGEST + 1)})
    users, items = drawn[0]
    assert users.tolist() == [user for user in range(1, 6) for _ in range(LONGEST)]
    assert items.shape == (45, 15)
    for user, row in zip(users.tolist(), items.tolist(), strict=True):
        assert not set(row) & set(chains[user - 1])


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "norm", "seen_too"),
    [
        ("ce", "pre", True),
        ("ce", "original", True),
        ("sampled_softmax", "pre", True),
        ("bce", "original", False),
        ("sampled_softmax", "ligr", True),
    ],
)
def test_markov_chain(loss, norm, seen_too):
    """With `bce` an item of the history is never a negative of its user, so that the ranking is of the others."""
    n_items = 15
    layers = {"block": "ligr"} if norm == "ligr" else {"norm": norm}
    model = SASRec(loss=loss, **layers, hidden=32, n_layers=1, dropout=0.1, max_history=7, n_negatives=8, lr=5e-3)
    trained(model, train_data(markov_chains(n_items=n_items, length=8), n_items), steps=150)
    histories = [[(first + step) % n_items + 1 for step in range(4)] for first in range(n_items)]
    with torch.no_grad():
        scores = model.score_all(item_batch(histories, n_items=n_items))
    if not seen_too:
        scores.scatter_(1, torch.tensor(histories) - 1, -torch.inf)
    hits = scores.argmax(dim=1) == torch.tensor([(first + 4) % n_items for first in range(n_items)])
    assert hits.float().mean() > 0.9


def test_pictures_are_not_seen_so_that_cold_items_are_at_chance(clustered):
    data, cluster, taste = clustered
    model = trained(SASRec(loss="ce", hidden=16, n_layers=1, max_history=6, lr=5e-3), data, steps=60)
    users = np.arange(1, data.n_users + 1)
    histories = [data.sequences[user].tolist() for user in users]
    with torch.no_grad():
        scores = model.score_all(item_batch(histories, n_items=data.n_items, length=6)).numpy()
    cold, warm = slice(40, None), slice(0, 40)
    found = {}
    for name, part in (("cold", cold), ("warm", warm)):
        right = cluster[1:][part] == taste[users][:, None]
        pairs = [np.subtract.outer(s[r], s[~r]).ravel() for s, r in zip(scores[:, part], right, strict=True)]
        found[name] = np.mean([(pair > 0).mean() for pair in pairs])
    assert abs(found["cold"] - 0.5) < 0.1
    assert found["warm"] > 0.8


def test_an_empty_history_is_ranked_nearly_by_popularity():
    random = np.random.default_rng(0)
    n_items = 40
    wanted = 1 / np.arange(1, n_items + 1)
    sequences = [(random.choice(n_items, 6, replace=False, p=wanted / wanted.sum()) + 1).tolist() for _ in range(200)]
    data = train_data(sequences, n_items)
    model = trained(SASRec(loss="ce", hidden=16, n_layers=1, max_history=6, lr=5e-3), data, steps=150)
    with torch.no_grad():
        scores = model.score_all(item_batch([[]], n_items=n_items))[0].numpy()
    ranks = [np.argsort(np.argsort(values)) for values in (scores, data.item_likes[1:])]
    assert np.corrcoef(ranks)[0, 1] > 0.7


# --- settings -----------------------------------------------------------------------------------------------------


def test_paper_defaults():
    model = attached(hidden=64)
    assert (model.inner, model.n_layers, model.n_heads, model.dropout.p, model.loss_name) == (64, 2, 1, 0.5, "bce")
    assert model.configure_optimizers().defaults["betas"] == (0.9, 0.98)
    assert (model.lr, model.configure_optimizers().defaults["lr"]) == (1e-3, 1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "cross"}, "loss='cross': unknown; give one of bce, ce, gbce, sampled_softmax"),
        ({"norm": "post"}, "norm='post': unknown; give one of pre, original"),
        ({"block": "gated"}, "block='gated': unknown; give one of sasrec, ligr"),
        (
            {"block": "ligr", "norm": "original"},
            "norm='original': has no effect on block='ligr'; give norm='pre' or block='sasrec'",
        ),
        ({"hidden": 0}, "hidden=0: too small; give at least 1"),
        ({"n_layers": 0}, "n_layers=0: too small; give at least 1"),
        ({"inner": 0}, "inner=0: too small; give at least 1"),
        ({"n_negatives": 0}, "n_negatives=0: too small; give at least 1"),
        ({"n_heads": 3}, "n_heads=3: not a divisor of hidden=64; give one of its divisors"),
        ({"dropout": 1.0}, "dropout=1.0: out of range; give a number from 0 to 1, 1 excluded"),
        ({"gbce_t": 1.1}, "gbce_t=1.1: out of range; give a number from 0 to 1"),
        ({"max_history": 0}, "max_history=0: too small; give at least 1"),
        ({"patience": 0}, "patience=0: too small; give at least 1"),
        ({"lr": -1.0}, "lr=-1.0: too small; give at least 0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1: too small; give at least 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError) as error:
        SASRec(**settings)
    assert str(error.value) == message


def test_only_cross_entropy_can_spare_known_items():
    with pytest.raises(ConfigError, match="spare_known=true: has no effect on loss='bce'"):
        SASRec(spare_known=True)


def test_more_negatives_than_items_are_refused_for_gbce():
    model = SASRec(loss="gbce", n_negatives=20)
    with pytest.raises(ConfigError, match="n_negatives=20: too many; with gbce give fewer than 20"):
        model.attach(train_data(markov_chains(n_users=5, n_items=20), 20))
