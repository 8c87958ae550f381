"""Callbacks of a command's Trainer: checkpoints and signs of life in `fit`, else the writer of predictions."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping

from mllm_srec.cli.loggers import StartMessage
from mllm_srec.cli.progress_lines import ProgressLines, on_terminal
from mllm_srec.pipeline.evaluation.prediction_writer import PredictionWriter
from mllm_srec.pipeline.evaluation.wandb_examples import ExampleTable
from mllm_srec.pipeline.model_kinds import Experiment
from mllm_srec.pipeline.runs.checkpoints import RunCheckpoint, StayStopped
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.pipeline.runs.last_checkpoint import LastCheckpoint, OwnSignals


def make_callbacks(
    command: str, config: Any, experiment: Experiment, run: RunFolder, identity: str | None
) -> list[Callback]:
    """Make our callbacks of a command.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        config: Parsed settings of the command.
        experiment: The model with its data.
        run: Run folder of the command.
        identity: Hash of what decides the scores of an evaluation; None where none is written.
    """
    dry = bool(config.trainer.fast_dev_run)
    examples: list[Callback] = [ExampleTable()] if config.tracking.wandb and not dry else []
    always: list[Callback] = [OwnSignals(), *([] if on_terminal() else [ProgressLines()])]
    if command != "fit":
        written = [] if identity is None else [PredictionWriter(run.predictions, identity), *examples]
        return [*always, *written]
    if config.trainer.enable_checkpointing is False or dry:
        return [*always, StartMessage()]
    best = RunCheckpoint(run.checkpoints, "best", monitor=experiment.monitor)
    # Not `save_last`: that one is written only when the best one is, and a kill would lose what came since.
    last = LastCheckpoint(run.checkpoints)
    watching = [best, *_early_stopping(experiment)] if config.trainer.limit_val_batches != 0 else []
    return [*always, StartMessage(), *watching, last, *examples]


def _early_stopping(experiment: Experiment) -> list[Callback]:
    """Callbacks that end training where validations no longer become better, for models that want it."""
    if experiment.patience is None:
        return []
    # Not strict: training may end within its first epoch, before there is anything to judge.
    stopping = EarlyStopping(experiment.monitor, patience=experiment.patience, mode="max", strict=False)
    return [stopping, StayStopped()]
