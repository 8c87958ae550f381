"""Results of a grid as blocks of a page: its tables and figures, from one summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from mllm_srec.metrics.comparison import FINDING
from mllm_srec.reports.figures.charts import CostPoint, Panel, Point, bar_chart, cost_chart, curve_chart, row_chart
from mllm_srec.reports.figures.drawing import Drawing
from mllm_srec.reports.page.page import Block, FigureBlock, NoteBlock, TableBlock
from mllm_srec.reports.tables.article import article_note
from mllm_srec.reports.tables.difference_words import few_users, how_compared, one_family
from mllm_srec.reports.tables.gains import article_table, gain_row, means_of
from mllm_srec.reports.tables.grid import cost_table, data_set_table, reference_label, result_table
from mllm_srec.reports.tables.grid_about import AboutGrid
from mllm_srec.reports.tables.grid_summary import DAGGER, Difference, difference_table
from mllm_srec.reports.tables.metric_words import metric_label

SHOWN_REFERENCES = (
    *("chance", "popularity", "averaging_both", "recent_both"),
    *("reader_both", "hindsight_both", "oracle_both"),
)
"""References in figures; tables have all."""


def grid_blocks(
    about: AboutGrid,
    slug: str,
    summary: pl.DataFrame,
    differences: Sequence[Difference],
    records: Sequence[Mapping[str, Any]],
) -> list[Block]:
    """Make the blocks of a grid's results, differences and costs.

    Args:
        about: Description of the grid.
        slug: First part of the names of its files.
        summary: Result of `summarise` for all data sets and shown metrics.
        differences: Comparisons of rows with their base; empty if nothing was compared.
        records: Cells of the grid: `row`, `data_set`, `seconds`, `peak_memory`.
    """
    blocks: list[Block] = []
    if about.report.kind == "table":
        for index, data_set in enumerate(about.data_sets):
            of_data_set = summary.filter(pl.col("data_set") == data_set.name)
            if not of_data_set.height:
                continue  # planned, not finished: a note of the section says so
            shown = [difference for difference in differences if difference.data_set == data_set.name]
            blocks += _table_blocks(about, f"{slug}-{index + 1}", data_set.name, of_data_set, shown)
    else:
        for index, metric in enumerate(about.shown_metrics):
            of_metric = summary.filter(pl.col("metric") == metric)
            blocks += _figure_blocks(about, f"{slug}-{index + 1}", metric, of_metric, differences)
        several = len({difference.data_set for difference in differences}) > 1
        named = [replace(d, row=f"{d.row}, {d.data_set}") for d in differences] if several else list(differences)
        blocks += _difference_blocks(about, f"{slug}-differences", "", named)
    note = article_note(about.article)
    if note is not None and about.article != "table5":
        blocks.append(NoteBlock("The article's own numbers", (note,)))
    return blocks + _cost_blocks(about, slug, summary, records)


# --- tables ---------------------------------------------------------------------------------------------------------


def _table_blocks(
    about: AboutGrid, slug: str, data_set: str, summary: pl.DataFrame, shown: Sequence[Difference]
) -> list[Block]:
    """Make the blocks of one data set."""
    metrics, means = list(about.shown_metrics), means_of(summary)
    table = result_table(summary, metrics, {(d.row, d.metric): d.mark for d in shown})
    if (gain := gain_row(about, means)) is not None:
        last = sum(row.kind == "model" for row in table.rows)
        table = replace(table, rows=(*table.rows[:last], gain, *table.rows[last:]))
    caption = f"{about.heading}, {data_set}: {_spread_words(summary)}."
    blocks: list[Block] = [
        TableBlock(f"{slug}-results", f"Results on {data_set}", table.captioned(about.marked(caption)), _legend(shown))
    ]
    blocks += _row_figure(about, slug, data_set, summary)
    blocks += _difference_blocks(about, f"{slug}-differences", f" on {data_set}", shown, means)
    if about.article == "table5":
        blocks += _article_blocks(about, slug, data_set, means)
    return blocks


def _spread_words(summary: pl.DataFrame) -> str:
    """Describe the deviations in a table."""
    seeds = summary.filter(~pl.col("reference"))["n_seeds"].to_list()
    low, high = min(seeds, default=0), max(seeds, default=0)
    if high == 1:
        return "one seed; the variation between seeds is unknown"
    return f"mean ± standard deviation over {high if low == high else f'{low} to {high}'} seeds"


def _legend(shown: Sequence[Difference]) -> tuple[str, ...]:
    """Return the notes below a table that explain its marks."""
    if not shown:
        return ("No rows were compared, so no difference is marked as a finding.",)
    metrics, base = ", ".join(dict.fromkeys(d.metric for d in shown)), shown[0].base
    text = f"{DAGGER} differs from {base} (Holm p at most {FINDING}); only {metrics} are compared"
    return (f"{text}. What p accounts for, and over what it is corrected, is said with the differences.",)


def _row_figure(about: AboutGrid, slug: str, data_set: str, summary: pl.DataFrame) -> list[Block]:
    """Draw the first metric of all rows of a data set."""
    metric = about.shown_metrics[0]
    points = _points(summary.filter(pl.col("metric") == metric), "row")
    compared = summary.filter(pl.col("reference") & (pl.col("metric") == metric))
    values = dict(compared.select("row", "mean").iter_rows())
    references = {reference_label(name): values[name] for name in SHOWN_REFERENCES if name in values}
    if not points:
        return []
    top = max(points, key=lambda row: points[row].mean)
    drawing = Drawing(
        f"{slug}-{_file_part(metric)}",
        about.marked(
            f"{metric} on {data_set}: points are means, whiskers one standard deviation over seeds, lines references."
        ),
        f"{metric} of {len(points)} rows; the highest mean is {points[top].mean:.4f} of {top}.",
        row_chart(points, references, metric),
        about.stamp,
    )
    return [FigureBlock(f"{metric} of all rows on {data_set}", drawing)]


def _difference_blocks(
    about: AboutGrid,
    name: str,
    where: str,
    shown: Sequence[Difference],
    means: Mapping[tuple[str, str], float] | None = None,
) -> list[Block]:
    if not shown:
        return []
    base = ", ".join(dict.fromkeys(difference.base for difference in shown))
    table = difference_table(shown, means)
    caption = f"{about.heading}: differences to {base}{where}; mean over users, seeds averaged within each."
    notes = [f"95 % {how_compared(about.significance.resample)[0]}.", *_sentences(about, shown)]
    if means is not None:
        notes.append("%: the difference relative to the mean of the base.")
    changed = [(d.row, d.metric, d.n_changed) for d in shown]
    notes += [f"{_upper_first(line)}." for line in few_users(changed, about.significance.resample)]
    title = f"Differences to {base}{where}, with intervals and p-values ({len(shown)} rows)"
    return [TableBlock(name, title, table.captioned(about.marked(caption)), tuple(notes), folded=True)]


def _sentences(about: AboutGrid, shown: Sequence[Difference]) -> list[str]:
    """Return what p does not account for, and the families of Holm's correction."""
    sizes = Counter(d.data_set for d in shown)
    if len(sizes) == 1:
        family = one_family(len({d.row for d in shown}), len({d.metric for d in shown}))
    else:
        family = f"a family for each data set: {', '.join(f'{n} differences on {name}' for name, n in sizes.items())}"
    return [f"{_upper_first(line)}." for line in (*how_compared(about.significance.resample)[1:], f"Holm p: {family}")]


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _article_blocks(about: AboutGrid, slug: str, data_set: str, means: Mapping[tuple[str, str], float]) -> list[Block]:
    note = str(article_note("table5"))
    table = article_table(means)
    if table is None:
        return [NoteBlock("The article's own numbers", (note, "No row of this grid is a variant of its Table 5."))]
    caption = about.marked(f"Table 5 of the article, and the same variants measured here on {data_set}.")
    return [
        TableBlock(
            f"{slug}-article", f"The article's Table 5 beside ours on {data_set}", table.captioned(caption), (note,)
        )
    ]


