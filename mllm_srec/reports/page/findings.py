"""What a grid found, in a few sentences that stand at the top of the page; every number in them is of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from mllm_srec.metrics.comparison import FINDING
from mllm_srec.reports.tables.grid import reference_label
from mllm_srec.reports.tables.grid_about import AboutGrid
from mllm_srec.reports.tables.grid_summary import Difference
from mllm_srec.reports.tables.metric_words import higher_is_better
from mllm_srec.reports.tables.paper_names import column_name, row_name

MAX_NAMED = 4
"""Number of rows that a sentence names; further ones are counted."""

STATED_REFERENCES = ("chance", "reader_both", "hindsight_both")
"""References beside the best row: a guess, and the ceilings of what comes before and of what a user vector sees."""


def findings(about: AboutGrid, summary: pl.DataFrame, differences: Sequence[Difference]) -> tuple[str, ...]:
    """State the best rows of the first metric and the differences that are findings.

    Args:
        about: Description of the grid.
        summary: Result of `summarise` for all data sets and shown metrics.
        differences: Comparisons of rows with their base; empty if nothing was compared.

    Returns:
        Plain sentences; none for a quick grid, whose numbers mean nothing.
    """
    if about.quick:
        return ()
    first = about.shown_metrics[0]
    models = summary.filter(~pl.col("reference") & pl.col("mean").is_not_null())
    data_sets = [d.name for d in about.data_sets if d.name in models["data_set"]]
    several = len(data_sets) > 1
    sentences: list[str] = []
    # On one data set every compared metric has its best rows, so that nobody takes the first metric for all.
    for metric in dict.fromkeys([first, *(d.metric for d in differences)]):
        of_metric = models.filter(pl.col("metric") == metric)
        if of_metric["row"].n_unique() > 1 and (metric == first or not several) and len(data_sets) <= MAX_NAMED:
            sentences += [_best(metric, name, summary, several) for name in data_sets]
        sentences += _differences([d for d in differences if d.metric == metric], len(data_sets))
    return tuple(sentences)


def _best(metric: str, data_set: str, summary: pl.DataFrame, several: bool) -> str:
    """State the two best rows of a data set, and the references beside them."""
    here = summary.filter(pl.col("data_set") == data_set, pl.col("metric") == metric)
    models = here.filter(~pl.col("reference")).sort(
        "mean", descending=higher_is_better(metric), nulls_last=True, maintain_order=True
    )
    stated = [
        f"{row_name(row)} {mean:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")
        for row, mean, sd in models.select("row", "mean", "sd").head(2).iter_rows()
    ]
    references = dict(here.filter("reference").select("row", "mean").iter_rows())
    beside = [f"{reference_label(name)} {references[name]:.3f}" for name in STATED_REFERENCES if name in references]
    seeds = models["n_seeds"].max()
    words = f"best {column_name(metric)}{f' on {data_set}' if several else ''}: {', then '.join(stated)}"
    words += f"; beside them {', '.join(beside)}" if beside else ""
    return words[0].upper() + words[1:] + (". One seed." if seeds == 1 else ".")


def _differences(of_metric: Sequence[Difference], n_data_sets: int) -> Iterator[str]:
    """State which rows differ from the base in one metric by more than the choice of users explains."""
    if not of_metric:
        return
    several = len({d.data_set for d in of_metric}) > 1
    found = [d for d in of_metric if d.mark]
    base = ", ".join(dict.fromkeys(row_name(d.base) for d in of_metric))
    parts = [
        f"{words} {_names([d for d in found if (d.difference > 0) is above], several)}"
        for words, above in (("above it", True), ("below it", False))
        if any((d.difference > 0) is above for d in found)
    ]
    where = f" over {n_data_sets} data sets" if several else ""
    yield (
        f"{column_name(of_metric[0].metric)}: {len(found)} of {len(of_metric)} comparisons with {base}{where} are "
        f"findings (Holm p at most {FINDING}){': ' if parts else ''}{'; '.join(parts)}."
    )


def _names(found: Sequence[Difference], several: bool) -> str:
    """Name the rows with the largest differences, and count the others."""
    largest = sorted(found, key=lambda d: -abs(d.difference))
    named = [
        f"{row_name(d.row)}{f' on {d.data_set}' if several else ''} ({d.difference:+.3f})" for d in largest[:MAX_NAMED]
    ]
    rest = len(found) - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest else "")
