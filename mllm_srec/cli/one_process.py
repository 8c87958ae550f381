"""Several commands in one process: libraries are imported once, and each command leaves nothing to the next."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from mllm_srec.cli.devices import chosen_devices
from mllm_srec.files.signals import Stopped

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
    chosen = chosen_devices(devices)
    if chosen is not None:
        return len(chosen) if isinstance(chosen, tuple) else chosen
    if str(devices) not in ("auto", "-1"):
        return 0
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
    status = 1
    try:
        import_module(f"mllm_srec.cli.commands.{MODULES[command]}").main(command, list(arguments))
        status = 0
    except Stopped as stop:
        status = stop.status
        raise
    finally:
        _let_go(status)


def _let_go(status: int) -> None:
    """Close a tracked run, free the memory of models, and release locks that live as long as what holds them.

    Args:
        status: How the command ended, as an exit status; the tracker would call a failed run finished.
    """
    if "wandb" in sys.modules and (wandb := sys.modules["wandb"]).run is not None:
        wandb.finish(exit_code=status)
    gc.collect()
    if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_initialized():
        cuda.empty_cache()
