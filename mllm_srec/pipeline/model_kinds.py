"""The two kinds of models that a command can run, and what each needs before, while and after a Trainer runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from inspect import signature
from typing import Any, Protocol

import polars as pl
import torch

from mllm_srec.baselines.base import ItemRecommender, check_item_identity
from mllm_srec.baselines.parts.train_data import ItemFeatures, TrainData
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.item_batches import Numbering
from mllm_srec.data.loading.item_datamodule import ItemDataModule
from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.loading.ranking_datamodule import RankingDataModule
from mllm_srec.data.settings import ItemFeatureSettings, PictureSettings
from mllm_srec.data.tables.interactions import in_time_order, is_liked
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.models.backbone_files import describe_backbone
from mllm_srec.models.checkpoint import check_identity, identity
from mllm_srec.models.ranking_module import RankingModule
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.build import resolve_stages
from mllm_srec.pipeline.features.items import item_features
from mllm_srec.pipeline.features.pictures import extract_features, frozen
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.reports.terminal.preparation import print_quality
from mllm_srec.summaries.requests import SummaryPlan
from mllm_srec.summaries.run import ensure_summaries, summary_accuracy, summary_tokens
from mllm_srec.summaries.settings import SummarySettings
from mllm_srec.types import Split


class Experiment(Protocol):
    """A model with its data, as the commands `fit`, `validate`, `test` and `predict` need it."""

    @property
    def model(self) -> RankingModule:
        """What is trained or measured."""

    @property
    def datamodule(self) -> RankingDataModule:
        """Its data."""

    @property
    def monitor(self) -> str:
        """Metric that chooses the best checkpoint; larger is better."""

    @property
    def patience(self) -> int | None:
        """Validations without a better `monitor` after which training ends; None never ends it."""

    @property
    def score_label(self) -> str:
        """Kind of score, a part of the protocol."""

    def use_inputs(self) -> None:
        """Give data and model what was computed before: called before the run folder is settled, under the lock."""

    def open_stores(self) -> Mapping[str, int]:
        """Open or build what is served; returns what to report of prompts."""

    def check(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of something else, before anything is written."""

    def identity(self) -> tuple[Any, ...]:
        """What decides the scores beside weights, protocol and data."""

    def facts(self) -> dict[str, Any]:
        """What results say of the model."""

    def summary_accuracy(self) -> Mapping[str, float]:
        """How right the summaries are, where the truth is known."""

    def tokens(self, stage: Split) -> Mapping[str, int]:
        """Tokens that the model is shown in a stage (`train`: in an epoch), and that its summaries have."""

    def load_best(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the weights of the best checkpoint."""

    def export(self, run: RunFolder) -> None:
        """Write the weights in a format of others, where there is one."""


class PromptExperiment:
    """The recommender that reads prompts.

    Args:
        model: The recommender.
        datamodule: Its prompts.
        summaries: Settings of the summaries that prompts are made of.
        command: The command that would write them, for errors.
    """

    monitor = "val/auc"
    patience = None

    def __init__(
        self, model: MLLMRecommender, datamodule: PromptDataModule, summaries: SummarySettings, command: str
    ) -> None:
        self.model, self.datamodule, self.summaries, self.command = model, datamodule, summaries, command
        self._accuracy: Mapping[str, float] = {}
        self._n_written: int | None = None

    @property
    def score_label(self) -> str:
        """`logit` or `literal`."""
        return self.model.score_kind

    def use_inputs(self) -> None:
        """Give the data module the stored summaries, written first where the demo shop lacks them."""
        if self.summaries.variant == "none":
            return
        model, data = self.model.settings, self.datamodule
        settings = resolve_stages(self.summaries, data.data)
        plan = SummaryPlan(data.data, settings, data.prompt, data.pictures, model.name, model.revision)
        data.use_summaries(ensure_summaries(plan, self.command, print_quality))
        self._accuracy, self._n_written = summary_accuracy(plan), summary_tokens(plan)

    def open_stores(self) -> Mapping[str, int]:
        """Build prompts and picture features where they are missing."""
        stores = self.datamodule.stores
        if self.datamodule.pictures.serve == "features" and stores.images is not None:
            self.datamodule.use_features(extract_features(stores.images, frozen(self.model.settings)))
        return asdict(stores.prompts.report)

    def check(self, checkpoint: Mapping[str, Any]) -> None:
        """The weights' names are compared when they are loaded."""
        settings = self.model.settings
        check_identity(checkpoint["mllm_srec"], identity(settings, describe_backbone(settings.name, settings.revision)))

    def identity(self) -> tuple[Any, ...]:
        """Backbone and its settings."""
        settings = self.model.settings
        return describe_backbone(settings.name, settings.revision).fingerprint, replace(settings, name="")

    def facts(self) -> dict[str, Any]:
        """The backbone, and whether it began with random weights."""
        info = self.model.loaded.info
        return {"random_backbone": info.random_weights, "backbone": info.label}

    def summary_accuracy(self) -> Mapping[str, float]:
        """Of the summaries that are used."""
        return self._accuracy

    def tokens(self, stage: Split) -> Mapping[str, int]:
        """`<stage>/tokens`, of training `fit/tokens`; with summaries `<stage>/summaries/tokens`."""
        if stage == "train":
            return {"fit/tokens": self.datamodule.n_tokens(stage)}
        written = {} if self._n_written is None else {f"{stage}/summaries/tokens": self._n_written}
        return {f"{stage}/tokens": self.datamodule.n_tokens(stage), **written}

    def load_best(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the trained weights; the frozen ones are there."""
        self.model.load_state_dict(checkpoint["state_dict"], strict=False)

    def export(self, run: RunFolder) -> None:
        """Write the adapter in PEFT's own format."""
        self.model.save_adapter(run.adapter)


class ItemExperiment:
    """A baseline that knows users and items by number.

    Args:
        model: The baseline, not attached to data yet.
        settings: Its arguments as they were given.
        data: The `data` section; what concerns prompts is not looked at.
        backbone: Whose features of pictures and texts are used, by models that ask for them.
        pictures: How large pictures are.
        features: How item features are made.
    """

    def __init__(
        self,
        model: ItemRecommender,
        settings: Mapping[str, Any],
        data: Mapping[str, Any],
        backbone: BackboneSettings,
        pictures: PictureSettings,
        features: ItemFeatureSettings,
    ) -> None:
        self.model = model
        self.model.settings = dict(settings)
        shared = {name: data[name] for name in signature(RankingDataModule).parameters}  # the others are of prompts
        self.datamodule = ItemDataModule(unit=model.unit, max_history=model.max_history, **shared)
        self.backbone, self.pictures, self.features = backbone, pictures, features
        self.monitor, self.patience, self.score_label = model.monitor, model.patience, type(model).__name__

    def use_inputs(self) -> None:
        """Attach the model to the train split, and to features where it asks for them."""
        data, features = self.datamodule.data, None
        if self.model.needs_features:
            features = item_features(data, self.features, self.backbone, self.pictures)
        self.model.attach(train_data(data, self.datamodule.numbering, features), self.datamodule.seed)

    def open_stores(self) -> Mapping[str, int]:
        """There are no prompts."""
        return {}

    def check(self, checkpoint: Mapping[str, Any]) -> None:
        """Compare model, settings and training data."""
        check_item_identity(checkpoint["mllm_srec"], self.model.identity())

    def identity(self) -> tuple[Any, ...]:
        """Model, settings, training data and seed."""
        return (*sorted(self.model.identity().items(), key=str), self.datamodule.seed)

    def facts(self) -> dict[str, Any]:
        """The model, how many weights it has, and where its features come from."""
        features = self.model.train_data.features
        facts: dict[str, Any] = {"model": type(self.model).__name__, "n_weights": n_weights(self.model)}
        facts["random_backbone"] = bool(getattr(self.model, "random_weights", False))
        return facts | ({} if features is None else {"item_features": features.source})

    def summary_accuracy(self) -> Mapping[str, float]:
        """There are no summaries."""
        return {}

    def tokens(self, stage: Split) -> Mapping[str, int]:
        """It is shown numbers."""
        return {}

    def load_best(self, checkpoint: Mapping[str, Any]) -> None:
        """Take all weights."""
        self.model.load_state_dict(checkpoint["state_dict"])

    def export(self, run: RunFolder) -> None:
        """The checkpoint is all there is."""


def n_weights(model: torch.nn.Module) -> int:
    """Number of trained weights."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def train_data(data: PreparedDataset, numbering: Numbering, features: ItemFeatures | None = None) -> TrainData:
    """Interactions of the train split; rows of other splits are not looked at, but for the number of users.

    Args:
        data: The prepared data set.
        numbering: Its users and items by number.
        features: Of its items, for models that ask for them.
    """
    rows = in_time_order(data.interactions.filter(pl.col("split") == "train"))
    return TrainData(
        user=numbering.users(rows["user_id"]),
        item=numbering.items(rows["item_id"]),
        liked=rows.select(is_liked()).to_series().to_numpy(),
        timestamp=rows["timestamp"].to_numpy(),
        n_users=numbering.n_users,
        n_items=numbering.n_items,
        features=features,
    )
