"""One schema for every command: the sections that a YAML file may have, whichever command reads it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml

from mllm_srec.cli.parser import ConfigFile, NearestNameMixin, Parser, instantiate, plain
from mllm_srec.data.settings import (
    CandidateSettings,
    ItemFeatureSettings,
    PrepareSettings,
)
from mllm_srec.files.folders import check_folder_name
from mllm_srec.summaries.settings import SummarySettings

Settings = TypeVar("Settings")

PROGRAM = "python -m mllm_srec"
"""Beginning of every command that is printed as a hint."""

RUNS = "runs"
"""Default of `trainer.default_root_dir`."""


@dataclass(frozen=True)
class DataLocation:
    """Location of a data set; the further settings of the `data` section are shown by `fit --help`.

    Args:
        root: Folder of all data sets.
        name: Folder of this data set below `root`.
    """

    root: str = "data"
    name: str = "demo"


@dataclass(frozen=True)
class TrackingSettings:
    """Experiment tracking in addition to the CSV files of the run folder.

    Args:
        wandb: True to log to Weights & Biases as well.
        project: Name of the project at Weights & Biases.
        entity: Team or user at Weights & Biases; null for the account's default.
        offline: True to write locally; `wandb sync` uploads the files later.
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
    """Add our own sections: `name`, `prepare`, `candidates`, `summaries`, `item_features`, `tracking`."""
    parser.add_argument(
        "--name", type=str | None, default=None, help="Name of the run's folder; without one, the time and the seed."
    )
    parser.add_argument("--prepare", type=PrepareSettings, default=PrepareSettings())
    parser.add_argument("--candidates", type=CandidateSettings, default=CandidateSettings())
    parser.add_argument("--summaries", type=SummarySettings, default=SummarySettings())
    parser.add_argument("--item_features", type=ItemFeatureSettings, default=ItemFeatureSettings())
    parser.add_argument("--tracking", type=TrackingSettings, default=TrackingSettings())


def add_baseline(parser: jsonargparse.ArgumentParser) -> None:
    """Add `baseline`: a model in place of the recommender, with the same `data`, `trainer` and other sections."""
    from mllm_srec.baselines.base import ItemRecommender

    parser.add_subclass_arguments(
        ItemRecommender,
        "baseline",
        required=False,
        default=None,
        help="A baseline in place of the recommender, such as those of configs/baselines.",
    )


def light_parser(command: str, description: str) -> Parser:
    """Make a parser of the sections that `prepare` uses, whose help appears without importing Lightning."""
    parser = Parser(prog=f"{PROGRAM} {command}", description=description)
    add_config_file(parser)
    parser.add_argument("--data", type=DataLocation, default=DataLocation())
    parser.add_argument("--prepare", type=PrepareSettings, default=PrepareSettings())
    parser.add_argument("--candidates", type=CandidateSettings, default=CandidateSettings())
    return parser


def full_parser(command: str, description: str) -> jsonargparse.ArgumentParser:
    """Make a parser of the whole schema, for commands that are not Trainer methods; imports Lightning."""
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
    """Return the seed as a number.

    Raises:
        ValueError: The seed is true or false: Lightning would draw one that data and model do not learn of.
    """
    if isinstance(value, bool):
        raise ValueError(f"seed_everything={str(value).lower()}: not a seed; give a whole number, such as 0")
    return value


def link_sections(parser: jsonargparse.ArgumentParser) -> None:
    """Set our defaults of the Trainer, and link values that two sections share."""
    parser.set_defaults(
        {
            "trainer.default_root_dir": RUNS,
            "trainer.use_distributed_sampler": False,  # it would repeat examples to give all processes as many
            "trainer.enable_model_summary": False,  # one printed line names what is trained
            "trainer.log_every_n_steps": 10,
        }
    )
    parser.link_arguments("model.backbone", "data.backbone")
    parser.link_arguments("model.revision", "data.revision")
    parser.link_arguments("seed_everything", "data.seed", compute_fn=_seed)
    parser.link_arguments("seed_everything", "model.seed", compute_fn=_seed)


def stated_settings(parser: jsonargparse.ArgumentParser, config: Any) -> dict[str, Any]:
    """Return every parsed setting as plain values, in the form of a run's `config.yaml`."""
    dumped: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_link_targets=True, skip_none=False))
    return dumped


def default_settings(parser: jsonargparse.ArgumentParser, config: Any) -> dict[str, Any]:
    """Return what `stated_settings` returns where nothing is given but the class of the baseline.

    Args:
        parser: Parser of the command.
        config: Parsed settings of the command.
    """
    stated = stated_settings(parser, parser.parse_args([]))
    if config.baseline is not None:
        of_class = Parser()
        of_class.add_class_arguments(baseline_class(config), "init_args")
        stated["baseline"] = {"class_path": config.baseline.class_path, **plain(of_class.get_defaults())}
    return stated


def baseline_class(config: Any) -> Any:
    """Import the class that `baseline.class_path` names."""
    module, _, name = config.baseline.class_path.rpartition(".")
    return getattr(import_module(module), name)


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

    Raises:
        ConfigError: `data.name` is not a folder name.
    """
    check_folder_name("data.name", config.data.name, "beauty")
    folder = Path(config.data.root) / config.data.name
    return folder, as_settings(PrepareSettings, config.prepare), as_settings(CandidateSettings, config.candidates)
