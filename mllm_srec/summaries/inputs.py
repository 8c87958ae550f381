"""What each summary is written from: pictures and texts of items, earlier summaries, and chains of likes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import polars as pl

from mllm_srec.data.stored_prompts.summary_texts import PreferenceState, SummaryTexts, Visible
from mllm_srec.prompts.builder import ItemText, item_text
from mllm_srec.prompts.chain_of_thought import ChainPrompts
from mllm_srec.prompts.summaries import (
    SummaryPrompt,
    captioned_line,
    image_messages,
    item_messages,
    one_line,
    preference_messages,
    reviewed_line,
    titled_image_messages,
)
from mllm_srec.prompts.templates import IMAGE_PROMPT, NO_PICTURE
from mllm_srec.summaries.preference_chains import Chain, ChainStep
from mllm_srec.summaries.requests import STAGE_OF, Part, PartPlan, SummaryPlan
from mllm_srec.summaries.tables import read_view
from mllm_srec.types import ConfigError

Row = Mapping[str, Any]
"""Fields of the items table."""


class SummaryInputs:
    """Puts prompts together; tables of earlier stages are read when first needed.

    Args:
        plan: Models, prompts and names of the tables.
    """

    def __init__(self, plan: SummaryPlan) -> None:
        self.plan, self.settings = plan, plan.settings
        self._texts: dict[Part, dict[str, str]] = {}
        self._unfused: dict[str, str] = {}

    @cached_property
    def rows(self) -> dict[str, Row]:
        """item_id -> fields of the items table; further items may be added."""
        return {row["item_id"]: row for row in self.plan.data.items.iter_rows(named=True)}

    # --- what earlier stages wrote ---------------------------------------------------------------------------------

    def table(self, part: Part) -> pl.DataFrame:
        """The table that a part wrote.

        Raises:
            ConfigError: It was not written yet, or for other settings, data or pictures.
        """
        table = read_view(self.plan.folder(part), self.plan.view(part))
        if table is None:
            raise ConfigError(
                f"{self.plan.folder(part)} holds no {part} summaries of these settings, data and model; first run "
                f"`python -m mllm_srec summarize --stage {STAGE_OF[part]}` with the same configuration"
            )
        return table

    def texts(self, part: Part) -> dict[str, str]:
        """item_id -> text of a part, read once; none where pictures are not used."""
        if part not in self.plan.parts:
            return {}
        if part not in self._texts:
            self._texts[part] = dict(self.table(part).select("item_id", "text").iter_rows())
        return self._texts[part]

    def learn(self, part: Part, texts: Mapping[str, str]) -> None:
        """Know texts of a part about items that the data set does not hold: what comes after it reads them."""
        self.texts(part).update(texts)

    @property
    def _seen_in_history(self) -> Mapping[str, str]:
        """What history lines of variants without item summaries say of a picture."""
        return self.texts("caption" if self.settings.variant == "base" else "image")

    # --- prompts ---------------------------------------------------------------------------------------------------

    def item_prompts(self, plan: PartPlan) -> dict[str, SummaryPrompt]:
        """Prompts of a part that writes of items: of those with a picture, or of all."""
        found = {row["item_id"]: self.item_prompt(plan, row) for row in self.plan.data.items.iter_rows(named=True)}
        return {item_id: prompt for item_id, prompt in found.items() if prompt is not None}

    def item_prompt(self, plan: PartPlan, row: Row) -> SummaryPrompt | None:
        """Prompt about one item; None where the part is about pictures and the item has none.

        Args:
            plan: A part that writes of items.
            row: Fields of the items table; the item's picture is that of `plan.images`.
        """
        item_id = row["item_id"]
        if STAGE_OF[plan.part] == "image":
            return self._picture_prompt(plan, row)
        text = None if self.settings.modality == "image" else self._title(plan, row)
        messages = item_messages(plan.prompt, self.texts("image").get(item_id), text)
        return SummaryPrompt(plan.record_key(messages, None), tuple(messages), about=f"item {item_id}")

    def _picture_prompt(self, plan: PartPlan, row: Row) -> SummaryPrompt | None:
        images, item_id = self.plan.images, row["item_id"]
        if images is None or (picture := images.picture_of(item_id)) is None:
            return None
        titled = self.plan.titled
        messages = titled_image_messages(plan.prompt, self._title(plan, row)) if titled else image_messages(plan.prompt)
        key = plan.record_key(messages, self.plan.picture_key(item_id))
        return SummaryPrompt(key, tuple(messages), picture, f"item {item_id}")

    def _title(self, plan: PartPlan, row: Row) -> str:
        """Title, with the fields that `data.prompt` asks for, cut at `max_item_tokens`."""
        item = ItemText(row["title"], row["brand"] or "", row["categories"] or (), row["description"])
        return plan.chat.cut(item_text(item, self.plan.prompt), self.plan.prompt.max_item_tokens)

    def preference_prompt(self, plan: PartPlan, chain: Chain, step: ChainStep, previous: str | None) -> SummaryPrompt:
        """Prompt of one step of a chain.

        Args:
            plan: The preference part.
            chain: Whose likes.
            step: Which of them.
            previous: What the step before wrote, where steps refine each other.
        """
        shown = [self._line(item_id) for item_id in chain.items[step.start : step.end]]
        if self.settings.use_reviews:
            own = chain.reviews[step.start : step.end]
            cut = [plan.chat.cut(review, self.plan.prompt.max_item_tokens) for review in own]
            shown = [reviewed_line(line, review) for line, review in zip(shown, cut, strict=True)]
        messages = preference_messages(plan.prompt, previous, shown)
        about = f"items {step.start}-{step.end - 1} of user {chain.user_id}"
        return SummaryPrompt(plan.record_key(messages, None), tuple(messages), about=about)

    def _line(self, item_id: str) -> str:
        """An item's line in a preference prompt, by variant and modality."""
        if self.settings.variant in ("svi", "full"):
            return self.texts("item")[item_id]
        if item_id not in self._unfused:
            self._unfused[item_id] = self._unfused_line(self.rows[item_id])
        return self._unfused[item_id]

    def _unfused_line(self, row: Row) -> str:
        """Title and what was seen, side by side; one of them where the modality asks for it."""
        title, seen = self._title(self.plan.plan("preference"), row), self._seen_in_history.get(row["item_id"], "")
        if self.settings.modality == "text":
            return title
        if self.settings.modality == "image":
            return one_line(seen) or NO_PICTURE
        return captioned_line(title, seen)


