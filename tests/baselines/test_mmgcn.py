"""MMGCN against loops over nodes, written from the paper's equations; and what all graph models do beside that."""

import numpy as np
import pytest
import torch

from mllm_srec.baselines.lightgcn import LightGCN
from mllm_srec.baselines.mmgcn import MMGCN
from mllm_srec.types import ConfigError
from tests.baselines.conftest import item_batch, one_gradient
from tests.baselines.graph_world import N_ITEMS, NO_PICTURE, SEQUENCES, features_of, world


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def unit(x):
    norm = np.linalg.norm(x)
    return x / norm if norm > 0 else x


def neighbours(node):
    """Neighbours of a node in the graph of likes, by the sequences."""
    n_users = len(SEQUENCES)
    if node < n_users:
        return [n_users + item - 1 for item in SEQUENCES[node]]
    return [user for user, sequence in enumerate(SEQUENCES) if node - n_users + 1 in sequence]


def propagated(weights, modality, n_layers, concat):
    """Node vectors of one modality, node by node."""
    w = {name.removeprefix(f"modalities.{modality}."): value for name, value in weights.items() if modality in name}
    features = getattr(features_of(N_ITEMS), modality)
    x = [unit(row) for row in w["preference"]]
    for item in range(1, N_ITEMS + 1):
        if modality == "image":
            mapped = w["mlp.weight"] @ features[item] + w["mlp.bias"]
            x.append(unit(mapped) if item != NO_PICTURE else np.zeros_like(mapped))
        else:
            x.append(unit(features[item]))
    for layer in range(n_layers):
        w1, w2, w3 = (w[f"layers.{layer}.{name}.weight"] for name in ("neighbours", "own", "combined"))
        new = []
        for node, own in enumerate(x):
            near = [w1 @ x[other] for other in neighbours(node)]
            h = leaky(np.mean(near, axis=0) if near else np.zeros(len(own)))
            own = leaky(w2 @ own) + weights["ids"][node]
            new.append(leaky(w3 @ np.concatenate([h, own]) if concat else w3 @ h + own))
        x = new
    return np.array(x)


def attached(model, train=None):
    model.attach(world() if train is None else train, 0)
    return model.eval()


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_propagation_is_that_of_the_paper(n_layers, concat):
    model = attached(MMGCN(hidden=6, visual_hidden=3, n_layers=n_layers, concat=concat))
    weights = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    expected = np.mean([propagated(weights, name, n_layers, concat) for name in ("image", "text")], axis=0)
    assert model.nodes().detach().numpy() == pytest.approx(expected, abs=1e-5)
    scores = model.score_all(item_batch([[], []], users=[4, 1], n_items=N_ITEMS)).detach().numpy()
    assert scores == pytest.approx(expected[[3, 0]] @ expected[5:].T, abs=1e-5)


def test_the_loss_is_bpr_plus_mean_squares():
    model = MMGCN(hidden=6, visual_hidden=3, reg=0.7)
    model.attach(world())
    users, liked = torch.tensor([1, 4]), torch.tensor([2, 5])
    torch.manual_seed(5)
    unseen = model.negatives(users, 1)[:, 0]
    z, e = model.nodes().detach().numpy(), model.ids.detach().numpy()
    u, i, j = users.numpy() - 1, liked.numpy() + 4, unseen.numpy() + 4
    pairs = np.mean(np.log1p(np.exp((z[u] * (z[j] - z[i])).sum(1))))
    preferences = [p.detach().numpy() for name, p in model.named_parameters() if "preference" in name]
    by_hand = pairs + 0.7 * ((e[np.concatenate([u, i, j])] ** 2).mean() + sum((p**2).mean() for p in preferences))
    torch.manual_seed(5)
    assert model.loss({"user": users, "target": liked}).item() == pytest.approx(by_hand, rel=1e-5)


def test_frozen_ids_and_preferences_stay_and_the_rest_trains():
    model = MMGCN(hidden=6, visual_hidden=3, freeze_id=True)
    gradients = one_gradient(model, world())
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    frozen = {name for name, _ in model.named_parameters()} - set(gradients)
    assert frozen == {"ids", "modalities.image.preference", "modalities.text.preference"}
    assert frozen <= set(model.state_dict())  # drawn at random: a checkpoint has to know them


@pytest.mark.parametrize(
    "settings", [{"hidden": 0}, {"visual_hidden": 0}, {"n_layers": 0}, {"reg": -1.0}], ids=lambda s: next(iter(s))
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}="):
        MMGCN(**settings)


# --- all graph models ---------------------------------------------------------------------------------------------


def test_users_without_likes_are_ranked_by_popularity():
    model = attached(LightGCN(hidden=4))
    scores = model.score_all(item_batch([[], [7]], users=[3, 3], n_items=N_ITEMS))
    counts = np.array([2, 3, 2, 2, 1, 0, 0])
    assert scores.detach().numpy() == pytest.approx(np.tile(counts / 3, (2, 1)))
    candidates = model.score_candidates(item_batch([[]], [[7, 2, 5]], users=[3]))
    assert candidates.tolist() == [pytest.approx([0, 1, 1 / 3])]


@torch.no_grad()
def test_vectors_are_computed_once_until_a_weight_changes(monkeypatch):
    model, calls = attached(LightGCN(hidden=4)), []
    computed = model.nodes
    monkeypatch.setattr(model, "nodes", lambda: calls.append(1) or computed())
    batch = item_batch([[]], users=[1], n_items=N_ITEMS)
    first = model.score_all(batch)
    assert torch.equal(model.score_candidates(item_batch([[]], [[1, 2]], users=[1])), first[:, :2])
    assert len(calls) == 1
    model.embeddings.mul_(2)  # as an optimiser or a checkpoint writes
    assert model.score_all(batch) == pytest.approx(4 * first, rel=1e-5)
    assert len(calls) == 2
    model.load_state_dict({name: value / 2 for name, value in model.state_dict().items()})
    assert model.score_all(batch) == pytest.approx(first, rel=1e-5)


@torch.no_grad()
def test_vectors_are_computed_again_after_writes_past_autograd_and_in_another_precision():
    model, batch = attached(MMGCN(hidden=6, visual_hidden=3)), item_batch([[]], users=[1], n_items=N_ITEMS)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = model.score_all(batch)
    first = model.score_all(batch)
    torch.testing.assert_close(first, model.nodes()[:1] @ model.nodes()[5:].T)
    assert not torch.equal(first, coarse)
    model.ids.data.neg_()  # as averaging of weights writes: no version changes, nor does a sum of squares
    other = model.score_all(batch)
    torch.testing.assert_close(other, model.nodes()[:1] @ model.nodes()[5:].T)
    assert not torch.allclose(other, first)


def test_a_model_may_be_attached_where_no_versions_are_kept():
    with torch.inference_mode():
        model = attached(LightGCN(hidden=4))
        assert model.score_all(item_batch([[]], users=[1], n_items=N_ITEMS)).isfinite().all()
