"""What is muted, for how long, and what never is."""

import logging
import subprocess
import sys
import threading
import warnings

import pytest
from transformers.utils import logging as transformers_logging

from mllm_srec.files import quiet
from mllm_srec.files.quiet import IRRELEVANT_WARNINGS, quiet_libraries

TRAINER = logging.getLogger("lightning.pytorch.utilities.rank_zero")
KERNELS = logging.getLogger("bitsandbytes.backends.cpu.ops")


@pytest.fixture(autouse=True)
def nothing_muted(monkeypatch):
    """Begin as a fresh process does: commands that other tests call within this one mute for good."""
    monkeypatch.setattr(quiet, "_irrelevant", quiet._Silence(quiet._mute_irrelevant))
    monkeypatch.setattr(quiet, "_news", quiet._Silence(quiet._mute_news))
    for name in quiet.LOGGERS:
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "filters", [one for one in logger.filters if one is not quiet._IRRELEVANT])
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.enable_progress_bar()
    with warnings.catch_warnings():
        warnings.resetwarnings()
        yield
    if not shown:
        transformers_logging.disable_progress_bar()


@pytest.fixture
def heard():
    """Messages that came through."""
    found = []

    class Ear(logging.Handler):
        def emit(self, record):
            found.append(record.getMessage())

    ear = Ear()
    for logger in (TRAINER, KERNELS, logging.getLogger("mine")):
        logger.addHandler(ear)
    levels = [(logger, logger.level) for logger in (TRAINER, KERNELS)]
    for logger, _ in levels:
        logger.setLevel(logging.INFO)
    yield found
    for logger in (TRAINER, KERNELS, logging.getLogger("mine")):
        logger.removeHandler(ear)
    for logger, level in levels:
        logger.setLevel(level)


def say():
    TRAINER.info("GPU available: False, used: False")
    TRAINER.info("TPU available: False, using: 0 TPU cores")
    TRAINER.warning("the loss is NaN")
    KERNELS.warning("Failed to load CPU gemm_4bit_forward from kernels-community: no network")
    KERNELS.error("weights are broken")
    logging.getLogger("mine").warning("my own")


def test_messages_return_with_the_last_of_several_blocks(heard):
    wanted = ["the loss is NaN", "weights are broken", "my own"]
    with quiet_libraries():
        with quiet_libraries():
            say()
        say()
    assert heard == wanted * 2
    heard.clear()
    say()
    assert len(heard) == 6


def test_warnings_and_what_was_added_meanwhile():
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with warnings.catch_warnings(record=True) as caught, quiet_libraries():
            warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=1)
            warnings.warn("other prompts", UserWarning, stacklevel=1)
        assert [str(one.message) for one in caught] == ["other prompts"]
        with quiet_libraries():
            warnings.filterwarnings("error", message="the user's own")
        assert list(warnings.filters)[1:] == before
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=IRRELEVANT_WARNINGS[0])  # the user's own choice stays
        before = list(warnings.filters)
        with quiet_libraries():
            pass
        assert list(warnings.filters) == before


def test_bars_of_loading_and_not_those_of_downloads():
    from huggingface_hub.utils import are_progress_bars_disabled

    assert transformers_logging.is_progress_bar_enabled()
    with quiet_libraries():
        assert not transformers_logging.is_progress_bar_enabled()
        assert not are_progress_bars_disabled()
    assert transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with quiet_libraries():
            pass
        assert not transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.enable_progress_bar()


def test_blocks_of_several_threads_overlap(heard):
    inside, leave = threading.Event(), threading.Event()

    @quiet_libraries()
    def work():
        inside.set()
        leave.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(10)
    with quiet_libraries():
        pass
    say()
    leave.set()
    thread.join()
    assert len(heard) == 3
    say()
    assert len(heard) == 9


def test_what_commands_muted_stays_muted():
    code = """
import logging, warnings
from mllm_srec.files.quiet import quiet_libraries, silence_libraries, silence_loggers
silence_loggers(), silence_libraries()
with quiet_libraries():
    pass
from transformers.utils import logging as bars
names = ("lightning.pytorch.utilities.rank_zero", "bitsandbytes.backends.cpu.ops")
filters = [[type(one).__name__ for one in logging.getLogger(name).filters] for name in names]
kept = [[name for name in found if name.startswith("_Drop")] for found in filters]
print(bars.is_progress_bar_enabled(), kept, sum(entry[0] == "ignore" for entry in warnings.filters) > 12)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False [['_DropIrrelevant'], ['_DropIrrelevant']] True\n"
