"""The text of every prompt, versioned, and the settings that choose among them.

First the questions of the summary stages, then the recommender's prompts: Table 1 of the article and its switches, and
those of two baselines. Texts here are data: the wording `article` keeps the article's spelling character by character
(a blank before the comma, "his"), and a change of any text needs a new version name, since stored prompts, checkpoints
and results name it.
"""

from __future__ import annotations

import string
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mllm_srec.types import ConfigError, check_literals

ANSWERS = {1: "Yes.", 0: "No."}
"""The response by label (article, Table 1), with a capital and a full stop. Its first token is scored."""

SYSTEM = "You are a helpful assistant."  # the turn Qwen2-VL was instruction-tuned with
NO_PICTURE = "no picture available"
NO_HISTORY = "no history"
LABELS = string.ascii_uppercase
"""Names of the candidates in a listwise prompt; the first token of the answer, one of them, is scored."""

EMPTY_LIST = "none\n"  # in place of a list without items
UNTITLED = "untitled item"
SINCE = "Since then:\n"  # between a preference and the items that came after its last window
LATEST = "Latest likes:\n"  # in its place where some of them came before, and are in the preference, too


# --- the questions of the summary stages ------------------------------------------------------------------------------

SUMMARY_VERSION = "summaries-article-v1"

IMAGE_PROMPT = "What is in the image and describe its category, type, color, style, brand, specifications, and feature?"
"""p1 of Eq. 1 (VQA-based image understanding, VIU)."""
ITEM_PROMPT = "Please combine visual summary and text to summarize the item."
"""p2 of Eq. 2 (item multimodal summary generator, IMSG)."""
PREFERENCE_PROMPT = (
    "Please summarize the user’s multimodal summaries sequence in chronological order to refine the user’s "  # noqa: RUF001
    "interests and preferences."
)
"""p3 (temporal user behavior comprehend, TUBC)."""
CAPTION_PROMPT = "Describe the image."
"""Asks for a plain caption, as the article's Base model does in place of p1."""

VST_VERSION = "summaries-vst-v1"
VST_PROMPT = "What does the picture show of this item? Answer with a short summary."
"""Asks for a visual summary with the item's title in sight (Rec-GPT4V, its Visual-Summary Thought; our words)."""
STAGE_PROMPTS = (IMAGE_PROMPT, ITEM_PROMPT, PREFERENCE_PROMPT, CAPTION_PROMPT, VST_PROMPT)
"""All questions above."""

# --- the recommender's prompts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wording:
    """Phrases of one wording; the builder fills the braces with text that is never parsed again."""

    version: str
    instruction: str
    profile: str  # clause that opens the input for a user with a profile
    preference: str  # up to the opening quote of the preference
    question: str  # from the closing quote of the preference up to the opening quote of the target
    question_end: str  # from the closing quote of the target
    cot_preference: str = ""  # replaces `preference` and its text in a chain of thought, whose earlier turn gave it
    cot_question: str = ""  # replaces `question` in a chain of thought
    no_profile: str = "Based"  # replaces `profile` for a user without one
    items_only: bool = False  # lists items: has no place for a written preference, a chain of thought or pictures
    disliked: str = ""  # heads a second list, of disliked items; empty where they are not shown
    choices: str = ""  # heads the candidates of a listwise prompt; empty where the wording has none
    choices_end: str = ""  # follows the candidates


WORDINGS = {
    "article": Wording(
        version="table1-article-v1",
        instruction="Based on the user's historical multimodal interaction sequence, please deduce whether the user "
        'might like the target item next by responding "Yes." or "No.".\n',
        profile="The {user} is {profile} and based",
        preference=' on the previous multimodal interaction history ,his preferences are summarized as: \n "',
        question='" \n Whether {user} will like the target item "',
        question_end='" next ? \n',
        cot_preference=" on the previous multimodal interaction history ,his preferences are summarized above. \n ",
        cot_question='Whether {user} will like the target item "',
    ),
    "neutral": Wording(
        version="table1-neutral-v1",
        instruction="Based on the user's past interactions with items, decide whether the user will like the target "
        'item next. Answer "Yes." or "No.".\n',
        profile="The {user} is {profile}. Based",
        preference=' on the previous interactions, the preferences are summarized as:\n"',
        question='"\nWill {user} like the target item "',
        question_end='" next?\n',
        cot_preference=" on the previous interactions, the preferences are summarized above.\n",
        cot_question='Will {user} like the target item "',
    ),
    # TALLRec (Bao et al., RecSys 2023): liked and disliked titles, then the target. The words are ours.
    "tallrec": Wording(
        version="tallrec-v1",
        instruction="Given the items that a user liked and disliked, decide whether the user will like the target "
        'item. Answer "Yes." or "No.".\n',
        profile="The {user} is {profile}.\n",
        no_profile="",
        preference="Liked items, oldest first:\n",
        disliked="Disliked items, oldest first:\n",
        question='Will {user} like the target item "',
        question_end='"?\n',
        items_only=True,
    ),
    # Rec-GPT4V (Liu et al., 2024), its question put to one candidate or to a list of them. The words are ours.
    "rec_gpt4v": Wording(
        version="rec-gpt4v-v1",
        instruction="",
        profile="The {user} is {profile}.\n",
        no_profile="",
        preference="Items that the user liked, oldest first:\n",
        question='Will {user} like the item "',
        question_end='" next? Answer "Yes." or "No.".\n',
        choices="Candidates for the next item of {user}:\n",
        choices_end="Which candidate will be liked best? Answer with its letter.\n",
        items_only=True,
    ),
}


