"""Figures for notebooks: numbers with their intervals by stratum, and the seeds of a grid one by one."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mllm_srec.reports.figures.drawing import LIGHT, line_style, quiet_axes
from mllm_srec.reports.safe_text import shortened
from mllm_srec.reports.terminal.strata import TITLES

NO_STRATA = ("all", "left out")

Rows = Sequence[Mapping[str, Any]]


def png(figure: Figure) -> bytes:
    """A figure as a picture, for a notebook to show."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()


def strata_figure(rows: Rows, analysis: str, metric: str) -> Figure:
    """One metric of an analysis: a dot for each run and stratum, its interval, and how much is in it.

    Args:
        rows: Columns of an analysis: `run`, `analysis`, `stratum`, `metric`, `value`, `low`, `high`, `n`, `unit`.
        analysis: Such as `history_length`.
        metric: Such as `auc`.

    Raises:
        ValueError: There are no such rows, or none has a value.
    """
    own = [row for row in rows if (row["analysis"], row["metric"]) == (analysis, metric) and row["value"] is not None]
    own = [row for row in own if row["stratum"] not in NO_STRATA]
    if not own:
        known = sorted({f"{row['analysis']} {row['metric']}" for row in rows if row["value"] is not None})
        raise ValueError(f"analysis, metric: nothing for {analysis} {metric}; there are {', '.join(known)}.")
    strata = list(dict.fromkeys(row["stratum"] for row in own))
    runs = list(dict.fromkeys(row["run"] for row in own))
    figure = Figure(figsize=(1.6 + 1.1 * len(strata), 3.4))
    axes = figure.add_subplot()
    for index, run in enumerate(runs):
        of_run = [row for row in own if row["run"] == run]
        shift = 0.5 * (index - (len(runs) - 1) / 2) / max(len(runs), 2)
        places = [strata.index(row["stratum"]) + shift for row in of_run]
        ends = [[row["value"] - row["low"] for row in of_run], [row["high"] - row["value"] for row in of_run]]
        values = [row["value"] for row in of_run]
        axes.errorbar(places, values, yerr=ends, capsize=2, markersize=5, label=shortened(run),
                      **line_style(index, LIGHT) | {"linestyle": "none"})  # fmt: skip
    counts = [max(row["n"] for row in own if row["stratum"] == stratum) for stratum in strata]
    labels = [f"{shortened(stratum)}\n{n:,}" for stratum, n in zip(strata, counts, strict=True)]
    axes.set_xticks(range(len(strata)), labels, parse_math=False)
    axes.set_xlim(-0.5, len(strata) - 0.5)
    axes.set_xlabel(f"{TITLES.get(analysis, analysis)}; below, number of {own[0]['unit']}")
    _finish(axes, metric, len(runs))
    return figure


def seeds_figure(rows: Rows, metric: str) -> Figure:
    """One metric of a grid: a row for each of its rows, a dot for each seed; panels are data sets.

    Args:
        rows: Columns `row`, `data_set`, `seed`, `metric`, `value`, as in `results.parquet`.
        metric: Such as `test/auc`.

    Raises:
        ValueError: No row has the metric.
    """
    own = [row for row in rows if row["metric"] == metric and row["value"] is not None and math.isfinite(row["value"])]
    if not own:
        raise ValueError(f"metric: no result has {metric!r}; see the column `metric` of the results.")
    names = list(dict.fromkeys(row["row"] for row in own))
    data_sets = list(dict.fromkeys(row["data_set"] for row in own))
    figure = Figure(figsize=(2.2 + 3.4 * len(data_sets), 1 + 0.24 * len(names)))
    panels = figure.subplots(1, len(data_sets), sharey=True, squeeze=False)[0]
    for axes, data_set in zip(panels, data_sets, strict=True):
        dots = [(row["value"], names.index(row["row"])) for row in own if row["data_set"] == data_set]
        axes.plot(*zip(*dots, strict=True), "o", color=LIGHT.colours[0], alpha=0.7, markersize=4)
        axes.set_title(shortened(data_set), parse_math=False)
        axes.set_yticks(range(len(names)), [shortened(name) for name in names], parse_math=False)
        axes.set_xlabel(f"{metric}, one dot a seed")
        quiet_axes(axes, LIGHT, "both")
    panels[0].invert_yaxis()
    return figure


def _finish(axes: Axes, metric: str, n_runs: int) -> None:
    if metric.endswith("auc") or metric.startswith("auc"):
        axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":", label="chance")
    axes.set_ylabel(metric)
    quiet_axes(axes, LIGHT)
    if n_runs > 1:
        legend = axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for text in legend.get_texts():
            text.set_parse_math(False)
