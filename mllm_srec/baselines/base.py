"""Base classes of the baselines, which number users and items, learn from the train split and score candidates.

Every baseline is evaluated by the same code as the recommender, on the same lists. From the most general to the most
special: `ItemRecommender`, `DotProductRecommender` and `SequenceEncoder`; graph models have `graph_base`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from mllm_srec.baselines.parts.setting_checks import check_at_least
from mllm_srec.baselines.parts.train_data import ItemFeatures, TrainData
from mllm_srec.models.checkpoint import check_keys
from mllm_srec.models.ranking_module import RankingModule
from mllm_srec.types import CandidateBatch, ConfigError, ItemBatch, TrainBatch

Unit = Literal["sequences", "targets"]
"""Training example: a user's whole sequence of likes, or one like with the likes before it."""


class ItemRecommender(RankingModule):
    """Base of all baselines that are not text-based language models.

    A subclass implements `build`, `loss` and `score_candidates`; after `attach` it can be trained and can score.

    Args:
        lr: Learning rate of Adam.
        weight_decay: L2 weight of Adam.
        max_history: S, number of latest items of a history that the model reads.
        patience: Validations without a better `monitor` after which training stops.

    Attributes:
        seed: Random seed of the initial weights and of training; set by `attach`.
        settings: Arguments that the model was made with, stored in checkpoints and compared when one is loaded.
        unit: Training example that the model expects.
        trained: True if the model has weights to train; otherwise `test` needs no `fit`.
        needs_features: True if the model reads item features.
        needs_times: True if the model reads how far apart two moments are, and not only their order.
        learns_users: True if the model has weights for each user, learned from all of the user's train likes: where
            the split is random, it knows likes that came after the context of a test list.
        later_settings: Settings that older versions of the model did not have, with the values at which it is what it
            was: there they are no part of its identity, so that older runs and checkpoints stay valid.
        monitor: Metric that decides on the best checkpoint and on early stopping.
    """

    unit: ClassVar[Unit] = "sequences"
    trained: ClassVar[bool] = True
    needs_features: ClassVar[bool] = False
    needs_times: ClassVar[bool] = False
    learns_users: ClassVar[bool] = False
    later_settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    monitor: ClassVar[str] = "val/ndcg@10"
    lr_setting: ClassVar[str] = "baseline.init_args.lr"

    def __init__(self, lr: float = 1e-3, weight_decay: float = 0.0, max_history: int = 50, patience: int = 10) -> None:
        super().__init__()
        check_at_least(0, lr=lr, weight_decay=weight_decay)
        check_at_least(1, max_history=max_history, patience=patience)
        self.lr, self.weight_decay, self.max_history, self.patience = lr, weight_decay, max_history, patience
        self.settings: dict[str, Any] = {}
        self._train_data: TrainData | None = None

    # --- implemented by a subclass --------------------------------------------------------------------------------

    def build(self, train: TrainData) -> None:
        """Make layers and statistics; called once, after torch's random state was seeded.

        Args:
            train: The train split, the only data that the model may learn from.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build(train)")

    def loss(self, batch: TrainBatch) -> Tensor:
        """Compute the training loss of a batch, a scalar.

        Random draws come from torch's global state, which is seeded anew in every step.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss(batch)")

    # --- shared ---------------------------------------------------------------------------------------------------

    def attach(self, train: TrainData, seed: int = 0) -> None:
        """Build the model for a data set; equal seeds build equal models.

        Args:
            train: The train split.
            seed: Random seed of the initial weights and of every draw in training.

        Raises:
            ConfigError: If the model needs features that `train` does not have.
        """
        self.seed, self._train_data = seed, train
        if self.needs_features:
            _ = self.features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(train)

    @property
    def train_data(self) -> TrainData:
        """The train split that the model was attached to.

        Raises:
            ConfigError: If `attach` was not called yet.
        """
        if self._train_data is None:
            raise ConfigError(f"{type(self).__name__}: has no training data yet; call attach(train) first")
        return self._train_data

    @property
    def features(self) -> ItemFeatures:
        """Item features, for a model with `needs_features`.

        Raises:
            ConfigError: If the train split has none.
        """
        features = self.train_data.features
        if features is None:
            raise ConfigError(f"{type(self).__name__}: needs item features; give TrainData with features")
        return features

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """Compute and log the loss of a batch."""
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["user"]))
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make Adam over all trainable weights.

        Raises:
            ConfigError: If there are none.
        """
        weights = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not weights:
            raise ConfigError(f"{type(self).__name__}: has nothing to train; use `test`, or `run`, which skips `fit`")
        return torch.optim.Adam(weights, lr=self.lr, weight_decay=self.weight_decay)

    def identity(self) -> dict[str, Any]:
        """Describe what weights belong to: the model, its settings and its training data, as plain values."""
        later = self.later_settings
        settings = {key: value for key, value in self.settings.items() if key not in later or value != later[key]}
        return {"model": type(self).__name__, "settings": settings, "train": self.train_data.fingerprint}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the model's identity to a checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["mllm_srec"] = self.identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another model, with other settings or trained on other data.

        Raises:
            ConfigError: If the checkpoint does not match; the message names every difference.
        """
        check_item_identity(checkpoint.get("mllm_srec"), self.identity())
        check_keys(set(checkpoint["state_dict"]), set(self.state_dict()))
        super().on_load_checkpoint(checkpoint)


