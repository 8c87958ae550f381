"""Cluster plugins of the Trainer, for clusters on which Lightning's own choice would do harm."""

from __future__ import annotations

from pathlib import Path

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from mllm_srec.types import ConfigError


def cluster_plugins(root: str | Path) -> list[ClusterEnvironment] | None:
    """Choose the cluster plugins, for settings that name none.

    Under Slurm, Lightning would answer the signal before the end of a job with a checkpoint in
    `trainer.default_root_dir`, which all runs share, and load it unasked into the next run that starts there. Runs are
    continued from their own `checkpoints/last.ckpt` instead.

    Args:
        root: `trainer.default_root_dir`.

    Raises:
        ConfigError: Such a checkpoint exists.
    """
    if not SLURMEnvironment.detect():
        return None
    if left := sorted(Path(root).glob("hpc_ckpt_*.ckpt")):
        raise ConfigError(
            f"{left[0]}: left by Lightning's requeueing, it would be loaded into every run below {root}; move it away, "
            "and continue its run with --ckpt_path .../checkpoints/last.ckpt"
        )
    # torchrun may run under Slurm, and starts its processes itself
    return None if TorchElasticEnvironment.detect() else [SLURMEnvironment(auto_requeue=False)]
