"""`run`: run the missing stages in order, each as the command that one would type."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_srec.cli.one_process import run_here, runs_here
from mllm_srec.cli.schema import (
    PROGRAM,
    dataset_settings,
    default_settings,
    full_parser,
    light_parser,
    stated_settings,
)
from mllm_srec.cli.words import without_flags
from mllm_srec.files.signals import Stopped, run_process
from mllm_srec.types import ConfigError, MllmSrecError

if TYPE_CHECKING:
    import jsonargparse

    from mllm_srec.pipeline.runs.folder import RunFolder

DESCRIPTION = (
    "Prepare the data set and write summaries if they are missing, fit, and test the best checkpoint; a model without "
    "training is only tested. With --ckpt_path, too, nothing is trained: that checkpoint is tested, on the data set of "
    "the settings. A killed run continues when its --name is given again. stages.json in the run folder holds the time "
    "of each stage. Takes every setting of the other commands; see `fit --help`."
)


def main(command: str, arguments: list[str]) -> None:
    """Run the missing stages of a configuration."""
    if {"-h", "--help"} & set(arguments):
        light_parser(command, DESCRIPTION).parse_args(["--help"])
    parser = full_parser(command, DESCRIPTION)
    config = parser.parse_args(arguments)
    from mllm_srec.cli.checks import check_settings, check_typed, is_trained

    trained = is_trained(config)
    check_typed(arguments, config)
    if config.ckpt_path is not None and not trained:
        raise ConfigError(f"ckpt_path={config.ckpt_path!r}: these settings train nothing; leave it out")
    for stage in ("fit", "test") if trained and config.ckpt_path is None else ("test",):
        check_settings(stage, config)
    run = _run_folder(config)
    if run is not None:
        _check_unchanged(run, parser, config, trained)
    try:
        _run_stages(config, arguments, run, trained)
    except Stopped as stop:
        raise Stopped(stop.number, _how_to_go_on(arguments, run)) from None


def _run_stages(config: Any, arguments: list[str], run: RunFolder | None, trained: bool) -> None:
    """Run what is missing."""
    here = runs_here(config.trainer)
    _build(config, arguments, run, here)
    if run is not None:
        _check_data(run, config)
    if config.trainer.fast_dev_run:
        if trained and config.ckpt_path is None:
            _stage("fit", arguments, run, here)
        _stage("test", arguments, run, here)
    elif config.ckpt_path is not None:
        _test_given(config, arguments, run, here)
    elif run is not None:
        _fit_and_test(run, arguments, trained, here)


def _how_to_go_on(arguments: Sequence[str], run: RunFolder | None) -> str:
    """Sentence with the command that continues this run; without its name, the same words would begin another."""
    words = list(arguments) if run is None else [*without_flags(arguments, ["name"]), "--name", run.path.name]
    return f"what is finished is kept; go on with\n  {shlex.join([*PROGRAM.split(), 'run', *words])}"


def _run_folder(config: Any) -> RunFolder | None:
    """Return the folder of the run; None if there is none, or if `test` chooses that of the given checkpoint."""
    from mllm_srec.pipeline.runs.names import new_run, run_of_checkpoint

    if config.trainer.fast_dev_run:
        return None
    if config.ckpt_path is not None:
        origin = run_of_checkpoint(config.ckpt_path)
        if config.name is None or (origin is not None and config.name == origin.path.name):
            return None
    return new_run(config.trainer.default_root_dir, config.data.name, config.name, int(config.seed_everything))


def _check_unchanged(run: RunFolder, parser: jsonargparse.ArgumentParser, config: Any, trained: bool) -> None:
    """Refuse a folder whose run has other settings: its numbers would be taken for those of these settings.

    Training that is not finished may go on with other settings of how long it takes, such as more epochs.
    """
    from mllm_srec.cli.checks import unread_settings
    from mllm_srec.pipeline.runs.changes import check_unchanged, same_training

    now = stated_settings(parser, config)
    unfinished = trained and config.ckpt_path is None and "fit/steps" not in run.read_metrics()
    unread = (*unread_settings(config), *(same_training(now) if unfinished else ()))
    other = f"`test --ckpt_path {run.best}` measures the same model by another protocol, in a folder of its own"
    advice = f"; {other}" if run.best.exists() and not unfinished else ""
    check_unchanged(run, now, default_settings(parser, config), unread, advice)


def _check_data(run: RunFolder, config: Any) -> None:
    """Refuse a folder whose run saw other data than the data set holds now."""
    from mllm_srec.pipeline.runs.changes import data_changed

    folder, *_ = dataset_settings(config)
    if (reason := data_changed(run, folder)) is not None:
        raise ConfigError(f"name={run.path.name!r}: {reason}")


def _build(config: Any, arguments: Sequence[str], run: RunFolder | None, here: bool) -> None:
    """Make the data set and its summaries, if they are missing."""
    from mllm_srec.cli.commands.summarize import summary_plan
    from mllm_srec.data.manifest import check_manifest
    from mllm_srec.summaries.run import missing_stages

    if not check_manifest(*dataset_settings(config)):
        _stage("prepare", arguments, run, here)
    summarised = config.baseline is None and config.summaries.variant != "none"
    if summarised and missing_stages(summary_plan(config, f"{PROGRAM} prepare")):
        _stage("summarize", arguments, run, here)


def _fit_and_test(run: RunFolder, arguments: Sequence[str], trained: bool, here: bool) -> None:
    """Fit, or continue where the run was killed, and test the best checkpoint; each if it is missing."""
    named = [*arguments, "--name", run.path.name]
    if trained and "fit/steps" not in run.read_metrics():
        begun = run.last if run.last.exists() else run.best
        _stage("fit", [*named, *(["--ckpt_path", str(begun)] if begun.exists() else [])], run, here)
    results = run.read_metrics()
    if "test/n_users" not in results or results.get("test/step") != results.get("fit/best_step"):
        _stage("test", [*named, *(["--ckpt_path", str(run.best)] if trained else [])], run, here)
    print(f"done: {run.path}")


def _test_given(config: Any, arguments: Sequence[str], run: RunFolder | None, here: bool) -> None:
    """Test the given checkpoint: in the run's folder if it has one of its own, else where `test` puts it."""
    from mllm_srec.pipeline.runs.names import was_tested

    if run is None or not was_tested(run, Path(config.ckpt_path)):
        _stage("test", arguments, run, here)
    if run is not None:
        print(f"done: {run.path}")


def _stage(command: str, arguments: Sequence[str], run: RunFolder | None, here: bool) -> None:
    """Run one command.

    Args:
        command: Name of the command.
        arguments: Its arguments.
        run: Folder whose `stages.json` gets the time; None: no folder of this run is known.
        here: True to run it in this process, False in one of its own.
    """
    from mllm_srec.pipeline.runs.names import is_first_process
    from mllm_srec.pipeline.runs.stages import timed_stage

    print(f"$ {PROGRAM} {command} {shlex.join(arguments)}", flush=True)
    with timed_stage(run, command) if run is not None and is_first_process() else nullcontext():
        (run_here if here else _run_apart)(command, arguments)


def _run_apart(command: str, arguments: Sequence[str]) -> None:
    """Run a command in a process of its own."""
    status = run_process([sys.executable, "-m", "mllm_srec", command, *arguments])
    if status != 0:
        raise MllmSrecError(f"`{command}` ended with status {status}; see its output above")
