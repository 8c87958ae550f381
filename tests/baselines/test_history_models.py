"""What holds for every reference in closed form that reads a history: contracts, new users and items, precision."""

import numpy as np
import pytest
import torch

from mllm_srec.baselines.ease import EASE
from mllm_srec.baselines.ials import IALS
from mllm_srec.baselines.item_knn import ItemKNN
from mllm_srec.baselines.popularity import Popularity
from mllm_srec.baselines.two_hop import TwoHop, TwoHopFeatures
from mllm_srec.types import ConfigError
from tests.baselines.conftest import item_batch, train_data
from tests.baselines.graph_world import N_ITEMS, SEQUENCES, features_of, world

MODELS = {
    "ials": lambda **s: IALS(**{"hidden": 4, "reg": 0.05, "n_epochs": 8, **s}),
    "ease": lambda **s: EASE(**{"reg": 0.5, **s}),
    "two_hop": lambda **s: TwoHop(**s),
    "two_hop_features": lambda **s: TwoHopFeatures(**s),
}
every_model = pytest.mark.parametrize("name", MODELS)
HISTORIES, USERS = [[1, 2], [], [2, 3], [5]], [1, 3, 4, 2]


def attached(name, train=None, seed=0, **settings):
    model = MODELS[name](**settings)
    model.attach(world() if train is None else train, seed)
    return model.eval()


@every_model
def test_candidates_are_columns_of_the_catalogue_and_rows_do_not_meet(name):
    model, candidates = attached(name), [[3, 1, 7], [5, 6, 0], [7, 7, 2], [1, 4, 0]]
    whole = model.score_candidates(item_batch(HISTORIES, users=USERS, n_items=N_ITEMS))
    assert (whole.dtype, whole.shape) == (torch.float32, (4, N_ITEMS))
    assert torch.equal(model.score_all(item_batch(HISTORIES, users=USERS, n_items=N_ITEMS)), whole)
    some = model.score_candidates(item_batch(HISTORIES, candidates, users=USERS))
    for row, items in enumerate(candidates):
        assert all(some[row, column] == whole[row, item - 1] for column, item in enumerate(items) if item)
    alone = model.score_candidates(item_batch(HISTORIES[2:3], candidates[2:3], users=USERS[2:3], length=40))
    assert alone[0].tolist() == pytest.approx(some[2].tolist(), abs=1e-6)


@every_model
def test_nothing_is_trained_and_nothing_is_stored(name):
    model = attached(name)
    assert not model.trained
    assert not list(model.parameters())
    assert not model.state_dict()


@every_model
def test_an_empty_history_is_ranked_by_popularity(name):
    popularity = Popularity()
    popularity.attach(world())
    batch = item_batch([[]], n_items=N_ITEMS)
    scores = attached(name).score_all(batch)
    assert scores[0].tolist() == pytest.approx((popularity.score_all(batch)[0] / 3).tolist())  # item 2 has three likes


@every_model
def test_a_user_is_the_history_and_nothing_else(name):
    """New users are scored like old ones, and no one's later likes are known."""
    model = attached(name)
    scores = model.score_all(item_batch([[1, 2]] * 3, users=[1, 3, 5], n_items=N_ITEMS))
    assert scores[0].tolist() == pytest.approx(scores[1].tolist(), abs=1e-6)
    assert scores[0].tolist() == pytest.approx(scores[2].tolist(), abs=1e-6)
    assert len(set(scores[0].tolist())) > 2
    assert not model.learns_users


@every_model
def test_items_that_nobody_liked_tie_at_zero(name):
    scores = attached(name).score_all(item_batch([[1, 2], [7], [6, 2]], n_items=N_ITEMS))
    assert not scores[:, 5:].any()  # 6 and 7
    assert not scores[1].any()  # nothing is known of what was liked once before
    assert scores[0].any()


@every_model
def test_dislikes_are_not_looked_at(name):
    disliked = train_data(SEQUENCES, N_ITEMS, features_of(N_ITEMS), disliked=[(1, 4), (2, 6), (3, 7)])
    batch = item_batch(HISTORIES, n_items=N_ITEMS)
    assert torch.equal(attached(name).score_all(batch), attached(name, disliked).score_all(batch))


@every_model
def test_history_beyond_max_history_is_not_looked_at(name):
    model = attached(name, max_history=2)
    whole, cut = (item_batch([history], n_items=N_ITEMS) for history in ([5, 1, 2, 3], [2, 3]))
    assert torch.equal(model.score_all(whole), model.score_all(cut))
    assert not torch.equal(model.score_all(whole), model.score_all(item_batch([[5, 1]], n_items=N_ITEMS)))


