"""Training by every loss: the default is the article's to the last bit, and what ranks puts likes first."""

import subprocess
import sys

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from mllm_srec.cli.checks import check_examples
from mllm_srec.models.backbone import LoraSettings
from mllm_srec.models.losses import dpo, label_everything, listwise, mean_of_comparable, response_loss, softmax_dpo
from mllm_srec.models.objective import AddedLosses
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.types import ConfigError


@pytest.fixture
def make_model(tiny_backbone):
    def make(**changes):
        values = {"lr": 5e-3, "lora": LoraSettings(r=4, dropout=0.1), "quantization": "none", **changes}
        return MLLMRecommender(str(tiny_backbone), **values)

    return make


def fit(model, data, folder, epochs=1, **options):
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, use_distributed_sampler=False, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        **options,
    )  # fmt: skip
    trainer.fit(model, data)
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}, trainer


class Plain(MLLMRecommender):
    """The training step as it was before there were other losses."""

    def training_step(self, batch, batch_idx):
        loss, _ = response_loss(self.loaded(batch), self.loaded.lm_head, self.trained_on(batch))
        return loss


@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_the_default_trains_as_before_to_the_last_bit(make_model, make_datamodule, tiny_backbone, tmp_path, loss_on):
    plain = Plain(str(tiny_backbone), lr=5e-3, lora=LoraSettings(r=4), quantization="none", loss_on=loss_on)
    expected, _ = fit(plain, make_datamodule(max_train_groups=12), tmp_path)
    found, trainer = fit(make_model(loss_on=loss_on), make_datamodule(max_train_groups=12), tmp_path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert {name for name in trainer.logged_metrics if name.startswith("train/")} == {
        "train/loss", "train/first_token_loss", "train/first_token_accuracy",
    }  # fmt: skip


def ready(model, data):
    """The model with adapters that matter, and one batch of the data."""
    data.setup("fit")
    model.configure_model()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    model.log = model.log_dict = lambda *args, **kwargs: None
    return next(iter(data.train_dataloader()))


@pytest.fixture
def no_dropout():
    return LoraSettings(r=4, dropout=0.0)


def test_losses_are_added_with_their_weights(make_model, make_datamodule, no_dropout):
    changes = {"loss": "listwise", "added_losses": AddedLosses(response=0.25), "lora": no_dropout, "loss_on": "all"}
    model = make_model(**changes)
    batch = ready(model, make_datamodule())
    relevance, mask = batch["relevance"], batch["candidate_mask"]
    with torch.no_grad():
        scores = model.eval().score_candidates(batch)
        labelled = label_everything(batch, model.image_token_id)
        answer, _ = response_loss(model.loaded(batch), model.loaded.lm_head, labelled)
    expected = mean_of_comparable(listwise(scores, relevance, mask), relevance, mask) + 0.25 * answer
    model.train()
    assert model.training_step(batch, 0).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("name", "function"), [("dpo", dpo), ("softmax_dpo", softmax_dpo)])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_reference_is_the_model_without_adapters(
    make_model, make_datamodule, no_dropout, name, function, quantization
):
    model = make_model(loss=name, dpo_beta=0.7, lora=no_dropout, quantization=quantization)
    batch = ready(model, make_datamodule())
    bare = make_model(finetune="none", quantization=quantization)
    bare.configure_model()
    relevance, mask = batch["relevance"], batch["candidate_mask"]
    with torch.no_grad():
        scores, reference = model.eval().score_candidates(batch), bare.eval().score_candidates(batch)
    assert (scores - reference)[mask].abs().max() > 0.1
    expected = mean_of_comparable(function(scores, reference, relevance, mask, 0.7), relevance, mask)
    model.train()
    loss = model.training_step(batch, 0)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(gradients) == 28
    assert all(gradient is not None for gradient in gradients.values())


def test_the_reference_has_no_dropout_and_leaves_everything_as_it_was(make_model, make_datamodule):
    model = make_model(loss="dpo", lora=LoraSettings(r=4, dropout=0.5))
    batch = ready(model, make_datamodule())
    model.train()
    modes = [module.training for module in model.modules()]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    state = torch.get_rng_state()
    first, second = (model._reference(batch, model.loaded.pictures(batch)) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert torch.equal(torch.get_rng_state(), state)  # a loss with reference draws the dropout of one without
    assert [module.training for module in model.modules()] == modes
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trained
    with torch.no_grad():
        assert not torch.equal(model._packed_scores(model.loaded(batch), batch), first)


def test_pictures_are_encoded_once_for_both_passes(make_model, make_datamodule, monkeypatch):
    model = make_model(loss="softmax_dpo")
    batch = ready(model, make_datamodule())
    calls, encode = [], model.loaded.image_features
    monkeypatch.setattr(model.loaded, "image_features", lambda *args: calls.append(1) or encode(*args))
    model.train().training_step(batch, 0)
    assert calls == [1]


@pytest.mark.parametrize("loss", ["pairwise", "listwise", "dpo", "softmax_dpo"])
def test_each_loss_that_ranks_puts_likes_first(make_model, make_datamodule, loss, no_dropout):
    """One batch by heart, by plain steps of Adam, on weights large enough that items differ."""
    model = make_model(loss=loss, dpo_beta=1.0, lora=no_dropout)
    batch = ready(model, make_datamodule(batch_size=4))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.loaded.base.model.named_parameters():
        if parameter.ndim > 1 and "lora" not in name:
            parameter.data.normal_(0, 0.2, generator=generator)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        losses.append(model.training_step(batch, step))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        scores = model.eval().score_candidates(batch)
        reference = model._reference(batch, model.loaded.pictures(batch)) if "dpo" in loss else 0
    liked = batch["relevance"] == 1
    ahead = scores - reference  # DPO moves a like ahead of where it was
    assert (ahead[liked] > ahead[~liked & batch["candidate_mask"]]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "dpo", "finetune": "full"}, "model.finetune='full': DPO compares .* set it to lora"),
        ({"added_losses": AddedLosses(softmax_dpo=1), "finetune": "none"}, "model.finetune='none': DPO compares"),
        ({"added_losses": AddedLosses(response=1)}, "model.added_losses.response=1: is added to model.loss='response'"),
        ({"loss": "dpo", "dpo_beta": 0}, "model.dpo_beta=0: must be above 0"),
        ({"loss": "ranking"}, "model.loss='ranking': not one of response, pairwise"),
    ],
)
def test_settings_that_cannot_train_are_refused(make_model, changes, words):
    with pytest.raises(ConfigError, match=words):
        make_model(**changes)


