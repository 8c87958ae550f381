"""Sampled negatives: exactly uniform, without replacement, reproducible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from mllm_srec.data.tables.split_repair import Bools, Ints
from mllm_srec.types import SPLITS, Purpose, Split

CHUNK_CELLS = 5_000_000
"""Most entries of a (lists, items) matrix held at once when whole catalogues are shuffled."""

MAX_SHUFFLED = 100_000_000
"""Most items shuffled for all crowded lists together, some seconds; beyond, lists are drawn from what users left."""

STREAMS: tuple[Purpose, ...] = ("pair", "rank")
"""Purposes with a random stream of their own; the position is part of the seed."""


def random_stream(seed: int, purpose: Purpose, split: Split) -> np.random.Generator:
    """Make the generator of a purpose and split, so that train draws do not depend on those of val and test."""
    return np.random.default_rng([seed, STREAMS.index(purpose), SPLITS.index(split)])


@dataclass(frozen=True)
class Exclusions:
    """Items that each user's lists must not hold.

    Attributes:
        codes: (E,) sorted, distinct values of user code * n_items + item code.
        n_items: Number of items in the catalogue.
    """

    codes: Ints
    n_items: int

    def contains(self, user: Ints, item: Ints) -> Bools:
        """True where the item is excluded for the user; arguments broadcast."""
        code = user * self.n_items + item
        if not self.codes.size:
            return np.zeros(code.shape, dtype=np.bool_)
        nearest = np.minimum(np.searchsorted(self.codes, code), self.codes.size - 1)
        return np.asarray(self.codes[nearest] == code)

    def count(self, n_users: int) -> Ints:
        """Return (n_users,) the number of excluded items per user."""
        return np.bincount(self.codes // self.n_items, minlength=n_users)


def sample_negatives(
    lists: pl.DataFrame, excluded: pl.DataFrame, item_ids: pl.Series, n: int, generator: np.random.Generator
) -> pl.DataFrame:
    """Draw `n` distinct items per list, uniformly from the catalogue without the user's excluded items.

    Args:
        lists: Columns `group_id` and `user_id`, in the order in which lists are drawn.
        excluded: Columns `user_id` and `item_id`; other users and items outside the catalogue are ignored.
        item_ids: Ids of the catalogue, distinct, in a fixed order.
        n: Number of items per list, >= 0; if fewer are left, all of them are taken.
        generator: Source of randomness.

    Returns:
        Columns `group_id`, `user_id`, `item_id`, `position` (int64, from 1 in drawing order), lists in the given order.
    """
    users = lists.select(pl.col("user_id").unique(maintain_order=True)).with_row_index("user")
    items = pl.DataFrame({"item_id": item_ids}).with_row_index("item")
    owner = lists.join(users, on="user_id", how="left", maintain_order="left")["user"].cast(pl.Int64).to_numpy()
    pairs = excluded.join(users, on="user_id").join(items, on="item_id").select(pl.col("user", "item").cast(pl.Int64))
    codes = np.unique(pairs["user"].to_numpy() * items.height + pairs["item"].to_numpy())
    row, item, position = draw_lists(owner, Exclusions(codes, items.height), n, generator)
    return lists.select("group_id", "user_id")[row].with_columns(
        item_ids.gather(item).alias("item_id"), pl.Series("position", position, dtype=pl.Int64)
    )


def draw_lists(owner: Ints, excluded: Exclusions, n: int, generator: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Draw the lists of `sample_negatives`, with numbers for users and items.

    If a list and its user's excluded items make up at most half of the catalogue, items are drawn one after another and
    excluded ones and duplicates are skipped; otherwise the whole catalogue is shuffled. Where that would be more than
    `MAX_SHUFFLED` items, as for a user with tens of thousands of lists, the items that each user left are listed once,
    and lists are drawn from them. All give every ordered selection the same probability, and the choice between them
    depends only on counts, not on the items drawn.

    Args:
        owner: (L,) user code of each list.
        excluded: Items that must not be drawn, per user code.
        n: Number of items per list.
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
    draw = _draw_from_rest if few.size * n_items > MAX_SHUFFLED else _shuffle_in_chunks
    parts.append(draw(few, owner, wanted, excluded, generator))
    row, item = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    row, item = row[order], item[order]
    return row, item, _position_in_list(row) + 1


def draw_users(groups: pl.DataFrame, max_users: int | None, generator: np.random.Generator) -> pl.DataFrame:
    """Keep the groups of `max_users` users, drawn without replacement.

    Args:
        groups: Table with `user_id`; the order of its rows does not affect the draw.
        max_users: Number of users; None, or at least as many as there are, keeps all.
        generator: Source of randomness.
    """
    users = groups["user_id"].unique().sort()
    if max_users is None or max_users >= len(users):
        return groups
    drawn = users.gather(generator.choice(len(users), size=max_users, replace=False))
    return groups.filter(pl.col("user_id").is_in(drawn.to_list()))


def _draw_one_by_one(
    lists: Ints, owner: Ints, wanted: Ints, excluded: Exclusions, generator: np.random.Generator
) -> tuple[Ints, Ints]:
    """Draw with replacement and keep the first `wanted` distinct allowed items; repeat for lists that fall short."""
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
        order = order[_position_in_list(row[order]) < wanted[row[order]]]
        row, item = row[order], item[order]
        missing[lists] = wanted[lists] - np.bincount(row, minlength=wanted.size)[lists]
        lists = lists[missing[lists] > 0]
    return row, item


def _shuffle_in_chunks(
    lists: Ints, owner: Ints, wanted: Ints, excluded: Exclusions, generator: np.random.Generator
) -> tuple[Ints, Ints]:
    """Shuffle the catalogue for as many lists at a time as memory allows."""
    step = max(1, CHUNK_CELLS // max(1, excluded.n_items))
    starts = range(0, lists.size, step)
    parts = [_shuffle_catalogue(lists[start : start + step], owner, wanted, excluded, generator) for start in starts]
    return _joined(parts)


def _draw_from_rest(
    lists: Ints, owner: Ints, wanted: Ints, excluded: Exclusions, generator: np.random.Generator
) -> tuple[Ints, Ints]:
    """List the items that a user left, once a user, and draw each of the user's lists from them."""
    by_user = lists[np.argsort(owner[lists], kind="stable")]
    ends = np.flatnonzero(np.diff(owner[by_user], append=-1)) + 1
    parts = []
    for own in np.split(by_user, ends[:-1]):
        left = np.flatnonzero(~excluded.contains(owner[own[:1]], np.arange(excluded.n_items)))
        rest = Exclusions(np.empty(0, dtype=np.int64), left.size)
        draw = _shuffle_in_chunks if 2 * int(wanted[own].max()) > left.size else _draw_one_by_one
        row, position = draw(np.arange(own.size), np.zeros_like(own), wanted[own], rest, generator)
        parts.append((own[row], left[position]))
    return _joined(parts)


def _joined(parts: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """Join drawn lists and items; without any, two empty arrays."""
    empty = np.empty(0, dtype=np.int64)
    row, item = (np.concatenate([empty, *part]) for part in (zip(*parts, strict=True) if parts else ((), ())))
    return row, item


def _shuffle_catalogue(
    lists: Ints, owner: Ints, wanted: Ints, excluded: Exclusions, generator: np.random.Generator
) -> tuple[Ints, Ints]:
    """Take the first `wanted` allowed items of the shuffled catalogue, shuffled anew for each list."""
    catalogue = np.tile(np.arange(excluded.n_items), (lists.size, 1))  # (L, N)
    shuffled = generator.permuted(catalogue, axis=1)
    allowed = ~excluded.contains(owner[lists][:, None], shuffled)
    chosen = allowed & (np.cumsum(allowed, axis=1) <= wanted[lists][:, None])
    row, _ = np.nonzero(chosen)
    return lists[row], shuffled[chosen]


def _position_in_list(row: Ints) -> Ints:
    """Count the earlier entries of the same list; `row` is ascending."""
    return np.arange(row.size) - np.searchsorted(row, row, side="left")
