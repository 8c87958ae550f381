"""Silences messages of libraries that concern nobody who runs our commands; warnings about the run itself stay."""

from __future__ import annotations

import logging
import os
import warnings

IRRELEVANT_WARNINGS = (
    r"LightningCLI's args parameter",  # our own dispatcher hands the arguments over
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning on a newer torch
    r"Found \d+ module\(s\) in eval mode",  # the frozen vision tower, on purpose
    r".*does not have many workers",  # packed batches are put together in milliseconds
    r"It is recommended to use `self\.log\(.*sync_dist=True\)`",  # our metrics are synchronised before they are logged
    r"`is_gradient_checkpointing` is deprecated",  # peft on a newer transformers
    r".*torch\.jit\.script_method.*is deprecated",
    r"predict returned None",  # the extraction of features writes them itself
    r"You are using a custom batch sampler `(GroupBatch|TokenBudget)Sampler`",  # they return all, which tests prove
    r"Be aware that when using `ckpt_path`",  # a test needs no callback that keeps checkpoints
    r"Checkpoint directory .* exists and is not empty",  # a run that is continued
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # the results tell enough
)
IRRELEVANT_MESSAGES = (
    *("litlogger", "LitLogger", "litmodels", "TPU available", "Restoring states from the checkpoint"),
    "Failed to load CPU gemm_4bit_forward",  # a faster 4-bit product for some processors, to be fetched from a hub
)
LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "bitsandbytes.backends.cpu.ops",
)


class _DropIrrelevant(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(word in record.getMessage() for word in IRRELEVANT_MESSAGES)


def silence_loggers() -> None:
    """Filter messages; called before any library is imported, since some speak at once."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_DropIrrelevant())


def silence_libraries() -> None:
    """Filter warnings and bars; called before any command that trains or predicts."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else a warning at every fork of a loader's worker
    for pattern in IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
