"""The first second of a command: wrong names and values end it before torch and Lightning are imported."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from mllm_srec.cli.messages import unclear_values
from mllm_srec.cli.parser import Parser, suggestion
from mllm_srec.cli.schema import PROGRAM, add_config_file, add_own_sections
from mllm_srec.cli.signatures import class_names, settings_class
from mllm_srec.cli.tracking import check_tracking
from mllm_srec.cli.words import flags, mapping, without_flags
from mllm_srec.pipeline.runs.names import is_first_process
from mllm_srec.types import did_you_mean

SECTIONS = {
    "trainer": ("lightning.pytorch.trainer.trainer", "Trainer"),
    "model": ("mllm_srec.models.recommender", "MLLMRecommender"),
    "data": ("mllm_srec.data.loading.prompt_datamodule", "PromptDataModule"),
}
"""Section -> module and class whose arguments it holds."""

METHOD_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "fit": (),
    "validate": ("verbose",),
    "test": ("verbose",),
    "predict": ("return_predictions",),
}
"""Command -> arguments of the Trainer's method that are flags, too."""

OWN_FLAGS = {"summarize": "summarize", "rank": "rank", "clean": "clean"}
"""Command -> its file in `cli/commands/`, whose `add_flags` adds the flags that only it has."""

COMMANDS = ("prepare", "run", *METHOD_ARGUMENTS, *OWN_FLAGS)
"""Commands that take the whole schema."""

TRACKED = ("run", *METHOD_ARGUMENTS)
"""Commands that log to the tracker."""

THREADS_WAIT = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables that say how OpenMP's threads wait."""

BRIEF_WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
"""Threads that wait sleep; those of GCC's OpenMP, which torch brings, after having spun for some microseconds.

Between two steps of a product they meet again sooner than that, so that a machine of their own costs nothing
(`experiments/bench_busy.py`); without the second variable it costs a quarter.
"""

BASELINES = "mllm_srec.baselines"


class EarlyParser(Parser):
    """Parser of the whole schema that imports none of the classes; what only they can check is left out."""

    free: tuple[str, ...] = ()
    """Dotted names whose content only an import could check."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.baselines: list[Any] = []
        """Sections `baseline` of the files that were read."""


def check_early(command: str, arguments: Sequence[str]) -> None:
    """End the process with status 2 and an explanation if a name or a value of a command line is wrong.

    What passes is checked again, and completely, by the command's own parser.

    Args:
        command: One of `COMMANDS`.
        arguments: Its arguments.

    Raises:
        ConfigError: Results are to be tracked where that is impossible.
    """
    typed = [(name, value) for name, value, _ in flags(arguments)]
    if any(name in ("h", "help") or name.startswith("print_config") or name.endswith(".help") for name, _ in typed):
        return
    parser = early_parser(command)
    of_settings = {name: value for name, value in typed if "." in name or name in ("name", "ckpt_path")}
    if unclear := list(unclear_values(of_settings)):
        parser.error("\n".join(unclear))
    config = parser.parse_args(without_flags(arguments, parser.free))
    _check_baseline(parser, typed)
    dry = "trainer" in config and bool(getattr(config.trainer, "fast_dev_run", False))  # which logs nothing
    if command in TRACKED and is_first_process() and not dry:
        check_tracking(config.tracking)


def early_parser(command: str) -> EarlyParser:
    """Make the parser of a command.

    Args:
        command: One of `COMMANDS`.
    """
    parser = EarlyParser(prog=f"{PROGRAM} {command}")
    add_config_file(parser)
    parser.add_argument("--seed_everything", type=bool | int, default=0)
    parser.add_argument("--ckpt_path", type=str | None, default=None)
    for section, (module, name) in SECTIONS.items():
        try:
            kind = settings_class(module, name)
        except LookupError:  # a library may keep its class elsewhere in another version, or come without source
            parser.add_argument(f"--{section}", type=Any, default=None)
            parser.free += (section,)
        else:
            parser.add_argument(f"--{section}", type=kind, default=kind())
            parser.free += tuple(_free(kind, f"{section}."))
    add_own_sections(parser)
    parser.add_argument("--baseline", type=Any, default=None)
    for name in METHOD_ARGUMENTS.get(command, ()):
        parser.add_argument(f"--{name}", type=Any, default=None)
    if command in OWN_FLAGS:
        import_module(f"mllm_srec.cli.commands.{OWN_FLAGS[command]}").add_flags(parser)
    parser.free += ("baseline", *METHOD_ARGUMENTS.get(command, ()))
    return parser


def let_waiting_threads_sleep() -> None:
    """Have torch's threads sleep while they wait; call it before torch is imported.

    They would spin, and where other programs keep the cores busy, wait for each other for whole time slices. What the
    user set stays.
    """
    if not any(name in os.environ for name in THREADS_WAIT):
        os.environ.update(BRIEF_WAIT)


def say_start(command: str, arguments: Sequence[str]) -> None:
    """Print a command's first line, on stderr: what follows waits for imports of several seconds."""
    light_help = command not in METHOD_ARGUMENTS and {"-h", "--help"} & set(arguments)
    if is_first_process() and not light_help:
        files = [value for name, value, _ in flags(arguments) if name in ("config", "c")]
        print(f"mllm_srec {command}: {', '.join([*files, 'loading libraries'])}", file=sys.stderr, flush=True)


