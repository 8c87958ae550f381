"""Inputs of each summary, and the texts of all summaries as prompts use them.

Sources are pictures and texts of items, earlier summaries, and the likes of preference chains.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import polars as pl

from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.prompts.builder import ItemText, item_text
from mllm_srec.prompts.chain_of_thought import CotPrompts
from mllm_srec.prompts.summaries import (
    SummaryPrompt,
    captioned_line,
    collapse_whitespace,
    image_messages,
    item_messages,
    preference_messages,
    reviewed_line,
    titled_image_messages,
)
from mllm_srec.prompts.templates import IMAGE_PROMPT, NO_PICTURE
from mllm_srec.summaries.plan import PartPlan, SummaryPlan
from mllm_srec.summaries.preference_chains import Chain, ChainStep
from mllm_srec.summaries.settings import PARTS, Part
from mllm_srec.summaries.tables import preference_states, read_view
from mllm_srec.types import ConfigError

Row = Mapping[str, Any]
"""A row of the items table."""


def read_summary_texts(plan: SummaryPlan, inputs: SummaryInputs | None = None) -> SummaryTexts:
    """Read all texts of a plan.

    Args:
        plan: Plan whose stages have been written.
        inputs: Inputs whose texts of items are shared, so that items added there later appear here too; None reads
            them from the tables.

    Raises:
        ConfigError: A stage was not run for these settings, data and models; names the command that does.
    """
    inputs = inputs or SummaryInputs(plan)
    if plan.titled:
        return SummaryTexts(plan.identity, "both", inputs.texts("image"), {}, {}, titled=True)
    image = plan.plan("image").prompt if "image" in plan.parts else IMAGE_PROMPT
    return SummaryTexts(
        identity=plan.identity,
        modality=plan.settings.modality,
        image=inputs.texts("image"),
        item=inputs.texts("item"),
        preference=preference_states(inputs.table("preference")),
        prompts=CotPrompts(image, plan.plan("item").prompt, plan.plan("preference").prompt),
    )


class SummaryInputs:
    """Builds the prompts of summaries; tables of earlier stages are read when first needed.

    Args:
        plan: Models, prompts and names of the tables.
    """

    def __init__(self, plan: SummaryPlan) -> None:
        self.plan, self.settings = plan, plan.settings
        self._texts: dict[Part, dict[str, str]] = {}
        self._unfused: dict[str, str] = {}

    @cached_property
    def rows(self) -> dict[str, Row]:
        """item_id -> row of the items table; new items may be added."""
        return {row["item_id"]: row for row in self.plan.data.items.iter_rows(named=True)}

    # --- texts of earlier parts ------------------------------------------------------------------------------------

    def table(self, part: Part) -> pl.DataFrame:
        """Read the table of a part.

        Raises:
            ConfigError: The part was not written yet, or for other settings, data or pictures.
        """
        table = read_view(self.plan.folder(part), self.plan.view(part))
        if table is None:
            raise ConfigError(
                f"{self.plan.folder(part)}: no {part} summaries of these settings, data and model; first run "
                f"`python -m mllm_srec summarize --stage {PARTS[part].stage}` with the same configuration"
            )
        return table

    def texts(self, part: Part) -> dict[str, str]:
        """Return item_id -> text of a part, read once; empty if the plan does not need the part."""
        if part not in self.plan.parts:
            return {}
        if part not in self._texts:
            self._texts[part] = dict(self.table(part).select("item_id", "text").iter_rows())
        return self._texts[part]

    def add_texts(self, part: Part, texts: Mapping[str, str]) -> None:
        """Add texts of a part about new items, which later parts will read."""
        self.texts(part).update(texts)

    @property
    def _shown_pictures(self) -> Mapping[str, str]:
        """item_id -> text about its picture, for history lines of variants without item summaries."""
        return self.texts("caption" if self.settings.variant == "base" else "image")

    # --- prompts ---------------------------------------------------------------------------------------------------

    def item_prompts(self, plan: PartPlan) -> dict[str, SummaryPrompt]:
        """Return item_id -> prompt of a part about items: those with a picture, or all."""
        prompts = {row["item_id"]: self.item_prompt(plan, row) for row in self.plan.data.items.iter_rows(named=True)}
        return {item_id: prompt for item_id, prompt in prompts.items() if prompt is not None}

    def item_prompt(self, plan: PartPlan, row: Row) -> SummaryPrompt | None:
        """Return the prompt about one item; None where the part reads pictures and the item has none.

        Args:
            plan: Plan of a part about items.
            row: Row of the items table; the item's picture is the one in `SummaryPlan.images`.
        """
        item_id = row["item_id"]
        if PARTS[plan.part].reads == "picture":
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
        """Return the title and the fields that `data.prompt` asks for, cut at `max_item_tokens`."""
        item = ItemText(row["title"], row["brand"] or "", row["categories"] or (), row["description"])
        return plan.chat.cut(item_text(item, self.plan.prompt), self.plan.prompt.max_item_tokens)

    def preference_prompt(self, plan: PartPlan, chain: Chain, step: ChainStep, previous: str | None) -> SummaryPrompt:
        """Return the prompt of one step of a preference chain.

        Args:
            plan: Plan of the preference part.
            chain: Likes of a user.
            step: Step of that chain.
            previous: Text of the step before, where steps refine each other; else None.
        """
        shown = [self._line(item_id) for item_id in chain.items[step.start : step.end]]
        if self.settings.use_reviews:
            reviews = chain.reviews[step.start : step.end]
            cut = [plan.chat.cut(review, self.plan.prompt.max_item_tokens) for review in reviews]
            shown = [reviewed_line(line, review) for line, review in zip(shown, cut, strict=True)]
        messages = preference_messages(plan.prompt, previous, shown)
        about = f"items {step.start}-{step.end - 1} of user {chain.user_id}"
        return SummaryPrompt(plan.record_key(messages, None), tuple(messages), about=about)

    def _line(self, item_id: str) -> str:
        """Return an item's line in a preference prompt, by variant and modality."""
        if self.settings.variant in ("svi", "full"):
            return self.texts("item")[item_id]
        if item_id not in self._unfused:
            self._unfused[item_id] = self._unfused_line(self.rows[item_id])
        return self._unfused[item_id]

    def _unfused_line(self, row: Row) -> str:
        """Return title and text about the picture side by side, or one of them, by modality."""
        title, seen = self._title(self.plan.plan("preference"), row), self._shown_pictures.get(row["item_id"], "")
        if self.settings.modality == "text":
            return title
        if self.settings.modality == "image":
            return collapse_whitespace(seen) or NO_PICTURE
        return captioned_line(title, seen)
