"""What metrics mean, in plain words, for readers who meet them for the first time."""

from __future__ import annotations

import re

_NAMED = {
    "auc": "chance that a later liked item gets a higher score than a drawn one, over all labelled pairs; 0.5 is a guess",
    "auc_disliked": "the same, a later liked item against one that the person disliked",
    "user_auc": "the same within each person's list, then averaged over persons",
}
_AT = {
    "hr": "share of lists with at least one liked item among the first {k}",
    "recall": "share of a list's liked items that are among the first {k}",
    "ndcg": "how far up the liked items stand among the first {k}; 1 where all of them come first",
    "mrr": "one over the place of the first liked item, 0 where it is not among the first {k}",
}
_SUMMARIES = "share of an item's true attributes that the summaries name rightly (known for the generated shop only)"


def metric_meaning(name: str) -> str | None:
    """A metric in words; None where it is not known.

    >>> metric_meaning("hr@5")
    'share of lists with at least one liked item among the first 5'
    """
    if name in _NAMED:
        return _NAMED[name]
    at = re.fullmatch(r"(\w+)@(\d+)", name)
    if at and at.group(1) in _AT:
        return _AT[at.group(1)].format(k=at.group(2))
    return _SUMMARIES if re.fullmatch(r"summaries/\w+/attribute_accuracy", name) else None