# --- bars and curves ------------------------------------------------------------------------------------------------


def _figure_blocks(
    about: AboutGrid, slug: str, metric: str, summary: pl.DataFrame, differences: Sequence[Difference]
) -> list[Block]:
    names = [data_set.name for data_set in about.data_sets if data_set.name in summary["data_set"]]
    marks = {(d.row, d.data_set): d.mark for d in differences if d.metric == metric}
    table = data_set_table(summary, names, marks).captioned(
        about.marked(f"{about.heading}: {metric_label(metric)}, a column for each data set; {_spread_words(summary)}.")
    )
    of_metric = [difference for difference in differences if difference.metric == metric]
    blocks: list[Block] = []
    drawing = (
        _bars(about, slug, metric, summary) if about.report.kind == "bars" else _curves(about, slug, metric, summary)
    )
    if drawing is not None:
        blocks.append(FigureBlock(_heading(metric), drawing))
    else:
        blocks.append(
            NoteBlock(_heading(metric), ("No data set of this grid has a position on the axis, so no curve is drawn.",))
        )
    return [*blocks, TableBlock(f"{slug}-results", f"{_heading(metric)} in numbers", table, _legend(of_metric))]


def _bars(about: AboutGrid, slug: str, metric: str, summary: pl.DataFrame) -> Drawing | None:
    """Draw bars of one metric; None without results."""
    models = summary.filter(~pl.col("reference"))
    bars = {
        str(row): _points(models.filter(pl.col("row") == row), "data_set")
        for row in models["row"].unique(maintain_order=True)
    }
    chance = _chance(summary)
    if not bars:
        return None
    caption = f"{metric_label(metric)}: bars are means, whiskers one standard deviation over seeds"
    caption += "; the dashed line is chance." if chance else "."
    alt = "; ".join(
        f"{row} {', '.join(f'{point.mean:.3f} on {name}' for name, point in of_row.items())}"
        for row, of_row in bars.items()
    )
    draw = bar_chart(bars, chance, metric)
    return Drawing(f"{slug}-{_file_part(metric)}", about.marked(caption), f"{metric}: {alt}.", draw, about.stamp)


