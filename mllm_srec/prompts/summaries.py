"""What the three summary stages lay before a model: the question and the texts or the picture it is about.

Texts that change here must come with a new `summary_templates.VERSION`, since stored summaries name it.
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


def image_messages(prompt: str) -> list[Message]:
    """VIU: the picture, then the question (Eq. 1)."""
    return [_system(), Message("user", (Picture(), prompt))]


def titled_image_messages(prompt: str, title: str) -> list[Message]:
    """VST: the picture, the question and the item's title (Rec-GPT4V)."""
    return [_system(), Message("user", (Picture(), f"{prompt}\nTitle: {one_line(title) or UNTITLED}"))]


def item_messages(prompt: str, image_summary: str | None, text: str | None) -> list[Message]:
    """IMSG: the question, the image summary and the item's text (Eq. 2).

    Args:
        prompt: p2.
        image_summary: None where the item has no picture, or pictures are not to be used.
        text: None where the text is not to be used.
    """
    lines = [prompt, f"Visual summary: {one_line(image_summary or '') or NO_PICTURE}"]
    if text is not None:
        lines.append(f"Text: {one_line(text) or UNTITLED}")
    return [_system(), Message("user", ("\n".join(lines),))]


def preference_messages(prompt: str, previous: str | None, lines: Sequence[str]) -> list[Message]:
    """TUBC: the question, the preference so far, and the window's items, oldest first.

    Args:
        prompt: p3.
        previous: What the step before wrote; None at the first window.
        lines: One text per item of the window.
    """
    parts = [prompt]
    if previous is not None:
        parts.append(f"Previous preference: {one_line(previous)}")
    parts += ["Items:", *(f"- {one_line(line)}" for line in lines)]
    return [_system(), Message("user", ("\n".join(parts),))]


def captioned_line(title: str, seen: str) -> str:
    """An item line without an item summary: its title, then what was seen in its picture."""
    return f"{one_line(title) or UNTITLED}. {one_line(seen) or NO_PICTURE}"


def reviewed_line(line: str, review: str) -> str:
    """An item line with the user's own review of the item, where there is one."""
    return f'{line} Review: "{one_line(review)}"' if review.strip() else line


def one_line(text: str) -> str:
    """Text without line breaks, so that it cannot pose as another field of a prompt."""
    return " ".join(text.split())


def _system() -> Message:
    return Message("system", (SYSTEM,))


@dataclass(frozen=True)
class SummaryPrompt:
    """One text to be written.

    Attributes:
        key: Content address: hash of model, prompt, inputs and decoding; names the record in the store.
        messages: The chat up to the answer.
        picture: Key of the picture in the image store; None for a prompt without one.
        about: Item, or user and step, for messages to people.
    """

    key: str
    messages: tuple[Message, ...]
    picture: str | None = None
    about: str = ""


@dataclass(frozen=True)
class Summary:
    """One text that was written.

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