def check_item_identity(stored: dict[str, Any] | None, current: dict[str, Any]) -> None:
    """Check that a checkpoint belongs to the current model.

    Args:
        stored: `ItemRecommender.identity` of the checkpoint; None if it has none.
        current: Identity of the model that loads it.

    Raises:
        ConfigError: If they differ; the message names every differing key with both values.
    """
    if not stored or "model" not in stored:
        raise ConfigError("the checkpoint names no baseline: it was not written by one; give a baseline's checkpoint")
    before = {**stored["settings"], "model": stored["model"], "training data": stored["train"]}
    now = {**current["settings"], "model": current["model"], "training data": current["train"]}
    differing = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    if differing:
        pairs = [[repr(side[key]) if key in side else "its default" for side in (before, now)] for key in differing]
        lines = [f"  {key}: checkpoint {old}, now {new}" for key, (old, new) in zip(differing, pairs, strict=True)]
        raise ConfigError(
            "the checkpoint was trained with other settings or on other data:\n"
            + "\n".join(lines)
            + "\nGive the settings of its run folder's config.yaml"
        )


class DotProductRecommender(ItemRecommender):
    """Base of models that score by the product of a context's and an item's vector, plus an item bias.

    The whole catalogue is scored by one matrix product.
    """

    def query(self, batch: ItemBatch) -> Tensor:
        """Compute the vectors of the contexts `(B, D)`."""
        raise NotImplementedError(f"{type(self).__name__} has no query(batch) -> (B, D)")

    def item_vectors(self) -> Tensor:
        """Compute the vectors of the items `(N + 1, D)`; row 0 is padding."""
        raise NotImplementedError(f"{type(self).__name__} has no item_vectors() -> (N + 1, D)")

    def item_bias(self) -> Tensor | None:
        """Compute the biases of the items `(N + 1,)`; None if the model has none."""
        return None

    def score_all(self, batch: ItemBatch) -> Tensor:
        """Score the whole catalogue: float32 `(B, N)`, column j being item row j."""
        scores = self.query(batch) @ self.item_vectors()[1:].T  # (B, N)
        bias = self.item_bias()
        return (scores if bias is None else scores + bias[1:]).float()

    def score_candidates(self, batch: CandidateBatch) -> Tensor:
        """Score every candidate of an `ItemBatch`: float32 `(B, C)`."""
        items = cast(ItemBatch, batch)
        if items.get("catalogue"):
            return self.score_all(items)
        numbers = items["item_index"] + 1  # (B, C), 0 where masked
        vectors, bias = self.item_vectors()[numbers], self.item_bias()  # (B, C, D)
        scores = torch.einsum("bd,bcd->bc", self.query(items), vectors)  # (B, C)
        return (scores if bias is None else scores + bias[numbers]).float()


class SequenceEncoder(DotProductRecommender):
    """Base of models that predict the next item at every position of a sequence (SASRec, GRU encoder).

    The same embeddings read and score the items. A subclass makes `items` in `build`, and implements `encode` and
    `loss`.
    """

    items: nn.Embedding  # (N + 1, D)

    def encode(self, history: Tensor) -> Tensor:
        """Encode every prefix of the histories.

        Args:
            history: `(B, S)` item numbers, padded on the left, S at most `max_history`.

        Returns:
            `(B, S, D)`; position t encodes items 1..t, to predict the next one.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encode(history) -> (B, S, D)")

    def query(self, batch: ItemBatch) -> Tensor:
        """Encode the contexts: vectors of their last positions `(B, D)`."""
        return self.encode(batch["history"][:, -self.max_history :])[:, -1]

    def item_vectors(self) -> Tensor:
        """Return the item embeddings `(N + 1, D)`."""
        return self.items.weight

    def steps(self, batch: TrainBatch) -> tuple[Tensor, Tensor]:
        """Split sequences into inputs and next items: item numbers `(B, S)` each; inputs are 0 at padding."""
        history = batch["history"][:, -self.max_history - 1 :]  # (B, S + 1)
        return history[:, :-1], history[:, 1:]