def _curves(about: AboutGrid, slug: str, metric: str, summary: pl.DataFrame) -> Drawing | None:
    """Draw curves of one metric; None if no data set has a position on the axis."""
    placed = [data_set for data_set in about.data_sets if data_set.x is not None]
    panels = list(dict.fromkeys(data_set.panel for data_set in placed if data_set.panel is not None)) or [""]
    chance, models = _chance(summary), summary.filter(~pl.col("reference"))
    drawn = []
    for panel in panels:
        # A data set without a panel, such as the clean one, is a point in all of them.
        own = [data_set for data_set in placed if data_set.panel in (panel, None)]
        lines: dict[str, dict[float, Point]] = {}
        for row in models["row"].unique(maintain_order=True):
            points = _points(models.filter(pl.col("row") == row), "data_set")
            lines[str(row)] = {d.x: points[d.name] for d in own if d.x is not None and d.name in points}
        known = [chance[data_set.name] for data_set in own if data_set.name in chance]
        drawn.append(Panel(panel, lines, sum(known) / len(known) if known else None))
    if not placed:
        return None
    left_out = [data_set.name for data_set in about.data_sets if data_set.x is None]
    caption = f"{metric_label(metric)}: lines are means, bands one standard deviation over seeds."
    caption += f" Not drawn, since they have no position on the axis: {', '.join(left_out)}." if left_out else ""
    alt = f"{metric} of {models['row'].n_unique()} rows over {len(placed)} data sets in {len(panels)} panels."
    draw = curve_chart(drawn, "strength", metric)
    return Drawing(f"{slug}-{_file_part(metric)}", about.marked(caption), alt, draw, about.stamp)


def _points(summary: pl.DataFrame, key: str) -> dict[str, Point]:
    """Return the results of models by the values of a column."""
    models = summary.filter(~pl.col("reference"))
    return {name: Point(mean, sd) for name, mean, sd in models.select(key, "mean", "sd").iter_rows()}


def _chance(summary: pl.DataFrame) -> dict[str, float]:
    """Return the result of a guess by data set."""
    rows = summary.filter(pl.col("reference") & (pl.col("row") == "chance"))
    return dict(rows.select("data_set", "mean").iter_rows())


# --- costs ----------------------------------------------------------------------------------------------------------


def _cost_blocks(
    about: AboutGrid, slug: str, summary: pl.DataFrame, records: Sequence[Mapping[str, Any]]
) -> list[Block]:
    if not records:
        return []
    blocks: list[Block] = []
    names = list(dict.fromkeys(record["data_set"] for record in records))
    for index, name in enumerate(names if about.report.kind == "table" else ()):
        of_data_set = [record for record in records if record["data_set"] == name]
        drawing = _cost_figure(about, f"{slug}-{index + 1}-cost", name, summary, of_data_set)
        if drawing is not None:
            blocks.append(FigureBlock(f"{about.shown_metrics[0]} against cost on {name}", drawing))
    named = [dict(r, row=f"{r['row']}, {r['data_set']}") for r in records] if len(names) > 1 else records
    caption = about.marked(f"{about.heading}: cost of a run; mean seconds, highest peak memory.")
    notes = (
        "A stage that an earlier run had already done takes no time in later ones, and cells that ran at the same time "
        "slowed each other down.",
    )
    return [
        *blocks,
        TableBlock(f"{slug}-cost", "Cost of a run", cost_table(named).captioned(caption), notes, folded=True),
    ]


def _cost_figure(
    about: AboutGrid, slug: str, data_set: str, summary: pl.DataFrame, records: Sequence[Mapping[str, Any]]
) -> Drawing | None:
    metric = about.shown_metrics[0]
    results = _points(summary.filter((pl.col("data_set") == data_set) & (pl.col("metric") == metric)), "row")
    points: dict[str, CostPoint] = {}
    for row, result in results.items():
        seconds = [r["seconds"]["total"] for r in records if r["row"] == row and r["seconds"].get("total")]
        if seconds:
            points[row] = CostPoint(sum(seconds) / len(seconds), result)
    if len(points) < 2:
        return None
    caption = about.marked(
        f"{metric} over the wall time of a run, with the start of the program; further left is cheaper, further up "
        "is better. Whiskers: one standard deviation over seeds."
    )
    cheap, dear = (pick(points, key=lambda row: points[row].seconds) for pick in (min, max))
    alt = f"From {cheap} ({points[cheap].seconds:.0f} s) to {dear} ({points[dear].seconds:.0f} s)."
    return Drawing(slug, caption, alt, cost_chart(points, metric), about.stamp)


def _heading(metric: str) -> str:
    """Return the name of a metric as a heading."""
    label = metric_label(metric)
    return label[:1].upper() + label[1:]


def _file_part(metric: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in metric)
