"""Several commands in one process: libraries are imported once, and each command leaves nothing to the next."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

MODULES = {"prepare": "prepare", "summarize": "summarize", "fit": "trainer", "test": "trainer"}
"""Command -> its file in `cli/commands/`."""

LAUNCHED = ("WORLD_SIZE", "SLURM_NTASKS")
"""Environment variables in which launchers state the number of processes."""


def runs_here(trainer: Any) -> bool:
    """Return True if the Trainer works in this process alone.

    Where it launches others, they start this process's command line again, so that each command needs a process of its
    own; where a launcher started several, each command is to set up their connection anew.

    Args:
        trainer: The parsed `trainer` section.
    """
    if any(int(os.environ.get(name) or 1) > 1 for name in LAUNCHED):
        return False
    if trainer.num_nodes != 1 or trainer.strategy not in ("auto", "single_device"):
        return False
    return _n_devices(trainer.accelerator, trainer.devices) == 1


def _n_devices(accelerator: Any, devices: Any) -> int:
    """Number of devices that the Trainer would use; 0 if only it can tell."""
    if isinstance(devices, list | tuple):
        return len(devices)
    text = str(devices)
    if "," in text:
        return len([index for index in text.split(",") if index.strip()])
    if text not in ("auto", "-1"):
        return int(text) if text.isdecimal() else 0
    if accelerator in ("cpu", "mps"):
        return 1
    if accelerator not in ("auto", "gpu", "cuda"):
        return 0
    import torch

    return max(1, torch.cuda.device_count())


def run_here(command: str, arguments: Sequence[str]) -> None:
    """Run a command in this process, and let go of all that it held.

    Args:
        command: One of `MODULES`.
        arguments: Its arguments.
    """
    try:
        import_module(f"mllm_srec.cli.commands.{MODULES[command]}").main(command, list(arguments))
    finally:
        _let_go()


def _let_go() -> None:
    """Close a tracked run, free the memory of models, and release locks that live as long as what holds them."""
    if "wandb" in sys.modules and (wandb := sys.modules["wandb"]).run is not None:
        wandb.finish()
    gc.collect()
    if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_initialized():
        cuda.empty_cache()
