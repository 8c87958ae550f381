"""How processes that a cluster started find each other, where Lightning's own choice would do harm."""

from __future__ import annotations

from pathlib import Path

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from mllm_srec.types import ConfigError


def cluster_plugins(root: str | Path) -> list[ClusterEnvironment] | None:
    """What the Trainer is given in addition, unless settings name plugins of their own.

    Under Slurm, Lightning would answer the signal before a job's end with a checkpoint in `trainer.default_root_dir`,
    which all runs share, and load it without being asked into whatever is started there next. A run is continued from
    its own `checkpoints/last.ckpt` instead.

    Args:
        root: `trainer.default_root_dir`.

    Raises:
        ConfigError: Such a checkpoint is there.
    """
    if not SLURMEnvironment.detect():
        return None
    if left := sorted(Path(root).glob("hpc_ckpt_*.ckpt")):
        raise ConfigError(
            f"{left[0]} was left by Lightning's requeueing, and would be loaded into every run below {root}, whatever "
            "it is of; move it away, and continue a run with --ckpt_path .../checkpoints/last.ckpt"
        )
    # torchrun may run under Slurm, and starts processes in its own way
    return None if TorchElasticEnvironment.detect() else [SLURMEnvironment(auto_requeue=False)]
