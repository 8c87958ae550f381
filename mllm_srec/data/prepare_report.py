"""Report of a preparation: counts of everything dropped, repaired or unusable, by reason, so that no loss is silent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mllm_srec.files.atomic import write_json

MAX_EXAMPLES = 5
"""Most examples kept of each reason."""

READERS = ("reviews", "metadata", "users", "pictures", "ratings")
"""Stages about the raw files, of which the table shows an example: a person can mend what it names."""


@dataclass
class PrepareReport:
    """Counts by stage and reason, a few examples of each, and plain facts (shares, totals).

    `counts["reviews"]["line is not JSON"] == 3` means that three lines of the review file were skipped for that reason.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def count(self, stage: str, reason: str, n: int = 1, example: str | None = None) -> None:
        """Add `n` to the count of `reason` in `stage`; zero adds no entry."""
        if n == 0:
            return
        reasons = self.counts.setdefault(stage, {})
        reasons[reason] = reasons.get(reason, 0) + n
        if example is not None:
            kept = self.examples.setdefault(stage, {}).setdefault(reason, [])
            if len(kept) < MAX_EXAMPLES:
                kept.append(example[:200])

    def fact(self, name: str, value: Any) -> None:
        """Set a plain fact, such as the number of users kept."""
        self.facts[name] = value

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        content: Mapping[str, Any] = {"facts": self.facts, "counts": self.counts, "examples": self.examples}
        write_json(content, path)

    def lines(self) -> list[tuple[str, str, str]]:
        """Return rows (stage, fact or reason, number) for the table that `prepare` prints.

        A reason why something of a raw file is not used is followed by a row with an example and nothing else.
        """
        rows = [("data set", name, _number(value)) for name, value in self.facts.items()]
        for stage, reasons in self.counts.items():
            for reason, n in reasons.items():
                rows.append((stage, reason, _number(n)))
                examples = self.examples.get(stage, {}).get(reason) if stage in READERS else None
                if examples:
                    rows.append(("", f"e.g. {examples[0]}", ""))
        return rows


def _number(value: Any) -> str:
    """Format integers with thousands separators, shares with four digits, anything else but text as JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
