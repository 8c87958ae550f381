"""The facts about every metric of a run, in one table: terminal, grids and report read it, so that all treat it alike.

A metric that is missing here can be no column of a grid, has no row on the terminal and no explanation on a page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mllm_srec.types import EVAL_TOP_K, RERANKED_USER_AUC, ConfigError, did_you_mean

_DEMO_ONLY = "(known for the generated shop only)"


@dataclass(frozen=True)
class Metric:
    """Facts about a metric.

    Attributes:
        name: Its key in `metrics.json` without the stage. `@K` stands for every cut-off, with expected
            and with worst ties (`hr@5`, `hr_worst@5`); `*` for one word, such as a summary stage.
        meaning: One line for readers who meet the metric for the first time.
        higher_is_better: Only then is the best value of a column bold; None if neither direction is better.
        per_user: True if every user has a value, so that runs can be compared user by user.
        headline: True if the terminal shows it after every run.
        label: Name as papers write it, `*` and `@K` as in `name`; empty: the name itself.
    """

    name: str
    meaning: str
    higher_is_better: bool | None = None
    per_user: bool = False
    headline: bool = False
    label: str = ""

    @property
    def has_cut_offs(self) -> bool:
        """True if the metric is measured at several cut-offs."""
        return self.name.endswith("@K")

    def columns(self, cut_offs: Sequence[int] = EVAL_TOP_K) -> list[str]:
        """Return the names of its columns, at every cut-off if it has some; with expected ties."""
        return [self.name.replace("@K", f"@{k}") for k in cut_offs] if self.has_cut_offs else [self.name]

    @property
    def pattern(self) -> str:
        """Regular expression of its names in results, whatever the cut-off."""
        return re.escape(self.name).replace("@K", r"(_worst)?@(\d+)").replace(r"\*", r"(\w+)")


METRICS = (
    Metric(
        "auc",
        "chance that an item liked later gets a higher score than a drawn one, over all pairs; 0.5 is a guess",
        higher_is_better=True, label="AUC", headline=True,
    ),
    Metric(
        "auc_disliked",
        "the same, for an item liked later against one that the user disliked",
        higher_is_better=True, label="AUC (disliked)", headline=True,
    ),
    Metric(
        "user_auc",
        "the same within each user's list, then averaged over users",
        higher_is_better=True, per_user=True, label="User AUC", headline=True,
    ),
    Metric(
        RERANKED_USER_AUC,
        "the same within the items that a retriever found; a liked item that it missed lies below all of them, so that "
        "a guess is not at 0.5",
        higher_is_better=True, per_user=True, headline=True,
    ),
    Metric(
        "hr@K",
        "share of lists with at least one liked item among the first K",
        higher_is_better=True, per_user=True, label="HR@K", headline=True,
    ),
    Metric(
        "ndcg@K",
        "how far up the liked items are among the first K; 1 if all of them come first",
        higher_is_better=True, per_user=True, label="NDCG@K", headline=True,
    ),
    Metric(
        "recall@K",
        "share of a list's liked items that are among the first K",
        higher_is_better=True, per_user=True, label="Recall@K", headline=True,
    ),
    Metric(
        "mrr@K",
        "one over the rank of the first liked item, 0 if it is not among the first K",
        higher_is_better=True, per_user=True, label="MRR@K", headline=True,
    ),
    Metric(
        "ece",
        "calibration error: how far stated probabilities are from observed shares",
        higher_is_better=False, label="ECE",
    ),
    Metric("temperature", "temperature that would calibrate the probabilities best; 1 if they need no correction"),
    Metric("mean_probability", "mean of the stated probabilities of a like"),
    Metric("share_liked", "share of liked items among those whose probability is stated"),
    Metric("yes_no_mass", "share of the vocabulary's probability that is on Yes and No"),
    Metric(
        "summaries/*/attribute_accuracy",
        f"share of an item's true attributes that the summaries name correctly {_DEMO_ONLY}",
        higher_is_better=True, label="* summaries: attribute accuracy",
    ),
    Metric(
        "summaries/*/current_taste_accuracy",
        f"share of a user's present taste that their preference names correctly; 0.5 is a guess {_DEMO_ONLY}",
        higher_is_better=True, label="* summaries: current taste accuracy",
    ),
    Metric("summaries/tokens", "tokens of all summaries that the prompts are made of"),
    Metric("tokens", "tokens that the model is shown"),
    Metric("n_*", "a count"),
)  # fmt: skip
"""All metrics; the terminal shows those with `headline` in this order."""


def find_metric(name: str) -> Metric | None:
    """Return the facts about a metric, None for an unknown one.

    Args:
        name: Name in results without the stage, such as `ndcg@10`, or in the table, such as `ndcg@K`.

    >>> find_metric("hr_worst@5").name, find_metric("unheard_of")
    ('hr@K', None)
    """
    return next((m for m in METRICS if name == m.name or re.fullmatch(m.pattern, name)), None)


TABLE_CUT_OFFS = (5, 10)
"""Cut-offs in the tables of grids, unless a grid names its columns: @20 says nothing of lists of 21 candidates."""


def at_every_cut_off(*names: str) -> list[str]:
    """Return the columns of metrics that have cut-offs, as tables show them.

    >>> at_every_cut_off("hr")
    ['hr@5', 'hr@10']
    """
    return [f"{name}@{k}" for name in names for k in TABLE_CUT_OFFS]


def headline_columns(cut_offs: Sequence[int] = EVAL_TOP_K) -> list[str]:
    """Return the columns that the terminal shows after every run, in order."""
    return [column for metric in METRICS if metric.headline for column in metric.columns(cut_offs)]


def shown_cut_offs(results: Mapping[str, Any], split: str) -> list[int]:
    """Return the cut-offs that are worth showing: those measured, without such as cover all drawn candidates of a list.

    Args:
        results: Results by key, such as `test/hr@5`; `test/m` is the number of drawn candidates, if they were drawn.
        split: `val` or `test`.

    >>> shown_cut_offs({"test/hr@5": 1, "test/hr@20": 1, "test/m": 20}, "test")
    [5]
    """
    found = (re.fullmatch(rf"{split}/(?!\w+_worst@)\w+@(\d+)", key) for key in results)
    measured = sorted({int(match[1]) for match in found if match})
    m = results.get(f"{split}/m")
    return [k for k in measured if m is None or k < m]


def metric_family(name: str) -> str:
    """Return a metric's name without its cut-off.

    >>> metric_family("hr@5"), metric_family("auc")
    ('hr@K', 'auc')
    """
    return re.sub(r"@\d+$", "@K", name)


def metric_meaning(name: str) -> str | None:
    """Return the explanation of a metric, None for an unknown one.

    >>> metric_meaning("hr@K")
    'share of lists with at least one liked item among the first K'
    """
    metric = find_metric(name)
    return None if metric is None else metric.meaning


def metric_label(name: str) -> str:
    """Return the name of a metric as papers write it; of an unknown one, the name itself.

    >>> metric_label("summaries/image/attribute_accuracy"), metric_label("ndcg@10"), metric_label("hr_worst@5")
    ('image summaries: attribute accuracy', 'NDCG@10', 'HR@5 (worst ties)')
    """
    metric = find_metric(name)
    if metric is None or not metric.label:
        return name
    words = re.fullmatch(metric.pattern, name)
    if words is None:  # the name of the family itself
        return metric.label
    if metric.has_cut_offs:
        worst, k = words.groups()
        return metric.label.replace("@K", f"@{k}") + (" (worst ties)" if worst else "")
    return metric.label.replace("*", words[1]) if words.groups() else metric.label


def higher_is_better(name: str) -> bool:
    """Return True if more of a metric is better; False if less is, or if neither is.

    >>> higher_is_better("ndcg@10"), higher_is_better("ece"), higher_is_better("n_users")
    (True, False, False)
    """
    metric = find_metric(name)
    return metric is not None and metric.higher_is_better is True


def check_metrics(setting: str, names: Sequence[str], per_user: bool = False) -> None:
    """Check that results have these metrics.

    Args:
        setting: Name of the setting that lists them, for the error.
        names: Names without the stage.
        per_user: Accept only metrics of which every user has a value.

    Raises:
        ConfigError: One is unknown; the error names the nearest known ones.
    """
    known = [column for metric in METRICS if metric.per_user or not per_user for column in metric.columns()]
    for name in names:
        metric = find_metric(name)
        is_column = "*" not in name and re.search(r"@(K|0\d*)$", name) is None
        if metric is None or not is_column:
            hint = did_you_mean(name, known, n=3) or f"; accepted are {', '.join(known)}"
            raise ConfigError(f"{setting}={name!r}: unknown metric{hint}")
        if per_user and not metric.per_user:
            raise ConfigError(f"{setting}={name!r}: users have no value of it; accepted are {', '.join(known)}")
