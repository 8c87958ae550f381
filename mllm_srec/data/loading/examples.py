"""Groups and their targets as flat arrays: training rows, labelled pairs and candidate lists."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from mllm_srec.types import KINDS, LIST_KINDS, Split


@dataclass(frozen=True)
class GroupExamples:
    """Groups with their targets, in flat arrays: group i owns targets `offsets[i]:offsets[i + 1]`.

    Attributes:
        group_id: `(G,)` int64.
        context: `(G,)` row of the group in the groups table.
        offsets: `(G + 1,)` int64, bounds of each group in the arrays of targets.
        item_index: `(N,)` row of the item in the items table.
        relevance: `(N,)` 1 liked, 0 not.
        kind: `(N,)` index into `types.LIST_KINDS`.
        n_missed: `(G,)` relevant items that a retriever left out of the list.
    """

    group_id: np.ndarray
    context: np.ndarray
    offsets: np.ndarray
    item_index: np.ndarray
    relevance: np.ndarray
    kind: np.ndarray
    n_missed: np.ndarray

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.group_id)

    @property
    def n_targets(self) -> int:
        """Number of targets of all groups."""
        return len(self.item_index)

    @property
    def sizes(self) -> np.ndarray:
        """Number of targets of each group `(G,)`."""
        return np.diff(self.offsets)

    @property
    def n_positives(self) -> np.ndarray:
        """Number of relevant targets of each group `(G,)`."""
        return np.diff(np.concatenate([[0], self.relevance.cumsum()])[self.offsets])

    def padded(self, values: np.ndarray, fill: float = 0) -> np.ndarray:
        """Lay out one value per target `(N,)` as `(G, C)`, padded with `fill`, of the same dtype."""
        filled = np.full((len(self), int(self.sizes.max(initial=1))), fill, dtype=values.dtype)
        filled[self.mask()] = values
        return filled

    def mask(self) -> np.ndarray:
        """Return bool `(G, C)`: True for a target, False for padding."""
        return np.asarray(np.arange(int(self.sizes.max(initial=1))) < self.sizes[:, None])

    def draw(self, limit: int | None, seed: int) -> GroupExamples:
        """Draw at most `limit` groups with the seed, in their present order; None takes all."""
        if limit is None or limit >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), limit, replace=False)))

    def without(self, group_ids: Collection[int]) -> GroupExamples:
        """Leave out these groups."""
        return self.take(np.flatnonzero(~np.isin(self.group_id, list(group_ids)))) if group_ids else self

    def only(self, group_ids: Collection[int]) -> GroupExamples:
        """Keep only these groups, in their present order."""
        return self.take(np.flatnonzero(np.isin(self.group_id, list(group_ids))))

    def take(self, chosen: np.ndarray) -> GroupExamples:
        """Select the groups at these indices `(n,)`, with all their targets, in this order."""
        rows = np.concatenate(
            [np.zeros(0, np.int64), *(np.arange(self.offsets[i], self.offsets[i + 1]) for i in chosen)]
        )
        return GroupExamples(
            group_id=self.group_id[chosen],
            context=self.context[chosen],
            offsets=np.concatenate([[0], np.diff(self.offsets)[chosen]]).cumsum(),
            item_index=self.item_index[rows],
            relevance=self.relevance[rows],
            kind=self.kind[rows],
            n_missed=self.n_missed[chosen],
        )


def select_train_rows(
    samples: pl.DataFrame,
    negatives: Literal["sampled", "explicit", "both"],
    balance: Literal["all", "cap"],
    seed: int,
) -> pl.DataFrame:
    """Choose the training rows among the stored samples.

    Args:
        samples: Rows of `samples.parquet` of the train split.
        negatives: Kinds of negatives: sampled, disliked (`explicit`), or both.
        balance: `all` keeps every negative of these kinds; `cap` draws at most as many negatives as there are
            positives.
        seed: Seed of that draw.
    """
    chosen: dict[str, list[str]] = {"sampled": ["liked", "sampled"], "explicit": ["liked", "disliked"]}
    kinds = chosen.get(negatives, list(KINDS))
    rows = samples.filter(pl.col("kind").is_in(kinds))
    if balance == "all":
        return rows
    positive = pl.col("label") == 1
    n_positive = rows.filter(positive).height
    negative_rows = rows.filter(~positive)
    if negative_rows.height > n_positive:
        drawn = negative_rows.sort("sample_id").sample(n_positive, seed=seed, shuffle=False)
        rows = pl.concat([rows.filter(positive), drawn])
    return rows


def pair_examples(groups: pl.DataFrame, items: pl.DataFrame, samples: pl.DataFrame) -> GroupExamples:
    """Gather pair groups from the given rows of `samples.parquet`; groups without a row are left out."""
    return gather(groups, items, samples.sort("sample_id"))


def rank_examples(
    groups: pl.DataFrame, items: pl.DataFrame, candidates: pl.DataFrame, split: Split, n_negatives: int | None
) -> GroupExamples:
    """Gather the candidate lists of a split: all positives and the first `n_negatives` by position (`sampled@m`).

    Args:
        groups: `groups.parquet`.
        items: `items.parquet`.
        candidates: `candidates.parquet`.
        split: `val` or `test`.
        n_negatives: m; None takes all that are stored.
    """
    rows = candidates.filter(pl.col("split") == split)
    if n_negatives is not None:
        rows = rows.filter(pl.col("position") <= n_negatives)
    return gather(groups, items, rows.sort("group_id", "position", "item_id"))


def gather(
    groups: pl.DataFrame, items: pl.DataFrame, rows: pl.DataFrame, missed: pl.DataFrame | None = None
) -> GroupExamples:
    """Turn tables into flat arrays, with groups in the order of their first row.

    Args:
        groups: `groups.parquet`.
        items: `items.parquet`.
        rows: Targets with `group_id`, `item_id`, `label` and `kind`.
        missed: Relevant items that are not among the targets, one row each with its `group_id`; None: no such items.
    """
    contexts = groups.select("group_id").with_row_index("context")
    index = items.select("item_id").with_row_index("item_index")
    kinds = pl.DataFrame({"kind": LIST_KINDS, "kind_index": range(len(LIST_KINDS))})
    joined = rows.join(contexts, on="group_id", how="left", maintain_order="left")
    joined = joined.join(index, on="item_id", how="left", maintain_order="left")
    joined = joined.join(kinds, on="kind", how="left", maintain_order="left")
    order = joined.group_by("group_id", maintain_order=True).agg(pl.len(), pl.col("context").first())
    joined = order.select("group_id").join(joined, on="group_id", how="left", maintain_order="left_right")
    counts = (rows.clear() if missed is None else missed).group_by("group_id").agg(n_missed=pl.len())
    n_missed = order.join(counts, on="group_id", how="left", maintain_order="left")["n_missed"].fill_null(0)
    return GroupExamples(
        group_id=order["group_id"].to_numpy(),
        context=order["context"].to_numpy().astype(np.int64),
        offsets=np.concatenate([[0], order["len"].to_numpy()]).astype(np.int64).cumsum(),
        item_index=joined["item_index"].to_numpy().astype(np.int64),
        relevance=joined["label"].to_numpy().astype(np.int64),
        kind=joined["kind_index"].to_numpy().astype(np.int64),
        n_missed=n_missed.to_numpy().astype(np.int64),
    )
