"""Settings of a run -> its model, its data and its summaries, ready to be asked; no weight is read yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.build import folder_lock, resolve_backbone, resolve_stages
from mllm_srec.summaries.inputs import SummaryInputs, read_summary_texts
from mllm_srec.summaries.on_arrival import SummaryArrivals
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.settings import SummarySettings
from mllm_srec.types import ConfigError

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class LoadedRun:
    """The parts of a run.

    Attributes:
        model: The recommender, without its backbone.
        datamodule: Its data; the stores are open.
        arrivals: Writes summaries of what is new; None where prompts are made of titles.
        accelerator: `trainer.accelerator`.
        precision: `trainer.precision`.
    """

    model: MLLMRecommender
    datamodule: PromptDataModule
    arrivals: SummaryArrivals | None
    accelerator: str
    precision: str


def load_run(settings: Settings) -> LoadedRun:
    """Put a run together; prompts and pictures that are missing on disk are made anew.

    Args:
        settings: Nested settings as in a run's `config.yaml`.

    Raises:
        ConfigError: It is a baseline's run, a setting is unknown to this version, the data set is not prepared, or
            summaries are missing.
    """
    if settings.get("baseline"):
        raise ConfigError(
            f"the run is of the baseline {settings['baseline']['class_path'].rpartition('.')[2]}, which is not asked "
            "for single users; `test` with data.evaluator=full writes its first 100 items of every list to predictions/"
        )
    parser, config = _parsed(settings)
    folder = Path(config.data.root) / config.data.name
    data = PreparedDataset.open(folder)
    with folder_lock(folder):
        config.model.backbone = config.data.backbone = resolve_backbone(config.model.backbone, data)
        # The name changes with version 4.49; ours may be older.
        built = getattr(parser, "instantiate", parser.instantiate_classes)(config)
        model, datamodule, summaries = built.model, built.data, built.summaries
        trainer = settings.get("trainer") or {}
        accelerator = str(trainer.get("accelerator") or "auto")
        arrivals = _use_summaries(summaries, model, datamodule, accelerator)
        _ = datamodule.stores
    return LoadedRun(model, datamodule, arrivals, accelerator, str(trainer.get("precision") or "32-true"))


def _parsed(settings: Settings) -> tuple[jsonargparse.ArgumentParser, Any]:
    """The sections that decide scores, checked against this version."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MLLMRecommender, "model")
    parser.add_class_arguments(PromptDataModule, "data")
    parser.add_argument("--summaries", type=SummarySettings, default=SummarySettings())
    sections = {name: dict(settings.get(name) or {}) for name in ("model", "data", "summaries")}
    sections["data"]["revision"] = sections["model"].get("revision")  # links of the command line
    try:
        return parser, parser.parse_object(sections)
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(f"the settings of the run cannot be read by this version: {error}") from error


def _use_summaries(
    settings: SummarySettings, model: MLLMRecommender, datamodule: PromptDataModule, accelerator: str
) -> SummaryArrivals | None:
    """Give the data module the stored summaries, in a form that new ones can be added to."""
    if settings.variant == "none":
        return None
    own = model.settings
    resolved = resolve_stages(settings, datamodule.data)
    plan = SummaryPlan(datamodule.data, resolved, datamodule.prompt, datamodule.pictures, own.name, own.revision)
    inputs = SummaryInputs(plan)
    datamodule.use_summaries(read_summary_texts(plan, inputs))
    return SummaryArrivals(plan, inputs, accelerator)
