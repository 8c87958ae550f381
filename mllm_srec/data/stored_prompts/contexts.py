"""Contexts: what a prompt says of its user, and its tokens.

A context says the stored preference and the likes since (and never fewer likes than `min_recent`), or the likes alone;
how both are shortened is in `data/history.py`. What keeps the future out is checked for every context: where there are
preferences, its items are exactly the visible likes before its key, and its preference ends at one of them; where
dislikes are shown, every item comes before its key.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from mllm_srec.data.history import (
    Ids,
    cut_line,
    cut_text,
    cut_tokens,
    first_that_fits,
    items_since,
    latest_items,
    newest_lines,
)
from mllm_srec.data.ratings import is_liked
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.data.tables.interactions import KEY, in_time_order
from mllm_srec.prompts.builder import empty_history, preference_line
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.summaries import collapse_whitespace
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.types import VISIBLE, DataError, Split

Likes = tuple[list[tuple[int, int]], list[str]]
"""Keys and items of one user's likes, oldest first."""
Keys = dict[str, tuple[int, int]]
"""item_id -> key of one user's interaction with it."""


@dataclass
class PromptReport:
    """Counts of what was shortened or is missing; printed, and kept as `report.json` beside the store.

    Attributes:
        n_contexts: Contexts written.
        n_without_history: Contexts that say "no history".
        n_shortened: Contexts whose oldest history lines did not fit `max_length`.
        n_dropped_items: History lines dropped from them.
        n_cut_histories: Contexts with room for only the beginning of their newest line.
        n_cut_preferences: Contexts whose preference was cut, at `max_preference_tokens` or at what `max_length` left.
        n_cut_texts: Items with a text that was cut at `max_item_tokens`.
        n_without_picture: Items whose prompt says that there is no picture.
    """

    n_contexts: int = 0
    n_without_history: int = 0
    n_shortened: int = 0
    n_dropped_items: int = 0
    n_cut_histories: int = 0
    n_cut_preferences: int = 0
    n_cut_texts: int = 0
    n_without_picture: int = 0


# --- which items, and which preference --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ContextBody:
    """The part of a context that differs from user to user and grows with time.

    Attributes:
        preference: Text of the last preference before the key; None where there is none.
        items: Liked items since the preference, oldest first; without a preference, all that the group lists. Where
            the wording shows dislikes, they are among them.
        disliked: The disliked ones of `items`.
        n_told: First ones of `items` that the preference tells of, too.
    """

    preference: str | None
    items: Sequence[str]
    disliked: frozenset[str] = frozenset()
    n_told: int = 0


