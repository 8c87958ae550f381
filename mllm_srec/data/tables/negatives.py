"""Sampled negatives: exactly uniform, no repeats, reproducible."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import polars as pl

from mllm_srec.data.tables.split_repair import Bools, Ints
from mllm_srec.files.hashing import table_hash
from mllm_srec.types import SPLITS, Purpose, Split

CHUNK_CELLS = 5_000_000
"""Largest matrix of (lists, items) held at once where whole rows of the catalogue are shuffled."""

STREAMS: tuple[Purpose, ...] = ("pair", "rank")


def random_stream(seed: int, purpose: Purpose, split: Split) -> np.random.Generator:
    """A generator of its own per purpose and split, so that train draws do not feel what happens in val and test."""
    return np.random.default_rng([seed, STREAMS.index(purpose), SPLITS.index(split)])


@dataclass(frozen=True)
class Exclusions:
    """Which items each user's lists must not hold.

    Attributes:
        codes: (E,) sorted, distinct values of user code x n_items + item code.
        n_items: Size of the catalogue.
    """

    codes: Ints
    n_items: int

    def contains(self, user: Ints, item: Ints) -> Bools:
        """True where the item is excluded for the user; arguments broadcast."""
        wanted = user * self.n_items + item
        if not self.codes.size:
            return np.zeros(wanted.shape, dtype=np.bool_)
        found = np.minimum(np.searchsorted(self.codes, wanted), self.codes.size - 1)
        return np.asarray(self.codes[found] == wanted)

    def count(self, n_users: int) -> Ints:
        """Number of excluded items per user, (n_users,)."""
        return np.bincount(self.codes // self.n_items, minlength=n_users)


def sample_negatives(
    lists: pl.DataFrame, excluded: pl.DataFrame, item_ids: pl.Series, n: int, generator: np.random.Generator
) -> pl.DataFrame:
    """Draw `n` items for each list: uniform over the catalogue without the user's excluded items, no repeats in a list.

    Args:
        lists: Columns `group_id` and `user_id`, in the order in which lists are drawn.
        excluded: Columns `user_id` and `item_id`; other users and items outside the catalogue do no harm.
        item_ids: The catalogue, distinct ids in a fixed order.
        n: Items per list, >= 0; where fewer are left all of them are taken.
        generator: Source of randomness.

    Returns:
        Columns `group_id`, `user_id`, `item_id`, `position` (int64, 1.. in drawing order), lists in the given order.
    """
    users = lists.select(pl.col("user_id").unique(maintain_order=True)).with_row_index("user")
    items = pl.DataFrame({"item_id": item_ids}).with_row_index("item")
    owner = lists.join(users, on="user_id", how="left", maintain_order="left")["user"].cast(pl.Int64).to_numpy()
    known = excluded.join(users, on="user_id").join(items, on="item_id").select(pl.col("user", "item").cast(pl.Int64))
    codes = np.unique(known["user"].to_numpy() * items.height + known["item"].to_numpy())
    row, item, position = draw_lists(owner, Exclusions(codes, items.height), n, generator)
    return lists.select("group_id", "user_id")[row].with_columns(
        item_ids.gather(item).alias("item_id"), pl.Series("position", position, dtype=pl.Int64)
    )


def draw_lists(owner: Ints, excluded: Exclusions, n: int, generator: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Numeric core of `sample_negatives`.

    Lists that take up to half of the catalogue (with what is excluded) draw items one after another and pass over
    excluded and repeated ones; the others shuffle the whole catalogue. Both give every ordered selection the same
    probability, and which of the two a list uses depends on counts alone, not on what was drawn.

    Args:
        owner: (L,) user code of each list.
        excluded: Items per user code that may not be drawn.
        n: Items per list.
        generator: Source of randomness.

    Returns:
        Three arrays of equal length: list number (ascending), item code, position in the list from 1.
    """
    n_items = excluded.n_items
    taken = excluded.count(int(owner.max(initial=-1)) + 1)[owner]
    wanted = np.minimum(n, n_items - taken)
    crowded = 2 * (taken + wanted) > n_items
    few, many = np.flatnonzero(crowded & (wanted > 0)), np.flatnonzero(~crowded & (wanted > 0))
    parts = [_draw_one_by_one(many, owner, wanted, excluded, generator)]
    step = max(1, CHUNK_CELLS // max(1, n_items))
    for begin in range(0, few.size, step):
        parts.append(_shuffle_catalogue(few[begin : begin + step], owner, wanted, excluded, generator))
    row, item = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    row, item = row[order], item[order]
    return row, item, _place_in_list(row) + 1


def _draw_one_by_one(
    lists: Ints, owner: Ints, wanted: Ints, excluded: Exclusions, generator: np.random.Generator
) -> tuple[Ints, Ints]:
    """Draw with replacement, keep the first `wanted` distinct allowed items; lists that fall short draw on."""
    row, item = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    missing = np.zeros_like(wanted)
    missing[lists] = wanted[lists]
    while lists.size:
        drawn_row = np.repeat(lists, missing[lists] + missing[lists] // 4 + 2)
        drawn = generator.integers(excluded.n_items, size=drawn_row.size)
        allowed = ~excluded.contains(owner[drawn_row], drawn)
        row, item = np.concatenate([row, drawn_row[allowed]]), np.concatenate([item, drawn[allowed]])
        _, first = np.unique(row * excluded.n_items + item, return_index=True)
        first.sort()  # back to drawing order
        order = first[np.argsort(row[first], kind="stable")]
        order = order[_place_in_list(row[order]) < wanted[row[order]]]
        row, item = row[order], item[order]
        missing[lists] = wanted[lists] - np.bincount(row, minlength=wanted.size)[lists]
        lists = lists[missing[lists] > 0]
    return row, item


def _shuffle_catalogue(
    lists: Ints, owner: Ints, wanted: Ints, excluded: Exclusions, generator: np.random.Generator
) -> tuple[Ints, Ints]:
    """The first `wanted` allowed items of a random order of the whole catalogue, one order per list."""
    catalogue = np.tile(np.arange(excluded.n_items), (lists.size, 1))  # (L, N)
    shuffled = generator.permuted(catalogue, axis=1)
    allowed = ~excluded.contains(owner[lists][:, None], shuffled)
    chosen = allowed & (np.cumsum(allowed, axis=1) <= wanted[lists][:, None])
    place, _ = np.nonzero(chosen)
    return lists[place], shuffled[chosen]


def _place_in_list(row: Ints) -> Ints:
    """Number of earlier entries of the same list; `row` is ascending."""
    return np.arange(row.size) - np.searchsorted(row, row, side="left")


def draw_users(groups: pl.DataFrame, max_users: int | None, generator: np.random.Generator) -> pl.DataFrame:
    """Keep the groups of `max_users` users drawn without replacement; null or too many keeps all.

    Args:
        groups: Table with `user_id`; its order of rows has no influence on who is drawn.
        max_users: Number of users, or None.
        generator: Source of randomness.
    """
    users = groups["user_id"].unique().sort()
    if max_users is None or max_users >= len(users):
        return groups
    drawn = users.gather(generator.choice(len(users), size=max_users, replace=False))
    return groups.filter(pl.col("user_id").is_in(drawn.to_list()))


def candidates_hash(groups: pl.DataFrame, candidates: pl.DataFrame) -> str:
    """SHA-256 of what every model ranks: the rank groups with their contexts, and their lists.

    Independent of the order of rows and columns, and of pair groups.

    Args:
        groups: The table `groups`.
        candidates: The table `candidates`.
    """
    rank = groups.filter(pl.col("purpose") == "rank").sort("group_id")
    lists = candidates.sort("group_id", "position", "item_id")
    parts = [table_hash(table.select(sorted(table.columns))) for table in (rank, lists)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
