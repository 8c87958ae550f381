"""Prompts of the summary stages as chats: the question, and the texts or the picture that it is about.

A change of the texts here needs a new `templates.SUMMARY_VERSION`, since stored summaries name it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mllm_srec.prompts.builder import Picture, Piece
from mllm_srec.prompts.templates import NO_PICTURE, SYSTEM, UNTITLED


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: `system`, `user` or `assistant`.
        content: Texts and at most one picture, in order.
    """

    role: str
    content: tuple[Piece, ...]


@dataclass(frozen=True)
class SummaryPrompt:
    """The request for one summary.

    Attributes:
        key: Content address: hash of model, prompt, inputs and decoding; names the record in the store.
        messages: The chat up to the answer.
        picture: Key of the picture in the image store; None for a prompt without one.
        about: Item, or user and step, for error messages.
    """

    key: str
    messages: tuple[Message, ...]
    picture: str | None = None
    about: str = ""


@dataclass(frozen=True)
class Summary:
    """One summary that was written.

    Attributes:
        key: See `SummaryPrompt`.
        text: The answer without control tokens, stripped.
        finish_reason: `stop`, or `length` where the limit cut it off.
        n_tokens: Tokens of the answer, its end included where it has one.
    """

    key: str
    text: str
    finish_reason: str
    n_tokens: int


def image_messages(prompt: str) -> list[Message]:
    """Write the prompt of VIU: the picture, then the question (Eq. 1)."""
    return [_system(), Message("user", (Picture(), prompt))]


def titled_image_messages(prompt: str, title: str) -> list[Message]:
    """Write the prompt of VST: the picture, the question and the item's title (Rec-GPT4V)."""
    return [_system(), Message("user", (Picture(), f"{prompt}\nTitle: {collapse_whitespace(title) or UNTITLED}"))]


def item_messages(prompt: str, image_summary: str | None, text: str | None) -> list[Message]:
    """Write the prompt of IMSG: the question, the image summary and the item's text (Eq. 2).

    Args:
        prompt: The question, p2.
        image_summary: Summary of the item's picture; None where it has none, or pictures are not used.
        text: Text of the item; None where texts are not used.
    """
    lines = [prompt, f"Visual summary: {collapse_whitespace(image_summary or '') or NO_PICTURE}"]
    if text is not None:
        lines.append(f"Text: {collapse_whitespace(text) or UNTITLED}")
    return [_system(), Message("user", ("\n".join(lines),))]


def preference_messages(prompt: str, previous: str | None, lines: Sequence[str]) -> list[Message]:
    """Write the prompt of TUBC: the question, the preference so far, and the window's items, oldest first.

    Args:
        prompt: The question, p3.
        previous: Preference that the step before wrote; None at the first window.
        lines: Text of each item of the window.
    """
    parts = [prompt]
    if previous is not None:
        parts.append(f"Previous preference: {collapse_whitespace(previous)}")
    parts += ["Items:", *(f"- {collapse_whitespace(line)}" for line in lines)]
    return [_system(), Message("user", ("\n".join(parts),))]


def captioned_line(title: str, seen: str) -> str:
    """Return an item line without an item summary: the title, then what its picture shows."""
    return f"{collapse_whitespace(title) or UNTITLED}. {collapse_whitespace(seen) or NO_PICTURE}"


def reviewed_line(line: str, review: str) -> str:
    """Return an item line with the user's review of the item, where there is one."""
    return f'{line} Review: "{collapse_whitespace(review)}"' if review.strip() else line


def collapse_whitespace(text: str) -> str:
    """Return the text on one line, so that it cannot pose as another field of a prompt."""
    return " ".join(text.split())


def _system() -> Message:
    return Message("system", (SYSTEM,))
