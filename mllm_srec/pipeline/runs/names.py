"""The run folder of a command: equal on all processes, never one of another run, and tied to its checkpoint."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mllm_srec.files.folders import check_folder_name
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import SPLITS, ConfigError

RUN_VARIABLE = "MLLM_SREC_RUN"
"""Environment variable in which a launching process hands the name of the run to the processes it launches."""

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
"""Environment variables of launchers; the first process of a run has 0 or nothing in each."""

WEIGHTS = "weights"
"""`<split>/weights` of `metrics.json`: hash of the checkpoint whose results the file holds."""

BEGUN = "begun_weights"
"""`<split>/begun_weights`: hash of the checkpoint measured last, even if that measurement was not finished."""


def is_first_process() -> bool:
    """Return True on the process that checks and writes on behalf of all processes of the run."""
    return all(int(os.environ.get(name) or 0) == 0 for name in RANK_VARIABLES)


def new_run(root: str | Path, data_name: str, name: str | None, seed: int) -> RunFolder:
    """Return the folder of a new run; without a name, one made of time and seed, equal on all processes.

    Args:
        root: `trainer.default_root_dir`.
        data_name: `data.name`.
        name: Name of the folder; None makes one.
        seed: `seed_everything`.

    Raises:
        ConfigError: `name` or `data.name` is not a folder name.
    """
    chosen = _made_name(seed) if name is None else name
    check_folder_name("name", chosen, "lora-16")
    check_folder_name("data.name", data_name, "beauty")
    return RunFolder(Path(root) / data_name / chosen)


def _made_name(seed: int) -> str:
    """Make the name `<time or job>-<seed>`.

    Processes of a launcher share its job number. Processes that the Trainer launches inherit the name. Those of
    torchrun without a job number start at different times and agree through torchrun's store. Runs of a sweep, which
    several agents may start at the same time, are named by the tracker's run id.
    """
    inherited = os.environ.get(RUN_VARIABLE)
    if inherited and not is_first_process():
        return inherited
    job = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    if os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"):
        stamp = f"sweep-{os.environ['WANDB_RUN_ID']}"
    elif job != "none":
        stamp = job
    elif os.environ.get("SLURM_STEP_ID"):
        stamp = f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    elif os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        stamp = _agree(stamp)
    os.environ[RUN_VARIABLE] = f"{stamp}-{seed}"
    return os.environ[RUN_VARIABLE]


def _agree(stamp: str) -> str:
    """Return the first process's value on every process that torchrun started."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"{RUN_VARIABLE}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if is_first_process():
        store.set(key, stamp)
    agreed: bytes = store.get(key)  # waits for it
    return agreed.decode()


def run_of_checkpoint(ckpt_path: str | Path) -> RunFolder | None:
    """Return the run folder that holds a checkpoint; None for a checkpoint outside of one."""
    parent = Path(ckpt_path).resolve().parent
    if parent.name != "checkpoints" or not (parent.parent / "config.yaml").exists():
        return None
    return RunFolder(shortest(parent.parent))


def run_for_checkpoint(
    origin: RunFolder, root: Path, default_root: str, data_name: str, name: str | None, checkpoint: Path
) -> RunFolder:
    """Return the checkpoint's run folder or, if another name or root is given, a folder of that name.

    The latter is new, or was begun by an evaluation of the same checkpoint.

    Args:
        origin: Run folder of the checkpoint.
        root: `trainer.default_root_dir`.
        default_root: Default value of `trainer.default_root_dir`.
        data_name: `data.name`.
        name: `name`.
        checkpoint: Path of the checkpoint.

    Raises:
        ConfigError: The folder of that name holds another run.
    """
    same_name = name in (None, origin.path.name)
    same_root = root == Path(default_root) or origin.path.resolve().is_relative_to(root.resolve())
    if same_name and same_root:
        return origin
    target = new_run(root, data_name, name or origin.path.name, 0)
    foreign = target.config.exists() and not belongs_to(target, checkpoint)
    if foreign and is_first_process():  # the other processes may find the folder that it made
        raise ConfigError(
            f"name={target.path.name!r}: the checkpoint belongs to {origin.path}, and {target.path} holds another run; "
            "leave --name out to work in the checkpoint's run, or choose a new one"
        )
    return target


def shortest(path: Path) -> Path:
    """Return the path as one would type it: relative if it is below the current folder."""
    here = Path.cwd().resolve()
    path = path.resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def note_weights(run: RunFolder, split: str, checkpoint: Path) -> None:
    """Record whose results this folder will hold, before a measurement begins."""
    run.merge_metrics(split, {}, {BEGUN: _hash(checkpoint)})


def belongs_to(run: RunFolder, checkpoint: Path) -> bool:
    """Return True if an earlier evaluation of this very checkpoint, finished or killed, began the folder."""
    noted = {value for split in SPLITS if (value := run.read_metrics().get(f"{split}/{BEGUN}")) is not None}
    return noted == {_hash(checkpoint)}


def was_tested(run: RunFolder, checkpoint: Path) -> bool:
    """Return True if the folder holds test results of this checkpoint.

    Raises:
        ConfigError: The checkpoint does not exist.
    """
    results = run.read_metrics()
    return "test/n_users" in results and results.get(f"test/{WEIGHTS}") == _hash(checkpoint)


def _hash(checkpoint: Path) -> str:
    if not checkpoint.is_file():
        raise ConfigError(f"ckpt_path={str(checkpoint)!r}: no such file; give a file of a run's checkpoints/")
    from mllm_srec.files.hashing import file_hash  # imports polars, which the first line of a command does not need

    return file_hash(checkpoint)
