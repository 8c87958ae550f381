"""`run`: every missing stage in order, each as a command of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mllm_srec.cli.schema import candidate_settings, full_parser, light_parser, prepare_settings
from mllm_srec.pipeline.run_folder import RUN_VARIABLE, new_run
from mllm_srec.types import MllmSrecError

DESCRIPTION = (
    "Prepare the data set where that is missing, fit, and test the best checkpoint. A run that was killed continues "
    "when its --name is given again. Takes every setting of the other commands."
)


def main(command: str, arguments: list[str]) -> None:
    """Run the missing stages of a configuration."""
    if {"-h", "--help"} & set(arguments):
        light_parser(command, DESCRIPTION).parse_args(["--help"])
    config = full_parser(command, DESCRIPTION).parse_args(arguments)
    from mllm_srec.data.manifest import check_manifest

    run = new_run(config.trainer.default_root_dir, config.data.name, config.name, int(config.seed_everything))
    folder = Path(config.data.root) / config.data.name
    if not check_manifest(folder, prepare_settings(config.prepare), candidate_settings(config.candidates)):
        _stage("prepare", arguments)
    named = [*arguments, "--name", run.path.name]
    best, last = run.checkpoints / "best.ckpt", run.checkpoints / "last.ckpt"
    if not run.adapter.exists():
        _stage("fit", [*named, *(["--ckpt_path", str(last)] if last.exists() else [])])
    if not any(key.startswith("test/") for key in run.read_metrics()):
        _stage("test", [*named, "--ckpt_path", str(best)])
    print(f"done: {run.path}")


def _stage(command: str, arguments: Sequence[str]) -> None:
    """Run one command in a process of its own, so that stages share no state and free their memory."""
    print(f"$ python -m mllm_srec {command} {' '.join(arguments)}", flush=True)
    environment = {key: value for key, value in os.environ.items() if key != RUN_VARIABLE}
    done = subprocess.run([sys.executable, "-m", "mllm_srec", command, *arguments], env=environment, check=False)
    if done.returncode != 0:
        raise MllmSrecError(f"`{command}` ended with status {done.returncode}; its message stands above")
