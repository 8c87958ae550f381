"""Keeps messages of libraries off the screen on which nobody can act; warnings about data, weights and runs stay.

What is muted is muted while our own calls last, and comes back afterwards: other code of the same process keeps its
messages and progress bars.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

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
    r"Checkpoint directory .* exists and is not empty",  # a run that is continued
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # the results say enough
)
"""Regular expressions of warnings, which match from their beginning."""

IRRELEVANT_MESSAGES = (
    *("litlogger", "LitLogger", "litmodels", "TPU available", "Restoring states from the checkpoint"),
    "Failed to load CPU gemm_4bit_forward",  # a faster 4-bit kernel for some processors, to be downloaded from a hub
)
"""Parts of log messages."""

TRAINER_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
LOGGERS = (*TRAINER_LOGGERS, "bitsandbytes.backends.cpu.ops")


class _DropIrrelevant(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(word in record.getMessage() for word in IRRELEVANT_MESSAGES)


class _DropNews(logging.Filter):
    """Drops what a Trainer says of its devices and the like; warnings and errors stay."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING


_IRRELEVANT, _NEWS = _DropIrrelevant(), _DropNews()

Undo = Callable[[], object]


class _Silence:
    """Something that is muted while anybody holds it; holders of several threads are counted, since it is global.

    Args:
        mute: Function that mutes what is not muted yet, and returns what undoes just that.
    """

    def __init__(self, mute: Callable[[], list[Undo]]) -> None:
        self._mute, self._lock = mute, RLock()
        self._n_holders, self._undo = 0, list[Undo]()

    def hold(self) -> None:
        """Mute, or keep muted."""
        with self._lock:
            self._n_holders += 1
            self._undo += self._mute()

    def release(self) -> None:
        """Undo it where nobody holds it any more: what was added here, not what others changed meanwhile."""
        with self._lock:
            self._n_holders -= 1
            while self._undo and not self._n_holders:
                self._undo.pop()()


def _mute_irrelevant() -> list[Undo]:
    undo = [one for name in LOGGERS for one in _filter(name, _IRRELEVANT)]
    for pattern in IRRELEVANT_WARNINGS:
        undo += _ignore(("ignore", re.compile(pattern, re.IGNORECASE), Warning, None, 0))
    return undo + _hide_loading_bars()


def _mute_news() -> list[Undo]:
    return [one for name in TRAINER_LOGGERS for one in _filter(name, _NEWS)]


def _filter(name: str, messages: logging.Filter) -> list[Undo]:
    logger = logging.getLogger(name)
    if messages in logger.filters:
        return []
    logger.addFilter(messages)
    return [lambda: logger.removeFilter(messages)]


def _ignore(entry: Any) -> list[Undo]:
    if entry in warnings.filters:
        return []
    warnings.filterwarnings("ignore", message=entry[1].pattern)
    return [lambda: warnings.filters.remove(entry) if entry in warnings.filters else None]  # type: ignore[attr-defined]


def _hide_loading_bars() -> list[Undo]:
    """Hide transformers' bars of loading weights, and leave those of downloads, which may take an hour."""
    logs: Any = sys.modules.get("transformers.utils.logging")
    if logs is None or not logs.is_progress_bar_enabled():
        return []
    hub = logs.hf_hub_utils
    downloads_shown = not hub.are_progress_bars_disabled()
    logs.disable_progress_bar()  # also those of downloads
    if downloads_shown:
        hub.enable_progress_bars()
    return [lambda: setattr(logs, "_tqdm_active", True)]


_irrelevant, _news = _Silence(_mute_irrelevant), _Silence(_mute_news)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Mute libraries within the block, or the decorated function, for users of our Python interface.

    Blocks may be nested and overlap in several threads. Beside what commands mute, a Trainer's lines about its devices
    are dropped.
    """
    _irrelevant.hold()
    _news.hold()
    try:
        yield
    finally:
        _news.release()
        _irrelevant.release()


def silence_loggers() -> None:
    """Filter log messages for good; for commands, before any library is imported, since some log at import."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_IRRELEVANT)


def silence_libraries() -> None:
    """Mute libraries for good; for commands, before anything is trained or predicted."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else every fork of a loader's worker warns
    import transformers.utils.logging  # noqa: F401 - so that its bars are found

    _irrelevant.hold()
