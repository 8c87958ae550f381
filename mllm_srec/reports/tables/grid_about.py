"""The description of a grid in `grid.json` beside its results: `asdict` writes it, `parse_about` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import jsonargparse

from mllm_srec.metrics.comparison import Resample
from mllm_srec.reports.tables.article import article_key

GridKind = Literal["table", "bars", "curves"]

QUICK = "quick run"
"""Mark of everything that `--quick` made."""


@dataclass(frozen=True)
class GridReport:
    """How `report` shows the results.

    Args:
        title: Heading; empty: the grid's name.
        caption: A sentence below it.
        kind: `table`; `bars`: one per row and data set; `curves`: a line per row over the data sets' `x`, in panels.
        metrics: Metrics shown; none: those of the grid.
        article: Table of the article whose published numbers are shown beside ours, such as `table5`.
        baseline_rows: Rows over the best of which the improvement of the others is stated.
    """

    title: str = ""
    caption: str = ""
    kind: GridKind = "table"
    metrics: list[str] = field(default_factory=list)
    article: str | None = None
    baseline_rows: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Significance:
    """Paired bootstrap over users against one row, with Holm's correction over all that is compared.

    Args:
        base: `best` (the row with the highest mean of the first metric), `first`, or a label.
        metrics: Columns of `predictions/test_users.parquet`; empty: no comparison.
        n_resamples: Number of resamples of the bootstrap.
        seed: Seed of the bootstrap.
        resample: What intervals and p-values account for: other users, or other users and other seeds.
    """

    base: str = "best"
    metrics: list[str] = field(default_factory=lambda: ["ndcg@10", "hr@10", "user_auc"])
    n_resamples: int = 10_000
    seed: int = 0
    resample: Resample = "users"


@dataclass(frozen=True)
class AboutDataSet:
    """A data set of a grid.

    Attributes:
        name: Name in the table.
        panel: Panel of a figure of curves; None: no panel, or every panel if other data sets name one.
        x: Position on the horizontal axis; None for a data set that is no point of a curve.
    """

    name: str
    panel: str | None = None
    x: float | None = None


@dataclass(frozen=True)
class AboutGrid:
    """A grid.

    Attributes:
        name: Name of its table, such as `table3`.
        quick: True for a trial that only shows that everything runs.
        seeds: Planned seeds.
        rows: Labels of the planned rows, in order.
        data_sets: Planned data sets, in order.
        metrics: Columns of its summary, in order.
        significance: How its rows are compared.
        report: How `report` shows it.
    """

    name: str
    quick: bool
    seeds: list[int]
    rows: list[str]
    data_sets: list[AboutDataSet]
    metrics: list[str]
    significance: Significance
    report: GridReport

    @property
    def heading(self) -> str:
        """Title, marked if the grid is quick."""
        return f"{self.title} ({QUICK})" if self.quick else self.title

    @property
    def title(self) -> str:
        """Title of the report, or the name."""
        return self.report.title or self.name

    @property
    def shown_metrics(self) -> list[str]:
        """Metrics of the report, in order."""
        return self.report.metrics or self.metrics

    @property
    def article(self) -> str | None:
        """Table or figure of the article that the grid repeats, such as `table5`."""
        return article_key(self.report.article, self.name)

    @property
    def stamp(self) -> str:
        """Mark on its figures; may be empty."""
        return QUICK if self.quick else ""

    def marked(self, caption: str) -> str:
        """Return a caption that says so if the grid is quick."""
        mark = f" {QUICK.capitalize()}: shows that everything runs, and nothing else."
        return caption + (mark if self.quick else "")

    def joined(self, rows: Sequence[str], data_sets: Sequence[str], seeds: Sequence[int]) -> AboutGrid:
        """Return the grid with what its results have beyond its plan, as merged grids bring it.

        Args:
            rows: Labels of the rows that have results.
            data_sets: Names of the data sets that have results.
            seeds: Seeds that have results.
        """
        names = [data_set.name for data_set in self.data_sets]
        further = [AboutDataSet(name) for name in dict.fromkeys(data_sets) if name not in names]
        return replace(
            self,
            rows=list(dict.fromkeys([*self.rows, *rows])),
            data_sets=[*self.data_sets, *further],
            seeds=sorted({*self.seeds, *seeds}),
        )


def parse_about(content: Any) -> AboutGrid:
    """Read a grid from the content of `grid.json`.

    Args:
        content: Result of `asdict(about)`, or of JSON that holds it.

    Raises:
        ValueError: A field is missing, unknown, or of another type.
    """
    if not isinstance(content, dict):
        raise ValueError(f"holds {type(content).__name__}, not an object")
    if missing := [key.name for key in fields(AboutGrid) if key.name not in content]:
        raise ValueError(f"lacks {', '.join(missing)}")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AboutGrid, "about")
    try:
        parsed = parser.parse_object({"about": deepcopy(content)})  # which it changes
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise ValueError(str(error)) from error
    # The name changes with version 4.49; ours may be older.
    about: AboutGrid = getattr(parser, "instantiate", parser.instantiate_classes)(parsed).about
    return about
