"""The article's published numbers, as far as they are available.

MLLM-SRec, Scientific Reports 2025, https://doi.org/10.1038/s41598-025-14251-1. Only Table 5 is available as numbers; of
Tables 3 and 4 and Figures 5 and 6 the text gives averages or an order. Nothing is derived from those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SOURCE = "Scientific Reports (2025), doi 10.1038/s41598-025-14251-1"

TABLE5_METRICS = ("ndcg@5", "ndcg@10", "ndcg@20", "recall@5", "recall@10", "recall@20")
"""Columns of Table 5."""

TABLE5: Mapping[str, tuple[float, ...]] = {
    "Base model": (0.018, 0.0219, 0.0285, 0.0313, 0.0479, 0.0808),
    "MLLM-SV (+ VIU)": (0.0182, 0.0225, 0.0294, 0.0325, 0.0496, 0.0819),
    "MLLM-SVI (+ VIU, IMSG)": (0.0186, 0.0227, 0.0298, 0.0339, 0.0512, 0.0841),
    "MLLM-SRec (+ VIU, IMSG, TUBC)": (0.0197, 0.0242, 0.0313, 0.0359, 0.0539, 0.0876),
}
"""Table 5, components of the method; the article does not name its data set."""

TABLE5_BASE = "Base model"
"""Row over which Table 5 states improvements."""

TABLE5_ROWS: Mapping[str, str] = {
    "base": "Base model",
    "sv": "MLLM-SV (+ VIU)",
    "svi": "MLLM-SVI (+ VIU, IMSG)",
    "full": "MLLM-SRec (+ VIU, IMSG, TUBC)",
    "mllm_srec": "MLLM-SRec (+ VIU, IMSG, TUBC)",
}
"""Labels of our rows -> rows of Table 5."""

TABLE5_NOTE = (
    "Published absolute values are of an Amazon data set that the article does not name, with candidates that it does "
    "not describe: they cannot be compared with ours. What can be compared is the relative gain over Base."
)

NOT_AVAILABLE: Mapping[str, str] = {
    "table2": "The article's own numbers are not available: its Table 2 could not be found.",
    "table3": "The article's Table 3 (all models on all data sets) is not available; its text gives, over the "
    "strongest baseline, +9.90 % on average over four data sets, and +18.07 % HR, +11.4 % Recall, +12.83 % NDCG.",
    "table4": "The article's Table 4 (modalities) is not available; its text gives the order only: image and text "
    "best on every metric, text alone second, image alone generally slightly below.",
    "figure5": "The values of the article's Figure 5 per data set are not available; its text gives a mean AUC over "
    "four data sets of 0.81 with QLoRA and 0.84 with QLoRA and the four-step chain of thought.",
    "figure6": "The values of the article's Figure 6 (hallucination and anomalous inputs) are not available; its "
    "text says that the whole method has the highest CLIP score everywhere.",
    "figure7": "The article's Figure 7 (case studies) is not available as data.",
}
"""Notes on the article's other results, none of which is available as numbers."""


def article_key(stated: str | None, grid: str) -> str | None:
    """Return the table or figure of the article that a grid repeats: as stated, else by its name.

    >>> article_key(None, "table3-quick"), article_key("table5", "ablation"), article_key(None, "mine")
    ('table3', 'table5', None)
    """
    if stated is not None:
        return stated
    named = re.fullmatch(r"((?:table|figure)\d+)(?:-quick)?", grid)
    return named.group(1) if named else None


def article_note(key: str | None) -> str | None:
    """Return a note on the article's own numbers; None for a grid that repeats none of its tables."""
    if key is None:
        return None
    if key == "table5":
        return TABLE5_NOTE
    return NOT_AVAILABLE.get(key, f"The article's numbers for {key} are not available.")