@dataclass(frozen=True)
class PromptSettings:
    """The texts of a prompt.

    Args:
        wording: `article` is Table 1 character by character; `neutral` says the same without its slips; `tallrec`
            lists liked and disliked items apart, `rec_gpt4v` the liked ones, both without pictures.
        user_id: Name the user by id, as Table 1 does (the model could memorise users by it: worth an ablation).
        profile: Open with the user's profile where the data set has one (Amazon has none).
        brand: Give the brand with the title, where there is one.
        categories: Give the categories with the title.
        description: Give the description with the title.
        max_history: Latest items that a context lists (of liked and disliked ones together, where the wording shows
            both); null lists all that `prepare.max_history` kept. See `data/history.py`.
        min_recent: Latest likes that a context lists at least, even where its stored preference tells of them already:
            a preference says what is liked, and not what was liked last. They give way to `data.max_length` only.
            Without stored preferences all likes are listed anyway.
        max_item_tokens: Tokens of one item's text, in the history and as target; longer texts are cut and counted.
        max_preference_tokens: Tokens of a preference summary; longer ones are cut and counted.
        cot: Chain of thought: four turns (image summary, item summary, preference, question) instead of one question;
            the earlier answers come from the stored summaries.
        cot_order: `user_first` begins with the preference, so that all targets of a context share it; `article` is
            the article's order, image and item summary of the target first.
        layout: `pointwise` asks about one target at a time. `listwise` shows the candidates of a list, each with a
            letter, and asks for the best; labelled pairs are still asked about one at a time, since a list of one has
            no order.
        list_size: Candidates of a listwise prompt at most, 2 to 26; a longer candidate list is split at random.
        list_shuffles: Random orders in which a candidate list is shown; scores are averaged over them.
    """

    wording: Literal["article", "neutral", "tallrec", "rec_gpt4v"] = "article"
    user_id: bool = True
    profile: bool = True
    brand: bool = False
    categories: bool = False
    description: bool = False
    max_history: int | None = None
    min_recent: int = 0
    max_item_tokens: int = 96
    max_preference_tokens: int = 256
    cot: bool = False
    cot_order: Literal["user_first", "article"] = "user_first"
    layout: Literal["pointwise", "listwise"] = "pointwise"
    list_size: int = 20
    list_shuffles: int = 3

    def __post_init__(self) -> None:
        """Check the choices, the limits of texts, and that the chain of thought and lists suit the wording."""
        check_literals(self, error=ValueError)
        for name in ("max_item_tokens", "max_preference_tokens"):
            if (limit := getattr(self, name)) < 1:
                raise ValueError(f"{name}={limit}: leaves no text; give at least 1")
        if self.max_history is not None and self.max_history < 1:
            raise ConfigError(f"max_history={self.max_history}: shows no past; give at least 1, or null for all")
        self._check_recent()
        if self.cot and self.phrases.items_only:
            able = sorted(name for name, wording in WORDINGS.items() if not wording.items_only)
            raise ConfigError(
                f"cot=true, wording={self.wording!r}: this wording asks one question about lists of items; "
                f"set cot to false, or wording to one of {able}"
            )
        self._check_lists()

    def _check_recent(self) -> None:
        """Check the number of likes that are always listed."""
        if self.min_recent < 0:
            raise ConfigError(f"min_recent={self.min_recent}: is a number of likes; give 0 or more")
        if self.max_history is not None and self.max_history < self.min_recent:
            raise ConfigError(
                f"min_recent={self.min_recent}: more likes than max_history={self.max_history} lets a context list; "
                "lower it, or raise max_history"
            )

    def _check_lists(self) -> None:
        """Check the settings of listwise prompts."""
        if self.layout == "listwise" and not self.phrases.choices:
            able = sorted(name for name, wording in WORDINGS.items() if wording.choices)
            raise ConfigError(
                f"layout='listwise', wording={self.wording!r}: this wording has no question about a list; "
                f"set layout to pointwise, or wording to one of {able}"
            )
        if not 2 <= self.list_size <= len(LABELS):
            raise ConfigError(
                f"list_size={self.list_size}: candidates are named by letters; give a size from 2 to {len(LABELS)}"
            )
        if self.list_shuffles < 1:
            raise ConfigError(f"list_shuffles={self.list_shuffles}: a list is shown at least once; give at least 1")

    def recorded(self) -> dict[str, Any]:
        """Return the settings by name, as stores and checkpoints keep them to tell prompts apart.

        A `min_recent` of 0 is left out: it gives the prompts of versions that did not know it.
        """
        content = asdict(self)
        if not self.min_recent:
            del content["min_recent"]
        return content

    @property
    def phrases(self) -> Wording:
        """Texts of the wording."""
        return WORDINGS[self.wording]

    @property
    def version(self) -> str:
        """Version of the wording, stored with prompts and checkpoints."""
        return self.phrases.version


def prompt_texts() -> list[str]:
    """Return every fixed text of a prompt, so that a tokenizer made for a data set can be trained on them."""
    fixed = [SYSTEM, NO_PICTURE, NO_HISTORY, SINCE, *STAGE_PROMPTS, "system\n user\n assistant\n user_ "]
    phrases = [[text for name, text in vars(wording).items() if name != "version"] for wording in WORDINGS.values()]
    return [text for texts in (*phrases, fixed) for text in texts * 2 if isinstance(text, str)]  # learnt if seen twice
