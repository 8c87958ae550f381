"""The texts of all summaries, as prompts read them; `summaries/inputs.py` puts them together from its tables."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mllm_srec.prompts.chain_of_thought import CotPrompts
from mllm_srec.types import DataError, Split

Visible = Literal["train", "train_val"]
VISIBLE_NAME: dict[Split, Visible] = {"train": "train", "val": "train", "test": "train_val"}
"""Split of a context -> the preference chain that it may read."""


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
    """All texts of one `summaries.variant`.

    Attributes:
        identity: Hash of all that decides the texts; enters the name of prompts made from them.
        modality: What targets show: `both`, `text` or `image`.
        image: item_id -> image summary; items without a picture are missing. Empty for `text`.
        item: item_id -> item summary, of every item.
        preference: (user_id, visible) -> states in time order; users with less than one window are missing.
        prompts: Questions of the summary stages, which a chain of thought repeats.
        titled: True if there are image summaries only, which follow the titles of the history (VST).
    """

    identity: str
    modality: Literal["both", "text", "image"]
    image: Mapping[str, str]
    item: Mapping[str, str]
    preference: Mapping[tuple[str, Visible], list[PreferenceState]]
    prompts: CotPrompts = field(default_factory=CotPrompts)
    titled: bool = False

    def state_before(self, user_id: str, split: Split, timestamp: int, order: int) -> PreferenceState | None:
        """Return the last state whose window ended before the key; None where there is none yet.

        Empty states are skipped: an earlier state and the items since then say more.
        """
        states = self.preference.get((user_id, VISIBLE_NAME[split]), [])
        end = bisect_left(states, (timestamp, order), key=lambda state: state.key)
        return next((state for state in reversed(states[:end]) if state.text.strip()), None)

    def image_summary(self, item_id: str) -> str:
        """Return the image summary of an item that has a picture.

        Raises:
            DataError: It was not written.
        """
        return _stored(self.image, item_id, "image")

    def item_summary(self, item_id: str) -> str:
        """Return the item summary of an item.

        Raises:
            DataError: It was not written.
        """
        return _stored(self.item, item_id, "item")


def _stored(summaries: Mapping[str, str], item_id: str, stage: str) -> str:
    if (text := summaries.get(item_id)) is None:
        raise DataError(
            f"item {item_id!r} has no {stage} summary among the {len(summaries)} stored ones, but prompts need one of "
            f"every item{' with a picture' if stage == 'image' else ''}; run `python -m mllm_srec summarize` with this "
            "configuration, which writes what is missing"
        )
    return text
