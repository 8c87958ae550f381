"""Preference chains: the likes from which a user's preference is written, step by step in time order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from mllm_srec.data.ratings import is_liked
from mllm_srec.data.stored_prompts.summary_texts import VISIBLE_NAME, Visible
from mllm_srec.data.tables.interactions import KEY, in_time_order
from mllm_srec.types import SPLITS, VISIBLE, Split

VISIBLE_SPLITS: dict[Visible, tuple[Split, ...]] = {VISIBLE_NAME[split]: VISIBLE[split] for split in SPLITS}
"""Name of a chain -> splits whose interactions it holds."""


class Like(NamedTuple):
    """A liked interaction of a user.

    Attributes:
        item_id: The item.
        timestamp: Unix milliseconds; with `order` the key of the interaction.
        order: See `timestamp`.
        review: The user's review of the item; empty where there is none.
    """

    item_id: str
    timestamp: int
    order: int
    review: str


@dataclass(frozen=True)
class ChainStep:
    """One step of a chain, written by one call of the model.

    Attributes:
        index: Number of the step, from 0.
        start: First item that the step shows; it shows the items `start:end` of its chain.
        end: See `start`.
        key: (timestamp, order) of the last of them; only contexts with a later key may read the step's text.
    """

    index: int
    start: int
    end: int
    key: tuple[int, int]


@dataclass(frozen=True)
class Chain:
    """The likes of a user in one set of visible splits, oldest first; the tuples are of equal length.

    Attributes:
        user_id: The user.
        visible: Contexts that read it: `train` is for those of train and val, `train_val` for those of test.
        items: Item ids.
        keys: (timestamp, order) of each interaction, ascending.
        reviews: The user's review of each item; empty where there is none.
    """

    user_id: str
    visible: Visible
    items: tuple[str, ...]
    keys: tuple[tuple[int, int], ...]
    reviews: tuple[str, ...]

    def steps(self, window: int, step: int, refined: bool, max_windows: int | None = None) -> list[ChainStep]:
        """Return the steps of this chain, one for each of its latest full windows, numbered from 0.

        Args:
            window: Items of a window, at least 1.
            step: Items by which the window moves on, at least 1.
            refined: True if a step shows its window and refines the text of the step before (Eq. 3); False if it shows
                everything up to the window's end and no earlier text.
            max_windows: Most windows, the latest, at least 1; without refinement also the most that a step shows
                together. None sets no limit.
        """
        spans = windows(len(self.items), window, step)
        most = max_windows or len(spans)
        begins = [start if refined else spans[max(0, n - most + 1)][0] for n, (start, _) in enumerate(spans)]
        kept = list(zip(begins, spans, strict=True))[-most:]
        return [ChainStep(index, begin, end, self.keys[end - 1]) for index, (begin, (_, end)) in enumerate(kept)]


def windows(n_items: int, window: int, step: int) -> list[tuple[int, int]]:
    """Return (start, end) of every full window of a sequence.

    Args:
        n_items: Length of the sequence, at least 0.
        window: Length of a window, at least 1.
        step: Distance between two starts, at least 1.
    """
    return [(start, start + window) for start in range(0, n_items - window + 1, step)]


def windows_left_out(interactions: pl.DataFrame, window: int, step: int, max_windows: int) -> tuple[int, int]:
    """Count what `max_windows` leaves out of chains, without building them: every command asks.

    Args:
        interactions: Rows as in `interactions.parquet`, in any order.
        window: See `Chain.steps`.
        step: See `Chain.steps`.
        max_windows: See `Chain.steps`.

    Returns:
        Chains that have more windows, and the windows that these have too many.
    """
    liked = interactions.filter(is_liked())
    n_chains = n_windows = 0
    for splits in VISIBLE_SPLITS.values():
        lengths = liked.filter(pl.col("split").is_in(splits)).group_by("user_id").len()["len"].cast(pl.Int64)
        extra = (lengths - window) // step + 1 - max_windows
        n_chains += int((extra > 0).sum())
        n_windows += int(extra.filter(extra > 0).sum())
    return n_chains, n_windows


def visible_likes(interactions: pl.DataFrame) -> dict[tuple[str, Visible], list[Like]]:
    """Return (user_id, visible) -> likes in the order of their keys; no entry where there is none.

    Args:
        interactions: Rows as in `interactions.parquet`, in any order.
    """
    likes = in_time_order(interactions.filter(is_liked())).with_columns(pl.col("review").fill_null(""))
    chains: dict[tuple[str, Visible], list[Like]] = {}
    for visible, splits in VISIBLE_SPLITS.items():
        rows = likes.filter(pl.col("split").is_in(splits)).select("user_id", "item_id", *KEY, "review")
        for user_id, *like in rows.iter_rows():
            chains.setdefault((user_id, visible), []).append(Like(*like))
    return chains


def build_chains(interactions: pl.DataFrame) -> list[Chain]:
    """Build the chains of all users, sorted by user and visible splits; those without a full window have no steps.

    Args:
        interactions: Rows as in `interactions.parquet`, in any order.
    """
    return [
        Chain(
            user_id,
            visible,
            items=tuple(like.item_id for like in likes),
            keys=tuple((like.timestamp, like.order) for like in likes),
            reviews=tuple(like.review for like in likes),
        )
        for (user_id, visible), likes in sorted(visible_likes(interactions).items())
    ]
