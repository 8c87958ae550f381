"""Texts of an item in prompts: its title, or its stored summaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mllm_srec.data.history import cut_text
from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.prompts.builder import ItemText, item_text
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.summaries import captioned_line, collapse_whitespace
from mllm_srec.prompts.templates import NO_PICTURE, UNTITLED, PromptSettings


@dataclass(frozen=True)
class ShownItem:
    """The texts of one item.

    Attributes:
        line: Text of the item in a history, and as the target.
        asked: Text of the target where it differs from `line`; None where both are the same.
        image_summary: Answer of the first turn of a chain of thought; None where there is no such turn.
        text: The `Text:` of the second turn of a chain of thought; None where it is not shown.
    """

    line: str
    asked: str | None = None
    image_summary: str | None = None
    text: str | None = None

    @property
    def target(self) -> str:
        """Text of the item as the target."""
        return self.line if self.asked is None else self.asked

    def cut(self, encoder: PromptEncoder, max_tokens: int) -> ShownItem:
        """Return the same item with each text cut at `max_tokens`, except the phrase in place of a missing picture."""
        texts = {name: text for name, text in vars(self).items() if text not in (None, NO_PICTURE)}
        return replace(self, **{name: cut_text(encoder, text, max_tokens) for name, text in texts.items()})


def shown_item(row: Mapping[str, Any], settings: PromptSettings, texts: SummaryTexts | None) -> ShownItem:
    """Return what a prompt says of one item, before any cut.

    Args:
        row: A row of the items table.
        settings: The fields that are shown, and whether there is a chain of thought.
        texts: Stored summaries; None shows the item's own text.

    Raises:
        DataError: A summary that is needed was not written.
    """
    item = ItemText(row["title"], row["brand"] or "", row["categories"] or (), row["description"])
    text = item_text(item, settings)
    if texts is None:
        return ShownItem(text)
    if texts.titled:
        seen = "" if row["image"] is None else texts.image_summary(row["item_id"])
        return ShownItem(captioned_line(text, seen), text)
    line = collapse_whitespace(texts.item_summary(row["item_id"])) or UNTITLED
    if not settings.cot:
        return ShownItem(line)
    shown = None if texts.modality == "image" else text
    return ShownItem(line, image_summary=_image_answer(row, texts), text=shown)


def _image_answer(row: Mapping[str, Any], texts: SummaryTexts) -> str | None:
    """Return the answer to the question about the picture; None where pictures are not used."""
    if texts.modality == "text":
        return None
    return NO_PICTURE if row["image"] is None else collapse_whitespace(texts.image_summary(row["item_id"]))
