"""Gradients between two optimizer steps, as a part of checkpoints that are written there.

With `trainer.accumulate_grad_batches`, a validation in mid-epoch, `trainer.max_time` or a callback may write a
checkpoint while some batches of a step are done. Lightning counts these batches as trained and forgets their gradients;
a run that continues there would then differ from one that was never stopped.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from mllm_srec.types import ConfigError

KEY = "pending_gradients"
"""Key of a checkpoint: of each process, gradients by name of weight; absent in a checkpoint of an optimizer step."""

LOST = (
    "the checkpoint was written between two optimizer steps by an earlier version, without the gradients of the "
    "batches before it: the first step will be smaller than in a run that was never stopped"
)
"""Sentence on a checkpoint that counts batches whose gradients it does not hold."""


def n_pending(trainer: pl.Trainer) -> int:
    """Count the batches whose gradients wait for the next optimizer step; the last batch of an epoch always steps."""
    done = int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)  # type: ignore[attr-defined]
    if trainer.strategy.handles_gradient_accumulation or done >= trainer.num_training_batches:
        return 0
    return done % trainer.accumulate_grad_batches


def add_pending(checkpoint: dict[str, Any], module: pl.LightningModule) -> None:
    """Add the waiting gradients of all processes to a checkpoint; all processes must call it.

    Args:
        checkpoint: Content of the checkpoint that is about to be written.
        module: The model that is trained.
    """
    if module._trainer is None or not n_pending(module.trainer):  # nothing waits outside a training loop
        return
    own = {name: p.grad.detach().cpu() for name, p in module.named_parameters() if p.grad is not None}
    gathered: list[Any] = [own]
    if module.trainer.world_size > 1:
        gathered = [None] * module.trainer.world_size
        torch.distributed.all_gather_object(gathered, own)
    checkpoint[KEY] = gathered


def restore_pending(gradients: list[dict[str, torch.Tensor]], module: pl.LightningModule) -> None:
    """Put this process's gradients of a checkpoint back, before its first batch.

    Args:
        gradients: What `add_pending` stored.
        module: The model, on its device.

    Raises:
        ConfigError: Another number of processes wrote the checkpoint.
    """
    trainer = module.trainer
    if len(gradients) != trainer.world_size:
        raise ConfigError(
            f"ckpt_path={str(trainer.ckpt_path)!r}: was written between two optimizer steps by {len(gradients)} "
            f"processes, now there are {trainer.world_size}; set trainer.devices and trainer.num_nodes as they were"
        )
    own = gradients[trainer.global_rank]
    for name, parameter in module.named_parameters():
        if name in own:
            parameter.grad = own[name].to(parameter.device, parameter.dtype)
