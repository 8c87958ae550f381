"""Everything that shortens a history, in the order in which it happens; a new way to shorten one changes this file.

A history is what a model reads of a user's past. Oldest items give way first, everywhere.

1. `prepare.max_history` (50 items): the latest of each list of a context, liked and disliked apart. Written into
   `groups.parquet` by `tables/contexts.py`, so that no later step sees more. Users ranked now take the same way, with
   the value in the data set's manifest (`pipeline/ranking/people.py`). Function: `latest_rows`.
2. Stored preferences, for prompts with summaries: likes up to the key of the last preference are in its text, only
   those since are listed, and never fewer than the latest `data.prompt.min_recent` (0) likes
   (`stored_prompts/contexts.py`). Function: `items_since`.
3. `data.prompt.max_history` (items; null keeps all): the latest that a prompt lists, liked and disliked together
   (`stored_prompts/contexts.py`). Function: `latest_items`.
4. `data.prompt.max_item_tokens` (96) and `data.prompt.max_preference_tokens` (256): tokens of one item's text and of a
   preference (`stored_prompts/item_texts.py`, `contexts.py`). Function: `cut_text`.
5. `data.max_length` (tokens of a whole prompt): the history gets what instruction, profile, the longest target of the
   catalogue (or candidate list) and the answer leave, whatever is asked: pairs and lists of one context show the same
   history; the oldest lines go, then the end of the preference. A user with likes is never
   shown without any: where not even the newest line fits, its beginning stays (`stored_prompts/parts.py`,
   `contexts.py`). Functions: `room_for_history`, `newest_lines`, `first_that_fits`, `cut_line`, `cut_tokens`.
6. `max_history` of a baseline (50 items): the latest that it reads; a training sequence has one more, since its first
   item is not predicted (`loading/item_batches.py`). Function: `lengths_read`.

Preference prompts cut the lines of their window by 4, too (`summaries/inputs.py`, `ChatEncoder.cut`).

Baselines may not import `data`, so three of them apply a further cut of their own: sequence models take the last
columns of a batch by the same setting, GPTRec keeps `n_generated` positions free, and VIP5's `max_tokens` drops the
oldest items (`baselines/parts/vip5_prompts.py`). How far a preference chain has read (`summaries.window`,
`summaries.step`, `summaries.max_windows`) is in `summaries/preference_chains.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.types import ConfigError

Ids = list[int]
"""Token ids."""
Ints = npt.NDArray[np.int64]


# --- items ------------------------------------------------------------------------------------------------------------


def latest_rows(begin: Ints, end: Ints, max_history: int) -> Ints:
    """Return the first row of each history that is kept (cut 1).

    Args:
        begin: `(n,)` first row of each history in a table sorted by time.
        end: `(n,)` row behind its last one; a history with `end <= begin` is empty.
        max_history: Rows kept of each history, at least 0.
    """
    return np.maximum(begin, end - max_history)


def items_since(history: Sequence[str], n_since: int, min_recent: int = 0) -> Sequence[str]:
    """Return the items of a history that its stored preference does not cover, and at least the latest (cut 2).

    Args:
        history: Item ids, oldest first, already shortened by cut 1.
        n_since: Likes since the preference, which may be more than cut 1 left.
        min_recent: Likes that are listed even where the preference covers them.
    """
    return history[len(history) - min(max(n_since, min_recent), len(history)) :]


def latest_items(items: Sequence[str], max_history: int | None) -> Sequence[str]:
    """Return the latest items that a prompt lists (cut 3).

    Args:
        items: Item ids, oldest first.
        max_history: Items kept, at least 1; None keeps all.
    """
    return items if max_history is None else items[-max_history:]


def lengths_read(sizes: np.ndarray, max_history: int, n_predicted: int = 0) -> np.ndarray:
    """Return how many items of each history a baseline reads (cut 6).

    Args:
        sizes: `(n,)` items of each history.
        max_history: Items read, at least 1.
        n_predicted: Items beside them that are only predicted.
    """
    return np.asarray(np.minimum(sizes, max_history + n_predicted))


# --- tokens -----------------------------------------------------------------------------------------------------------


def cut_text(encoder: PromptEncoder, text: str, max_tokens: int) -> str:
    """Return `text`, or its first `max_tokens` tokens where it has more (cut 4)."""
    ids = encoder.encode_text(text)
    if len(ids) <= max_tokens:
        return text
    decoded: str = encoder.tokenizer.decode(ids[:max_tokens])
    return decoded.rstrip("\ufffd ")  # a cut inside a multi-byte character leaves a replacement character


def room_for_history(max_length: int, n_frame: int, n_target: int, n_answer: int, n_empty: int, about: str) -> int:
    """Return the tokens that `data.max_length` leaves for a history (cut 5).

    Args:
        max_length: Tokens of a prompt with its longest target and answer.
        n_frame: Tokens of the context around the history.
        n_target: Tokens of the longest target, or candidate list.
        n_answer: Tokens of the longest answer.
        n_empty: Tokens that say that there is no history, for which there must be room.
        about: Group and user, for the error.

    Raises:
        ConfigError: Even without any history the prompt exceeds `max_length`.
    """
    needed = n_frame + n_target + n_answer
    if max_length - needed < n_empty:
        raise ConfigError(
            f"data.max_length={max_length}: too few tokens for {about}; without any history it needs "
            f"{needed + n_empty}; raise it, or lower data.pictures.max_pixels or data.prompt.max_item_tokens"
        )
    return max_length - needed


def newest_lines(lines: Sequence[Ids], room: int) -> Sequence[Ids]:
    """Return as many of the newest lines as fit one after the other (cut 5).

    Args:
        lines: Tokens of each history line, oldest first.
        room: Tokens for all of them; none fits into a negative number.
    """
    first = len(lines)
    while first > 0 and len(lines[first - 1]) <= room:
        first -= 1
        room -= len(lines[first])
    return lines[first:]


def first_that_fits(n_lines: int, n_tokens: Callable[[int], int], room: int) -> int | None:
    """Return the oldest line with which a history fits, where other tokens than the lines' own count too (cut 5).

    Args:
        n_lines: Number of history lines.
        n_tokens: Tokens of the history from the given line to the newest.
        room: Tokens for all of it.

    Returns:
        Index of the line; None where not even the newest fits.
    """
    return next((first for first in range(n_lines) if n_tokens(first) <= room), None)


def cut_line(lines: Sequence[Ids], room: int) -> Ids:
    """Return the beginning of the newest line, where not even that one fits (cut 5)."""
    return lines[-1][:room]


def cut_tokens(tokenizer: Any, ids: Ids, room: int) -> Ids:
    """Return the first `room` tokens, without the first bytes of a character that was cut through (cut 5)."""
    ids = ids[:room]
    while tokenizer.decode(ids).endswith("\ufffd"):
        ids = ids[:-1]
    return ids
