"""Stored summaries in the form in which prompts use them; put together by the pipeline, which owns the stores."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mllm_srec.prompts.chain_of_thought import ChainPrompts
from mllm_srec.types import DataError, Split

Visible = Literal["train", "train_val"]
VISIBLE_NAME: dict[Split, Visible] = {"train": "train", "val": "train", "test": "train_val"}
"""Which preference chain a context of a split may read."""


@dataclass(frozen=True)
class PreferenceState:
    """A preference after one window.

    Attributes:
        timestamp: With `order`, the key of the window's last item; only contexts with a later key may read it.
        order: See `timestamp`.
        text: The preference.
    """

    timestamp: int
    order: int
    text: str

    @property
    def key(self) -> tuple[int, int]:
        """Key of the window's last item."""
        return self.timestamp, self.order


@dataclass(frozen=True)
class SummaryTexts:
    """All texts of one variant.

    Attributes:
        identity: Hash of everything that decides the texts; names prompts made from them.
        modality: What targets show: `both`, `text` or `image`.
        image: item_id -> image summary; items without a picture are missing. Empty for `text`.
        item: item_id -> item summary, of every item.
        preference: (user_id, visible) -> states in time order; users with less than one window are missing.
        prompts: The questions, for the chain of thought.
        titled: There are image summaries only: they stand beside the titles of the history (VST).
    """

    identity: str
    modality: Literal["both", "text", "image"]
    image: Mapping[str, str]
    item: Mapping[str, str]
    preference: Mapping[tuple[str, Visible], list[PreferenceState]]
    prompts: ChainPrompts = field(default_factory=ChainPrompts)
    titled: bool = False

    def state_before(self, user_id: str, split: Split, timestamp: int, order: int) -> PreferenceState | None:
        """The last state whose window ended before the key; None where there is none yet.

        A state of no words is passed over: one before it, and the items since, say more than an empty preference.
        """
        states = self.preference.get((user_id, VISIBLE_NAME[split]), [])
        end = bisect_left(states, (timestamp, order), key=lambda state: state.key)
        return next((state for state in reversed(states[:end]) if state.text.strip()), None)

    def image_summary(self, item_id: str) -> str:
        """The image summary of an item that has a picture.

        Raises:
            DataError: It was not written.
        """
        return _stored(self.image, item_id, "image")

    def item_summary(self, item_id: str) -> str:
        """The item summary of an item.

        Raises:
            DataError: It was not written.
        """
        return _stored(self.item, item_id, "item")


def _stored(summaries: Mapping[str, str], item_id: str, stage: str) -> str:
    if (text := summaries.get(item_id)) is None:
        raise DataError(
            f"item {item_id!r} has no {stage} summary among the {len(summaries)} stored ones, but prompts need that of "
            f"every item{' with a picture' if stage == 'image' else ''}; run `python -m mllm_srec summarize` with this "
            "configuration, which writes what is missing"
        )
    return text
