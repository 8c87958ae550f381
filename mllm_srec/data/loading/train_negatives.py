"""More negatives beside the stored one, drawn anew each epoch: a pure function of (seed, epoch, group).

They follow the rule of the stored ones: an item that its user did not interact with in the train split, whatever the
held-out splits hold, since leaving those out would tell the model which items are held out. Dislikes of the train split
are the exception, where they are asked for by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.catalogue_lists import Ragged
from mllm_srec.data.loading.examples import GroupExamples
from mllm_srec.data.ratings import is_disliked
from mllm_srec.data.tables.negatives import Exclusions, draw_lists
from mllm_srec.data.tables.popularity import by_popularity
from mllm_srec.types import LIST_KINDS, ConfigError

NegativesFrom = Literal["catalogue", "disliked", "hard"]
"""Where more negatives come from: all items, the user's dislikes, or the first items of a retriever."""

STREAM = 20_611
"""Last word of the seed of every draw, so that it is the stream of nothing else."""


@dataclass(frozen=True)
class TrainNegatives:
    """Draws the negatives of training groups that are not stored.

    Attributes:
        n: Negatives of a group with a like, stored ones included.
        source: Where they are drawn from.
        n_retrieved: First items of the retriever that `hard` draws from.
        seed: Seed of the draws.
        n_items: N, number of items of the catalogue.
        owner: `(contexts,)` number of the user of each row of the groups table.
        known: Items of the train split by user, as sorted rows of the items table.
        pool: By user, the items of `disliked`, or those of `hard` in the retriever's order; None for `catalogue`.
            A single list serves all users.
    """

    n: int
    source: NegativesFrom
    n_retrieved: int
    seed: int
    n_items: int
    owner: np.ndarray
    known: Ragged
    pool: Ragged | None

    @classmethod
    def of(
        cls,
        data: PreparedDataset,
        n: int,
        source: NegativesFrom,
        seed: int,
        n_retrieved: int = 100,
        retrieved: pl.DataFrame | None = None,
    ) -> TrainNegatives:
        """Number users and items, and gather what is drawn from.

        Args:
            data: The prepared data set.
            n: See `n`.
            source: See `source`.
            seed: See `seed`.
            n_retrieved: See `n_retrieved`.
            retrieved: `user_id`, `item_id` and `rank` of a retriever's lists, for `hard`; None: the most liked items.
        """
        users = data.groups.select(pl.col("user_id").unique().sort()).with_row_index("user")
        train = data.interactions.filter(pl.col("split") == "train")
        pool: Ragged | None = None
        if source == "disliked":
            pool = _by_user(train.filter(is_disliked()).sort("item_id"), users, data)
        elif source == "hard" and retrieved is None:
            order = pl.DataFrame({"item_id": by_popularity(data.interactions, data.items)})
            pool = _by_user(order.with_columns(user_id=pl.lit("")), pl.DataFrame({"user_id": [""], "user": [0]}), data)
        elif source == "hard" and retrieved is not None:
            pool = _by_user(retrieved.sort("user_id", "rank"), users, data)
        owner = data.groups.select("user_id").join(users, on="user_id", how="left", maintain_order="left")["user"]
        known = _by_user(train.sort("item_id"), users, data)
        return cls(n, source, n_retrieved, seed, data.items.height, owner.to_numpy().astype(np.int64), known, pool)

    @property
    def kind(self) -> int:
        """Kind of the drawn items, as an index into `types.LIST_KINDS`."""
        return LIST_KINDS.index("disliked" if self.source == "disliked" else "sampled")

    @property
    def scarce(self) -> str:
        """Words on why a group may get fewer."""
        return {
            "catalogue": "their users know nearly the whole catalogue",
            "disliked": "their users disliked fewer items",
            "hard": "the retriever's lists are short",
        }[self.source]

    def draw(self, examples: GroupExamples, index: int, epoch: int) -> np.ndarray:
        """Draw the further negatives of a group without replacement: fewer where fewer are left, none without a like.

        Args:
            examples: Training groups with their stored targets.
            index: Group among them.
            epoch: Number of the epoch, from 0.

        Returns:
            `(k,)` rows of the items table, none of them a stored target of the group.
        """
        wanted, left = self._left(examples, index)
        generator = np.random.default_rng([self.seed, epoch, int(examples.group_id[index]), STREAM])
        if not wanted:
            return np.empty(0, dtype=np.int64)
        if left is not None:
            return generator.permutation(left)[:wanted]
        apart = np.union1d(self._of_user(self.known, examples, index), _stored(examples, index)[0])
        return draw_lists(np.zeros(1, np.int64), Exclusions(apart, self.n_items), wanted, generator)[1]

    def n_drawn(self, examples: GroupExamples) -> np.ndarray:
        """Count the negatives that each group gets besides the stored ones, in any epoch: `(G,)`."""
        counts = np.zeros(len(examples), dtype=np.int64)
        for index in range(len(examples)):
            wanted, left = self._left(examples, index)
            if wanted and left is None:
                known = self._of_user(self.known, examples, index)
                apart = np.union1d(known, _stored(examples, index)[0])
                counts[index] = min(wanted, self.n_items - apart.size)
            elif wanted and left is not None:
                counts[index] = min(wanted, left.size)
        return counts

    def _left(self, examples: GroupExamples, index: int) -> tuple[int, np.ndarray | None]:
        """Return how many negatives a group still wants, and the items to draw them from; None for the catalogue."""
        items, relevance = _stored(examples, index)
        wanted = max(0, self.n - int((relevance == 0).sum())) if relevance.any() else 0
        if not wanted or self.pool is None:
            return wanted, None
        if self.source == "disliked":
            pool = self._of_user(self.pool, examples, index)
            return wanted, pool[~np.isin(pool, items)]
        apart = np.concatenate([self._of_user(self.known, examples, index), items])
        one_for_all = len(self.pool) == 1
        pool = self.pool.values if one_for_all else self._of_user(self.pool, examples, index)
        pool = pool[: self.n_retrieved + apart.size]
        return wanted, pool[~np.isin(pool, apart)][: self.n_retrieved]

    def _of_user(self, lists: Ragged, examples: GroupExamples, index: int) -> np.ndarray:
        """Return the list of a group's user."""
        user = self.owner[examples.context[index]]
        return lists.values[lists.offsets[user] : lists.offsets[user + 1]]


