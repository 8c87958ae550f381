"""What metrics mean, in plain words, for readers who meet them for the first time."""

from __future__ import annotations

import re

_NAMED = {
    "auc": "chance that a later liked item gets a higher score than a drawn one, over all pairs; 0.5 is a guess",
    "auc_disliked": "the same, a later liked item against one that the person disliked",
    "user_auc": "the same within each person's list, then averaged over persons",
}
_AT = {
    "hr@K": "share of lists with at least one liked item among the first K",
    "recall@K": "share of a list's liked items that are among the first K",
    "ndcg@K": "how far up the liked items stand among the first K; 1 where all of them come first",
    "mrr@K": "one over the place of the first liked item, 0 where it is not among the first K",
}
_SUMMARIES = {
    "attribute_accuracy": "share of an item's true attributes that the summaries name rightly",
    "current_taste_accuracy": "share of a person's present taste that their preference names rightly; 0.5 is a guess",
}
_KNOWN = "(known for the generated shop only)"
_HIGHER = re.compile(r"(user_)?auc(_\w+)?|(hr|recall|ndcg|mrr)(_worst)?@\d+|summaries/.*(accuracy|similarity)\w*")


def metric_family(name: str) -> str:
    """A metric without its cut-off.

    >>> metric_family("hr@5"), metric_family("auc")
    ('hr@K', 'auc')
    """
    return re.sub(r"@\d+$", "@K", name)


def metric_meaning(family: str) -> str | None:
    """A metric in words; None where it is not known.

    Args:
        family: From `metric_family`.

    >>> metric_meaning("hr@K")
    'share of lists with at least one liked item among the first K'
    """
    known = {**_NAMED, **_AT}.get(family)
    judged = _SUMMARIES.get(family.rpartition("/")[2]) if family.startswith("summaries/") else None
    return known if judged is None else f"{judged} {_KNOWN}"


def metric_label(metric: str) -> str:
    """A metric as headings name it.

    >>> metric_label("summaries/image/attribute_accuracy"), metric_label("ndcg@10")
    ('image summaries: attribute accuracy', 'ndcg@10')
    """
    found = re.fullmatch(r"summaries/(\w+)/(\w+)", metric)
    return metric if found is None else f"{found[1]} summaries: {found[2].replace('_', ' ')}"


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better; False where less is, or where that cannot be said.

    >>> higher_is_better("ndcg@10"), higher_is_better("ece")
    (True, False)
    """
    return _HIGHER.fullmatch(metric) is not None
