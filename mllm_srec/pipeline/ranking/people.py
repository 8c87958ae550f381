"""People as a recommendation sees them now: everything visible of a user of the data set, or a history of one's own.

Both are rows of an interactions table, so that histories, windows and preferences follow the very rules of the
contexts that the model was tested on.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from mllm_srec.data.stored_prompts.contexts import ContextBody, ContextTexts
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.data.tables.contexts import add_contexts
from mllm_srec.data.tables.interactions import is_liked
from mllm_srec.pipeline.ranking.new_items import NewItem
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import LIKED_RATING, VISIBLE, DataError

NOW = 2**63 - 1
"""Behind every key."""

N_COMPARED = 2000
"""Ids that are compared letter by letter with an unknown one: those around it in the order of the alphabet."""


@dataclass(frozen=True)
class History:
    """What a person liked, who need not be in the data set.

    Args:
        items: Ids of items or new items, each once, oldest first; may be empty.
        user_id: Stands in the prompt where `data.prompt.user_id` is on.
        profile: A phrase such as "a 34-year-old teacher", where the data set has profiles.
        reviews: The person's own words about each item; empty, or one text an item. Used with `summaries.use_reviews`.

    Raises:
        DataError: An item occurs twice, or reviews do not fit the items.
    """

    items: Sequence[str | NewItem]
    user_id: str = "new"
    profile: str | None = None
    reviews: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse what no table of interactions could hold."""
        if isinstance(self.items, str):
            raise DataError(f"items={self.items!r} of a history; give a list of item ids, oldest first")
        if len(set(self.items)) < len(self.items):
            raise DataError(f"items={list(self.items)} of a history: an item occurs twice; keep its earliest place")
        if len(self.reviews) not in (0, len(self.items)):
            raise DataError(f"{len(self.reviews)} reviews for {len(self.items)} items of a history; give none or all")

    def interactions(self, item_ids: Sequence[str]) -> pl.DataFrame:
        """Likes at the times 0, 1, 2, ..., as rows of `interactions.parquet`.

        Args:
            item_ids: The ids of `items`.
        """
        n = len(item_ids)
        columns = {
            "user_id": [self.user_id] * n,
            "item_id": list(item_ids),
            "rating": [LIKED_RATING] * n,
            "timestamp": list(range(n)),
            "order": list(range(n)),
            "review": list(self.reviews) or [""] * n,
            "split": ["train"] * n,
        }
        texts = ("user_id", "item_id", "review", "split")
        schema = {name: pl.String() if name in texts else pl.Int64() for name in columns} | {"rating": pl.Float64()}
        return pl.DataFrame(columns, schema=schema)


@dataclass(frozen=True)
class Person:
    """Somebody to whom items are recommended.

    Attributes:
        user_id: Who.
        history: Liked items that are visible now, the latest `max_history`, oldest first.
        body: What the context says of them: the preference, and the items since.
        seen: All items that the person is known to have met, which are not recommended.
        held_out: Likes of the test split: the answers that neither training nor context showed.
    """

    user_id: str
    history: Sequence[str]
    body: ContextBody
    seen: frozenset[str]
    held_out: frozenset[str]

    @property
    def group(self) -> dict[str, Any]:
        """The person as a row of `groups`, behind everything."""
        return {"group_id": "now", "user_id": self.user_id}


def people_now(
    interactions: pl.DataFrame,
    user_ids: Sequence[str],
    texts: SummaryTexts | None,
    max_history: int,
    settings: PromptSettings = PromptSettings(),  # noqa: B008 - frozen
) -> list[Person]:
    """People with all that is visible in the test split: likes of train and val, and the last preference.

    Args:
        interactions: Columns of `interactions.parquet`; rows of other users are not looked at.
        user_ids: Who, each once; somebody without any visible row has no history.
        texts: Stored summaries, None where there are none.
        max_history: Longest history.
        settings: Which of its items are shown.
    """
    own = interactions.filter(pl.col("user_id").is_in(list(user_ids)))
    asked = pl.DataFrame({"user_id": list(user_ids)}, schema={"user_id": pl.String()})
    asked = asked.with_columns(timestamp=pl.lit(NOW, pl.Int64), order=pl.lit(NOW, pl.Int64), split=pl.lit("test"))
    groups = add_contexts(asked, own, "test", max_history).with_columns(group_id=pl.lit("now"))
    contexts = ContextTexts(own, texts, settings)
    seen = _items_by_user(own.filter(pl.col("split").is_in(VISIBLE["test"])))
    held_out = _items_by_user(own.filter((pl.col("split") == "test") & is_liked()))
    return [
        Person(
            group["user_id"],
            group["history"],
            contexts.body(group),
            seen.get(group["user_id"], frozenset()),
            held_out.get(group["user_id"], frozenset()),
        )
        for group in groups.iter_rows(named=True)
    ]


def _items_by_user(rows: pl.DataFrame) -> Mapping[str, frozenset[str]]:
    lists = rows.group_by("user_id").agg("item_id")
    return {user_id: frozenset(items) for user_id, items in lists.iter_rows()}


def check_user(user_id: str, known: Sequence[str]) -> None:
    """Refuse an id that the data set does not hold.

    Args:
        user_id: The id.
        known: All ids, in the order of the alphabet.

    Raises:
        DataError: It is unknown; names those that are most like it.
    """
    place = bisect_left(known, user_id)
    if place < len(known) and known[place] == user_id:
        return
    around = known[max(0, place - N_COMPARED // 2) : place + N_COMPARED // 2]
    near = difflib.get_close_matches(user_id, around, n=3, cutoff=0.0)
    raise DataError(
        f"there is no user {user_id!r} among the {len(known)} of the data set; the nearest are "
        f"{', '.join(map(repr, near))}. For somebody new, rank a `History` from Python"
    )
