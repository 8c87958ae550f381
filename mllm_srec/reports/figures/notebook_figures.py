"""Figures for notebooks: results by stratum with their intervals, every seed of a grid, and pictures of items."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mllm_srec.reports.figures.drawing import LIGHT, line_style, quiet_axes
from mllm_srec.reports.safe_text import shortened, visible
from mllm_srec.reports.terminal.strata import TITLES

NO_STRATA = ("all", "left out")
"""Rows of an analysis that are no strata, and not drawn."""

LINE_LENGTH = 22
"""Characters of a line below a picture."""

Rows = Sequence[Mapping[str, Any]]


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, for a notebook to show."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()


def strata_figure(rows: Rows, analysis: str, metric: str) -> Figure:
    """Draw one metric of an analysis: a dot with its interval for each run and stratum, and the size of each stratum.

    Args:
        rows: Columns of an analysis: `run`, `analysis`, `stratum`, `metric`, `value`, `low`, `high`, `n`, `unit`.
        analysis: Name of the analysis, such as `history_length`.
        metric: Name of the metric, such as `auc`.

    Raises:
        ValueError: There are no such rows, or none has a value.
    """
    shown = [row for row in rows if (row["analysis"], row["metric"]) == (analysis, metric) and row["value"] is not None]
    shown = [row for row in shown if row["stratum"] not in NO_STRATA]
    if not shown:
        known = sorted({f"{row['analysis']} {row['metric']}" for row in rows if row["value"] is not None})
        raise ValueError(f"analysis={analysis!r}, metric={metric!r}: no such values; there are {', '.join(known)}.")
    strata = list(dict.fromkeys(row["stratum"] for row in shown))
    runs = list(dict.fromkeys(row["run"] for row in shown))
    figure = Figure(figsize=(1.6 + 1.1 * len(strata), 3.4))
    axes = figure.add_subplot()
    for index, run in enumerate(runs):
        of_run = [row for row in shown if row["run"] == run]
        shift = 0.5 * (index - (len(runs) - 1) / 2) / max(len(runs), 2)
        xs = [strata.index(row["stratum"]) + shift for row in of_run]
        ends = [[row["value"] - row["low"] for row in of_run], [row["high"] - row["value"] for row in of_run]]
        values = [row["value"] for row in of_run]
        axes.errorbar(xs, values, yerr=ends, capsize=2, markersize=5, label=shortened(run),
                      **line_style(index, LIGHT) | {"linestyle": "none"})  # fmt: skip
    counts = [max(row["n"] for row in shown if row["stratum"] == stratum) for stratum in strata]
    labels = [f"{shortened(stratum)}\n{n:,}" for stratum, n in zip(strata, counts, strict=True)]
    axes.set_xticks(range(len(strata)), labels, parse_math=False)
    axes.set_xlim(-0.5, len(strata) - 0.5)
    axes.set_xlabel(f"{TITLES.get(analysis, analysis)}; below, number of {shown[0]['unit']}")
    _finish(axes, metric, len(runs))
    return figure


def _finish(axes: Axes, metric: str, n_runs: int) -> None:
    """Add the line at chance, the name of the vertical axis, and the legend of several runs."""
    if metric.endswith("auc") or metric.startswith("auc"):
        axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":", label="chance")
    axes.set_ylabel(metric)
    quiet_axes(axes, LIGHT)
    if n_runs > 1:
        legend = axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for text in legend.get_texts():
            text.set_parse_math(False)


def seeds_figure(rows: Rows, metric: str) -> Figure:
    """Draw one metric of a grid: a line for each of its rows, a dot for each seed, a panel for each data set.

    Args:
        rows: Columns `row`, `data_set`, `seed`, `metric`, `value`, as in `results.parquet`.
        metric: Name of the metric, such as `test/auc`.

    Raises:
        ValueError: No row has the metric.
    """
    shown = [
        row for row in rows if row["metric"] == metric and row["value"] is not None and math.isfinite(row["value"])
    ]
    if not shown:
        raise ValueError(f"metric: no result has {metric!r}; see the column `metric` of the results.")
    names = list(dict.fromkeys(row["row"] for row in shown))
    data_sets = list(dict.fromkeys(row["data_set"] for row in shown))
    figure = Figure(figsize=(2.2 + 3.4 * len(data_sets), 1 + 0.24 * len(names)))
    panels = figure.subplots(1, len(data_sets), sharey=True, squeeze=False)[0]
    for axes, data_set in zip(panels, data_sets, strict=True):
        dots = [(row["value"], names.index(row["row"])) for row in shown if row["data_set"] == data_set]
        axes.plot(*zip(*dots, strict=True), "o", color=LIGHT.colours[0], alpha=0.7, markersize=4)
        axes.set_title(shortened(data_set), parse_math=False)
        axes.set_yticks(range(len(names)), [shortened(name) for name in names], parse_math=False)
        axes.set_xlabel(f"{metric}, one dot per seed")
        quiet_axes(axes, LIGHT, "both")
    panels[0].invert_yaxis()
    return figure


def picture_figure(pictures: Sequence[tuple[Path | str | None, str]], columns: int = 6) -> Figure:
    """Draw pictures side by side, with a line of text below each.

    Args:
        pictures: File and text of each picture; without a file, an empty frame says so.
        columns: Number of pictures in a row, at least 1.

    Raises:
        ValueError: There are no pictures, or `columns` is below 1.
        OSError: A file cannot be read.
    """
    if not pictures or columns < 1:
        raise ValueError(f"pictures, columns: got {len(pictures)} and {columns}; both must be at least 1.")
    columns = min(columns, len(pictures))
    n_rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.7 * columns, 2.2 * n_rows), layout="constrained")
    frames = figure.subplots(n_rows, columns, squeeze=False).ravel()
    for axes in frames:
        axes.axis("off")
    for axes, (path, text) in zip(frames, pictures, strict=False):
        if path is None:
            axes.text(0.5, 0.5, "no picture", ha="center", va="center", color="grey")
        else:
            with Image.open(path) as picture:
                axes.imshow(picture.convert("RGB"), interpolation="nearest")
        lines = textwrap.shorten(visible(text), 3 * LINE_LENGTH, placeholder=" …")
        axes.set_title(textwrap.fill(lines, LINE_LENGTH), fontsize=7, y=-0.08, va="top", parse_math=False)
    return figure
