"""Loggers of a command, and the line that names what is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from mllm_srec.cli.schema import TrackingSettings
from mllm_srec.data.loading.ranking_datamodule import RankingDataModule
from mllm_srec.pipeline.runs.folder import RunFolder


def make_loggers(run: RunFolder, command: str, tracking: TrackingSettings) -> list[Logger]:
    """Make the loggers of a command: CSV files, and Weights & Biases if the settings ask for it.

    Args:
        run: The run folder; every command logs into a folder of its own below `logs/`.
        command: Name of the command.
        tracking: Settings of Weights & Biases.
    """
    loggers: list[Logger] = [CSVLogger(run.logs, name=run.next_log(command), version="")]
    if tracking.wandb:
        run.logs.mkdir(parents=True, exist_ok=True)
        loggers.append(
            WandbLogger(
                name=f"{run.path.name} {command}",
                group=run.path.name,
                job_type=command,
                save_dir=str(run.logs),
                project=tracking.project,
                entity=tracking.entity,
                offline=tracking.offline,
                tags=list(tracking.tags),
            )
        )
    return loggers


def log_best(loggers: Sequence[Logger], results: Mapping[str, float]) -> None:
    """Make the results of the best checkpoint the summary of the run, by which a sweep judges it.

    Without this call the summary would hold the last validation.

    Args:
        loggers: Loggers of the Trainer.
        results: Metric -> value of the best checkpoint, such as `val/auc`.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(dict(results))


class StartMessage(pl.Callback):
    """Prints one line on what is about to be trained."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the number of trained weights and of training examples."""
        if not trainer.is_global_zero:
            return
        parameters = list(pl_module.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        # 4-bit weights hold two values per byte, so only trained weights can be counted exactly here
        message = f"training {trained:,} weights"
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(datamodule, RankingDataModule):
            message += f" on {datamodule.n_train_examples:,} examples of {datamodule.name}"
            message += f"; {datamodule.left_out}" if datamodule.left_out else ""
        print(message, flush=True)
