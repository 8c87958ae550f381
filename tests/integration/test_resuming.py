"""A training that continues from any of its checkpoints equals one that was never stopped, to the last bit."""

import lightning.pytorch as pl
import pytest
import torch

from mllm_srec.baselines.sasrec import SASRec
from mllm_srec.data.loading.item_datamodule import ItemDataModule
from mllm_srec.models.pending_gradients import KEY, LOST
from mllm_srec.pipeline.model_kinds import train_data
from mllm_srec.types import ConfigError

N_BATCHES = 11
"""Batches of an epoch; neither 2 nor 4 divides it."""


class Losses(pl.Callback):
    """Keeps the loss of every batch, and what is logged at every step."""

    def __init__(self):
        self.losses = {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses[trainer.current_epoch, batch_idx] = float(outputs["loss"])


class SaveEverywhere(pl.Callback):
    """Writes a checkpoint wherever the first epoch could be stopped: after batches, validations and the epoch."""

    def __init__(self, folder):
        self.folder, self.paths = folder, []

    def save(self, trainer, place):
        if trainer.current_epoch > 0:
            return
        done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        self.paths.append(self.folder / f"{len(self.paths)}-{place}-{trainer.current_epoch}-{done}.ckpt")
        trainer.save_checkpoint(self.paths[-1])

    def on_train_batch_end(self, trainer, *_):
        done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        if done < N_BATCHES:
            self.save(trainer, "batch")

    def on_validation_end(self, trainer, *_):
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer, *_):
        self.save(trainer, "epoch")


@pytest.fixture
def train(shop_root, tmp_path):
    """Function that trains a small SASRec with dropout for two epochs and returns its weights and losses."""

    def run(*callbacks, ckpt_path=None, max_epochs=2, **options):
        data = ItemDataModule(
            str(shop_root), "shop", batch_size=1, eval_batch_size=64, n_negatives=4, max_train_groups=N_BATCHES
        )
        model = SASRec(hidden=8, n_layers=1, n_heads=1, dropout=0.3, lr=0.05)
        model.attach(train_data(data.data, data.numbering))
        losses = Losses()
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, max_epochs=max_epochs,
            default_root_dir=tmp_path, callbacks=[losses, *callbacks], **options,
        )  # fmt: skip
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        return {name: p.detach().clone() for name, p in model.named_parameters()}, losses.losses, trainer

    return run


@pytest.mark.parametrize(("accumulation", "interval"), [(2, 0.5), (4, 0.5), (4, 1)])
def test_wherever_it_was_stopped(train, tmp_path, accumulation, interval):
    options = {"accumulate_grad_batches": accumulation, "val_check_interval": interval}
    save = SaveEverywhere(tmp_path)
    expected, losses, trainer = train(save, **options)
    assert len(losses) == 2 * N_BATCHES
    places = {path.name.split("-")[1] for path in save.paths}
    assert places == {"batch", "validation", "epoch"}
    for path in save.paths:
        found, later, resumed = train(ckpt_path=path, **options)
        assert all(torch.equal(found[name], value) for name, value in expected.items()), path.name
        assert later == {place: losses[place] for place in later}, path.name
        assert resumed.global_step == trainer.global_step


def test_checkpoints_of_optimizer_steps_hold_no_gradients(train, tmp_path):
    save = SaveEverywhere(tmp_path)
    train(save, accumulate_grad_batches=4, max_epochs=1)
    for path in save.paths:
        done = int(path.stem.split("-")[3])
        waits = done % 4 != 0 and done < N_BATCHES
        assert (KEY in torch.load(path, weights_only=True)) == waits, path.name


def test_what_cannot_be_continued_is_said(train, tmp_path, capsys):
    save = SaveEverywhere(tmp_path)
    options = {"accumulate_grad_batches": 4, "max_epochs": 1}
    train(save, **options)
    stored = torch.load(save.paths[0], weights_only=True)
    torch.save({**stored, KEY: stored[KEY] * 2}, tmp_path / "two.ckpt")
    with pytest.raises(ConfigError, match="between two optimizer steps by 2 processes, now there are 1"):
        train(ckpt_path=tmp_path / "two.ckpt", **options)
    del stored[KEY]
    torch.save(stored, tmp_path / "old.ckpt")
    assert LOST not in capsys.readouterr().out
    train(ckpt_path=tmp_path / "old.ckpt", **options)
    assert LOST in capsys.readouterr().out