def _free(kind: Any, prefix: str) -> list[str]:
    """Dotted names of a settings class, nested ones included, that accept anything here."""
    found: list[str] = []
    for entry in fields(kind):
        if hasattr(entry.type, "__dataclass_fields__"):
            found += _free(entry.type, f"{prefix}{entry.name}.")
        elif entry.type is Any:
            found.append(f"{prefix}{entry.name}")
    return found


def _check_baseline(parser: EarlyParser, typed: Sequence[tuple[str, str]]) -> None:
    """End with an error if the baseline, or a setting of one of ours, does not exist or has a wrong value."""
    sections = [*parser.baselines, *_baseline_flags(typed)]
    for section in sections:
        if (wrong := _wrong_section(section)) is not None:
            parser.error(f"baseline={wrong!r}: is no baseline; give the name of a class, or class_path and init_args")
    name, settings = _chosen_baseline(sections)
    if name is None or name.startswith("{") or Path(name).is_file():
        return
    if "." in name and not name.startswith(f"{BASELINES}."):
        return  # of another package
    known = {path.rpartition(".")[2]: path for path in class_names(BASELINES)}
    if name not in known.values():
        nearest = did_you_mean(name.rpartition(".")[2], known) or "; see docs/baselines.md"
        parser.error(f"baseline={name!r}: no such class{nearest}")
    try:
        kind = settings_class(*name.rsplit(".", 1))
    except LookupError:  # a class of another package's kind, which is no baseline: the real parser says so
        return
    names = [entry.name for entry in fields(kind)]
    if unknown := [suggestion(setting, names) for setting in settings if setting not in names]:
        parser.error(f"baseline: {name}: " + "\n".join(unknown))
    values = Parser(prog=parser.prog)
    values.add_argument("--baseline", type=kind, default=kind())
    values.parse_args([f"--baseline.{setting}={value}" for setting, value in settings.items()])


def _wrong_section(section: Any) -> Any:
    """Return what is wrong in a section `baseline`; None if it has the form of one."""
    if not isinstance(section, Mapping):
        return section if section is not None and not isinstance(section, str) else None
    if not isinstance(section.get("class_path"), str | None):
        return section["class_path"]
    given = section.get("init_args")
    named = given is None or (isinstance(given, Mapping) and all(isinstance(name, str) for name in given))
    return None if named else section


def _chosen_baseline(sections: Sequence[Any]) -> tuple[str | None, dict[str, str]]:
    """Return the class that files and flags choose together, and its settings, as texts."""
    chosen: str | None = None
    settings: dict[str, str] = {}
    for section in sections:
        given = section if isinstance(section, Mapping) else {"class_path": section}
        if given.get("class_path", chosen) != chosen:
            chosen, settings = given["class_path"], {}
        for name, value in (given.get("init_args") or {}).items():
            settings[name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return chosen, settings


def _baseline_flags(typed: Sequence[tuple[str, str]]) -> Iterator[Any]:
    """Yield each flag of the baseline in the form of a section; its settings may be given without `init_args`."""
    for name, value in typed:
        if name in ("baseline", "baseline.class_path"):
            yield mapping(value) or (None if value == "null" else value)
        elif name in ("baseline.init_args", "baseline.dict_kwargs"):
            yield {"init_args": mapping(value) if name.endswith("init_args") else {}}
        elif name.startswith("baseline."):
            yield {"init_args": {name.removeprefix("baseline.").removeprefix("init_args."): value}}
