"""What prompts say of an item: its title, or its stored summaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mllm_srec.data.stored_prompts.summary_texts import SummaryTexts
from mllm_srec.prompts.builder import ItemText, item_text
from mllm_srec.prompts.encoding import PromptEncoder
from mllm_srec.prompts.summaries import captioned_line, one_line
from mllm_srec.prompts.templates import NO_PICTURE, UNTITLED, PromptSettings


@dataclass(frozen=True)
class ShownItem:
    """The texts of one item.

    Attributes:
        line: Stands in history lines, and as the target.
        asked: Stands as the target in place of `line`; None where both are the same.
        image_summary: Answer of the chain's first turn; None where there is no such turn.
        text: The `Text:` of the chain's second turn; None where it is not shown.
    """

    line: str
    asked: str | None = None
    image_summary: str | None = None
    text: str | None = None

    @property
    def target(self) -> str:
        """What stands as the target."""
        return self.line if self.asked is None else self.asked

    def cut(self, encoder: PromptEncoder, max_tokens: int) -> ShownItem:
        """The same with each text cut at `max_tokens`, but for the phrase that stands for a picture."""
        texts = {name: text for name, text in vars(self).items() if text not in (None, NO_PICTURE)}
        return replace(self, **{name: cut_text(encoder, text, max_tokens) for name, text in texts.items()})


def shown_item(row: Mapping[str, Any], settings: PromptSettings, texts: SummaryTexts | None) -> ShownItem:
    """What is said of one item, uncut.

    Args:
        row: A row of the items table.
        settings: Fields of the text, and whether there is a chain.
        texts: Stored summaries; None says the title.

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
    line = one_line(texts.item_summary(row["item_id"])) or UNTITLED
    if not settings.cot:
        return ShownItem(line)
    shown = None if texts.modality == "image" else text
    return ShownItem(line, image_summary=_image_answer(row, texts), text=shown)


def _image_answer(row: Mapping[str, Any], texts: SummaryTexts) -> str | None:
    if texts.modality == "text":
        return None
    return NO_PICTURE if row["image"] is None else one_line(texts.image_summary(row["item_id"]))


def cut_text(encoder: PromptEncoder, text: str, max_tokens: int) -> str:
    """`text`, or its first `max_tokens` tokens where it has more."""
    ids = encoder.encode_text(text)
    if len(ids) <= max_tokens:
        return text
    decoded: str = encoder.tokenizer.decode(ids[:max_tokens])
    return decoded.rstrip("\ufffd ")  # a cut inside a multi-byte letter leaves a replacement sign
