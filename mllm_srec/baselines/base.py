"""What the baselines share: they know users and items by number, learn from the train split, and score candidates.

Every baseline is measured by the same code as the recommender, on the same lists.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from mllm_srec.baselines.parts.setting_checks import check_at_least
from mllm_srec.baselines.parts.train_data import ItemFeatures, TrainData
from mllm_srec.models.checkpoint import check_keys
from mllm_srec.models.ranking_module import RankingModule
from mllm_srec.types import CandidateBatch, ConfigError, ItemBatch, TrainBatch

Unit = Literal["sequences", "targets"]
"""A training example: a user's whole sequence of likes, or one like with what was liked before it."""


class ItemRecommender(RankingModule):
    """Base of all baselines that are no language models of text.

    A subclass implements `build`, `loss` and `score_candidates`; after `attach` it can be trained and asked.

    Args:
        lr: Learning rate of Adam.
        weight_decay: L2 weight of Adam.
        max_history: S, the latest items of a sequence that are looked at.
        patience: Validations without a better `monitor` after which training ends.

    Attributes:
        seed: Of initial weights too; set by `attach`.
        settings: Arguments of the model as they were given, kept in checkpoints and compared when one is loaded.
    """

    unit: ClassVar[Unit] = "sequences"
    trained: ClassVar[bool] = True
    """Whether there are weights to train; else `test` alone does everything."""
    needs_features: ClassVar[bool] = False
    monitor: ClassVar[str] = "val/ndcg@10"

    def __init__(self, lr: float = 1e-3, weight_decay: float = 0.0, max_history: int = 50, patience: int = 10) -> None:
        super().__init__()
        check_at_least(0, lr=lr, weight_decay=weight_decay)
        check_at_least(1, max_history=max_history, patience=patience)
        self.lr, self.weight_decay, self.max_history, self.patience = lr, weight_decay, max_history, patience
        self.settings: dict[str, Any] = {}
        self._train_data: TrainData | None = None

    # --- what a subclass says -------------------------------------------------------------------------------------

    def build(self, train: TrainData) -> None:
        """Make layers and statistics; runs once, with torch's random state already seeded.

        Args:
            train: All that may be learnt from.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build(train)")

    def loss(self, batch: TrainBatch) -> Tensor:
        """Training loss of a batch, a scalar; draws come from torch's global state, which is seeded each step."""
        raise NotImplementedError(f"{type(self).__name__} has no loss(batch)")

    # --- what they share ------------------------------------------------------------------------------------------

    def attach(self, train: TrainData, seed: int = 0) -> None:
        """Build the model for a data set; equal seeds build equal models.

        Args:
            train: The train split.
            seed: Of initial weights, and of every draw in training.

        Raises:
            ConfigError: The model needs features that are not there.
        """
        self.seed, self._train_data = seed, train
        if self.needs_features:
            _ = self.features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(train)

    @property
    def train_data(self) -> TrainData:
        """What the model was attached to.

        Raises:
            ConfigError: It was attached to nothing yet.
        """
        if self._train_data is None:
            raise ConfigError(f"{type(self).__name__} knows no data yet; call attach(train) first")
        return self._train_data

    @property
    def features(self) -> ItemFeatures:
        """Features of the items, of a model with `needs_features`."""
        features = self.train_data.features
        if features is None:
            raise ConfigError(f"{type(self).__name__} needs item features, but TrainData.features is None")
        return features

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """Loss of a batch, logged."""
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["user"]))
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam over all weights."""
        weights = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not weights:
            raise ConfigError(f"{type(self).__name__} has nothing to train; use `test`, or `run`, which knows that")
        return torch.optim.Adam(weights, lr=self.lr, weight_decay=self.weight_decay)

    def identity(self) -> dict[str, Any]:
        """Plain values that decide whether weights fit: the model, its settings, and what it was trained on."""
        return {"model": type(self).__name__, "settings": self.settings, "train": self.train_data.fingerprint}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the weights belong to."""
        checkpoint["mllm_srec"] = self.identity()
        checkpoint["results"] = dict(self.results)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another model, other settings or other data.

        Raises:
            ConfigError: Naming what differs.
        """
        check_item_identity(checkpoint.get("mllm_srec"), self.identity())
        check_keys(set(checkpoint["state_dict"]), set(self.state_dict()))


def check_item_identity(stored: dict[str, Any] | None, current: dict[str, Any]) -> None:
    """Compare what a checkpoint belongs to with the model of now.

    Raises:
        ConfigError: Naming every differing key with both values.
    """
    if not stored or "model" not in stored:
        raise ConfigError("this checkpoint does not belong to a baseline: nothing names its model")
    before = {**stored["settings"], "model": stored["model"], "training data": stored["train"]}
    now = {**current["settings"], "model": current["model"], "training data": current["train"]}
    differing = [key for key in now if before.get(key) != now[key]]
    if differing:
        lines = [f"  {key}: checkpoint {before.get(key)!r}, now {now[key]!r}" for key in differing]
        raise ConfigError(
            "the checkpoint was trained with other settings or on other data:\n"
            + "\n".join(lines)
            + "\nGive the settings of its run folder's config.yaml"
        )


class DotProductRecommender(ItemRecommender):
    """Base of models whose score is a context's vector times an item's, plus a bias: the catalogue is one matmul."""

    def query(self, batch: ItemBatch) -> Tensor:
        """Vectors of the contexts `(B, D)`."""
        raise NotImplementedError(f"{type(self).__name__} has no query(batch) -> (B, D)")

    def item_vectors(self) -> Tensor:
        """Vectors of the items `(N + 1, D)`; row 0 is padding's."""
        raise NotImplementedError(f"{type(self).__name__} has no item_vectors() -> (N + 1, D)")

    def item_bias(self) -> Tensor | None:
        """Bias of the items `(N + 1,)`, or None."""
        return None

    def score_all(self, batch: ItemBatch) -> Tensor:
        """Float32 score of the whole catalogue `(B, N)`, column j being item row j."""
        scores = self.query(batch) @ self.item_vectors()[1:].T  # (B, N)
        bias = self.item_bias()
        return (scores if bias is None else scores + bias[1:]).float()

    def score_candidates(self, batch: CandidateBatch) -> Tensor:
        """Float32 score of every candidate `(B, C)` of an `ItemBatch`."""
        items = cast(ItemBatch, batch)
        if items.get("catalogue"):
            return self.score_all(items)
        numbers = items["item_index"] + 1  # (B, C), 0 where masked
        vectors, bias = self.item_vectors()[numbers], self.item_bias()  # (B, C, D)
        scores = torch.einsum("bd,bcd->bc", self.query(items), vectors)  # (B, C)
        return (scores if bias is None else scores + bias[numbers]).float()