def summary_texts(plan: SummaryPlan, inputs: SummaryInputs | None = None) -> SummaryTexts:
    """All texts of a plan.

    Args:
        plan: What was written.
        inputs: Whose texts of items these shall be, so that what it learns later is known here too; None reads them.

    Raises:
        ConfigError: A stage was not run for these settings, data and models; names the command that does.
    """
    inputs = inputs or SummaryInputs(plan)
    if plan.titled:
        return SummaryTexts(plan.identity, "both", inputs.texts("image"), {}, {}, titled=True)
    states: dict[tuple[str, Visible], list[PreferenceState]] = {}
    table = inputs.table("preference").sort("user_id", "visible", "step")
    for user_id, visible, timestamp, order, text in table.select(
        "user_id", "visible", "timestamp", "order", "text"
    ).iter_rows():
        states.setdefault((user_id, visible), []).append(PreferenceState(timestamp, order, text))
    image = plan.plan("image").prompt if "image" in plan.parts else IMAGE_PROMPT
    return SummaryTexts(
        identity=plan.identity,
        modality=plan.settings.modality,
        image=inputs.texts("image"),
        item=inputs.texts("item"),
        preference=states,
        prompts=ChainPrompts(image, plan.plan("item").prompt, plan.plan("preference").prompt),
    )
