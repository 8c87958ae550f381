"""One schema for every command: the sections that a YAML file may have, whichever command reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllm_srec.cli.parser import ConfigFile, NearestNameMixin, Parser, plain
from mllm_srec.data.settings import (
    CandidateSettings,
    ColumnMapping,
    CorruptionSettings,
    DemoSettings,
    ItemFeatureSettings,
    PictureSettings,
    PrepareSettings,
)
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.summaries.settings import STAGES, StageSettings, SummarySettings

if TYPE_CHECKING:
    import jsonargparse


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


def prepare_settings(config: Any) -> PrepareSettings:
    """The `prepare` section of a parsed configuration as its dataclass."""
    values = plain(config)
    if isinstance(values, PrepareSettings):
        return values
    sections = {"columns": ColumnMapping, "demo": DemoSettings, "corruption": CorruptionSettings}
    made = {name: section(**plain(values[name])) for name, section in sections.items()}
    return PrepareSettings(**{**values, **made})


def candidate_settings(config: Any) -> CandidateSettings:
    """The `candidates` section of a parsed configuration as its dataclass."""
    values = plain(config)
    return values if isinstance(values, CandidateSettings) else CandidateSettings(**values)


def summary_settings(config: Any) -> SummarySettings:
    """The `summaries` section of a parsed configuration as its dataclass."""
    values = plain(config)
    if isinstance(values, SummarySettings):
        return values
    stages = {name: _stage_settings(plain(values[name])) for name in STAGES}
    return SummarySettings(**{**values, **stages})


def _stage_settings(values: Any) -> StageSettings:
    if isinstance(values, StageSettings):
        return values
    generation = plain(values["generation"])
    if not isinstance(generation, GenerationSettings):
        generation = GenerationSettings(**generation)
    return StageSettings(**{**values, "generation": generation})


def prompt_settings(config: Any) -> PromptSettings:
    """The `data.prompt` section of a parsed configuration as its dataclass."""
    values = plain(config)
    return values if isinstance(values, PromptSettings) else PromptSettings(**values)


def picture_settings(config: Any) -> PictureSettings:
    """The `data.pictures` section of a parsed configuration as its dataclass."""
    values = plain(config)
    return values if isinstance(values, PictureSettings) else PictureSettings(**values)
