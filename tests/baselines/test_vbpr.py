"""VBPR against the paper's formula."""

import numpy as np
import pytest
import torch

from mllm_srec.baselines.vbpr import VBPR
from mllm_srec.types import ConfigError
from tests.baselines.conftest import item_batch
from tests.baselines.graph_world import N_ITEMS, NO_PICTURE, NO_TEXT, features_of, world

SETTINGS = {"hidden": 3, "visual_hidden": 2}


def attached(**settings):
    """With all weights random, so that each term of the formula shows."""
    model = VBPR(**{**SETTINGS, **settings})
    model.attach(world(), 0)
    torch.manual_seed(1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    return model.eval()


def terms(model, modality):
    """p, theta, q, E, b, beta and f as float64 arrays; f has learnt vectors where a modality is missing."""
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    features = features_of(N_ITEMS)
    f = features.image.astype(float)
    f[NO_PICTURE] = w["inputs.0.missing"]
    if modality == "both":
        text = features.text.astype(float)
        text[NO_TEXT] = w["inputs.1.missing"]
        f = np.hstack([f, text])
    b, beta = w.get("b", np.zeros(N_ITEMS + 1)), w.get("beta", np.zeros(f.shape[1]))
    return w["users.weight"][:, :3], w["users.weight"][:, 3:], w["items.weight"], w["projection.weight"], b, beta, f


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("modality", ["image", "both"])
def test_scores_are_those_of_the_formula(modality, bias):
    model = attached(modality=modality, bias=bias)
    p, theta, q, e, b, beta, f = terms(model, modality)
    users = [1, 4, 3]  # user 3 likes nothing in the train split
    scores = model.score_all(item_batch([[]] * 3, users=users, n_items=N_ITEMS)).detach().numpy()
    for row, user in enumerate(users):
        for item in range(1, N_ITEMS + 1):
            taste = 0.0 if user == 3 else p[user] @ q[item] + theta[user] @ (e @ f[item])
            assert scores[row, item - 1] == pytest.approx(b[item] + taste + beta @ f[item], abs=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_the_loss_is_bpr_plus_both_regularisers(bias):
    model = attached(reg=0.3, reg_visual=0.2, bias=bias)
    p, theta, q, e, b, beta, f = terms(model, "image")
    users, liked = torch.tensor([1, 4, 2]), torch.tensor([2, 5, 3])
    torch.manual_seed(5)
    unseen = model.negatives(users, 1)[:, 0]
    by_hand = []
    for u, i, j in zip(users.tolist(), liked.tolist(), unseen.tolist(), strict=True):
        s = [b[k] + p[u] @ q[k] + theta[u] @ e @ f[k] + beta @ f[k] for k in (i, j)]
        squares = sum((x**2).sum() for x in (p[u], theta[u], q[i], q[j], b[i], b[j]))
        by_hand.append(np.log1p(np.exp(s[1] - s[0])) + 0.3 * squares)
    expected = np.mean(by_hand) + 0.2 * ((e**2).sum() + (beta**2).sum())
    torch.manual_seed(5)
    assert model.loss({"user": users, "target": liked}).item() == pytest.approx(expected, rel=1e-5)


def test_there_is_no_vector_for_what_is_never_missing(clustered):
    model = VBPR(modality="both")
    model.attach(clustered[0])
    assert not [name for name, _ in model.named_parameters() if "missing" in name]


@pytest.mark.parametrize(
    "settings",
    [{"hidden": 0}, {"visual_hidden": 0}, {"modality": "sound"}, {"reg": -1.0}, {"reg_visual": -1.0}],
    ids=lambda s: next(iter(s)),
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}="):
        VBPR(**settings)
