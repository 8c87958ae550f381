"""What a grid was, as far as its page needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

GridKind = Literal["table", "bars", "curves"]

QUICK = "quick run"
"""What stands beside everything that `--quick` made."""


@dataclass(frozen=True)
class AboutDataSet:
    """A data set of a grid.

    Attributes:
        name: Its name in the table.
        panel: Panel of the curves that it belongs to; None: of none, or of all where other data sets have one.
        x: Its place on the horizontal axis; None for a data set that is no point of a curve.
    """

    name: str
    panel: str | None = None
    x: float | None = None


@dataclass(frozen=True)
class AboutGrid:
    """A grid.

    Attributes:
        name: Of its folder of results, such as `table3`.
        stated: Whether the grid says all this itself; False for results that are older than `grid.json`.
        quick: Whether it is a trial that only shows that everything runs.
        title: Heading; empty: the name.
        caption: A sentence below it; may be empty.
        kind: How its results are drawn.
        metrics: Columns, in order.
        data_sets: In order.
        rows: Labels of the rows that were planned, in order; empty where that is not known.
        seeds: Seeds that were planned; empty where that is not known.
        base: Row that the others are compared with: a label, `best` or `first`; None where that is not known.
        article: Table or figure of the article that it is about, such as `table5`.
        baseline_rows: Rows over which the improvement is stated; empty: all but the one in question.
    """

    name: str
    stated: bool
    quick: bool
    title: str
    caption: str
    kind: GridKind
    metrics: Sequence[str]
    data_sets: Sequence[AboutDataSet]
    rows: Sequence[str] = ()
    seeds: Sequence[int] = ()
    base: str | None = None
    article: str | None = None
    baseline_rows: Sequence[str] = ()

    @property
    def heading(self) -> str:
        """Title, marked where the grid was quick."""
        title = self.title or self.name
        return f"{title} ({QUICK})" if self.quick else title

    @property
    def stamp(self) -> str:
        """What is written on figures."""
        return QUICK if self.quick else ""

    def marked(self, caption: str) -> str:
        """A caption that says so where the grid was quick."""
        return (
            f"{caption} {QUICK.capitalize()}: shows that everything runs, and nothing else." if self.quick else caption
        )
