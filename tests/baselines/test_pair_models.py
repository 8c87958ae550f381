"""What holds for every model trained on pairs: acceptance tests 5, 6, 7 and 11 of the specification, and contracts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mllm_srec.baselines.bert4rec import BERT4Rec
from mllm_srec.baselines.ease import EASE
from mllm_srec.baselines.freedom import FREEDOM
from mllm_srec.baselines.gptrec import GPTRec
from mllm_srec.baselines.gru4rec import GRU4Rec
from mllm_srec.baselines.ials import IALS
from mllm_srec.baselines.item_knn import ItemKNN
from mllm_srec.baselines.lightgcn import LightGCN
from mllm_srec.baselines.mmgcn import MMGCN
from mllm_srec.baselines.mmsr import MMSR
from mllm_srec.baselines.parts.train_data import ItemFeatures
from mllm_srec.baselines.popularity import Popularity
from mllm_srec.baselines.sasrec import SASRec
from mllm_srec.baselines.two_hop import TwoHop, TwoHopFeatures
from mllm_srec.baselines.vbpr import VBPR
from mllm_srec.baselines.vip5 import VIP5
from mllm_srec.pipeline.model_kinds import later_likes
from tests.baselines.conftest import item_batch, markov_chains, one_gradient, train_data, trained
from tests.baselines.graph_world import N_ITEMS, world

MODELS = {
    "vbpr": lambda **s: VBPR(**{"hidden": 16, "visual_hidden": 16, "lr": 0.01, **s}),
    "vbpr-both": lambda **s: VBPR(**{"hidden": 16, "visual_hidden": 16, "modality": "both", "lr": 0.01, **s}),
    "mmgcn": lambda **s: MMGCN(**{"hidden": 16, "visual_hidden": 8, "n_layers": 2, "lr": 0.01, **s}),
    "mmgcn-add": lambda **s: MMGCN(
        **{"hidden": 16, "visual_hidden": 8, "n_layers": 2, "concat": False, "lr": 0.01, **s}
    ),
    "lightgcn": lambda **s: LightGCN(**{"hidden": 16, "n_layers": 2, "lr": 0.01, **s}),
    "freedom": lambda **s: FREEDOM(**{"hidden": 16, "top_k": 3, "edge_dropout": 0.3, "lr": 0.01, **s}),
}
every_model = pytest.mark.parametrize("name", MODELS)


def test_models_that_know_later_likes_in_a_random_split_say_so():
    """What a model learns for each user, it learns from all of the user's train likes; readers of a history do not."""
    learn = {VBPR, LightGCN, FREEDOM, MMGCN, VIP5}
    read = {Popularity, ItemKNN, GRU4Rec, SASRec, BERT4Rec, GPTRec, MMSR, IALS, EASE, TwoHop, TwoHopFeatures}
    assert {model for model in learn | read if model.learns_users} == learn
    for split, expected in (("random", True), ("leave_one_out", False)):
        module = SimpleNamespace(data=SimpleNamespace(manifest={"prepare": {"split": split}}))
        assert later_likes(module) == expected


@every_model
def test_every_trainable_tensor_gets_a_gradient(name):
    gradients = one_gradient(MODELS[name](), world())
    assert gradients
    silent = [key for key, gradient in gradients.items() if gradient is None or not gradient.abs().max() > 0]
    assert silent == []


@every_model
def test_candidates_are_columns_of_the_catalogue_and_rows_do_not_meet(name):
    model = trained(MODELS[name](), world(), steps=5)
    histories, users, candidates = [[1], [], [2, 3]], [1, 3, 4], [[3, 1, 7], [5, 6, 0], [7, 7, 2]]
    with torch.inference_mode():
        everything = model.score_candidates(item_batch(histories, users=users, n_items=N_ITEMS))
        scores = model.score_candidates(item_batch(histories, candidates, users=users))
        alone = model.score_candidates(item_batch(histories[2:], candidates[2:], users=users[2:], length=30))
    assert scores.dtype == everything.dtype == torch.float32
    assert everything.shape == (3, N_ITEMS)
    for row, items in enumerate(candidates):
        for column, item in enumerate(items):
            assert item == 0 or scores[row, column].item() == pytest.approx(everything[row, item - 1].item(), abs=1e-6)
    assert alone[0].tolist() == pytest.approx(scores[2].tolist(), abs=1e-6)


