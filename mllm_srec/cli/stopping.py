"""Commands that are told to stop, by Ctrl-C or SIGTERM: one sentence on how to go on, and the exit status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from mllm_srec.files.signals import Stopped, stoppable

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

GOES_ON = "what is finished is kept; the same command goes on from there"

ANEW = "nothing was written; the same command starts again"

AFTER_STOP = {
    "prepare": "nothing is half written; the same command prepares again",
    "summarize": GOES_ON,
    "fit": "nothing was trained yet; the same command starts again",
    "validate": GOES_ON,
    "test": GOES_ON,
    "predict": GOES_ON,
    "run": f"{GOES_ON}, with the same --name",
    "grid": GOES_ON,
    "clean": "what was removed is made again when it is needed; the same command removes the rest",
}
"""Command -> how it goes on, where it does not say so itself; the others begin `ANEW`."""


def run_stoppable(command: str, call: Callable[[], None]) -> int:
    """Run a command until it is done or told to stop.

    Args:
        command: Name of the command.
        call: Function that runs it.

    Returns:
        Exit status: 0 done, 130 after Ctrl-C, 143 after SIGTERM.
    """
    try:
        with stoppable():
            call()
    except Stopped as stop:
        return _say_stopped(command, stop)
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning's Trainer ends with status 1 where it was interrupted, `summarize` with 143.
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            return _say_stopped(command, Stopped(signal.SIGINT))
        if isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM:
            return _say_stopped(command, Stopped(signal.SIGTERM))
        raise
    return 0


def stop_launched(trainer: Trainer) -> None:
    """Tell the processes that a Trainer forked or spawned to stop, and wait until they have saved.

    This process only waits for them, and Python would wait for the end of their training. Processes of the other
    strategies train together with this one, and agree with it.

    Args:
        trainer: The Trainer, whose method was stopped in this process.
    """
    from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher

    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        launcher.kill(signal.SIGTERM)
        for process in launcher.procs:
            process.join()


def _say_stopped(command: str, stop: Stopped) -> int:
    """Say on the first process how to go on, and return the exit status."""
    from mllm_srec.pipeline.runs.names import is_first_process

    if is_first_process():
        advice = stop.advice or AFTER_STOP.get(command, ANEW)
        print(f"\nmllm_srec {command}: stopped by {stop.cause}; {advice}", file=sys.stderr, flush=True)
    return stop.status
