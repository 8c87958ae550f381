"""What is said beside differences and p-values, the same on the terminal, in summaries and on pages."""

from __future__ import annotations

from collections.abc import Sequence

from mllm_srec.metrics.comparison import FEW, Resample
from mllm_srec.metrics.significance import EXACT_USERS


def how_compared(resample: Resample) -> list[str]:
    """Return how interval and p-value are computed, then what they do not account for.

    Args:
        resample: What was resampled.
    """
    if resample == "users":
        return [
            f"interval: paired bootstrap over users; p: from it, or exact (all sign flips) where at most {EXACT_USERS} "
            "users differ",
            "interval and p say what other users would change, and nothing of other seeds: those are averaged first, "
            "and sd shows how far they differ (resample: users_and_seeds accounts for both)",
        ]
    return [
        "interval and p: bootstrap over users, paired, and over each run's seeds; p is never below the exact one where "
        f"at most {EXACT_USERS} users differ",
        "interval and p account for other users and other seeds; few seeds show too little of their variance, three "
        "only two thirds",
    ]


def one_family(n_others: int, n_metrics: int) -> str:
    """Return over what Holm's correction runs.

    Args:
        n_others: Number of rows that are compared with the base.
        n_metrics: Number of compared metrics.

    >>> one_family(3, 2)
    'corrected over one family, the 6 differences shown (3 rows x 2 metrics)'
    """
    n = n_others * n_metrics
    sides = f"{counted(n_others, 'row')} x {counted(n_metrics, 'metric')}"
    return f"corrected over one family, the {counted(n, 'difference')} shown ({sides})"


def few_users(changed: Sequence[tuple[str, str, int]], resample: Resample) -> list[str]:
    """Return lines about differences that rest on few users.

    Args:
        changed: Row, metric and number of users whose values differ, of every difference.
        resample: What was resampled.
    """
    exact, few = (
        [f"{row!r} {metric} ({n})" for row, metric, n in changed if low < n <= high]
        for low, high in ((0, EXACT_USERS), (EXACT_USERS, FEW - 1))
    )
    lines = []
    if exact:
        p = "exact" if resample == "users" else "not below the exact one"
        lines.append(
            f"at most {EXACT_USERS} users differ at all, so that p is {p}, but the interval too narrow: "
            f"{', '.join(exact)}"
        )
    if few:
        lines.append(
            f"fewer than {FEW} users differ at all, so that interval and p are too optimistic: {', '.join(few)}"
        )
    return lines


def counted(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "row"), counted(2, "row")
    ('1 row', '2 rows')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
