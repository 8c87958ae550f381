"""`run`: every missing stage in order, each as a command of its own."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_srec.cli.schema import PROGRAM, dataset_settings, full_parser, light_parser
from mllm_srec.types import ConfigError, MllmSrecError

if TYPE_CHECKING:
    from mllm_srec.pipeline.runs.folder import RunFolder

DESCRIPTION = (
    "Prepare the data set and write summaries where that is missing, fit, and test the best checkpoint; where nothing "
    "is trained, only test. With --ckpt_path nothing is trained either: that checkpoint is tested, on the data that "
    "the settings name. A run that was killed continues when its --name is given again. Takes every setting of the "
    "other commands; see `fit --help`."
)


def main(command: str, arguments: list[str]) -> None:
    """Run the missing stages of a configuration."""
    if {"-h", "--help"} & set(arguments):
        light_parser(command, DESCRIPTION).parse_args(["--help"])
    config = full_parser(command, DESCRIPTION).parse_args(arguments)
    from mllm_srec.cli.checks import is_trained

    trained = is_trained(config)
    if config.ckpt_path is not None and not trained:
        raise ConfigError(f"ckpt_path={config.ckpt_path!r}: these settings train nothing; leave it out")
    _build(config, arguments)
    if config.trainer.fast_dev_run:
        if trained and config.ckpt_path is None:
            _stage("fit", arguments)
        _stage("test", arguments)
    elif config.ckpt_path is not None:
        _test_given(config, arguments)
    else:
        _fit_and_test(config, arguments, trained)


def _build(config: Any, arguments: Sequence[str]) -> None:
    """The data set and its summaries."""
    from mllm_srec.cli.commands.summarize import summary_plan
    from mllm_srec.data.manifest import check_manifest
    from mllm_srec.summaries.run import missing_stages

    if not check_manifest(*dataset_settings(config)):
        _stage("prepare", arguments)
    summarised = config.baseline is None and config.summaries.variant != "none"
    if summarised and missing_stages(summary_plan(config, f"{PROGRAM} prepare")):
        _stage("summarize", arguments)


def _fit_and_test(config: Any, arguments: Sequence[str], trained: bool) -> None:
    run = _run_folder(config)
    named = [*arguments, "--name", run.path.name]
    if trained and "fit/steps" not in run.read_metrics():
        _stage("fit", [*named, *(["--ckpt_path", str(run.last)] if run.last.exists() else [])])
    results = run.read_metrics()
    if "test/n_users" not in results or results.get("test/step") != results.get("fit/best_step"):
        _stage("test", [*named, *(["--ckpt_path", str(run.best)] if trained else [])])
    print(f"done: {run.path}")


def _test_given(config: Any, arguments: Sequence[str]) -> None:
    """Test the checkpoint that was given: in a folder of its own where a name is given, else where `test` puts it."""
    from mllm_srec.pipeline.runs.names import run_of_checkpoint, was_tested

    checkpoint = Path(config.ckpt_path)
    origin = run_of_checkpoint(checkpoint)
    if config.name is None or (origin is not None and config.name == origin.path.name):
        _stage("test", arguments)
        return
    run = _run_folder(config)
    if not was_tested(run, checkpoint):
        _stage("test", arguments)
    print(f"done: {run.path}")


def _run_folder(config: Any) -> RunFolder:
    from mllm_srec.pipeline.runs.names import new_run

    return new_run(config.trainer.default_root_dir, config.data.name, config.name, int(config.seed_everything))


def _stage(command: str, arguments: Sequence[str]) -> None:
    """Run one command in a process of its own, so that stages share no state and free their memory."""
    print(f"$ {PROGRAM} {command} {shlex.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "mllm_srec", command, *arguments], check=False)
    if done.returncode != 0:
        raise MllmSrecError(f"`{command}` ended with status {done.returncode}; its message stands above")