@every_model
def test_equal_seeds_make_equal_models(name):
    batch = item_batch([[]] * 2, users=[1, 4], n_items=N_ITEMS)
    first, again, other = (trained(MODELS[name](), world(), steps=3, seed=s).score_all(batch) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def random_features(n_items, seed=0):
    random = np.random.default_rng(seed)
    image, text = (random.normal(size=(n_items + 1, 8)).astype(np.float32) for _ in range(2))
    image[0] = text[0] = 0
    for values in (image, text):
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return ItemFeatures(image, text, "random")


def scores_of(model, n_users, n_items):
    with torch.inference_mode():
        batch = item_batch([[]] * n_users, users=range(1, n_users + 1), n_items=n_items)
        return model.score_candidates(batch).numpy()


@every_model
def test_32_likes_can_be_learnt_by_heart(name):
    random = np.random.default_rng(2)
    sequences = [random.choice(30, 4, replace=False) + 1 for _ in range(8)]
    settings = {"edge_dropout": 0.0} if name == "freedom" else {}
    model = trained(MODELS[name](**settings), train_data(sequences, 30, random_features(30)), 300)
    scores = scores_of(model, 8, 30)
    labels = np.zeros((8, 30), int)
    for user, sequence in enumerate(sequences):
        labels[user, sequence - 1] = 1
    assert [roc_auc_score(labels[user], scores[user]) for user in range(8)] == [1.0] * 8


def share_of_next_items_first(scores, chains, n_items):
    """HR@1 of the item that follows the chain, among items that are not in it."""
    firsts = []
    for row, chain in zip(scores, chains, strict=True):
        masked = row.copy()
        masked[np.array(chain) - 1] = -np.inf
        firsts.append(masked.argmax() + 1 == chain[-1] % n_items + 1)
    return np.mean(firsts)


@pytest.mark.parametrize("name", ["vbpr", "mmgcn"])
def test_a_model_without_order_does_not_know_what_comes_next(name):
    """Nor does popularity: a set of ten neighbours on a ring has two sides, and nothing says which is the front."""
    chains = markov_chains()
    train = train_data(chains, 30, random_features(30))
    scores = scores_of(trained(MODELS[name](), train, 200), 200, 30)
    popularity = Popularity()
    popularity.attach(train)
    first = share_of_next_items_first(scores, chains, 30)
    assert first < 0.9
    assert first > 0.15  # it does learn who is near: chance is 1 in 20
    assert share_of_next_items_first(scores_of(popularity, 200, 30), chains, 30) < 0.9
    oracle = np.eye(30)[[chain[-1] % 30 for chain in chains]]
    assert share_of_next_items_first(oracle, chains, 30) == 1.0


def mean_auc(scores, labels):
    """Mean user AUC `(U, items)`, by counting pairs; of users with both labels."""
    both = (labels == 1)[:, :, None] & (labels == 0)[:, None, :]  # (U, items, items)
    gap = scores[:, :, None] - scores[:, None, :]
    won = ((gap > 0) + 0.5 * (gap == 0)) * both
    counted = both.any((1, 2))
    assert counted.sum() > 50
    return (won.sum((1, 2))[counted] / both.sum((1, 2))[counted]).mean()


@pytest.mark.parametrize(
    ("name", "settings", "least"),
    [
        ("vbpr", {}, 0.95),
        ("mmgcn", {}, 0.6),  # its id embeddings, pushed away as negatives, weigh as much as pictures do
        ("freedom", {"image_weight": 1.0}, 0.9),
    ],
)
def test_pictures_tell_what_is_liked_even_of_items_that_nobody_liked_yet(name, settings, least, clustered):
    train, cluster, taste = clustered
    rows = np.array([*train.sequences]) - 1  # users who liked something
    scores = scores_of(trained(MODELS[name](**settings), train, 200), 120, 60)[rows]
    labels = (taste[1:, None] == cluster[None, 1:]).astype(int)[rows]  # (U, N)
    popularity = Popularity()
    popularity.attach(train)
    guess = scores_of(popularity, 120, 60)[rows]
    warm, cold = np.arange(40), np.arange(40, 60)
    assert mean_auc(scores[:, warm], labels[:, warm]) > mean_auc(guess[:, warm], labels[:, warm]) + 0.2
    assert mean_auc(guess[:, cold], labels[:, cold]) == pytest.approx(0.5)
    assert mean_auc(scores[:, cold], labels[:, cold]) > least
