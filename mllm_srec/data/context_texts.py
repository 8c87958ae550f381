"""What a context says of its user: the stored preference and the liked items since, or the items alone.

What keeps the future out is checked for every context: where there are preferences, its items are exactly the visible
likes before its key, and its preference ends at one of them; where dislikes are shown, every item comes before its key.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from mllm_srec.data.summary_texts import SummaryTexts
from mllm_srec.data.tables.interactions import KEY, in_time_order, is_liked
from mllm_srec.prompts.summaries import one_line
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import VISIBLE, DataError, Split

Likes = tuple[list[tuple[int, int]], list[str]]
"""Keys and items of what one user liked, oldest first."""
Keys = dict[str, tuple[int, int]]
"""When one user met each item."""


@dataclass(frozen=True)
class ContextBody:
    """The changing part of a context.

    Attributes:
        preference: Text of the last preference before the key; None where there is none.
        items: Liked items that came after it, oldest first; without a preference, all that the group lists. Disliked
            ones stand among them where the wording shows both.
        disliked: Which of the items were disliked.
    """

    preference: str | None
    items: Sequence[str]
    disliked: frozenset[str] = frozenset()


class ContextTexts:
    """Finds the body of every context.

    Args:
        interactions: Rows of `interactions.parquet`, of all users that are asked about.
        texts: Stored summaries; None leaves contexts with their items.
        settings: Which items are listed, and how many.
    """

    def __init__(
        self,
        interactions: pl.DataFrame,
        texts: SummaryTexts | None,
        settings: PromptSettings = PromptSettings(),  # noqa: B008 - frozen
    ) -> None:
        self.texts, self.settings = texts, settings
        self._likes: dict[tuple[Split, ...], dict[str, Likes]] = {}
        self._keys: dict[tuple[Split, ...], dict[str, Keys]] = {}
        if texts is not None:
            self._likes = {visible: _likes_by_user(interactions, visible) for visible in set(VISIBLE.values())}
        if settings.phrases.disliked:
            self._keys = {visible: _keys_by_user(interactions, visible) for visible in set(VISIBLE.values())}

    def body(self, group: Mapping[str, Any]) -> ContextBody:
        """The body of one context.

        Args:
            group: A row of the groups table.

        Raises:
            DataError: History or preference hold what the group may not see, or belong to other tables.
        """
        body = self._with_dislikes(group) if self.settings.phrases.disliked else self._of_likes(group)
        latest = self.settings.max_history
        return body if latest is None else replace(body, items=body.items[-latest:])

    def _with_dislikes(self, group: Mapping[str, Any]) -> ContextBody:
        """Liked and disliked items in one order of time."""
        disliked: list[str] = group["disliked"]
        items = [*group["history"], *disliked]
        keys = self._keys[VISIBLE[group["split"]]].get(group["user_id"], {})
        now = (group["timestamp"], group["order"])
        if late := [item for item in items if item not in keys or keys[item] >= now]:
            raise DataError(
                f"group {group['group_id']} lists {late[0]!r}, which user {group['user_id']!r} did not meet before it "
                f"in {' and '.join(VISIBLE[group['split']])}: groups.parquet and interactions.parquet do not belong "
                "together; prepare the data set again with `python -m mllm_srec prepare`"
            )
        return ContextBody(None, sorted(items, key=keys.__getitem__), frozenset(disliked))

    def _of_likes(self, group: Mapping[str, Any]) -> ContextBody:
        """Liked items, behind the preference where there is one."""
        history: list[str] = group["history"]
        if self.texts is None:
            return ContextBody(None, history)
        user_id, split = group["user_id"], group["split"]
        keys, items = self._likes[VISIBLE[split]].get(user_id, ([], []))
        end = bisect_left(keys, (group["timestamp"], group["order"]))
        if items[max(0, end - len(history)) : end] != history:
            raise DataError(
                f"the history of group {group['group_id']} is not what user {user_id!r} liked before it in "
                f"{' and '.join(VISIBLE[split])}: groups.parquet and interactions.parquet do not belong together; "
                "prepare the data set again with `python -m mllm_srec prepare`"
            )
        state = self.texts.state_before(user_id, split, group["timestamp"], group["order"])
        if state is None:
            return ContextBody(None, history)
        begin = bisect_right(keys, state.key, hi=end)
        if begin == 0 or keys[begin - 1] != state.key:
            raise DataError(
                f"the preference for group {group['group_id']} ends at key {state.key}, but user {user_id!r} liked "
                f"nothing at that key in {' and '.join(VISIBLE[split])}: it was made from other data, or from what "
                "the group may not see; write it again with `python -m mllm_srec summarize`"
            )
        since = min(end - begin, len(history))  # the group lists no more than the latest `max_history`
        return ContextBody(one_line(state.text), history[len(history) - since :])


def _likes_by_user(interactions: pl.DataFrame, visible: tuple[Split, ...]) -> dict[str, Likes]:
    """User -> likes of the visible splits."""
    rows = in_time_order(
        interactions.filter(pl.col("split").is_in(visible) & is_liked()).select("user_id", *KEY, "item_id")
    )
    users = rows.group_by("user_id", maintain_order=True).all()
    return {user: (list(zip(times, orders, strict=True)), items) for user, times, orders, items in users.iter_rows()}


def _keys_by_user(interactions: pl.DataFrame, visible: tuple[Split, ...]) -> dict[str, Keys]:
    """User -> keys of everything they met in the visible splits."""
    found: dict[str, Keys] = {}
    rows = interactions.filter(pl.col("split").is_in(visible)).select("user_id", "item_id", *KEY)
    for user_id, item_id, timestamp, order in rows.iter_rows():
        found.setdefault(user_id, {})[item_id] = (timestamp, order)
    return found
