"""The two kinds of models that a command runs, prompts and item sequences: what each needs around the Trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, replace
from inspect import signature
from typing import Any

import polars as pl
import torch

from mllm_srec.baselines.base import ItemRecommender, check_item_identity
from mllm_srec.baselines.parts.train_data import ItemFeatures, TrainData
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.item_batches import Numbering
from mllm_srec.data.loading.item_datamodule import ItemDataModule
from mllm_srec.data.loading.prompt_datamodule import PromptDataModule
from mllm_srec.data.loading.ranking_datamodule import RankingDataModule, ServedInputs
from mllm_srec.data.ratings import is_liked
from mllm_srec.data.settings import ItemFeatureSettings, PictureSettings
from mllm_srec.data.tables.interactions import in_time_order
from mllm_srec.files.folders import atomic_folder
from mllm_srec.models.backbone import BackboneSettings
from mllm_srec.models.backbone_files import BackboneInfo, describe_backbone, foreign_note
from mllm_srec.models.checkpoint import check_identity, identity
from mllm_srec.models.objective import probabilities_note
from mllm_srec.models.ranking_module import RankingModule
from mllm_srec.models.recommender import MLLMRecommender
from mllm_srec.pipeline.build import resolve_stages
from mllm_srec.pipeline.evaluation.retrieval import hard_lists
from mllm_srec.pipeline.features.items import item_features
from mllm_srec.pipeline.features.pictures import extract_features, frozen
from mllm_srec.pipeline.runs.folder import RunFolder
from mllm_srec.reports.terminal.preparation import print_quality
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.quality import summary_accuracy, summary_tokens
from mllm_srec.summaries.run import ensure_summaries
from mllm_srec.summaries.settings import SummarySettings
from mllm_srec.types import ConfigError, Split


class Experiment(ABC):
    """A model with its data, in the form that `fit`, `validate`, `test` and `predict` need it.

    Attributes:
        model: The model that is trained or measured.
        datamodule: Its data.
        monitor: Metric that chooses the best checkpoint; larger is better.
        patience: Validations without a better `monitor` after which training ends; None never ends it.
        score_label: Kind of score, a part of the protocol.
    """

    model: RankingModule
    datamodule: RankingDataModule
    monitor: str = "val/auc"
    patience: int | None = None
    score_label: str

    @abstractmethod
    def use_inputs(self, training: bool) -> None:
        """Give data and model what was computed before; called under the lock, before the run folder is settled.

        Args:
            training: True if the model is about to be trained.
        """

    def open_stores(self) -> Mapping[str, int]:
        """Open or build the stores that are served; return counts of what prompts had to leave out."""
        return {}

    @abstractmethod
    def check(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another model, before anything is written."""

    @abstractmethod
    def identity(self) -> tuple[Any, ...]:
        """Return what decides the scores besides weights, protocol and data."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return facts on the model that are stored with its results; `random_backbone` is always among them."""

    def summary_accuracy(self) -> Mapping[str, float]:
        """Return how right the summaries are, where the truth is known."""
        return {}

    def tokens(self, stage: Split) -> Mapping[str, int]:
        """Return the tokens that the model reads in a split (`train`: in an epoch), and those of its summaries."""
        return {}

    @abstractmethod
    def load_best(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the weights of the best checkpoint into the model."""

    def export(self, run: RunFolder) -> None:
        """Write the weights in a common exchange format, if there is one."""
        return


class PromptExperiment(Experiment):
    """The recommender that reads prompts.

    Args:
        model: The recommender.
        datamodule: Its prompts.
        summaries: Settings of the summaries in the prompts.
        command: The command that writes missing summaries, for error messages.
    """

    model: MLLMRecommender
    datamodule: PromptDataModule

    def __init__(
        self, model: MLLMRecommender, datamodule: PromptDataModule, summaries: SummarySettings, command: str
    ) -> None:
        self.model, self.datamodule, self.summaries, self.command = model, datamodule, summaries, command
        model.measure_at(datamodule.cut_offs)
        self.score_label = model.score_kind
        self._accuracy: Mapping[str, float] = {}
        self._n_written: int | None = None

    def use_inputs(self, training: bool) -> None:
        """Give the data module hard negatives and stored summaries; on the demo shop, missing ones are written."""
        if training and self.datamodule.draws_hard:
            served = self.datamodule
            served.use(ServedInputs(hard=hard_lists(served.retriever, served.data, served.n_retrieved)))
        if self.summaries.variant == "none":
            return
        model, data = self.model.settings, self.datamodule
        settings = resolve_stages(self.summaries, data.data)
        plan = SummaryPlan(data.data, settings, data.prompt, data.pictures, model.name, model.revision)
        data.use(ServedInputs(summaries=ensure_summaries(plan, self.command, print_quality)))
        self._accuracy, self._n_written = summary_accuracy(plan), summary_tokens(plan)

    def open_stores(self) -> Mapping[str, int]:
        """Build prompts and picture features where they are missing."""
        stores = self.datamodule.stores
        if self.datamodule.pictures.serve == "features" and stores.images is not None:
            features = extract_features(stores.images, frozen(self.model.settings))
            self.datamodule.use(ServedInputs(features=features))
        return asdict(stores.prompts.report)

    def check(self, checkpoint: Mapping[str, Any]) -> None:
        """Compare the backbone; the names of the weights are compared when they are loaded."""
        settings = self.model.settings
        info = describe_backbone(settings.name, settings.revision)
        check_identity(checkpoint["mllm_srec"], identity(settings, info), info.earlier_fingerprint)

    def identity(self) -> tuple[Any, ...]:
        """Return the backbone and its settings."""
        settings = self.model.settings
        return describe_backbone(settings.name, settings.revision).fingerprint, replace(settings, name="")

    def facts(self) -> dict[str, Any]:
        """Return the backbone, and whether it began with random weights."""
        info = self.model.loaded.info
        learns_users = self.model.settings.finetune != "none" and self.datamodule.prompt.user_id
        return {
            "random_backbone": info.random_weights,
            "backbone": info.label,
            "learns_later_likes": learns_users and later_likes(self.datamodule),
            **_foreign(info, self.datamodule),
            **self._probabilities(),
        }

    def _probabilities(self) -> dict[str, str]:
        """Return the fact that the probabilities of a trained model are not those of pairs, where they are not."""
        trained = self.model.settings.finetune != "none"
        note = probabilities_note(self.model.objective, self.datamodule.n_train_negatives) if trained else None
        return {} if note is None else {"probabilities": note}

    def summary_accuracy(self) -> Mapping[str, float]:
        """Return how right the summaries in the prompts are."""
        return self._accuracy

    def tokens(self, stage: Split) -> Mapping[str, int]:
        """Return `<stage>/tokens` (training: `fit/tokens`), and with summaries `<stage>/summaries/tokens`."""
        if stage == "train":
            return {"fit/tokens": self.datamodule.n_tokens(stage)}
        written = {} if self._n_written is None else {f"{stage}/summaries/tokens": self._n_written}
        return {f"{stage}/tokens": self.datamodule.n_tokens(stage), **written}

    def load_best(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the trained weights; the frozen ones are loaded already."""
        self.model.load_state_dict(checkpoint["state_dict"], strict=False)

    def export(self, run: RunFolder) -> None:
        """Write the adapter in the format of PEFT."""
        with atomic_folder(run.adapter) as partial:
            self.model.save_adapter(partial)


class ItemExperiment(Experiment):
    """A baseline that knows users and items by their numbers.

    Args:
        model: The baseline, not attached to data yet.
        settings: Constructor arguments of the baseline, as they were given.
        data: The `data` section; settings of prompts are ignored.
        backbone: Backbone whose features of pictures and texts are used, by models that need them.
        pictures: Sizes of pictures.
        features: Settings of item features.
    """

    model: ItemRecommender
    datamodule: ItemDataModule

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
        model.measure_at(self.datamodule.cut_offs)
        self.backbone, self.pictures, self.features = backbone, pictures, features
        self.monitor, self.patience, self.score_label = model.monitor, model.patience, type(model).__name__

    def use_inputs(self, training: bool) -> None:
        """Attach the model to the train split, and to features where it asks for them.

        Raises:
            ConfigError: The model reads times, and the data set has none.
        """
        data, features = self.datamodule.data, None
        if self.model.needs_times and not data.has_times:
            raise ConfigError(
                f"baseline.class_path={self.score_label}: reads times, and {data.folder} was prepared without them "
                "(prepare.columns.timestamp: null); prepare it with a column of times, or choose another baseline, "
                "such as Popularity"
            )
        if self.model.needs_features:
            features = item_features(data, self.features, self.backbone, self.pictures)
        self.model.attach(train_data(data, self.datamodule.numbering, features), self.datamodule.seed)

    def check(self, checkpoint: Mapping[str, Any]) -> None:
        """Compare model, settings and training data."""
        check_item_identity(checkpoint["mllm_srec"], self.model.identity())

    def identity(self) -> tuple[Any, ...]:
        """Return model, settings, training data and seed."""
        return (*sorted(self.model.identity().items(), key=str), self.datamodule.seed)

    def facts(self) -> dict[str, Any]:
        """Return the model, its number of weights, and the source of its features."""
        features = self.model.train_data.features
        facts: dict[str, Any] = {"model": type(self.model).__name__, "n_weights": n_weights(self.model)}
        facts["random_backbone"] = bool(getattr(self.model, "random_weights", False))
        facts["learns_later_likes"] = self.model.learns_users and later_likes(self.datamodule)
        if features is None:
            return facts
        info = describe_backbone(self.backbone.name, self.backbone.revision)  # it saw the pictures
        return facts | {"item_features": features.source, **_foreign(info, self.datamodule)}

    def load_best(self, checkpoint: Mapping[str, Any]) -> None:
        """Load all weights."""
        self.model.load_state_dict(checkpoint["state_dict"])


def later_likes(datamodule: RankingDataModule) -> bool:
    """Return True if the train split holds likes that came after a test context of the same user.

    A model with weights for each user, or trained on users by name, knows them; a reader of the history does not.
    """
    return bool(datamodule.data.manifest["prepare"]["split"] == "random")


def _foreign(info: BackboneInfo, datamodule: RankingDataModule) -> dict[str, str]:
    """Return the fact that the backbone was made for other data, where it was."""
    note = foreign_note(info, datamodule.data.manifest["prepare"]["source"])
    return {} if note is None else {"foreign_backbone": note}


def n_weights(model: torch.nn.Module) -> int:
    """Count the weights that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def train_data(data: PreparedDataset, numbering: Numbering, features: ItemFeatures | None = None) -> TrainData:
    """Return the interactions of the train split by number; of other splits, only the number of users is used.

    Args:
        data: The prepared data set.
        numbering: Numbers of its users and items.
        features: Features of its items, for models that need them.
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
