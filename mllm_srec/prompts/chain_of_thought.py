"""The chain of thought in four turns: image summary, item summary and preference come as earlier turns of the chat.

In either order a prompt has four parts, `prefix | before | middle | after`: prefix and middle belong to the context,
before and after to the target. So contexts and targets are each tokenised once, whatever the order, and the prefix is
shared. `after` is `builder.target` without a picture, because the picture is in the first question.

A preference chain is something else: the windows from which `summaries/` writes a user's preference step by step.
"""

from __future__ import annotations

from dataclasses import dataclass

from mllm_srec.prompts.builder import (
    TURN_END,
    TURN_START,
    ContextFrame,
    Picture,
    Piece,
    turn,
    user_clause,
    user_name,
)
from mllm_srec.prompts.templates import IMAGE_PROMPT, ITEM_PROMPT, PREFERENCE_PROMPT, SYSTEM, PromptSettings


@dataclass(frozen=True)
class CotPrompts:
    """The questions of the three earlier turns, as the summary stages asked them."""

    image: str = IMAGE_PROMPT
    item: str = ITEM_PROMPT
    preference: str = PREFERENCE_PROMPT


def cot_context(prompts: CotPrompts, user_id: str, profile: str | None, settings: PromptSettings) -> ContextFrame:
    """Frame a context: system turn, TUBC turn with the body as its answer, and the opening of the last question.

    Args:
        prompts: Questions of the earlier turns.
        user_id: The user, named in the last question.
        profile: The user's profile; None where there is none.
        settings: Wording and order of the turns.
    """
    system = turn("system", SYSTEM)
    asked: list[Piece] = [*turn("user", prompts.preference), TURN_START, "assistant\n"]
    end: list[Piece] = [TURN_END, "\n"]
    question = _question(user_id, profile, settings)
    if settings.cot_order == "article":
        return ContextFrame(asked, [*end, *question], apart=system, body_first=False)
    return ContextFrame([*system, *asked], end, apart=question)


def cot_target(
    prompts: CotPrompts, has_picture: bool, image_summary: str | None, text: str | None, item_summary: str
) -> list[Piece]:
    """Return the VIU and IMSG turns of a target: two questions with their stored answers.

    Args:
        prompts: Questions of the earlier turns.
        has_picture: True if the first question shows a picture.
        image_summary: Answer to the first question; None leaves that turn out, where pictures are not used.
        text: Text of the item; None where it is not used.
        item_summary: Answer to the second question.
    """
    seen: list[Piece] = [Picture()] if has_picture else []
    image: list[Piece] = []
    if image_summary is not None:
        image = [TURN_START, "user\n", *seen, prompts.image, TURN_END, "\n", *turn("assistant", image_summary)]
    question = prompts.item if text is None else f"{prompts.item}\nText: {text}"
    return [*image, *turn("user", question), *turn("assistant", item_summary)]


def _question(user_id: str, profile: str | None, settings: PromptSettings) -> list[Piece]:
    """Return the last question up to the quote that opens the target."""
    wording = settings.phrases
    asked = wording.cot_question.format(user=user_name(user_id, settings, with_article=True))
    opening = user_clause(user_id, profile, settings)
    return [TURN_START, "user\n", wording.instruction, opening, wording.cot_preference, asked]