def check_train_negatives(n: int, source: str, balance: str) -> None:
    """Refuse settings of training negatives that contradict each other.

    Args:
        n: `data.n_train_negatives`.
        source: `data.negatives_from`.
        balance: `data.balance`.

    Raises:
        ConfigError: A value is out of range, or there can be no more negatives.
    """
    if n < 1:
        raise ConfigError(f"data.n_train_negatives={n}: must be at least 1; give 1 for the stored negative alone")
    if source not in (accepted := get_args(NegativesFrom)):
        raise ConfigError(f"data.negatives_from={source!r}: not one of {', '.join(accepted)}; choose one of these")
    if n > 1 and balance == "cap":
        raise ConfigError(
            f"data.n_train_negatives={n}: data.balance='cap' keeps no more negatives than positives; set balance to all"
        )


def _stored(examples: GroupExamples, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return items and relevance of a group's stored targets."""
    rows = slice(examples.offsets[index], examples.offsets[index + 1])
    return examples.item_index[rows], examples.relevance[rows]


def _by_user(rows: pl.DataFrame, users: pl.DataFrame, data: PreparedDataset) -> Ragged:
    """Group items by their user's number, in the order of the rows; users and items that are unknown are left out."""
    items = data.items.select("item_id").with_row_index("item_index")
    numbered: Sequence[pl.Series] = (
        rows.select("user_id", "item_id")
        .join(users, on="user_id", maintain_order="left")
        .join(items, on="item_id", maintain_order="left")
        .select("user", "item_index")
        .get_columns()
    )
    user, item = (column.to_numpy().astype(np.int64) for column in numbered)
    return Ragged.grouped(user, item, users.height)
