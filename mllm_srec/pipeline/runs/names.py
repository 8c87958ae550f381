"""Which folder a command works in: the same on all processes of a run, and never one that holds another run."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mllm_srec.files.hashing import file_hash
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.types import SPLITS, ConfigError

RUN_VARIABLE = "MLLM_SREC_RUN"
"""Environment variable by which a launching process tells those that it launches the name of the run."""

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
"""Environment variables of launchers; the first process of a run has none of them, or 0 in all."""


def is_first_process() -> bool:
    """Whether this is the process that checks and writes on behalf of all processes of the run."""
    return all(int(os.environ.get(name) or 0) == 0 for name in RANK_VARIABLES)


def new_run(root: str | Path, data_name: str, name: str | None, seed: int) -> RunFolder:
    """Folder of a new run; without a name, one of the time and the seed, the same on all processes of the run.

    Args:
        root: `trainer.default_root_dir`.
        data_name: `data.name`.
        name: Name of the folder; None makes one.
        seed: `seed_everything`.

    Raises:
        ConfigError: The name is no folder name.
    """
    chosen = _made_name(seed) if name is None else name
    if chosen in ("", ".", "..") or Path(chosen).name != chosen:
        raise ConfigError(f"name={chosen!r} is no folder name; give one without slashes, such as 'lora-16'")
    return RunFolder(Path(root) / data_name / chosen)


def _made_name(seed: int) -> str:
    """`<time or job>-<seed>`.

    A launcher's processes know each other by its job number. Processes that the Trainer launches inherit the name;
    those of torchrun without a job number, which start at different times, agree through torchrun's own store. Runs of
    a sweep, which several agents start side by side, are told apart by the tracker's own number.
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
    """The first process's value, on every process that torchrun started."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"{RUN_VARIABLE}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if is_first_process():
        store.set(key, stamp)
    agreed: bytes = store.get(key)  # waits for it
    return agreed.decode()


def run_of_checkpoint(ckpt_path: str | Path) -> RunFolder | None:
    """The run folder that a checkpoint lies in; None where it lies elsewhere."""
    parent = Path(ckpt_path).resolve().parent
    if parent.name != "checkpoints" or not (parent.parent / "config.yaml").exists():
        return None
    return RunFolder(shortest(parent.parent))


def shortest(path: Path) -> Path:
    """The path as one would type it: relative to the current folder where it lies below that."""
    here = Path.cwd().resolve()
    path = path.resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def run_for_checkpoint(
    origin: RunFolder, root: Path, default_root: str, data_name: str, name: str | None, checkpoint: Path
) -> RunFolder:
    """The checkpoint's run folder, or where another name or root was given, one of that name.

    It is new, or was begun by an evaluation of the same checkpoint.

    Args:
        origin: Run folder of the checkpoint.
        root: `trainer.default_root_dir`.
        default_root: Its default, which nobody typed.
        data_name: `data.name`.
        name: `name`.
        checkpoint: The checkpoint itself.

    Raises:
        ConfigError: The folder asked for holds another run.
    """
    same_name = name in (None, origin.path.name)
    same_root = root == Path(default_root) or origin.path.resolve().is_relative_to(root.resolve())
    if same_name and same_root:
        return origin
    target = new_run(root, data_name, name or origin.path.name, 0)
    foreign = target.config.exists() and not belongs_to(target, checkpoint)
    if foreign and is_first_process():  # the others may come after it has made the folder
        raise ConfigError(
            f"the checkpoint belongs to {origin.path}, and {target.path} holds another run; leave --name out to work "
            "in the checkpoint's run, or choose a new one"
        )
    return target


WEIGHTS, BEGUN = "weights", "begun_weights"
"""`<stage>/weights` of `metrics.json`: hash of the checkpoint whose results stand there; `begun_weights`: of the one
that was measured last, whether that came to an end or not."""


def note_weights(run: RunFolder, stage: str, checkpoint: Path) -> None:
    """Say whose results this folder is for, before there are any."""
    run.merge_metrics(stage, {}, {BEGUN: file_hash(checkpoint)})


def belongs_to(run: RunFolder, checkpoint: Path) -> bool:
    """Whether an earlier evaluation of this very checkpoint, finished or killed, began the folder."""
    noted = {value for split in SPLITS if (value := run.read_metrics().get(f"{split}/{BEGUN}")) is not None}
    return noted == {_hash(checkpoint)}


def was_tested(run: RunFolder, checkpoint: Path) -> bool:
    """Whether the folder holds test results of this checkpoint.

    Raises:
        ConfigError: There is no such checkpoint.
    """
    results = run.read_metrics()
    return "test/n_users" in results and results.get(f"test/{WEIGHTS}") == _hash(checkpoint)


def _hash(checkpoint: Path) -> str:
    if not checkpoint.is_file():
        raise ConfigError(f"ckpt_path={str(checkpoint)!r}: no such file")
    return file_hash(checkpoint)