@every_model
def test_half_precision_of_the_trainer_changes_nothing(name):
    model, batch = attached(name), item_batch(HISTORIES, n_items=N_ITEMS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model.score_all(batch)
    assert scores.dtype == torch.float32
    assert torch.equal(model.score_all(batch), scores)


@every_model
def test_equal_seeds_make_equal_models(name):
    batch = item_batch(HISTORIES, n_items=N_ITEMS)
    first, again, other = (attached(name, seed=seed).score_all(batch) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name != "ials")  # which begins with random vectors


@every_model
def test_a_train_split_of_single_likes_gives_finite_scores(name):
    scores = attached(name, train_data([[1], [1], [2]], 7, features_of(7))).score_all(item_batch([[1], []], n_items=7))
    assert scores.isfinite().all()
    assert scores[1].tolist() == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["ials", "ease"])
def test_items_of_one_taste_are_found(name, clustered):
    """Users like one of four clusters: of what a history of two does not show, its cluster comes first."""
    train, cluster, taste = clustered
    settings = {"ials": {"hidden": 8, "reg": 0.01, "unobserved": 0.2}, "ease": {"reg": 5.0}}[name]
    model, popularity = attached(name, train, **settings), Popularity()
    popularity.attach(train)
    users = [user for user, sequence in train.sequences.items() if len(sequence) > 3]
    batch = item_batch([train.sequences[user][:2].tolist() for user in users], users=users, n_items=40)
    batch["item_index"] = torch.arange(40).expand(len(users), -1)
    found = {}
    for key, scorer in (("model", model), ("popularity", popularity)):
        scores = scorer.score_all(batch)[:, :40].clone()
        scores.scatter_(1, batch["history"][:, -2:] - 1, -torch.inf)
        found[key] = (cluster[scores.argmax(dim=1).numpy() + 1] == taste[users]).mean()
    assert found["model"] > 0.95
    assert found["popularity"] < 0.6


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: IALS(hidden=0), "hidden=0: too small; give at least 1"),
        (lambda: IALS(n_epochs=0), "n_epochs=0: too small; give at least 1"),
        (lambda: IALS(reg=0.0), "reg=0.0: not positive; give a number above 0"),
        (lambda: IALS(unobserved=0.0), "unobserved=0.0: not positive; give a number above 0"),
        (lambda: IALS(init_std=-1.0), "init_std=-1.0: not positive; give a number above 0"),
        (lambda: IALS(exponent=1.5), "exponent=1.5: out of range; give a number from 0 to 1"),
        (lambda: EASE(reg=0.0), "reg=0.0: not positive; give a number above 0"),
        (lambda: EASE(reg=float("nan")), "reg=nan: not positive; give a number above 0"),
        (lambda: TwoHop(n_last=0), "n_last=0: too small; give at least 1"),
        (lambda: TwoHop(n_hops=0), "n_hops=0: too small; give at least 1"),
        (lambda: TwoHop(hop_weight=0.0), "hop_weight=0.0: not positive; give a number above 0"),
    ],
)
def test_bad_settings_are_refused(made, message):
    with pytest.raises(ConfigError) as error:
        made()
    assert str(error.value) == message


def test_settings_that_came_later_are_no_part_of_what_a_model_was():
    """A run of the time before `weighting` is still the same run, and another weighting is another one."""
    before = {"top_k": 100, "shrinkage": 10.0, "last_only": False, "max_history": 50}
    later = {**before, "weighting": "none", "bm25_k1": 100.0, "bm25_b": 0.8}
    identities = []
    for settings in (before, later, {**later, "weighting": "tfidf"}):
        model = ItemKNN()
        model.attach(world())
        model.settings = dict(settings)
        identities.append(model.identity())
    assert identities[0] == identities[1] != identities[2]


def test_two_hops_and_last_items_of_a_chain():
    chains = [[(start + step) % 12 + 1 for step in range(4)] for start in range(12)]
    scores = {}
    for n_last in (1, 2):
        model = TwoHop(n_last=n_last)
        model.attach(train_data(chains, 12))
        scores[n_last] = model.score_all(item_batch([[4, 9]], n_items=12))[0].numpy()
    assert scores[1][np.flatnonzero(scores[1])].tolist() == [1.0, 0.5]
    assert np.flatnonzero(scores[1]).tolist() == [9, 10]  # items 10 and 11
    assert np.flatnonzero(scores[2]).tolist() == [4, 5, 9, 10]
    assert scores[2][[4, 5, 9, 10]].tolist() == [0.5, 0.25, 1.0, 0.5]
