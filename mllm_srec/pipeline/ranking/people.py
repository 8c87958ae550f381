"""Users at ranking time: those of the data set with all that is visible of them, and people with their own history.

Both become rows of an interactions table, so that histories, windows and preferences follow exactly the rules of the
contexts that the model was tested on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from mllm_srec.data.ratings import LIKED, is_liked
from mllm_srec.data.stored_prompts.contexts import ContextBody, ContextTexts
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.data.tables.contexts import add_contexts
from mllm_srec.pipeline.ranking.new_items import NewItem
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import LIKED_RATING, VISIBLE, DataError

NOW = 2**63 - 1
"""Time behind all keys."""


@dataclass(frozen=True)
class History:
    """The likes of a person who need not be in the data set.

    Args:
        items: Ids of items, or new items, without duplicates, oldest first; may be empty.
        user_id: Name of the person in prompts with `data.prompt.user_id`.
        profile: Phrase such as "a 34-year-old teacher", where the data set has profiles.
        reviews: Reviews by the person, none or one an item; used with `summaries.use_reviews`.

    Raises:
        DataError: An item occurs twice, or the number of reviews does not match the items.
    """

    items: Sequence[str | NewItem]
    user_id: str = "new"
    profile: str | None = None
    reviews: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check what a table of interactions could not hold."""
        if isinstance(self.items, str):
            raise DataError(f"items={self.items!r}: a history is not one text; give a list of item ids, oldest first")
        if len(set(self.items)) < len(self.items):
            raise DataError(f"items={list(self.items)}: an item occurs twice; keep its earliest occurrence only")
        if len(self.reviews) not in (0, len(self.items)):
            raise DataError(
                f"reviews: there are {len(self.reviews)} reviews for {len(self.items)} items; give none, or one an item"
            )

    def interactions(self, item_ids: Sequence[str]) -> pl.DataFrame:
        """Return the likes at the times 0, 1, 2, ..., as rows of `PreparedDataset.interactions`.

        Args:
            item_ids: Ids of `items`.
        """
        n = len(item_ids)
        columns = {
            "user_id": [self.user_id] * n,
            "item_id": list(item_ids),
            "rating": [LIKED_RATING] * n,
            LIKED: [True] * n,
            "timestamp": list(range(n)),
            "order": list(range(n)),
            "review": list(self.reviews) or [""] * n,
            "split": ["train"] * n,
        }
        texts = ("user_id", "item_id", "review", "split")
        types = {name: pl.String() if name in texts else pl.Int64() for name in columns}
        schema = types | {"rating": pl.Float64(), LIKED: pl.Boolean()}
        return pl.DataFrame(columns, schema=schema)


@dataclass(frozen=True)
class Person:
    """A person to whom items are recommended.

    Attributes:
        user_id: Id of the person.
        history: Likes that are visible now, the latest `prepare.max_history`, oldest first.
        body: Body of the context: the preference, and the items since.
        seen: Items of all visible interactions, which are not recommended.
        held_out: Likes of the test split, which neither training nor context shows.
    """

    user_id: str
    history: Sequence[str]
    body: ContextBody
    seen: frozenset[str]
    held_out: frozenset[str]

    @property
    def group(self) -> dict[str, Any]:
        """Row of the groups table for this person; `group_id` is `now`."""
        return {"group_id": "now", "user_id": self.user_id}


def people_now(
    interactions: pl.DataFrame,
    user_ids: Sequence[str],
    texts: SummaryTexts | None,
    max_history: int,
    settings: PromptSettings = PromptSettings(),  # noqa: B008 - frozen
) -> list[Person]:
    """Return people with all that is visible in the test split: likes of train and val, and the last preference.

    Args:
        interactions: Rows as in `interactions.parquet`; those of other users are ignored.
        user_ids: Ids of the people, without duplicates; an id without visible rows has no history.
        texts: Stored summaries; None where there are none.
        max_history: Items kept of a history, the latest (`prepare.max_history` of the data set).
        settings: Wording, and the number of items that are listed.
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
    """Check that the data set holds a user.

    Args:
        user_id: Id of the user.
        known: All ids, in alphabetical order.

    Raises:
        DataError: It does not. No similar ids are named: whoever has one is somebody else.
    """
    index = bisect_left(known, user_id)
    if index == len(known) or known[index] != user_id:
        raise DataError(
            f"user={user_id!r}: is not among the {len(known):,} users of the data set; give a user_id of its "
            "interactions.parquet, or, for a person who is not in it, rank a `History` from Python"
        )
