"""One schema for every command: the sections that a YAML file may have, whichever command reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse

from mllm_srec.cli.parser import ConfigFile, NearestNameMixin, Parser, instantiate, plain
from mllm_srec.data.settings import (
    CandidateSettings,
    ItemFeatureSettings,
    PrepareSettings,
)
from mllm_srec.summaries.settings import SummarySettings

Settings = TypeVar("Settings")

PROGRAM = "python -m mllm_srec"
"""How commands are called; every hint that is printed begins with it."""

RUNS = "runs"
"""Default of `trainer.default_root_dir`."""


@dataclass(frozen=True)
class DataLocation:
    """Where data sets live; the `data` section has further settings, which `fit --help` shows.

    Args:
        root: Folder of all data sets.
        name: Folder of this data set below `root`.
    """

    root: str = "data"
    name: str = "demo"


@dataclass(frozen=True)
class TrackingSettings:
    """Experiment tracking beside the CSV files of the run folder.

    Args:
        wandb: Log to Weights & Biases too.
        project: Project there.
        entity: Team or user there; null is the account's default.
        offline: Write locally, to be uploaded later with `wandb sync`.
        tags: Tags of the run.
    """

    wandb: bool = False
    project: str = "mllm_srec"
    entity: str | None = None
    offline: bool = False
    tags: tuple[str, ...] = ()


def add_config_file(parser: jsonargparse.ArgumentParser) -> None:
    """Add `--config`, which may be given several times."""
    parser.add_argument("-c", "--config", action=ConfigFile, help="Configuration file in YAML; flags after it win.")


def add_own_sections(parser: jsonargparse.ArgumentParser) -> None:
    """Add the sections that are ours: `name`, `prepare`, `candidates`, `summaries`, `item_features`, `tracking`."""
    parser.add_argument(
        "--name", type=str | None, default=None, help="Name of the run's folder; without one, the time and the seed."
    )
    parser.add_argument("--prepare", type=PrepareSettings, default=PrepareSettings())
    parser.add_argument("--candidates", type=CandidateSettings, default=CandidateSettings())
    parser.add_argument("--summaries", type=SummarySettings, default=SummarySettings())
    parser.add_argument("--item_features", type=ItemFeatureSettings, default=ItemFeatureSettings())
    parser.add_argument("--tracking", type=TrackingSettings, default=TrackingSettings())


def add_baseline(parser: jsonargparse.ArgumentParser) -> None:
    """Add `baseline`: a model in place of the recommender, which `data`, `trainer` and the other sections serve too."""
    from mllm_srec.baselines.base import ItemRecommender

    parser.add_subclass_arguments(
        ItemRecommender,
        "baseline",
        required=False,
        default=None,
        help="A baseline in place of the recommender, such as those of configs/baselines.",
    )


def light_parser(command: str, description: str) -> Parser:
    """Parser with what `prepare` uses itself, for a help that appears at once."""
    parser = Parser(prog=f"{PROGRAM} {command}", description=description)
    add_config_file(parser)
    parser.add_argument("--data", type=DataLocation, default=DataLocation())
    parser.add_argument("--prepare", type=PrepareSettings, default=PrepareSettings())
    parser.add_argument("--candidates", type=CandidateSettings, default=CandidateSettings())
    return parser


def full_parser(command: str, description: str) -> jsonargparse.ArgumentParser:
    """Parser of the whole schema, for commands that are no Trainer methods; imports Lightning."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.cli import LightningArgumentParser

    from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
    from mllm_srec.models.recommender import MLLMRecommender

    class FullParser(NearestNameMixin, LightningArgumentParser):
        """Lightning's parser with our errors."""

    parser = FullParser(prog=f"{PROGRAM} {command}", description=description)
    add_config_file(parser)
    parser.add_argument("--seed_everything", type=bool | int, default=0, help="Seed of everything but the data.")
    parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint to continue from or to test.")
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_lightning_class_args(MLLMRecommender, "model")
    parser.add_lightning_class_args(PromptDataModule, "data")
    add_own_sections(parser)
    add_baseline(parser)
    link_sections(parser)
    return parser


def _seed(value: bool | int) -> int:
    """The seed as a number; `true` would draw one that data and model do not learn of.

    Raises:
        ValueError: It is a truth value.
    """
    if isinstance(value, bool):
        raise ValueError(f"seed_everything={str(value).lower()} is no seed; give a whole number, such as 0")
    return value


def link_sections(parser: jsonargparse.ArgumentParser) -> None:
    """Our defaults of the Trainer, and values that are given once and used in two sections."""
    parser.set_defaults(
        {
            "trainer.default_root_dir": RUNS,
            "trainer.use_distributed_sampler": False,  # it would count examples twice to even out processes
            "trainer.enable_model_summary": False,  # one line says what is trained
            "trainer.log_every_n_steps": 10,
        }
    )
    parser.link_arguments("model.backbone", "data.backbone")
    parser.link_arguments("model.revision", "data.revision")
    parser.link_arguments("seed_everything", "data.seed", compute_fn=_seed)
    parser.link_arguments("seed_everything", "model.seed", compute_fn=_seed)


def as_settings(kind: type[Settings], section: Any) -> Settings:
    """Make a section of a parsed configuration into its dataclass, nested ones included.

    Args:
        kind: The dataclass of the section, such as `PrepareSettings`.
        section: The section as the parser left it, or an instance of `kind`, which is returned as it is.
    """
    if isinstance(section, kind):
        return section
    parser = Parser()
    parser.add_argument("--section", type=kind)
    made: Settings = instantiate(parser, parser.parse_object({"section": plain(section)})).section
    return made


def dataset_settings(config: Any) -> tuple[Path, PrepareSettings, CandidateSettings]:
    """Return what identifies a data set: its folder, how it is prepared, and how its candidates are drawn.

    Args:
        config: Parsed settings of any command.
    """
    folder = Path(config.data.root) / config.data.name
    return folder, as_settings(PrepareSettings, config.prepare), as_settings(CandidateSettings, config.candidates)
