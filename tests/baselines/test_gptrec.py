"""GPTRec against plain teacher forcing and generation, one row and one candidate at a time, and what it learns."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mllm_srec.baselines import gptrec
from mllm_srec.baselines.gptrec import GPTRec
from mllm_srec.types import ConfigError
from tests.baselines.conftest import item_batch, left_padded, markov_chains, one_gradient, train_data, trained

N_ITEMS = 20
HISTORIES = [[3, 7, 1], [], [5], [2, 9, 4, 11, 20, 6, 13, 8], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]  # max_history is 8
CANDIDATES = [[7, 2, 15, 20], [1, 3, 0, 0], [5, 0, 0, 0], [12, 11, 10, 0], [9, 8, 1, 17]]  # 0 is padding
SMALL = {"hidden": 16, "n_layers": 2, "n_heads": 2, "n_values": 5, "max_history": 8, "dropout": 0.0}
LEARNING = {"hidden": 32, "n_layers": 1, "n_heads": 2, "max_history": 12, "dropout": 0.0, "lr": 1e-2}


def likes(n_users=30, seed=0):
    random = np.random.default_rng(seed)
    return [(random.permutation(N_ITEMS)[: random.integers(2, 10)] + 1).tolist() for _ in range(n_users)]


def random_model(**settings):
    """A model whose weights are large enough for every item of a history to matter."""
    model = GPTRec(**{**SMALL, **settings})
    model.attach(train_data(likes(), N_ITEMS), seed=1)
    torch.manual_seed(5)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval().requires_grad_(False)


# --- oracles: plain forward passes, without cache, padding or batch --------------------------------------------------


def n_outcomes(model):
    return N_ITEMS if model.n_tokens == 1 else model.n_tokens * model.n_values


def plain_log_p(model, tokens):
    """Log-probabilities after each of these tokens (T, V), float64 from hidden states on."""
    hidden = model.gpt2(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state[0].double().numpy()
    logits = hidden @ model.gpt2.wte.weight[: n_outcomes(model)].double().numpy().T
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def plain_tokens(model, items):
    return [n_outcomes(model), *(token for item in items for token in model.codes[item].tolist())]


def naive_score(model, history, item):
    code = model.codes[item].tolist()
    before = plain_tokens(model, history)
    log_p = plain_log_p(model, before + code[:-1])
    return sum(log_p[len(before) - 1 + j, token] for j, token in enumerate(code))


def naive_generation(model, history, n_generated, max_read):
    """Sets of item numbers, one after another: greedy token by token among what is neither generated nor in history."""
    codes = {item: model.codes[item].tolist() for item in range(1, N_ITEMS + 1)}
    tokens, free, found = plain_tokens(model, history[-max_read:]), set(codes) - set(history), []
    for _ in range(n_generated):
        chosen = set(free)
        for j in range(model.n_tokens):
            log_p = plain_log_p(model, tokens)[-1]
            best = max({codes[item][j] for item in chosen}, key=lambda token: log_p[token])
            chosen = {item for item in chosen if codes[item][j] == best}
            tokens = [*tokens, best]
        free -= chosen
        found.append(chosen)
    return found


# --- codes and scores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_tokens", [2, 3])
def test_each_place_of_a_code_has_tokens_of_its_own(n_tokens):
    model = random_model(n_tokens=n_tokens)
    assert model.codes.shape == (N_ITEMS + 1, n_tokens)
    for place, column in enumerate(model.codes[1:].T):
        assert column.unique().tolist() == list(range(5 * place, 5 * place + 5))
    assert model.codes[0].tolist() == [5 * n_tokens] * n_tokens
    assert model.gpt2.wte.weight.shape == (5 * n_tokens + 1, 16)


@pytest.mark.parametrize("n_tokens", [1, 2, 3])
@pytest.mark.parametrize("whole", [False, True])
def test_scores_are_those_of_plain_teacher_forcing(n_tokens, whole):
    model = random_model(n_tokens=n_tokens)
    batch = item_batch(HISTORIES, None if whole else CANDIDATES, n_items=N_ITEMS)
    scores, checked = model.score_candidates(batch), 0
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    for row, column in batch["candidate_mask"].nonzero().tolist():
        expected = naive_score(model, HISTORIES[row][-8:], batch["item_index"][row, column].item() + 1)
        assert scores[row, column].item() == pytest.approx(expected, abs=1e-5)
        checked += 1
    assert checked == (100 if whole else 14)


@pytest.mark.parametrize("ranking", ["top_k", "next_k"])
@pytest.mark.parametrize("n_tokens", [1, 2])
def test_candidates_are_columns_of_the_catalogue_and_rows_are_independent(ranking, n_tokens):
    model = random_model(n_tokens=n_tokens, ranking=ranking, n_generated=3)
    whole = model.score_candidates(item_batch(HISTORIES, n_items=N_ITEMS))  # (B, N)
    listed = item_batch(HISTORIES, CANDIDATES)
    mask = listed["candidate_mask"]
    expected = whole.gather(1, listed["item_index"].clamp(min=0))
    torch.testing.assert_close(model.score_candidates(listed)[mask], expected[mask], atol=1e-5, rtol=0)
    for row, history in enumerate(HISTORIES):
        alone = model.score_candidates(item_batch([history], n_items=N_ITEMS))
        torch.testing.assert_close(alone[0], whole[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("ranking", ["top_k", "next_k"])
def test_left_padding_changes_nothing(ranking):
    model = random_model(ranking=ranking, n_generated=3, max_history=30)
    narrow = model.score_candidates(item_batch(HISTORIES, n_items=N_ITEMS, length=11))
    assert model.score_candidates(item_batch(HISTORIES, n_items=N_ITEMS, length=21)).equal(narrow)


def test_a_future_item_leaves_earlier_outputs_as_they_are():
    model = random_model(n_tokens=2)
    history = left_padded([[3, 7, 1, 9], [4, 5, 6, 8]], 4)
    changed = history.clone()
    changed[:, 2] = 20
    states = [model._run(model._tokens(rows, 8)[0]).last_hidden_state for rows in (history, changed)]  # (2, 9, D)
    assert states[0][:, :5].equal(states[1][:, :5])  # the first token, and two items of two
    assert (states[0][:, 5:] != states[1][:, 5:]).any(dim=2).all()


def test_the_latest_items_are_read_and_no_others():
    model = random_model()
    scores = model.score_candidates(item_batch([[9, *range(1, 9)], [17, *range(1, 9)], range(1, 9)], n_items=N_ITEMS))
    assert scores[0].equal(scores[1])
    assert scores[0].equal(scores[2])
    assert not scores[0].equal(model.score_candidates(item_batch([range(2, 9)], n_items=N_ITEMS))[0])


@pytest.mark.parametrize("ranking", ["top_k", "next_k"])
def test_items_with_equal_codes_tie(ranking):
    model = random_model(n_tokens=2, ranking=ranking, n_generated=4)
    model.codes[12] = model.codes[5]
    scores = model.score_candidates(item_batch([[1, 2], []], n_items=N_ITEMS))
    assert scores[:, 11].equal(scores[:, 4])


# --- Next-K ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_tokens", [1, 2, 3])
def test_generation_is_that_of_plain_passes(n_tokens):
    model = random_model(n_tokens=n_tokens, ranking="next_k", n_generated=4)
    likelihoods = random_model(n_tokens=n_tokens)
    scores = model.score_candidates(item_batch(HISTORIES, n_items=N_ITEMS))
    for row, history in enumerate(HISTORIES):
        generated = naive_generation(model, history, 4, max_read=5)  # 8 + 1 - 4
        for number, items in enumerate(generated, start=1):
            assert {i + 1 for i in (scores[row] == -number).nonzero().flatten().tolist()} == items
        others = sorted(set(range(1, N_ITEMS + 1)).difference(*generated))
        read = item_batch([history[-5:]], n_items=N_ITEMS)
        below = likelihoods.score_candidates(read)[0] - 5
        torch.testing.assert_close(scores[row, np.array(others) - 1], below[np.array(others) - 1], atol=1e-5, rtol=0)
        assert (scores[row, np.array(others) - 1] < -5).all()


def test_a_generation_longer_than_the_catalogue_ends_with_it():
    model = random_model(n_tokens=1, ranking="next_k", n_generated=30, max_history=40)
    scores = model.score_candidates(item_batch([[], [1, 2, 3]], n_items=N_ITEMS))
    assert sorted(scores[0].tolist()) == list(range(-N_ITEMS, 0))
    assert sorted(scores[1, 3:].tolist()) == list(range(-N_ITEMS + 3, 0))
    assert (scores[1, :3] < -31).all()


# --- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_tokens", [1, 2])
@pytest.mark.parametrize("n_groups", [1, 2, 8])
def test_loss_is_the_mean_over_real_tokens(n_tokens, n_groups, monkeypatch):
    monkeypatch.setattr(gptrec, "LENGTH_GROUPS", n_groups)
    model = random_model(n_tokens=n_tokens)
    sequences = [[3, 7, 1], [5], [1, 2, 3, 4, 5, 6, 7, 8, 9]]
    losses = []
    for sequence in sequences:
        tokens = plain_tokens(model, sequence)
        log_p = plain_log_p(model, tokens[:-1])
        losses += [-log_p[place, token] for place, token in enumerate(tokens[1:])]
    assert len(losses) == 13 * n_tokens
    for length in (9, 15):
        batch = {"user": torch.arange(1, 4), "history": left_padded(sequences, length)}
        assert model.loss(batch).item() == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.mark.parametrize("n_tokens", [1, 2])
def test_every_weight_gets_a_gradient(n_tokens):
    gradients = one_gradient(GPTRec(**{**SMALL, "n_tokens": n_tokens, "dropout": 0.1}), train_data(likes(), N_ITEMS))
    assert len(gradients) == 2 + 2 * 12 + 2
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().sum() > 0] == []


# --- what it learns --------------------------------------------------------------------------------------------------


def hit_rate(model, histories, following):
    """HR@1 over the whole catalogue; of m items tied at the top, each counts 1/m."""
    with torch.no_grad():
        scores = model.score_candidates(item_batch(histories, n_items=model.train_data.n_items))
    own = scores.gather(1, torch.tensor(following)[:, None])
    return ((scores > own).sum(1).eq(0) / scores.eq(own).sum(1)).mean().item()


@pytest.mark.parametrize(("n_tokens", "n_values"), [(1, 512), (2, 16)])
def test_a_markov_chain_is_learnt(n_tokens, n_values):
    train = train_data(markov_chains(), 30)
    model = trained(GPTRec(**LEARNING, n_tokens=n_tokens, n_values=n_values), train, steps=60)
    histories = [chain[: 1 + row % 9] for row, chain in enumerate(markov_chains(100, seed=1))]
    assert hit_rate(model, histories, [history[-1] % 30 for history in histories]) > 0.9


def test_generation_follows_the_chain():
    train = train_data(markov_chains(), 30)
    model = trained(GPTRec(**LEARNING, n_tokens=1, ranking="next_k", n_generated=4), train, steps=60)
    with torch.no_grad():
        scores = model.score_candidates(item_batch([[4, 5, 6], [28]], n_items=30))
    assert scores[0, 6:10].tolist() == [-1, -2, -3, -4]
    assert scores[1, [28, 29, 0, 1]].tolist() == [-1, -2, -3, -4]


def test_an_empty_history_ranks_what_users_begin_with():
    train = train_data([[1 + user % 3, 10 + user % 7] for user in range(60)], N_ITEMS)
    model = trained(GPTRec(**LEARNING, n_tokens=1), train, steps=60)
    with torch.no_grad():
        scores = model.score_candidates(item_batch([[]], n_items=N_ITEMS))[0]
    assert set(scores.topk(3).indices.tolist()) == {0, 1, 2}
    torch.testing.assert_close(scores[:3].exp(), torch.full((3,), 1 / 3), atol=0.05, rtol=0)


@pytest.mark.parametrize("n_tokens", [1, 2])
def test_32_instances_are_learnt_by_heart(n_tokens):
    random = np.random.default_rng(0)
    sequences = [(random.permutation(40)[:6] + 1).tolist() for _ in range(32)]
    negatives = [random.choice(np.setdiff1d(np.arange(1, 41), sequence)) for sequence in sequences]
    model = GPTRec(**LEARNING, n_tokens=n_tokens, n_values=40)
    model = trained(model, train_data(sequences, 40), steps=120, batch_size=32)
    pairs = [[sequence[-1], negative] for sequence, negative in zip(sequences, negatives, strict=True)]
    with torch.no_grad():
        scores = model.score_candidates(item_batch([sequence[:-1] for sequence in sequences], pairs))
    assert roc_auc_score([1, 0] * 32, scores.flatten().numpy()) == 1.0


def noisy_chains(n_users, seed, length=9):
    """Chains that jump to a random item one time in four."""
    random = np.random.default_rng(seed)
    chains = []
    for _ in range(n_users):
        chain = [int(random.integers(1, 31))]
        while len(chain) < length:
            chain.append(chain[-1] % 30 + 1 if random.random() < 0.75 else int(random.integers(1, 31)))
        chains.append(chain)
    return chains


def test_relabelling_items_leaves_the_quality_as_it_is():
    """A model that read something out of the numbers themselves would do worse on shuffled ones."""
    quality = []
    for labels in (np.arange(31), np.concatenate([[0], np.random.default_rng(3).permutation(30) + 1])):
        train, test = (labels[np.array(noisy_chains(n, seed))].tolist() for n, seed in ((300, 0), (400, 1)))
        model = trained(GPTRec(**LEARNING, n_tokens=1), train_data(train, 30), steps=60)
        quality.append(hit_rate(model, [chain[:-1] for chain in test], [chain[-1] - 1 for chain in test]))
    assert min(quality) > 0.65
    assert quality[0] == pytest.approx(quality[1], abs=3 * math.sqrt(0.75 * 0.25 / 400))


# --- checkpoints, seeds, settings ------------------------------------------------------------------------------------


def test_codes_travel_with_the_weights():
    models = []
    for seed in (0, 1):
        models.append(GPTRec(**{**SMALL, "n_tokens": 2}))
        models[-1].attach(train_data(likes(), 30), seed)
    first, second = (model.eval() for model in models)
    assert not first.codes.equal(second.codes)  # ten items without a like
    second.load_state_dict(first.state_dict())
    batch = item_batch(HISTORIES, n_items=30)
    with torch.no_grad():
        assert second.score_candidates(batch).equal(first.score_candidates(batch))


def test_equal_seeds_build_equal_models():
    models = [GPTRec(**SMALL), GPTRec(**SMALL), GPTRec(**SMALL)]
    for model, seed in zip(models, (4, 4, 5), strict=True):
        model.attach(train_data(likes(), N_ITEMS), seed)
    states = [model.state_dict() for model in models]
    assert all(value.equal(states[1][name]) for name, value in states[0].items())
    assert not states[0]["gpt2.wte.weight"].equal(states[2]["gpt2.wte.weight"])


def test_the_share_of_collisions_is_logged(monkeypatch):
    model = random_model(n_tokens=2)
    logged = {}
    monkeypatch.setattr(model, "log", lambda name, value: logged.update({name: value}))
    model.on_train_start()
    codes = [tuple(code) for code in model.codes[1:].tolist()]
    assert logged == {"train/collision_rate": pytest.approx(sum(codes.count(code) > 1 for code in codes) / N_ITEMS)}
    assert logged["train/collision_rate"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_layers": 0}, "n_layers=0: too small; give at least 1"),
        ({"n_tokens": 0}, "n_tokens=0: too small; give at least 1"),
        ({"n_values": 1}, "n_values=1: too small; give at least 2"),
        ({"hidden": 10, "n_heads": 4}, "n_heads=4: not a divisor of hidden=10; give one of its divisors"),
        ({"dropout": 1.0}, "dropout=1.0: out of range; give a number from 0 to 1, 1 excluded"),
        ({"ranking": "best"}, "ranking='best': unknown; give one of top_k, next_k"),
        (
            {"ranking": "next_k", "n_generated": 9, "max_history": 8},
            "n_generated=9: too large; give at most max_history=8",
        ),
        ({"max_history": 0}, "max_history=0: too small; give at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        GPTRec(**settings)