class ContextTexts:
    """Finds the body of every context.

    Args:
        interactions: Rows of `interactions.parquet`, of all users whose contexts are wanted.
        texts: Stored summaries; None for contexts of items alone.
        settings: Wording, and the number of items that are listed.
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
        """Return the body of one context.

        Args:
            group: A row of the groups table.

        Raises:
            DataError: History or preference hold what the group may not see, or belong to other tables.
        """
        body = self._with_dislikes(group) if self.settings.phrases.disliked else self._of_likes(group)
        items = latest_items(body.items, self.settings.max_history)
        return replace(body, items=items, n_told=max(0, body.n_told - len(body.items) + len(items)))

    def _with_dislikes(self, group: Mapping[str, Any]) -> ContextBody:
        """Return liked and disliked items in one order of time."""
        disliked: list[str] = group["disliked"]
        items = [*group["history"], *disliked]
        keys = self._keys[VISIBLE[group["split"]]].get(group["user_id"], {})
        now = (group["timestamp"], group["order"])
        if late := [item for item in items if item not in keys or keys[item] >= now]:
            raise DataError(
                f"group {group['group_id']} lists {late[0]!r}, with which user {group['user_id']!r} has no earlier "
                f"interaction in {' and '.join(VISIBLE[group['split']])}: groups.parquet and interactions.parquet do "
                "not belong together; prepare the data set again with `python -m mllm_srec prepare`"
            )
        return ContextBody(None, sorted(items, key=keys.__getitem__), frozenset(disliked))

    def _of_likes(self, group: Mapping[str, Any]) -> ContextBody:
        """Return liked items, behind the preference where there is one."""
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
                f"nothing at that key in {' and '.join(VISIBLE[split])}: it was written from other data, or from what "
                "the group may not see; write it again with `python -m mllm_srec summarize`"
            )
        listed = items_since(history, end - begin, self.settings.min_recent)
        return ContextBody(collapse_whitespace(state.text), listed, n_told=max(0, len(listed) - (end - begin)))


def _likes_by_user(interactions: pl.DataFrame, visible: tuple[Split, ...]) -> dict[str, Likes]:
    """Return user_id -> likes of the visible splits."""
    rows = in_time_order(
        interactions.filter(pl.col("split").is_in(visible) & is_liked()).select("user_id", *KEY, "item_id")
    )
    users = rows.group_by("user_id", maintain_order=True).all()
    return {user: (list(zip(times, orders, strict=True)), items) for user, times, orders, items in users.iter_rows()}


def _keys_by_user(interactions: pl.DataFrame, visible: tuple[Split, ...]) -> dict[str, Keys]:
    """Return user_id -> keys of all interactions of the visible splits."""
    keys: dict[str, Keys] = {}
    rows = interactions.filter(pl.col("split").is_in(visible)).select("user_id", "item_id", *KEY)
    for user_id, item_id, timestamp, order in rows.iter_rows():
        keys.setdefault(user_id, {})[item_id] = (timestamp, order)
    return keys


# --- tokens -----------------------------------------------------------------------------------------------------------


class ContextFitter:
    """Turns bodies into tokens, as many as there is room for.

    Args:
        lines: item_id -> tokens of its history line.
        encoder: The backbone's tokenizer.
        settings: Wording, and the length at which preferences are cut.
        report: Counts what was shortened.

    Attributes:
        nothing: Tokens of a body without any history.
    """

    def __init__(
        self, lines: Mapping[str, Ids], encoder: PromptEncoder, settings: PromptSettings, report: PromptReport
    ) -> None:
        self.lines, self.encoder, self.settings, self.report = lines, encoder, settings, report
        self.nothing = encoder.encode_text(empty_history(settings))

    def fit(self, body: ContextBody, room: int) -> tuple[Ids, int]:
        """Return the tokens of a body, at most `room`, and how many of its lines were dropped.

        Args:
            body: Preference and items of the context.
            room: Tokens for them, at least as many as `nothing` has.
        """
        lines = [self.lines[item] for item in body.items]
        shown, n_kept = self._shown(body, lines, room)
        n_dropped = len(lines) - n_kept
        self.report.n_contexts += 1
        self.report.n_without_history += body.preference is None and not lines
        self.report.n_shortened += n_dropped > 0
        self.report.n_dropped_items += n_dropped
        return shown, n_dropped

    def _shown(self, body: ContextBody, lines: Sequence[Ids], room: int) -> tuple[Ids, int]:
        """Return the tokens of the body, and how many of its lines they hold."""
        opening: Ids = []
        if body.preference is None:
            kept = self._only_lines(lines, room)
        else:
            opening, kept = self._behind_preference(body.preference, lines, room, body.n_told > 0)
        return opening + _joined(kept) or self.nothing, len(kept)

    def _only_lines(self, lines: Sequence[Ids], room: int) -> Sequence[Ids]:
        kept = newest_lines(lines, room)
        if lines and not kept:  # never claim that there is no history
            kept = [cut_line(lines, room)]
            self.report.n_cut_histories += 1
        return kept

    def _behind_preference(
        self, preference: str, lines: Sequence[Ids], room: int, told: bool
    ) -> tuple[Ids, Sequence[Ids]]:
        """Return the tokens of the preference up to the first line, and the lines that fit behind them."""
        text = cut_text(self.encoder, preference, self.settings.max_preference_tokens)
        opening = self.encoder.encode_text(preference_line(text, has_lines=True, told=told))
        kept = newest_lines(lines, room - len(opening))
        uncut = opening if kept else self.encoder.encode_text(preference_line(text, has_lines=False))
        shown = uncut if len(uncut) <= room else cut_tokens(self.encoder.tokenizer, uncut, room)
        self.report.n_cut_preferences += text != preference or len(shown) < len(uncut)
        return shown, kept


class TwoListFitter(ContextFitter):
    """Puts liked and disliked items into two lists; the oldest of both together give way first."""

    def __init__(
        self, lines: Mapping[str, Ids], encoder: PromptEncoder, settings: PromptSettings, report: PromptReport
    ) -> None:
        super().__init__(lines, encoder, settings, report)
        self._none = encoder.encode_text(empty_history(settings))
        self._between = encoder.encode_text(settings.phrases.disliked)
        self.nothing = [*self._none, *self._between, *self._none]

    def _shown(self, body: ContextBody, lines: Sequence[Ids], room: int) -> tuple[Ids, int]:
        if not lines:
            return self.nothing, 0
        disliked = [item in body.disliked for item in body.items]
        first = first_that_fits(len(lines), lambda first: len(self._written(lines[first:], disliked[first:])), room)
        if first is not None:
            return self._written(lines[first:], disliked[first:]), len(lines) - first
        self.report.n_cut_histories += 1  # never claim that there is no history
        n_around = len(self._written([[]], disliked[-1:]))
        return self._written([cut_line(lines, room - n_around)], disliked[-1:]), 1

    def _written(self, lines: Sequence[Ids], disliked: Sequence[bool]) -> Ids:
        """Return the tokens of both lists, each in the order of `lines`."""
        lists = [[line for line, no in zip(lines, disliked, strict=True) if no == other] for other in (False, True)]
        liked, other = (_joined(part) if part else self._none for part in lists)
        return [*liked, *self._between, *other]


def _joined(lines: Sequence[Ids]) -> Ids:
    return [token for line in lines for token in line]
