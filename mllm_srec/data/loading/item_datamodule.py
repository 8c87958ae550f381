"""LightningDataModule for models that know users and items by number; pairs and lists are those of the prompts."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Literal

import polars as pl
from torch.utils.data import DataLoader

from mllm_srec.data.loading.candidate_lists import RankLists
from mllm_srec.data.loading.catalogue_lists import CatalogueLists
from mllm_srec.data.loading.item_batches import Contexts, ItemGroups, Numbering, TrainExamples
from mllm_srec.data.loading.ranking_datamodule import Lists, RankingDataModule
from mllm_srec.data.ratings import is_liked
from mllm_srec.types import ConfigError


class ItemDataModule(RankingDataModule):
    """Serves training examples of the train split, and pairs and lists as `ItemBatch`.

    Args:
        root: Folder of all data sets.
        name: Folder of this data set below `root`.
        unit: Unit of training: `sequences` of all likes of a user, or `targets`, one like with those before it.
        max_history: S, number of latest items of a history.
        batch_size: Training examples per device and step.
        eval_batch_size: Groups per device and step in evaluation.
        **shared: Settings of `RankingDataModule`.

    Raises:
        ConfigError: The data set is not prepared, or settings contradict each other.
    """

    validates_on_catalogue: ClassVar[bool] = True

    def __init__(
        self,
        root: str = "data",
        name: str = "demo",
        unit: Literal["sequences", "targets"] = "sequences",
        max_history: int = 50,
        batch_size: int = 128,
        eval_batch_size: int = 256,
        **shared: Any,
    ) -> None:
        super().__init__(root, name, batch_size, eval_batch_size, **shared)
        self.unit, self.max_history = unit, max_history

    @cached_property
    def numbering(self) -> Numbering:
        """Numbers of the users and items of the data set."""
        return Numbering(self.data)

    @cached_property
    def contexts(self) -> Contexts:
        """Contexts of all groups, with users and items as numbers."""
        return Contexts.of(self.data.groups, self.numbering)

    @property
    def inputs_label(self) -> str:
        """Short name of the model's inputs: `items/50` for the latest 50 likes by number."""
        return f"items/{self.max_history}"

    @property
    def n_train_examples(self) -> int:
        """Number of training examples."""
        return len(self.train_examples())

    @property
    def left_out(self) -> str:
        """Sentence on users with a single like, who make no sequence; empty if there are none."""
        if self.unit != "sequences":
            return ""
        likes = self.data.interactions.filter((pl.col("split") == "train") & is_liked())
        n_single = likes.group_by("user_id").len().filter(pl.col("len") == 1).height
        return f"{n_single:,} users with a single like have no next item to learn from" if n_single else ""

    def train_examples(self) -> TrainExamples:
        """Return the examples of the train split, at most `max_train_groups`."""
        examples = TrainExamples.of(self.data.interactions, self.numbering, self.unit, self.max_history)
        return examples.draw(self.max_train_groups, self.seed)

    def catalogue_lists(self, lists: RankLists) -> CatalogueLists:
        """Return lists of the whole catalogue, which are written out batch by batch."""
        return lists.catalogue()

    def setup(self, stage: str) -> None:
        """Number users and items before any loader is made."""
        _ = self.contexts

    def train_dataloader(self) -> DataLoader[int]:
        """Return the loader of shuffled examples; a resumed run continues after the last trained batch.

        Raises:
            ConfigError: The train split has no liked item.
        """
        examples = self.train_examples()
        if not len(examples):
            raise ConfigError(
                f"{self.folder}: the train split has no liked item, that is, none with a rating of at least "
                f"{self.data.rating_rule.liked_from:g} (prepare.liked_from); check the ratings and prepare again"
            )
        return self.batches(examples, examples.collate, train=True)

    def eval_loader(self, examples: Lists) -> DataLoader[int]:
        """Return the loader of these groups in evaluation."""
        groups = ItemGroups(examples, self.contexts, self.max_history)
        return self.batches(groups, groups.collate, train=False)
