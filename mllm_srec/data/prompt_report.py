"""What building the prompts had to shorten."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PromptReport:
    """Counts of what was shortened or is missing; printed, and kept as `report.json` beside the store.

    Attributes:
        n_contexts: Contexts written.
        n_without_history: Contexts that say "no history".
        n_shortened: Contexts whose oldest history lines did not fit `max_length`.
        n_dropped_items: History lines dropped from them.
        n_cut_histories: Contexts with room for not even their newest item, which stands there cut.
        n_cut_preferences: Contexts whose preference was cut, at `max_preference_tokens` or at what `max_length` left.
        n_cut_texts: Items with a text that was cut at `max_item_tokens`.
        n_without_picture: Items whose prompt says that there is no picture.
    """

    n_contexts: int = 0
    n_without_history: int = 0
    n_shortened: int = 0
    n_dropped_items: int = 0
    n_cut_histories: int = 0
    n_cut_preferences: int = 0
    n_cut_texts: int = 0
    n_without_picture: int = 0
