"""LightningDataModule of models that know users and items by number: the same pairs and lists as for prompts."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Literal

import polars as pl
from torch.utils.data import DataLoader

from mllm_srec.data.loading.candidate_lists import RankLists
from mllm_srec.data.loading.catalogue_lists import CatalogueLists
from mllm_srec.data.loading.item_batches import Contexts, ItemGroups, Numbering, TrainExamples
from mllm_srec.data.loading.ranking_datamodule import Lists, RankingDataModule
from mllm_srec.data.tables.interactions import is_liked
from mllm_srec.types import ConfigError


class ItemDataModule(RankingDataModule):
    """Serves training examples of the train split, and pairs and lists as `ItemBatch`.

    Args:
        root: Folder of all data sets.
        name: Folder of this data set below `root`.
        unit: What a training example is: a user's sequence of likes, or one like with those before it.
        max_history: S, latest items of a history.
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
        """Users and items by number."""
        return Numbering(self.data)

    @cached_property
    def contexts(self) -> Contexts:
        """All contexts by number."""
        return Contexts.of(self.data.groups, self.numbering)

    @property
    def inputs_label(self) -> str:
        """`items/50`: the latest 50 likes by number."""
        return f"items/{self.max_history}"

    @property
    def n_train_examples(self) -> int:
        """Number of training examples."""
        return len(self.train_examples())

    @property
    def left_out(self) -> str:
        """Users of a single like, where examples are sequences."""
        if self.unit != "sequences":
            return ""
        likes = self.data.interactions.filter((pl.col("split") == "train") & is_liked())
        n_single = likes.group_by("user_id").len().filter(pl.col("len") == 1).height
        return f"{n_single:,} users with a single like have no next item to learn from" if n_single else ""

    def train_examples(self) -> TrainExamples:
        """Examples of the train split after `max_train_groups`."""
        examples = TrainExamples.of(self.data.interactions, self.numbering, self.unit, self.max_history)
        return examples.draw(self.max_train_groups, self.seed)

    def catalogue_lists(self, lists: RankLists) -> CatalogueLists:
        """Lists of the whole catalogue, written out batch by batch."""
        return lists.catalogue()

    def setup(self, stage: str) -> None:
        """Number users and items in this process, before any loader is made."""
        _ = self.contexts

    def train_dataloader(self) -> DataLoader[int]:
        """Shuffled examples; a resumed run starts behind the last trained batch.

        Raises:
            ConfigError: Nothing is liked in the train split.
        """
        examples = self.train_examples()
        if not len(examples):
            raise ConfigError(f"nothing is liked in the train split of {self.folder}: there is nothing to train on")
        return self.batches(examples, examples.collate, train=True)

    def eval_loader(self, examples: Lists) -> DataLoader[int]:
        """Groups of the examples."""
        groups = ItemGroups(examples, self.contexts, self.max_history)
        return self.batches(groups, groups.collate, train=False)
