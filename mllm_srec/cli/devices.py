"""Accelerators: one that is not there is refused before anything is built, and errors of devices say what to set."""

from __future__ import annotations

from typing import Any

from mllm_srec.types import ConfigError, did_you_mean

NO_MEMORY = ("out of memory", "can't allocate memory", "Unable to allocate", "CUBLAS_STATUS_ALLOC_FAILED")
NO_DRIVER = (
    "no kernel image is available",
    "invalid device function",
    "not compiled with CUDA",
    "NVIDIA driver",
    "driver version is insufficient",
    "No CUDA GPUs are available",
    "CUDA unknown error",
    "no CUDA-capable device",
)
"""What torch and numpy say, in parts of sentences that have been the same for years."""


def check_devices(trainer: Any) -> None:
    """Refuse an accelerator, or a number of devices, that this machine does not have, and processes that would hang.

    Args:
        trainer: Parsed `trainer` section.

    Raises:
        ConfigError: The accelerator is unknown or absent, there are fewer devices, or processes would be forked.
    """
    _check_strategy(trainer.strategy)
    name = trainer.accelerator
    if not isinstance(name, str):
        return
    there = available()
    if name not in ("auto", *there):
        raise ConfigError(
            f"trainer.accelerator={name!r}: is no accelerator"
            + (did_you_mean(name, ["auto", *there]) or f"; choose auto or one of {', '.join(there)}")
        )
    if name != "auto" and there[name] == 0:
        raise ConfigError(f"trainer.accelerator={name!r}: {_why_absent(name)}; set it to auto or cpu")
    used = name if name != "auto" else next((kind for kind in ("cuda", "mps") if there[kind]), "cpu")
    wanted, most = _wanted(trainer.devices), there[used]
    if used not in ("cpu", "tpu") and wanted > most:
        raise ConfigError(
            f"trainer.devices={trainer.devices!r}: this machine has {most} that torch can use; set it to auto or fewer"
        )


def _check_strategy(strategy: Any) -> None:
    """Refuse to fork: the threads of this process, in which tables were read, are not there in a copy of it."""
    chosen = strategy if isinstance(strategy, str) else ""
    given = getattr(strategy, "init_args", None)
    if "_fork" in chosen or "_notebook" in chosen or (given is not None and given.get("start_method") == "fork"):
        raise ConfigError(
            f"trainer.strategy={chosen or 'start_method: fork'!r}: copies this process without its threads, so that "
            "training would hang; set it to ddp"
        )


def available() -> dict[str, int]:
    """Count the devices of every kind of accelerator that Lightning knows; a CPU counts once."""
    import torch
    from lightning.pytorch.accelerators import AcceleratorRegistry

    cuda, mps = torch.cuda.device_count(), int(torch.backends.mps.is_available())
    others = {name: int(AcceleratorRegistry[name]["accelerator"].is_available()) for name in AcceleratorRegistry}
    return {**others, "cpu": 1, "gpu": cuda or mps, "cuda": cuda, "mps": mps}


def chosen_devices(devices: Any) -> tuple[int, ...] | int | None:
    """Return what `trainer.devices` asks for: indices, or a number of devices; None where the Trainer chooses.

    Args:
        devices: A number, a list of indices, or either as a text such as "2" or "0,7"; "auto" and -1 are all.
    """
    if isinstance(devices, str):
        if "," in devices:
            parts = [part.strip() for part in devices.split(",") if part.strip()]
            return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else None
        return int(devices) if devices.isdecimal() else None
    if isinstance(devices, list | tuple):
        return tuple(devices) if all(isinstance(device, int) for device in devices) else None
    return devices if isinstance(devices, int) and not isinstance(devices, bool) and devices >= 0 else None


def explain(error: BaseException) -> str | None:
    """Say what to set about an error of a device; None for any other error.

    Args:
        error: Error of torch, bitsandbytes or numpy, which name neither the setting nor a way out.
    """
    text = str(error)
    first = next((line for line in map(str.strip, text.splitlines()) if line), type(error).__name__).rstrip(".")
    if isinstance(error, MemoryError) or any(part in text for part in NO_MEMORY):
        return (
            f"the memory of the device is used up ({first}); lower data.batch_size (data.eval_batch_size, "
            "model.scoring_tokens when measuring; summaries.<stage>.token_budget when writing), data.max_length or "
            "data.pictures.max_pixels; or set model.quantization to nf4 and model.activation_checkpointing to true"
        )
    if "bitsandbytes" in text:
        return (
            f"model.quantization='nf4': bitsandbytes does not work on this device ({first}); install a build for it "
            "(`python -m bitsandbytes` tells what is wrong), or set model.quantization to none"
        )
    if any(part in text for part in NO_DRIVER):
        return (
            f"torch cannot use this machine's accelerator ({first}); install the build of torch that fits its driver "
            "(https://pytorch.org/get-started), or set trainer.accelerator to cpu"
        )
    return None


def _wanted(devices: Any) -> int:
    """Return how many devices there must be; 0 where the Trainer chooses, or understands more than we do."""
    chosen = chosen_devices(devices)
    return max(chosen, default=-1) + 1 if isinstance(chosen, tuple) else chosen or 0


def _why_absent(name: str) -> str:
    import torch

    if name in ("gpu", "cuda") and torch.version.cuda is None and torch.version.hip is None:
        return "the installed torch is a build for CPUs only"
    return "this machine has none that torch can use"
