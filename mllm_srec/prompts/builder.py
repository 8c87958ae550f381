"""Records -> prompt pieces. A piece is plain text, a control token or a picture, and plain text is never parsed.

The prompt is written user first, target last, so that all targets of a context share its tokens. It is
a chat of one system and one user turn in ChatML, the format of every Qwen-VL model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mllm_srec.prompts.templates import (
    ANSWERS,
    EMPTY_LIST,
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
    """The place of one picture: vision start, one placeholder per picture token, vision end."""


Piece = str | Control | Picture
TURN_START = Control("<|im_start|>")
TURN_END = Control("<|im_end|>")
ANSWER_TURN: tuple[Piece, ...] = (TURN_END, "\n", TURN_START, "assistant\n")
"""From the end of the question to the place of the answer."""


@dataclass(frozen=True)
class ItemText:
    """What a prompt may say of an item; empty strings and lists where the source had nothing."""

    title: str
    brand: str = ""
    categories: Sequence[str] = ()
    description: str = ""


@dataclass(frozen=True)
class ContextFrame:
    """The pieces of a context around its body, which is the preference and the history lines.

    Attributes:
        head: Directly before the body.
        tail: Directly behind it.
        apart: The context's other part, which the target's first turns separate from the body; empty where the prompt
            is one question.
        body_first: The body is in the shared prefix and `apart` comes after those turns; else the other way round.
    """

    head: Sequence[Piece]
    tail: Sequence[Piece]
    apart: Sequence[Piece] = ()
    body_first: bool = True


def item_text(item: ItemText, settings: PromptSettings) -> str:
    """One line about an item: its title and the fields that `settings` asks for, without line breaks."""
    parts = [item.title or UNTITLED]
    if settings.brand and item.brand:
        parts.append(f"by {item.brand}")
    if settings.categories and item.categories:
        parts.append("in " + " > ".join(item.categories))
    if settings.description and item.description:
        parts.append(item.description)
    return " ".join(", ".join(parts).split())


def user_name(user_id: str, settings: PromptSettings, with_article: bool = False) -> str:
    """`user_<id>`, or `user` (`the user`) where ids are not to be shown."""
    return f"user_{user_id}" if settings.user_id else "the user" if with_article else "user"


def user_clause(user_id: str, profile: str | None, settings: PromptSettings) -> str:
    """What opens the question: the profile where there is one."""
    if settings.profile and profile:
        return _fill(settings.phrases.profile, user=user_name(user_id, settings), profile=profile)
    return settings.phrases.no_profile


def plain_context(user_id: str, profile: str | None, settings: PromptSettings, of_list: bool = False) -> ContextFrame:
    """The context of a prompt that is one question, about one target or about a list of candidates."""
    return ContextFrame(context_head(user_id, profile, settings), context_tail(user_id, settings, of_list))


def context_head(user_id: str, profile: str | None, settings: PromptSettings) -> list[Piece]:
    """Everything before the user's preference: system turn, instruction, profile."""
    wording = settings.phrases
    opening = user_clause(user_id, profile, settings)
    return [*turn("system", SYSTEM), TURN_START, "user\n", wording.instruction, opening, wording.preference]


def history_line(text: str) -> str:
    """One history item. Lines are tokenised one by one, so that a title is tokenised once for all contexts."""
    return f"- {text}\n"


def preference_line(text: str, has_lines: bool) -> str:
    """The stored preference; where items came after it, their lines follow."""
    return f"{text}\n{SINCE}" if has_lines else text


def empty_history(settings: PromptSettings) -> str:
    """Stands where a user has no history, or a list no item; the context is kept and says so."""
    return EMPTY_LIST if settings.phrases.items_only else NO_HISTORY


def context_tail(user_id: str, settings: PromptSettings, of_list: bool = False) -> list[Piece]:
    """From the end of the preference to what opens the target, or the list: the end of the shared prefix."""
    user = user_name(user_id, settings, with_article=True)
    return [_fill(settings.phrases.choices if of_list else settings.phrases.question, user=user)]


def target(text: str, has_picture: bool | None, settings: PromptSettings) -> list[Piece]:
    """The target item, the end of the question and the opening of the answer's turn.

    Args:
        text: What is said of the item.
        has_picture: Show its picture, or say that there is none; None says nothing of pictures.
        settings: Wording.
    """
    shown: dict[bool | None, list[Piece]] = {True: [Picture(), text], False: [f"{NO_PICTURE}, {text}"], None: [text]}
    return [*shown[has_picture], settings.phrases.question_end, *ANSWER_TURN]


def choice_line(text: str) -> str:
    """What follows the letter of a candidate of a list; tokenised once, whatever its letter."""
    return f". {text}\n"


def choices_end(settings: PromptSettings) -> list[Piece]:
    """From behind the last candidate of a list to the opening of the answer's turn."""
    return [settings.phrases.choices_end, *ANSWER_TURN]


def answer(label: int) -> list[Piece]:
    """The response and the end of its turn: the only tokens with a loss by default."""
    return [ANSWERS[label], TURN_END]


def turn(role: str, text: str) -> list[Piece]:
    """One whole turn of the chat."""
    return [TURN_START, f"{role}\n{text}", TURN_END, "\n"]


def _fill(phrase: str, **values: str) -> str:
    """Fill braces once; braces inside the values stay as they are (str.format would not parse them either)."""
    return phrase.format(**values)
