"""Builds prompts as pieces: plain text, control tokens and pictures. Plain text is never parsed.

A prompt is a chat of one system and one user turn in ChatML, the format of all Qwen-VL models. The user comes first and
the target last, so that all targets of a context share its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mllm_srec.prompts.templates import (
    ANSWERS,
    EMPTY_LIST,
    LATEST,
    NO_HISTORY,
    NO_PICTURE,
    SINCE,
    SYSTEM,
    UNTITLED,
    PromptSettings,
)


@dataclass(frozen=True)
class Control:
    """A control token of the chat format, by its text in the vocabulary."""

    token: str


@dataclass(frozen=True)
class Picture:
    """One picture of the prompt: vision start, one placeholder per picture token, vision end."""


Piece = str | Control | Picture
TURN_START = Control("<|im_start|>")
TURN_END = Control("<|im_end|>")
ANSWER_TURN: tuple[Piece, ...] = (TURN_END, "\n", TURN_START, "assistant\n")
"""From the end of the question to the beginning of the answer."""


@dataclass(frozen=True)
class ItemText:
    """Fields of an item that a prompt may show; empty strings and lists where the source had nothing."""

    title: str
    brand: str = ""
    categories: Sequence[str] = ()
    description: str = ""


@dataclass(frozen=True)
class ContextFrame:
    """The pieces of a context around its body (the preference and the history lines).

    Attributes:
        head: Pieces directly before the body.
        tail: Pieces directly behind the body.
        apart: Rest of the context, separated from the body by the target's first turns; empty where the prompt is one
            question.
        body_first: True if the body is in the shared prefix and `apart` follows those turns; False the other way round.
    """

    head: Sequence[Piece]
    tail: Sequence[Piece]
    apart: Sequence[Piece] = ()
    body_first: bool = True


def item_text(item: ItemText, settings: PromptSettings) -> str:
    """Return one line about an item: its title and the fields that `settings` asks for, without line breaks."""
    parts = [item.title or UNTITLED]
    if settings.brand and item.brand:
        parts.append(f"by {item.brand}")
    if settings.categories and item.categories:
        parts.append("in " + " > ".join(item.categories))
    if settings.description and item.description:
        parts.append(item.description)
    return " ".join(", ".join(parts).split())


def user_name(user_id: str, settings: PromptSettings, with_article: bool = False) -> str:
    """Return `user_<id>`, or `user` (`the user`) where ids are not shown."""
    return f"user_{user_id}" if settings.user_id else "the user" if with_article else "user"


def user_clause(user_id: str, profile: str | None, settings: PromptSettings) -> str:
    """Return the opening of the question: the profile where there is one."""
    if settings.profile and profile:
        return _fill(settings.phrases.profile, user=user_name(user_id, settings), profile=profile)
    return settings.phrases.no_profile


def plain_context(user_id: str, profile: str | None, settings: PromptSettings, of_list: bool = False) -> ContextFrame:
    """Frame the context of a prompt that is one question, about one target or about a candidate list."""
    return ContextFrame(context_head(user_id, profile, settings), context_tail(user_id, settings, of_list))


def context_head(user_id: str, profile: str | None, settings: PromptSettings) -> list[Piece]:
    """Return everything before the user's preference: system turn, instruction, profile."""
    wording = settings.phrases
    opening = user_clause(user_id, profile, settings)
    return [*turn("system", SYSTEM), TURN_START, "user\n", wording.instruction, opening, wording.preference]


def history_line(text: str) -> str:
    """Return the line of one history item; lines are tokenised apart, each title once for all contexts."""
    return f"- {text}\n"


def preference_line(text: str, has_lines: bool, told: bool = False) -> str:
    """Return the stored preference, with the heading of the items behind it where there are any.

    Args:
        text: The preference.
        has_lines: Whether items follow.
        told: Whether the preference tells of some of them already.
    """
    return f"{text}\n{LATEST if told else SINCE}" if has_lines else text


def empty_history(settings: PromptSettings) -> str:
    """Return the phrase for a user without history, or for a list without items."""
    return EMPTY_LIST if settings.phrases.items_only else NO_HISTORY


def context_tail(user_id: str, settings: PromptSettings, of_list: bool = False) -> list[Piece]:
    """Return the end of the shared prefix: from behind the preference to the opening of the target or the list."""
    user = user_name(user_id, settings, with_article=True)
    return [_fill(settings.phrases.choices if of_list else settings.phrases.question, user=user)]


def target(text: str, has_picture: bool | None, settings: PromptSettings) -> list[Piece]:
    """Return the target item, the end of the question and the opening of the answer's turn.

    Args:
        text: Text of the item.
        has_picture: True shows its picture, False says that there is none, None says nothing of pictures.
        settings: Wording.
    """
    shown: dict[bool | None, list[Piece]] = {True: [Picture(), text], False: [f"{NO_PICTURE}, {text}"], None: [text]}
    return [*shown[has_picture], settings.phrases.question_end, *ANSWER_TURN]


def choice_line(text: str) -> str:
    """Return the text behind a candidate's letter; it is tokenised once, whatever the letter."""
    return f". {text}\n"


def choices_end(settings: PromptSettings) -> list[Piece]:
    """Return what follows the last candidate of a list, to the opening of the answer's turn."""
    return [settings.phrases.choices_end, *ANSWER_TURN]


def answer(label: int) -> list[Piece]:
    """Return the response and the end of its turn: the only tokens with a loss by default."""
    return [ANSWERS[label], TURN_END]


def turn(role: str, text: str) -> list[Piece]:
    """Return one complete turn of the chat."""
    return [TURN_START, f"{role}\n{text}", TURN_END, "\n"]


def _fill(phrase: str, **values: str) -> str:
    """Fill braces once; braces inside the values stay as they are, since `str.format` does not parse them."""
    return phrase.format(**values)
