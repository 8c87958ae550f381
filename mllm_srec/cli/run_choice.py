"""The run folder of a Trainer command: that of its checkpoint, a new one, or one named after what differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from mllm_srec.cli.checks import unread_settings
from mllm_srec.cli.schema import RUNS, default_settings, stated_settings
from mllm_srec.data.loading.ranking_datamodule import RankingDataModule
from mllm_srec.pipeline.runs.changes import check_resume, check_same_model
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.names import is_first_process, new_run, run_for_checkpoint, run_of_checkpoint
from mllm_srec.types import ConfigError, Split


def choose_run(
    command: str, parser: LightningArgumentParser, config: Any, checkpoint: Mapping[str, Any] | None
) -> RunFolder:
    """Return the checkpoint's run folder, or a new one that can be written.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        parser: Parser of the command.
        config: Its parsed settings.
        checkpoint: Content of the checkpoint that they name, if any.

    Raises:
        ConfigError: The checkpoint cannot be continued, the name is taken, or the folder cannot be written.
    """
    root, fitting = Path(config.trainer.default_root_dir), command == "fit"
    origin = run_of_checkpoint(config.ckpt_path) if config.ckpt_path else None

    def compared() -> tuple[Mapping[str, Any], Mapping[str, Any], tuple[str, ...]]:
        return stated_settings(parser, config), default_settings(parser, config), unread_settings(config)

    if fitting and checkpoint is not None:
        check_resume(checkpoint, origin, *compared())
    if origin is not None:
        run = run_for_checkpoint(origin, root, RUNS, config.data.name, config.name, Path(config.ckpt_path))
    else:
        run = new_run(root, config.data.name, config.name, int(config.seed_everything))
        if fitting and is_first_process() and run.holds_work():
            hint = f", or continue it with --ckpt_path {run.last}" if run.last.exists() else ""
            raise ConfigError(f"{run.path} holds a run already; choose another --name{hint}")
        if not fitting and is_first_process():
            check_same_model(run, *compared())
    if not config.trainer.fast_dev_run:
        run.check_writable()
    return run


def separate_run(run: RunFolder, split: Split, datamodule: RankingDataModule, protocol: Mapping[str, Any]) -> RunFolder:
    """Return the run folder, or one named after what differs if that holds other data or another protocol.

    Args:
        run: Folder from `choose_run`.
        split: Split that is measured.
        datamodule: What is measured.
        protocol: How it is measured.
    """
    of_data = run.for_data(str(datamodule.name), datamodule.data.candidates_hash)
    chosen = of_data.for_protocol(split, protocol)
    if chosen.path != run.path and is_first_process():
        print(f"{run.path} holds results of other data or another protocol; writing to {chosen.path}")
    return chosen
