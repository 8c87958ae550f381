"""What a command logs to, and the line that says what is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from mllm_srec.cli.schema import TrackingSettings
from mllm_srec.data.loading.ranking_datamodule import RankingDataModule
from mllm_srec.pipeline.runs.folder import RunFolder


def make_loggers(run: RunFolder, command: str, tracking: TrackingSettings) -> list[Logger]:
    """CSV files in a folder of their own for every command, and Weights & Biases where that is wanted."""
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
    """Make the best checkpoint's results the summary of the run, which a sweep judges by; else the last ones were.

    Args:
        loggers: Of the Trainer.
        results: Names such as `val/auc`.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(dict(results))


class StartMessage(pl.Callback):
    """Says in one line what is about to be trained."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print how many weights are trained, on how many contexts."""
        if not trainer.is_global_zero:
            return
        parameters = list(pl_module.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        # 4-bit weights hold two values a byte, so only what is trained can be counted exactly here
        message = f"training {trained:,} weights"
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(datamodule, RankingDataModule):
            message += f" on {datamodule.n_train_examples:,} examples of {datamodule.name}"
            message += f"; {datamodule.left_out}" if datamodule.left_out else ""
        print(message, flush=True)
