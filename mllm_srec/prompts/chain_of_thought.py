"""The four-turn chain of thought: image summary, item summary and preference come as earlier turns of the chat.

A prompt of either order is four parts, `prefix | before | middle | after`: prefix and middle are the context's, before
and after the target's. So both kinds are tokenised once, whatever the order, and the prefix stays shared. `after` is
`builder.target` without a picture, which stands in the first question.
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
class ChainPrompts:
    """The questions of the three earlier turns, as the summary stages asked them."""

    image: str = IMAGE_PROMPT
    item: str = ITEM_PROMPT
    preference: str = PREFERENCE_PROMPT


def chain_context(prompts: ChainPrompts, user_id: str, profile: str | None, settings: PromptSettings) -> ContextFrame:
    """System turn, TUBC turn with the body as its answer, and the opening of the last question.

    Args:
        prompts: The questions of the earlier turns.
        user_id: The user, named in the last question.
        profile: The user's profile, where there is one.
        settings: Wording and order.
    """
    system = turn("system", SYSTEM)
    asked: list[Piece] = [*turn("user", prompts.preference), TURN_START, "assistant\n"]
    end: list[Piece] = [TURN_END, "\n"]
    question = _question(user_id, profile, settings)
    if settings.cot_order == "article":
        return ContextFrame(asked, [*end, *question], apart=system, body_first=False)
    return ContextFrame([*system, *asked], end, apart=question)


def chain_target(
    prompts: ChainPrompts, has_picture: bool, image_summary: str | None, text: str | None, item_summary: str
) -> list[Piece]:
    """VIU and IMSG of the target: two questions with their stored answers.

    Args:
        prompts: The questions.
        has_picture: The picture stands in the first question.
        image_summary: Answer to the first question; None leaves that turn out, where pictures are not to be used.
        text: The item's text; None where it is not to be used.
        item_summary: Answer to the second question.
    """
    seen: list[Piece] = [Picture()] if has_picture else []
    image: list[Piece] = []
    if image_summary is not None:
        image = [TURN_START, "user\n", *seen, prompts.image, TURN_END, "\n", *turn("assistant", image_summary)]
    question = prompts.item if text is None else f"{prompts.item}\nText: {text}"
    return [*image, *turn("user", question), *turn("assistant", item_summary)]


def _question(user_id: str, profile: str | None, settings: PromptSettings) -> list[Piece]:
    """The last question up to the quote that opens the target."""
    wording = settings.phrases
    asked = wording.chain_question.format(user=user_name(user_id, settings, with_article=True))
    opening = user_clause(user_id, profile, settings)
    return [TURN_START, "user\n", wording.instruction, opening, wording.chain, asked]
