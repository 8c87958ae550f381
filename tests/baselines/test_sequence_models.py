"""What SASRec, the GRU encoder and BERT4Rec must all hold, whatever is inside."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from sklearn.metrics import roc_auc_score

from mllm_srec.baselines.base import ItemRecommender
from mllm_srec.baselines.bert4rec import BERT4Rec
from mllm_srec.baselines.gru4rec import GRU4Rec
from mllm_srec.baselines.sasrec import SASRec
from tests.baselines.conftest import item_batch, left_padded, markov_chains, train_batches, train_data, trained

N, LONGEST = 20, 24
HISTORIES = [[3], [7, 2, 9, 4], [1, 2, 3, 4, 5, 6, 7, 8, 9], [], [20, 11]]
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "baselines"

SMALL = {"hidden": 16, "max_history": LONGEST}
MODELS = {
    "sasrec-bce": lambda **more: SASRec(**(SMALL | more)),
    "sasrec-original": lambda **more: SASRec(norm="original", **(SMALL | more)),
    "sasrec-ce": lambda **more: SASRec(loss="ce", n_heads=2, **(SMALL | more)),
    "sasrec-spared": lambda **more: SASRec(loss="ce", spare_known=True, **(SMALL | more)),
    "sasrec-gbce": lambda **more: SASRec(loss="gbce", n_negatives=8, **(SMALL | more)),
    "sasrec-sampled": lambda **more: SASRec(loss="sampled_softmax", n_negatives=8, **(SMALL | more)),
    "sasrec-ligr": lambda **more: SASRec(
        block="ligr", loss="sampled_softmax", n_negatives=8, n_heads=2, **(SMALL | more)
    ),
    "gru": lambda **more: GRU4Rec(gru_hidden=12, **(SMALL | more)),
    "bert4rec": lambda **more: BERT4Rec(**(SMALL | more)),
}
ONE_OF_EACH = ["sasrec-ce", "sasrec-original", "sasrec-ligr", "gru", "bert4rec"]


def chains():
    return train_data(markov_chains(n_users=40, n_items=N), N)


def attached(name):
    """A model whose every weight is random and large enough to matter, biases too."""
    model = MODELS[name]()
    model.attach(chains())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
        model.items.weight[0] = 0
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_gets_a_gradient(name):
    """In double precision, so that a gradient that is 0 but for rounding is told from a small one."""
    model, data = MODELS[name](), chains()
    model.attach(data)
    model.double().loss(next(train_batches(model, data, 64, seed=0))).backward()
    weights = dict(model.named_parameters())
    assert len(weights) > 4
    assert [key for key, p in weights.items() if p.grad is None or p.grad.abs().max() < 1e-11] == []


@pytest.mark.parametrize("name", MODELS)
def test_padding_stays_zero_in_training(name):
    model = trained(MODELS[name](weight_decay=0.01), chains(), steps=3, batch_size=16)
    assert model.items.weight[0].abs().max() == 0


@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_left_padding_changes_nothing(name):
    model = attached(name)
    narrow = model.score_all(item_batch(HISTORIES, n_items=N, length=9))
    for length in (19, LONGEST, LONGEST + 10):
        wide = model.score_all(item_batch(HISTORIES, n_items=N, length=length))
        torch.testing.assert_close(wide, narrow, rtol=0, atol=1e-5)
    assert not torch.allclose(narrow[1], model.score_all(item_batch([[7, 2, 4, 9]], n_items=N, length=9))[0])


@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_only_the_latest_items_are_looked_at(name):
    model = attached(name)
    long = np.random.default_rng(0).integers(1, N + 1, LONGEST + 5).tolist()
    cut, other = long[-LONGEST:], long[-LONGEST + 1 :]
    scores = [model.score_all(item_batch([row], n_items=N, length=LONGEST + 5))[0] for row in (long, cut, other)]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-5)
    assert not torch.allclose(scores[0], scores[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_candidates_are_columns_of_the_catalogue(name):
    model, candidates = attached(name), [[4, 20, 1], [7, 0, 0], [2, 2, 19], [5, 6, 0], [11, 12, 13]]
    whole = model.score_all(item_batch(HISTORIES, n_items=N))
    assert (whole.dtype, whole.shape) == (torch.float32, (5, N))
    some = model.score_candidates(item_batch(HISTORIES, candidates))
    assert some.dtype == torch.float32
    assert some.isfinite().all()
    for row, items in enumerate(candidates):
        for column, item in enumerate(items):
            if item:
                assert some[row, column].item() == pytest.approx(whole[row, item - 1].item(), abs=1e-6)
    assert torch.equal(model.score_candidates(item_batch(HISTORIES, n_items=N)), whole)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other(name):
    model = attached(name)
    together = model.score_all(item_batch(HISTORIES, n_items=N))
    for row, history in enumerate(HISTORIES):
        alone = model.score_all(item_batch([history], users=[row + 1], n_items=N))[0]
        torch.testing.assert_close(alone, together[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_an_empty_history_has_one_finite_vector_for_all(name):
    model = attached(name)
    scores = model.score_all(item_batch([[], [], [3]], users=[1, 9, 9], n_items=N))
    assert scores.isfinite().all()
    assert torch.equal(scores[0], scores[1])
    assert scores[0].std() > 0
    if name == "gru":
        vector = model.linear.bias
    elif name.startswith("sasrec"):
        vector = model.last_norm.bias
    else:
        vector = model.encode(torch.full((1, 1), N + 1))[0, 0]
    bias = 0 if name != "bert4rec" else model.output_bias[1:]
    torch.testing.assert_close(scores[0], model.items.weight[1 : N + 1] @ vector + bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_of_single_likes_trains_without_nan(name):
    model = MODELS[name]()
    model.attach(chains())
    loss = model.loss({"user": torch.tensor([1, 2]), "history": left_padded([[4], [9]], LONGEST + 1)})
    loss.backward()
    assert loss.isfinite()
    assert (loss.item() > 0) == (name == "bert4rec")  # which has the mask to predict; the others have no pair
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["sasrec-ce", "sasrec-original", "gru", "bert4rec"])
@pytest.mark.parametrize("extra", [1, 10])
def test_columns_beyond_the_latest_items_do_not_change_the_loss(name, extra):
    """One column too many would even fit the positions, by broadcasting the last of them."""
    settings = {
        "bert4rec": {"last_only_share": 1.0, "random_prefixes": False},
        "sasrec-original": {"loss": "ce"},
    }  # nothing is drawn
    model = MODELS[name](**settings.get(name, {}))
    model.attach(chains())
    long = np.random.default_rng(0).integers(1, N + 1, (2, LONGEST + 1 + extra)).tolist()
    users = torch.tensor([1, 2])
    cut, wide = ({"user": users, "history": left_padded(long, LONGEST + 1 + more)} for more in (0, extra))
    assert model.eval().loss(wide).item() == pytest.approx(model.loss(cut).item(), abs=1e-6)


@pytest.mark.parametrize(
    "name", ["sasrec-bce", "sasrec-ce", "sasrec-gbce", "sasrec-sampled", "sasrec-ligr", "gru", "bert4rec"]
)
def test_overfits_32_instances(name):
    random, n_items = np.random.default_rng(5), 60
    sequences = [random.choice(np.arange(1, n_items + 1), 4, replace=False).tolist() for _ in range(32)]
    negatives = [random.choice([i for i in range(1, n_items + 1) if i not in row]) for row in sequences]
    model = MODELS[name](dropout=0.0, hidden=32, max_history=3, lr=0.01)
    # Half of the examples of BERT4Rec end at a random item, so that it needs more steps on every processor.
    steps = 1000 if name == "bert4rec" else 200
    trained(model, train_data(sequences, n_items), steps=steps, batch_size=32)
    candidates = [[row[-1], negative] for row, negative in zip(sequences, negatives, strict=True)]
    with torch.no_grad():
        scores = model.score_candidates(item_batch([row[:-1] for row in sequences], candidates))
    assert roc_auc_score([1, 0] * 32, scores.flatten().numpy()) == 1.0


@pytest.mark.parametrize("name", ["sasrec", "sasrec_bce", "gsasrec", "esasrec", "gru4rec", "bert4rec"])
def test_config_builds_its_model_and_says_only_what_differs(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    parser = ArgumentParser()
    parser.add_subclass_arguments(ItemRecommender, "baseline")
    model = parser.instantiate(parser.parse_object({"baseline": config["baseline"]})).baseline
    defaults = parser.parse_object({"baseline": {"class_path": config["baseline"]["class_path"]}}).baseline.init_args
    for key, value in config["baseline"].get("init_args", {}).items():
        assert defaults[key] != value
    assert model.unit == "sequences"
    assert set(config) == {"baseline", "data", "trainer"}
    assert name != "bert4rec" or (model.patience >= 50 and config["trainer"]["max_epochs"] >= 1000)
