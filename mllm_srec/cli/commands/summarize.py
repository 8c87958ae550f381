"""`summarize`: the three summary stages as prediction loops."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

from mllm_srec.cli.parser import plain
from mllm_srec.cli.schema import (
    PROGRAM,
    as_settings,
    dataset_settings,
    full_parser,
    light_parser,
)
from mllm_srec.data.settings import PictureSettings
from mllm_srec.files.quiet import silence_libraries
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.summaries.settings import STAGES, Stage, SummarySettings
from mllm_srec.types import ConfigError

if TYPE_CHECKING:
    import jsonargparse
    from lightning.pytorch import Trainer

    from mllm_srec.summaries.plan import SummaryPlan

DESCRIPTION = (
    "Write image summaries (VIU), item summaries (IMSG) and preferences (TUBC), each where it is missing: a run that "
    "was killed continues. Devices and the like are those of the `trainer` section; the whole configuration file is "
    "read and checked, the sections of its own are shown here."
)
TRAINER = ("accelerator", "strategy", "devices", "num_nodes", "enable_progress_bar")
"""Settings of the `trainer` section that concern prediction."""


def main(command: str, arguments: list[str]) -> None:
    """Write the missing summaries of a configuration."""
    if {"-h", "--help"} & set(arguments):
        parser = light_parser(command, DESCRIPTION)
        parser.add_argument("--summaries", type=SummarySettings, default=SummarySettings())
        add_flags(parser)
        parser.parse_args(["--help"])
    silence_libraries()
    full = full_parser(command, DESCRIPTION)
    add_flags(full)
    config = full.parse_args(arguments)
    from mllm_srec.cli.checks import check_typed
    from mllm_srec.cli.devices import check_devices
    from mllm_srec.files.folders import build_lock
    from mllm_srec.pipeline.runs.names import is_first_process
    from mllm_srec.reports.terminal.preparation import print_quality
    from mllm_srec.summaries.run import Summarizer

    alone = config.clone()
    alone.baseline = None  # summaries are written for the recommender, whatever else the file chooses
    check_typed(arguments, alone)
    check_devices(config.trainer)
    plan = summary_plan(config, shlex.join([*PROGRAM.split(), "prepare", *arguments]))
    summarizer = Summarizer(plan, _trainer(config.trainer), print_quality)
    summarizer.meet()
    # One command at a time: two of several processes each could hold the shards that the other waits for.
    with build_lock(plan.data.folder / "summaries") if is_first_process() else nullcontext():
        summarizer.run(STAGES if config.stage == "all" else [config.stage])


def summary_plan(config: Any, prepare_command: str) -> SummaryPlan:
    """The plan of a parsed configuration; prepares the demo shop and resizes pictures where that is missing.

    Args:
        config: Parsed settings of any command.
        prepare_command: The command that would prepare the data set, for the error.
    """
    from mllm_srec.pipeline.build import ensure_prepared, resolve_backbone, resolve_stages
    from mllm_srec.summaries.plan import SummaryPlan

    folder, prepare, candidates = dataset_settings(config)
    data = ensure_prepared(folder, prepare, candidates, prepare_command)
    plan = SummaryPlan(
        data,
        resolve_stages(as_settings(SummarySettings, config.summaries), data),
        as_settings(PromptSettings, config.data.prompt),
        as_settings(PictureSettings, config.data.pictures),
        resolve_backbone(config.model.backbone, data),
        config.model.revision,
    )
    _ = plan.images
    return plan


def _trainer(config: Any) -> Trainer:
    """A Trainer for the loops, of the parsed `trainer` section."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.cli import instantiate_class

    from mllm_srec.summaries.run import summary_trainer

    settings = {name: plain(config[name]) for name in TRAINER}
    try:
        if isinstance(settings["strategy"], dict):
            settings["strategy"] = instantiate_class((), settings["strategy"])
        return summary_trainer(**settings)
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error


def add_flags(parser: jsonargparse.ArgumentParser) -> None:
    """Add the flags of this command alone."""
    parser.add_argument("--stage", type=Literal[Stage, "all"], default="all", help="Stage to write.")
