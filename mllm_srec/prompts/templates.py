"""The wording of every prompt, versioned: Table 1 of the article and its switches.

Text here is data: the article's own spelling is kept letter by letter in the wording `article` (a blank before the
comma, "his"), and any change of a text below must come with a new version name, since stored prompts, checkpoints and
results name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ANSWERS = {1: "Yes.", 0: "No."}
"""The response by label (article, Table 1): a capital letter and a full stop. The first token is what is scored."""

SYSTEM = "You are a helpful assistant."  # the turn Qwen2-VL was instruction-tuned with
NO_PICTURE = "no picture available"
NO_HISTORY = "no history"
UNTITLED = "untitled item"
SINCE = "Since then:\n"  # between a preference and the items that came after its last window


@dataclass(frozen=True)
class Wording:
    """Phrases of one wording of Table 1; braces are filled by the builder, with text that is never parsed again."""

    version: str
    instruction: str
    profile: str  # clause that opens the input where a profile is known
    preference: str  # up to the opening quote of the preference
    question: str  # from the closing quote of the preference up to the opening quote of the target
    question_end: str  # from the closing quote of the target
    chain: str  # stands for `preference` and its text where the chain of thought has given it in an earlier turn
    chain_question: str  # then as `question`


WORDINGS = {
    "article": Wording(
        version="table1-article-v1",
        instruction="Based on the user's historical multimodal interaction sequence, please deduce whether the user "
        'might like the target item next by responding "Yes." or "No.".\n',
        profile="The {user} is {profile} and based",
        preference=' on the previous multimodal interaction history ,his preferences are summarized as: \n "',
        question='" \n Whether {user} will like the target item "',
        question_end='" next ? \n',
        chain=" on the previous multimodal interaction history ,his preferences are summarized above. \n ",
        chain_question='Whether {user} will like the target item "',
    ),
    "neutral": Wording(
        version="table1-neutral-v1",
        instruction="Based on the user's past interactions with items, decide whether the user will like the target "
        'item next. Answer "Yes." or "No.".\n',
        profile="The {user} is {profile}. Based",
        preference=' on the previous interactions, the preferences are summarized as:\n"',
        question='"\nWill {user} like the target item "',
        question_end='" next?\n',
        chain=" on the previous interactions, the preferences are summarized above.\n",
        chain_question='Will {user} like the target item "',
    ),
}


@dataclass(frozen=True)
class PromptSettings:
    """What a prompt says.

    Args:
        wording: `article` is Table 1 letter by letter; `neutral` says the same without its slips.
        user_id: Name the user by id, as Table 1 does (a channel for memorising users: worth an ablation).
        profile: Open with the user's profile where the data set has one (Amazon has none).
        brand: Give the brand with the title, where it is known.
        categories: Give the categories with the title.
        description: Give the description with the title.
        max_item_tokens: Tokens of one item's text, in the history and as target; longer texts are cut and counted.
        max_preference_tokens: Tokens of a preference summary; longer ones are cut and counted.
        cot: Chain of thought: four turns (image summary, item summary, preference, question) instead of one question;
            the earlier answers come from the stored summaries.
        cot_order: `user_first` begins with the preference, so that all targets of a context share it; `article` is
            the article's order, image and item summary of the target first.
    """

    wording: Literal["article", "neutral"] = "article"
    user_id: bool = True
    profile: bool = True
    brand: bool = False
    categories: bool = False
    description: bool = False
    max_item_tokens: int = 96
    max_preference_tokens: int = 256
    cot: bool = False
    cot_order: Literal["user_first", "article"] = "user_first"

    def __post_init__(self) -> None:
        """Refuse an unknown wording and a limit that leaves no text."""
        if self.wording not in WORDINGS:
            raise ValueError(f"wording={self.wording!r} is not known; choose one of {sorted(WORDINGS)}")
        for name in ("max_item_tokens", "max_preference_tokens"):
            if (limit := getattr(self, name)) < 1:
                raise ValueError(f"{name}={limit} leaves no text; give at least 1")
        if self.cot_order not in ("user_first", "article"):
            raise ValueError(f"cot_order={self.cot_order!r} is not known; choose user_first or article")

    @property
    def version(self) -> str:
        """Version of the wording, stored with prompts and checkpoints."""
        return WORDINGS[self.wording].version
