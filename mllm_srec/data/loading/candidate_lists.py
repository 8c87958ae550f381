"""Candidate lists beyond the sampled ones: the whole catalogue, and the items of a retriever.

Both leave out every item that the user interacted with in a split visible to the context, liked or not. The user's
other interactions in the evaluated split are ordinary candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.catalogue_lists import CatalogueLists, Ragged
from mllm_srec.data.loading.examples import GroupExamples, gather
from mllm_srec.data.ratings import is_rated
from mllm_srec.files.hashing import table_hash
from mllm_srec.types import VISIBLE, ConfigError, Split

MAX_FULL_PAIRS = 20_000_000
"""Most pairs of a list and an item that are written out; a model that reads prompts could not score more."""

KEYS = ["group_id", "item_id"]
"""Columns that identify a candidate of a list."""


@dataclass(frozen=True)
class RankLists:
    """Candidate lists of some groups of a split.

    Args:
        data: The prepared data set.
        split: `val` or `test`.
        group_ids: `(G,)` ids of the rank groups, all of that split.
    """

    data: PreparedDataset
    split: Split
    group_ids: np.ndarray

    def full(self) -> GroupExamples:
        """Write out all items that may be recommended: positives first, then the others in catalogue order.

        Raises:
            ConfigError: There are too many pairs to write out.
        """
        n_pairs = len(self.group_ids) * self.data.items.height
        if n_pairs > MAX_FULL_PAIRS:
            raise ConfigError(
                f"data.evaluator='full': {n_pairs:,} pairs of a list and an item are more than the "
                f"{MAX_FULL_PAIRS:,} that are written out; set data.max_test_groups to "
                f"{MAX_FULL_PAIRS // self.data.items.height} or fewer, or data.evaluator to rerank"
            )
        items = self.data.items.select("item_id")
        pairs = self.lists.select("group_id").join(items, how="cross", maintain_order="left_right")
        rows = self._labelled(pairs.join(self.excluded, on=KEYS, how="anti", maintain_order="left"))
        rows = rows.sort("group_id", "label", descending=[False, True], maintain_order=True)
        return gather(self.data.groups, self.data.items, rows)

    def catalogue(self) -> CatalogueLists:
        """Return the lists of `full` in the same order, without writing them out."""
        contexts = self.data.groups.select("group_id").with_row_index("context")
        order = self.lists.join(contexts, on="group_id", how="left", maintain_order="left")
        ratings = self.data.interactions.filter((pl.col("split") == self.split) & is_rated())
        disliked = self.lists.join(ratings.select("user_id", "item_id"), on="user_id").select(KEYS)
        disliked = disliked.join(self.excluded, on=KEYS, how="anti").join(self.positives, on=KEYS, how="anti")
        return CatalogueLists(
            group_id=order["group_id"].to_numpy(),
            context=order["context"].to_numpy().astype(np.int64),
            n_items=self.data.items.height,
            excluded=self._ragged(self.excluded),
            positives=self._ragged(self.positives),
            disliked=self._ragged(disliked),
        )

    def _ragged(self, rows: pl.DataFrame) -> Ragged:
        """Group item rows by list, sorted within each list."""
        lists = self.lists.select("group_id").with_row_index("list")
        items = self.data.items.select("item_id").with_row_index("item_index")
        numbered = rows.join(lists, on="group_id").join(items, on="item_id").sort("list", "item_index")
        return Ragged.grouped(
            numbered["list"].to_numpy().astype(np.int64), numbered["item_index"].to_numpy(), lists.height
        )

    def rerank(self, retrieved: pl.DataFrame, n: int) -> GroupExamples:
        """Return the first `n` items of a retriever in its order; positives that it missed are counted.

        Args:
            retrieved: Table of `group_id`, `item_id` and `rank` (from 1) for these lists; others are ignored.
            n: N of `rerank@N`.

        Raises:
            ConfigError: A list has no retrieved items, or an item that may not be recommended.
        """
        shown = retrieved.filter(pl.col("rank") <= n).join(self.lists, on="group_id", how="semi")
        shown = shown.sort("group_id", "rank")
        self._check(shown)
        missed = self.positives.join(shown, on=KEYS, how="anti")
        return gather(self.data.groups, self.data.items, self._labelled(shown.select(KEYS)), missed)

    @cached_property
    def lists(self) -> pl.DataFrame:
        """The lists: `group_id` and `user_id`, sorted by `group_id`."""
        rows = self.data.groups.filter(pl.col("group_id").is_in(self.group_ids.tolist()))
        return rows.select("group_id", "user_id").sort("group_id")

    @cached_property
    def positives(self) -> pl.DataFrame:
        """The relevant items: `group_id` and `item_id`."""
        rows = self.data.candidates.filter((pl.col("split") == self.split) & (pl.col("label") == 1))
        return rows.select(KEYS).join(self.lists, on="group_id", how="semi")

    @cached_property
    def excluded(self) -> pl.DataFrame:
        """The items that each list must not contain: `group_id` and `item_id`.

        These are the user's interactions of the visible splits and, with one positive per list
        (`candidates.unit: instance`), the user's other held-out likes.
        """
        visible = self.data.interactions.filter(pl.col("split").is_in(VISIBLE[self.split]))
        seen = self.lists.join(visible.select("user_id", "item_id"), on="user_id").select(KEYS)
        all_positives = self.data.candidates.filter((pl.col("split") == self.split) & (pl.col("label") == 1))
        held_out = self.lists.join(all_positives.select("user_id", "item_id").unique(), on="user_id")
        others = held_out.join(self.positives, on=KEYS, how="anti").select(KEYS)
        return pl.concat([seen, others]).unique()

    def _labelled(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add `label` and `kind`: positives of the list, items disliked in the split, and unrated ones."""
        ratings = self.data.interactions.filter((pl.col("split") == self.split) & is_rated())
        rated = ratings.select("user_id", "item_id", rated=pl.lit(True))
        positives = self.positives.with_columns(positive=pl.lit(True))
        labelled = (
            rows.join(self.lists, on="group_id", how="left", maintain_order="left")
            .join(rated, on=["user_id", "item_id"], how="left", maintain_order="left")
            .join(positives, on=KEYS, how="left", maintain_order="left")
        )
        liked, disliked = pl.col("positive").fill_null(False), pl.col("rated").fill_null(False)
        kind = pl.when(liked).then(pl.lit("liked")).when(disliked).then(pl.lit("disliked")).otherwise(pl.lit("unrated"))
        return labelled.select(*KEYS, label=liked.cast(pl.Int8), kind=kind)

    def _check(self, shown: pl.DataFrame) -> None:
        """Refuse retrieved items that do not fit these lists."""
        catalogue = self.data.items.select("item_id")
        problems = {
            "lists without any retrieved item": self.lists.join(shown, on="group_id", how="anti").height,
            "retrieved items that the user knew": shown.join(self.excluded, on=KEYS, how="semi").height,
            "retrieved items that are not in the catalogue": shown.join(catalogue, on="item_id", how="anti").height,
            "items retrieved twice for a list": shown.height - shown.n_unique(KEYS),
        }
        if any(problems.values()):
            counts = "; ".join(f"{number} {problem}" for problem, number in problems.items() if number)
            raise ConfigError(
                f"data.retriever: its lists do not fit the {self.split} split: {counts}; choose a run on this very "
                "data set that was evaluated with data.evaluator=full, or set data.retriever to popularity"
            )


def lists_hash(examples: GroupExamples) -> str:
    """Return the SHA-256 of the lists: groups, candidates, labels and missed counts, in their order."""
    sizes = np.diff(examples.offsets)
    return table_hash(
        pl.DataFrame(
            {
                "group_id": np.repeat(examples.group_id, sizes),
                "item_index": examples.item_index,
                "relevance": examples.relevance,
                "n_missed": np.repeat(examples.n_missed, sizes),
            }
        )
    )
