"""A training that continues from any of its checkpoints equals one that was never stopped, to the last bit."""

import os
import signal

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from mllm_srec.baselines.sasrec import SASRec
from mllm_srec.data.loading.item_datamodule import ItemDataModule
from mllm_srec.files.signals import Stopped
from mllm_srec.models.pending_gradients import KEY, LOST
from mllm_srec.pipeline.model_kinds import train_data
from mllm_srec.pipeline.runs.checkpoints import RunCheckpoint, StayStopped
from mllm_srec.pipeline.runs.last_checkpoint import LastCheckpoint, OwnSignals
from mllm_srec.types import ConfigError

N_BATCHES = 11
"""Batches of an epoch; neither 2 nor 4 divides it."""


class Losses(pl.Callback):
    """Keeps the loss of every batch and the results of every validation."""

    def __init__(self):
        self.losses, self.validations = {}, []

    def on_validation_end(self, trainer, module):
        self.validations.append((trainer.global_step, dict(module.results)))

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

    def run(*callbacks, ckpt_path=None, max_epochs=2, losses=None, **options):
        data = ItemDataModule(
            str(shop_root), "shop", batch_size=1, eval_batch_size=64, n_negatives=4, max_train_groups=N_BATCHES
        )
        model = SASRec(hidden=8, n_layers=1, n_heads=1, dropout=0.3, lr=0.05)
        model.attach(train_data(data.data, data.numbering))
        losses = run.losses = Losses() if losses is None else losses
        saves = any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks)
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=saves, num_sanity_val_steps=0, use_distributed_sampler=False, max_epochs=max_epochs,
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


# --- where training ends before it is done ------------------------------------------------------------------------


class Kick(pl.Callback):
    """Sends a signal to this process at the n-th of the moments at which it could arrive."""

    def __init__(self, moment, number=signal.SIGTERM):
        self.moment, self.number, self.seen = moment, number, 0

    def count(self):
        if self.seen == self.moment:
            os.kill(os.getpid(), self.number)
        self.seen += 1

    def on_train_batch_start(self, *_):
        self.count()

    def on_validation_start(self, *_):
        self.count()

    def on_validation_batch_end(self, *_):
        self.count()

    def on_validation_end(self, *_):
        self.count()

    def on_train_epoch_end(self, *_):
        self.count()


def kept(folder, *others):
    """Callbacks as `fit` makes them."""
    best = RunCheckpoint(folder, "best", monitor="val/ndcg@10")
    stop = EarlyStopping("val/ndcg@10", patience=9, mode="max", strict=False)
    return [OwnSignals(), *others, best, stop, StayStopped(), LastCheckpoint(folder)]


def state(path):
    """What must be equal in the last checkpoints of two runs: all but paths, and counters that start anew."""
    found = torch.load(path, weights_only=True)
    stopping = next(value for key, value in found["callbacks"].items() if key.startswith("EarlyStopping"))
    best = next(value for key, value in found["callbacks"].items() if "val/ndcg" in key and "best_model_score" in value)
    loops = found["loops"]["fit_loop"]
    return {
        "stopping": {key: stopping[key] for key in ("wait_count", "stopped_epoch", "best_score")},
        "score": best["best_model_score"],
        "results": found["results"],
        "step": found["global_step"],
        "logged": loops["epoch_loop.state_dict"],
        "epochs": loops["epoch_progress"],
        "optimizer": found["optimizer_states"],
        "weights": found["state_dict"],
    }


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("interval", [0.5, 1.0, 7])
def test_told_to_stop_at_any_moment(train, tmp_path, interval):
    """Saved at the next optimizer step, every validation done once, and everything after it as if nothing had been."""
    options = {"accumulate_grad_batches": 2, "val_check_interval": interval}
    expected, losses = train(*kept(tmp_path / "whole", counter := Kick(-1)), **options)[:2]
    whole = train.losses.validations
    n_first = next(n for n in range(counter.seen) if n >= counter.seen // 2 + 2)
    for moment in range(n_first):
        folder, seen = tmp_path / str(moment), Losses()
        with pytest.raises(Stopped) as stopped:
            train(*kept(folder, Kick(moment)), losses=seen, **options)
        assert stopped.value.status == 143
        n_done = len(seen.losses)
        found = train(*kept(folder), ckpt_path=folder / "last.ckpt", losses=seen, **options)[0]
        assert all(torch.equal(found[name], value) for name, value in expected.items()), moment
        assert seen.losses == losses, moment
        assert [step for step, _ in seen.validations] == [step for step, _ in whole], moment
        assert_same([results for _, results in seen.validations], [results for _, results in whole])
        assert_same(state(folder / "last.ckpt"), state(tmp_path / "whole/last.ckpt"))
        assert n_done < 2 * N_BATCHES


@pytest.mark.parametrize(("interval", "ends"), [(0.5, range(1, 12)), (1.0, (2, 6, 8))])
def test_training_that_max_steps_ended_continues(train, tmp_path, interval, ends):
    options = {"accumulate_grad_batches": 2, "val_check_interval": interval}
    expected, losses, trainer = train(*kept(tmp_path / "whole"), **options)
    whole = train.losses.validations
    assert trainer.global_step == 12
    for n_steps in ends:
        folder, seen = tmp_path / str(n_steps), Losses()
        assert train(*kept(folder), losses=seen, max_steps=n_steps, **options)[2].global_step == n_steps
        found = train(*kept(folder), ckpt_path=folder / "last.ckpt", losses=seen, **options)[0]
        assert all(torch.equal(found[name], value) for name, value in expected.items()), n_steps
        assert seen.losses == losses, n_steps
        assert [step for step, _ in seen.validations] == [step for step, _ in whole], n_steps
        assert_same(state(folder / "last.ckpt"), state(tmp_path / "whole/last.ckpt"))


@pytest.mark.parametrize("every", [1, 2])
def test_more_epochs_than_before(train, tmp_path, every):
    options = {"accumulate_grad_batches": 4, "check_val_every_n_epoch": every}
    expected, losses, _ = train(*kept(tmp_path / "whole"), max_epochs=4, **options)
    for n_epochs in (1, 2, 3):
        folder, seen = tmp_path / str(n_epochs), Losses()
        train(*kept(folder), losses=seen, max_epochs=n_epochs, **options)
        found = train(*kept(folder), ckpt_path=folder / "last.ckpt", losses=seen, max_epochs=4, **options)[0]
        assert all(torch.equal(found[name], value) for name, value in expected.items()), n_epochs
        assert seen.losses == losses


def test_a_limit_of_time_loses_no_batch(train, tmp_path):
    class TimeIsUp(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            trainer.should_stop = trainer.should_stop or (trainer.current_epoch == 0 and batch_idx == 4)

    options = {"accumulate_grad_batches": 4}
    expected, losses, _ = train(*kept(tmp_path / "whole"), **options)
    seen = Losses()
    train(*kept(tmp_path / "part", TimeIsUp()), losses=seen, **options)
    assert len(seen.losses) == 5
    found = train(*kept(tmp_path / "part"), ckpt_path=tmp_path / "part/last.ckpt", losses=seen, **options)[0]
    assert seen.losses == losses
    assert all(torch.equal(found[name], value) for name, value in expected.items())
