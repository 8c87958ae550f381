"""What each summary is written from: pictures and texts of items, earlier summaries, and chains of likes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import polars as pl

from mllm_srec.pipeline.summary_plan import STAGE_OF, Part, PartPlan, SummaryPlan
from mllm_srec.prompts.builder import ItemText, item_text
from mllm_srec.prompts.summaries import (
    SummaryPrompt,
    captioned_line,
    image_messages,
    item_messages,
    one_line,
    preference_messages,
    reviewed_line,
)
from mllm_srec.prompts.templates import NO_PICTURE
from mllm_srec.summaries.chains import Chain, ChainStep
from mllm_srec.summaries.views import read_view
from mllm_srec.types import ConfigError


class SummaryInputs:
    """Puts prompts together; tables of earlier stages are read when first needed.

    Args:
        plan: Models, prompts and names of the tables.
    """

    def __init__(self, plan: SummaryPlan) -> None:
        self.plan, self.settings = plan, plan.settings

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

    def texts(self, part: Part) -> Mapping[str, str]:
        """item_id -> text of a part; none where pictures are not used."""
        if part not in self.plan.parts:
            return {}
        return dict(self.table(part).select("item_id", "text").iter_rows())

    @cached_property
    def _image_texts(self) -> Mapping[str, str]:
        return self.texts("image")

    @cached_property
    def _seen_in_history(self) -> Mapping[str, str]:
        """What history lines of variants without item summaries say of a picture."""
        return self.texts("caption" if self.settings.variant == "base" else "image")

    # --- prompts ---------------------------------------------------------------------------------------------------

    def item_prompts(self, plan: PartPlan) -> dict[str, SummaryPrompt]:
        """Prompts of a part that writes of items: of those with a picture, or of all."""
        if STAGE_OF[plan.part] == "image":
            return self._picture_prompts(plan)
        titles = self.titles(plan)
        prompts = {}
        for item_id in self.plan.data.items["item_id"]:
            text = None if self.settings.modality == "image" else titles[item_id]
            messages = item_messages(plan.prompt, self._image_texts.get(item_id), text)
            prompts[item_id] = SummaryPrompt(plan.record_key(messages, None), tuple(messages), about=f"item {item_id}")
        return prompts

    def _picture_prompts(self, plan: PartPlan) -> dict[str, SummaryPrompt]:
        images, prompts = self.plan.images, {}
        messages = image_messages(plan.prompt)
        for item_id in self.plan.data.items["item_id"]:
            if images is not None and (picture := images.picture_of(item_id)) is not None:
                key = plan.record_key(messages, self.plan.picture_key(item_id))
                prompts[item_id] = SummaryPrompt(key, tuple(messages), picture, f"item {item_id}")
        return prompts

    def titles(self, plan: PartPlan) -> dict[str, str]:
        """item_id -> title, with the fields that `data.prompt` asks for, cut at `max_item_tokens`."""
        texts = {}
        for row in self.plan.data.items.iter_rows(named=True):
            item = ItemText(row["title"], row["brand"] or "", row["categories"] or (), row["description"])
            texts[row["item_id"]] = plan.chat.cut(item_text(item, self.plan.prompt), self.plan.prompt.max_item_tokens)
        return texts

    def preference_prompt(self, plan: PartPlan, chain: Chain, step: ChainStep, previous: str | None) -> SummaryPrompt:
        """Prompt of one step of a chain.

        Args:
            plan: The preference part.
            chain: Whose likes.
            step: Which of them.
            previous: What the step before wrote, where steps refine each other.
        """
        shown = [self._lines[item_id] for item_id in chain.items[step.start : step.end]]
        if self.settings.use_reviews:
            own = chain.reviews[step.start : step.end]
            cut = [plan.chat.cut(review, self.plan.prompt.max_item_tokens) for review in own]
            shown = [reviewed_line(line, review) for line, review in zip(shown, cut, strict=True)]
        messages = preference_messages(plan.prompt, previous, shown)
        about = f"items {step.start}-{step.end - 1} of user {chain.user_id}"
        return SummaryPrompt(plan.record_key(messages, None), tuple(messages), about=about)

    @cached_property
    def _lines(self) -> Mapping[str, str]:
        """item_id -> line in a preference prompt, by variant and modality."""
        if self.settings.variant in ("svi", "full"):
            return self.texts("item")
        return self._unfused_lines(self.plan.plan("preference"))

    def _unfused_lines(self, plan: PartPlan) -> dict[str, str]:
        """Title and what was seen, side by side; one of them where the modality asks for it."""
        titles, seen = self.titles(plan), self._seen_in_history
        if self.settings.modality == "text":
            return titles
        if self.settings.modality == "image":
            return {item_id: one_line(seen.get(item_id, "")) or NO_PICTURE for item_id in titles}
        return {item_id: captioned_line(title, seen.get(item_id, "")) for item_id, title in titles.items()}