def test_a_negative_weight_is_refused():
    with pytest.raises(ConfigError, match=r"added_losses\.listwise=-1: must be at least 0"):
        AddedLosses(listwise=-1)


def test_a_loss_that_would_rank_nothing_is_refused(make_model, make_datamodule):
    alone = make_datamodule(negatives="explicit")
    check_examples("fit", alone, make_model())
    with pytest.raises(ConfigError, match=r"model\.loss='listwise': ranks the targets of a context, and no context"):
        check_examples("fit", alone, make_model(loss="listwise"))
    check_examples("fit", make_datamodule(negatives="explicit", n_train_negatives=2), make_model(loss="listwise"))


RANKED = {"loss": "softmax_dpo", "added_losses": AddedLosses(response=0.5, listwise=0.5)}


MID_EPOCH = {"every_n_train_steps": 4}
END_OF_EPOCH = {"every_n_epochs": 1, "save_on_train_epoch_end": True}


@pytest.mark.parametrize(("num_workers", "every", "step"), [(0, MID_EPOCH, 4), (2, MID_EPOCH, 4), (0, END_OF_EPOCH, 6)])
def test_a_resumed_run_draws_what_an_uninterrupted_one_does(
    make_model, make_datamodule, tmp_path, num_workers, every, step
):
    """Six batches an epoch: stopped within the first one, and at its end."""

    def data():
        return make_datamodule(n_train_negatives=3, num_workers=num_workers, max_train_groups=18)

    whole, _ = fit(make_model(**RANKED), data(), tmp_path, 2)
    keep = ModelCheckpoint(tmp_path / "ckpt", filename="{step}", save_top_k=-1, **every)
    options = {"limit_val_batches": 0, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options |= {"accelerator": "cpu", "use_distributed_sampler": False, "default_root_dir": tmp_path}
    pl.Trainer(max_epochs=1, callbacks=[keep], **options).fit(make_model(**RANKED), data())
    resumed = make_model(**RANKED)
    trainer = pl.Trainer(max_epochs=2, enable_checkpointing=False, **options)
    trainer.fit(resumed, data(), ckpt_path=tmp_path / f"ckpt/step={step}.ckpt")
    found = {name: p for name, p in resumed.named_parameters() if p.requires_grad}
    assert all(torch.equal(found[name], value) for name, value in whole.items())


@pytest.mark.slow
def test_two_processes_train_as_one_does(shop_root, tiny_backbone, tmp_path):
    """A step of two processes with a batch each is one of a single process with both."""
    raw = shop_root / "raw"
    settings = {
        "data": {
            "root": str(tmp_path / "data"), "name": "two", "batch_size": 2, "n_negatives": 4, "max_train_groups": 24,
            "max_eval_groups": 2, "pictures": {"max_pixels": 3136}, "n_train_negatives": 3,
        },
        "prepare": {
            "source": "tables", "reviews": str(raw / "interactions.csv"), "metadata": str(raw / "items.csv"),
            "images": str(raw / "pictures"), "k_core": 1, "split": "leave_one_out",
        },
        "candidates": {"n_negatives": 4},
        "summaries": {"variant": "none"},
        "model": {
            "backbone": str(tiny_backbone), "lr": 5e-3, "quantization": "none", "lora": {"r": 4, "dropout": 0.0},
            "loss": "softmax_dpo", "added_losses": {"response": 0.5, "pairwise": 1.0},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False},
    }  # fmt: skip
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(settings))

    def run(command, *words):
        line = [sys.executable, "-m", "mllm_srec", command, "--config", "shop.yaml", *words]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def weights(name):
        path = tmp_path / f"runs/two/{name}/checkpoints/last.ckpt"
        return torch.load(path, weights_only=True)["state_dict"]

    run("prepare")
    run("fit", "--name", "one", "--trainer.accumulate_grad_batches", "2")
    out = run("fit", "--name", "pair", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert "model.loss=" not in out
    assert "trained with 3 negatives to a like" in out
    one, pair = weights("one"), weights("pair")
    assert one.keys() == pair.keys()
    for name, value in one.items():
        torch.testing.assert_close(pair[name], value, atol=2e-5, rtol=0)
    assert any((value != 0).any() for name, value in one.items() if "lora_B" in name)
