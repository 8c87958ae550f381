"""The prompts p1, p2 and p3 of the article, letter by letter, that of VST, and the versions that summaries name."""

from __future__ import annotations

VERSION = "summaries-article-v1"

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
"""What the article's Base model asks in place of p1: a plain caption."""

VST_VERSION = "summaries-vst-v1"
VST_PROMPT = "What does the picture show of this item? Answer with a short summary."
"""Asks for a visual summary with the item's title in sight (Rec-GPT4V, its Visual-Summary Thought; our words)."""
