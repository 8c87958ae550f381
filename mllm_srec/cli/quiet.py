"""Silences library messages that users of our commands cannot act on; warnings about the run itself stay."""

from __future__ import annotations

import logging
import os
import warnings

IRRELEVANT_WARNINGS = (
    r"LightningCLI's args parameter",  # our dispatcher passes the arguments
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning on a newer torch
    r"Found \d+ module\(s\) in eval mode",  # the frozen vision tower, on purpose
    r".*does not have many workers",  # packing a batch takes milliseconds
    r"It is recommended to use `self\.log\(.*sync_dist=True\)`",  # our metrics are synchronised before they are logged
    r"`is_gradient_checkpointing` is deprecated",  # peft on a newer transformers
    r".*torch\.jit\.script_method.*is deprecated",
    r"predict returned None",  # the extraction of features writes its own files
    r"You are using a custom batch sampler `(GroupBatch|TokenBudget)Sampler`",  # they return every example
    r"Be aware that when using `ckpt_path`",  # `test` needs no checkpoint callback
    r"You're resuming from a checkpoint that ended before the epoch ended",  # our sampler goes on in mid-epoch
    r"Checkpoint directory .* exists and is not empty",  # a run that is continued
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # the results say enough
)
IRRELEVANT_MESSAGES = (
    *("litlogger", "LitLogger", "litmodels", "TPU available", "Restoring states from the checkpoint"),
    "Failed to load CPU gemm_4bit_forward",  # a faster 4-bit kernel for some processors, to be downloaded from a hub
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
    """Filter log messages; call it before any library is imported, since some log at import."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_DropIrrelevant())


def silence_libraries() -> None:
    """Filter warnings and progress bars; call it before anything is trained or predicted."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else every fork of a loader's worker warns
    for pattern in IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
