"""From the settings of a run to its model, data and summaries, ready for ranking; weights are not read yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.loading.ranking_datamodule import ServedInputs
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.build import resolve_backbone, resolve_stages
from mllm_srec.summaries.inputs import SummaryInputs, read_summary_texts
from mllm_srec.summaries.on_arrival import SummaryArrivals
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.settings import SummarySettings
from mllm_srec.types import ConfigError

Settings = Mapping[str, Any]
"""Nested settings as in `config.yaml`."""


@dataclass(frozen=True)
class LoadedRun:
    """Parts of a run.

    Attributes:
        model: The recommender, without its backbone.
        datamodule: The data module, whose stores are open.
        arrivals: Writer of summaries for new items and histories; None if prompts are made of titles.
        accelerator: `trainer.accelerator`.
        precision: `trainer.precision`.
    """

    model: MLLMRecommender
    datamodule: PromptDataModule
    arrivals: SummaryArrivals | None
    accelerator: str
    precision: str


def load_run(settings: Settings) -> LoadedRun:
    """Load a run; prompts and pictures that are missing on disk are made again.

    Args:
        settings: Nested settings as in a run's `config.yaml`.

    Raises:
        ConfigError: The run is of a baseline, a setting is unknown to this version, the data set is not prepared, or
            summaries are missing.
    """
    if settings.get("baseline"):
        raise ConfigError(
            f"baseline={settings['baseline']['class_path'].rpartition('.')[2]!r}: baselines do not rank for single "
            "users; `test` with data.evaluator=full writes the first 100 items of every list to predictions/"
        )
    trainer = settings.get("trainer") or {}
    accelerator, precision = str(trainer.get("accelerator") or "auto"), str(trainer.get("precision") or "32-true")
    parser, config = _parse(settings)
    data = PreparedDataset.open(Path(config.data.root) / config.data.name)
    config.model.backbone = config.data.backbone = resolve_backbone(config.model.backbone, data)
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)  # renamed in jsonargparse 4.49
    built = instantiate(config)
    arrivals = _use_summaries(built.summaries, built.model, built.data, accelerator)
    _ = built.data.stores  # opened, and built if missing
    return LoadedRun(built.model, built.data, arrivals, accelerator, precision)


def _parse(settings: Settings) -> tuple[jsonargparse.ArgumentParser, Any]:
    """Parse the sections that decide scores with the classes of this version."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MLLMRecommender, "model")
    parser.add_class_arguments(PromptDataModule, "data")
    parser.add_argument("--summaries", type=SummarySettings, default=SummarySettings())
    sections = {name: dict(settings.get(name) or {}) for name in ("model", "data", "summaries")}
    sections["data"]["revision"] = sections["model"].get("revision")  # linked on the command line
    try:
        return parser, parser.parse_object(sections)
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(f"config.yaml: the settings of the run cannot be read by this version: {error}") from error


def _use_summaries(
    settings: SummarySettings, model: MLLMRecommender, datamodule: PromptDataModule, accelerator: str
) -> SummaryArrivals | None:
    """Have the data module serve the stored summaries, and return the writer that adds new ones."""
    if settings.variant == "none":
        return None
    backbone = model.settings
    resolved = resolve_stages(settings, datamodule.data)
    plan = SummaryPlan(
        datamodule.data, resolved, datamodule.prompt, datamodule.pictures, backbone.name, backbone.revision
    )
    inputs = SummaryInputs(plan)
    datamodule.use(ServedInputs(summaries=read_summary_texts(plan, inputs)))
    return SummaryArrivals(plan, inputs, accelerator)
