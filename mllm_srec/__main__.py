"""`python -m mllm_srec COMMAND`: finds the file of a command in `cli/commands/` and imports it when it runs."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

from mllm_srec.cli.stopping import run_stoppable
from mllm_srec.files.faults import explain_full
from mllm_srec.files.quiet import silence_loggers
from mllm_srec.types import VERSION, MllmSrecError, did_you_mean

COMMANDS = {
    "prepare": ("prepare", "Raw reviews and pictures -> prepared data set."),
    "summarize": ("summarize", "Write image summaries, item summaries and preferences."),
    "fit": ("trainer", "Fine-tune the recommender; prepares the demo shop where it is missing."),
    "validate": ("trainer", "Measure a checkpoint on the validation split."),
    "test": ("trainer", "Measure a checkpoint on the test split; writes predictions/ and metrics.json."),
    "predict": ("trainer", "Score the candidate lists of the test split without measuring."),
    "rank": ("rank", "Rank items for a person, new items included, or for all users."),
    "run": ("run", "Every missing stage in order: prepare, summarize, fit, test."),
    "compare": ("compare", "Finished runs beside the first, user by user, with intervals and p-values."),
    "analyse": ("analyse", "Results of finished runs by history, cold items, popularity and kind of negative."),
    "grid": ("grid", "Every row of a table with every seed, then the table."),
    "report": ("report", "Results of grids and runs as one page, with tables and figures as files."),
    "clean": ("clean", "Stores of a data set that nothing refers to: list them, and remove them after asking."),
}
"""Command -> (module of `cli/commands/`, what it does)."""

USAGE = """usage: python -m mllm_srec COMMAND --config FILE [--section.key VALUE ...]

Multimodal sequential recommendation with multimodal large language models (MLLM-SRec).

commands:
{commands}

One YAML file serves every command, for instance configs/demo.yaml; dotted flags after it win, such as
  python -m mllm_srec fit --config configs/demo.yaml --trainer.max_epochs 2 --model.lr 1e-3
but `compare` and `analyse` take run folders: python -m mllm_srec compare RUN RUN [RUN ...]
`grid` the file of a table: python -m mllm_srec grid --config experiments/table3.yaml
and `report` results of grids: python -m mllm_srec report experiments/results/table3
`python -m mllm_srec COMMAND --help` lists a command's settings with their defaults."""


def main(argv: list[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        Exit status: 0 done, 1 an error that was explained, 2 a command line that is not understood, 130 stopped by
            Ctrl-C, 143 by SIGTERM.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())))
        return 0
    if arguments[0] == "--version":
        print(f"mllm_srec {VERSION}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS.keys()) or "."
        print(f"mllm_srec: there is no command {command!r}{hint} Commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return run_stoppable(command, lambda: _run(command, rest))
    except MllmSrecError as error:
        print(f"mllm_srec {command}: error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if (explained := explain_full(error)) is None and isinstance(error, RuntimeError | MemoryError):
            from mllm_srec.cli.devices import explain  # not before: a help page must not wait for it

            explained = explain(error)
        if explained is None:
            raise
        print(f"mllm_srec {command}: error: {explained}", file=sys.stderr)
        return 1


def _run(command: str, arguments: list[str]) -> None:
    """Look at the command line, then import the command and run it."""
    from mllm_srec.cli import early

    early.let_waiting_threads_sleep()
    if command in early.COMMANDS:
        early.check_early(command, arguments)
        early.say_start(command, arguments)
    silence_loggers()
    importlib.import_module(f"mllm_srec.cli.commands.{COMMANDS[command][0]}").main(command, arguments)


def run_process() -> int:
    """Run the command line of this process; a reader that has seen enough, such as `head`, ends it quietly.

    Returns:
        Exit status of `main`, or 141 as of other programs whose pipe was closed.
    """
    try:
        try:
            return main()
        finally:
            if sys.stdout is not None:  # None: closed from the beginning
                sys.stdout.flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):  # else Python would complain about what is still in their buffers
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 128 + 13


if __name__ == "__main__":
    sys.exit(run_process())
