"""Figures of a grid: rows side by side, bars for each data set, curves over a strength, results over costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from mllm_srec.reports.figures.drawing import (
    MIN_WIDTH,
    Draw,
    Theme,
    line_style,
    quiet_axes,
    shared_legend,
)
from mllm_srec.reports.safe_text import shortened
from mllm_srec.reports.tables.metric_words import metric_label
from mllm_srec.reports.tables.paper_names import row_name

HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")


@dataclass(frozen=True)
class Point:
    """A mean with its deviation over seeds.

    Attributes:
        mean: Mean over seeds.
        sd: Standard deviation; None for a single seed.
    """

    mean: float
    sd: float | None = None


@dataclass(frozen=True)
class Panel:
    """A panel of a figure of curves.

    Attributes:
        title: Heading.
        lines: Row -> x -> point.
        chance: Result of a guess; None if it is unknown.
    """

    title: str
    lines: Mapping[str, Mapping[float, Point]]
    chance: float | None = None


def row_chart(rows: Mapping[str, Point], references: Mapping[str, float], metric: str) -> Draw:
    """Return a drawing with a point and its deviation for each row, and a vertical line for each reference.

    Args:
        rows: Label -> result, from top to bottom.
        references: Label -> value.
        metric: Metric of the horizontal axis.
    """

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(7.6, 1.5 + 0.27 * len(rows)))
        axes = figure.add_subplot()
        heights = np.arange(len(rows))[::-1]
        means = [point.mean for point in rows.values()]
        spreads = [point.sd or 0.0 for point in rows.values()]
        axes.errorbar(
            means, heights, xerr=spreads, fmt="o", color=theme.colours[0], capsize=2.5, markersize=5, linewidth=1.4
        )
        axes.set_yticks(heights, [shortened(row_name(label)) for label in rows])
        axes.set_ylim(-0.7, len(rows) - 0.3)
        for index, (label, value) in enumerate(references.items()):
            style = line_style(index + 1, theme)
            axes.axvline(
                value, color=style["color"], linestyle=("--", "-.", ":")[index % 3], linewidth=1.3, label=label
            )
        axes.set_xlabel(metric_label(metric))
        quiet_axes(axes, theme, "x")
        if references:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=9)
        return figure

    return draw


def bar_chart(bars: Mapping[str, Mapping[str, Point]], chance: Mapping[str, float], metric: str) -> Draw:
    """Return a drawing with a group of bars for each data set, a bar for each row, and a line at chance.

    Args:
        bars: Row -> data set -> result.
        chance: Data set -> result of a guess.
        metric: Metric of the vertical axis.
    """
    data_sets = list(dict.fromkeys(name for of_row in bars.values() for name in of_row))

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(max(MIN_WIDTH, 1.6 + 0.5 * len(bars) * len(data_sets) + 0.6 * len(data_sets)), 3.9))
        axes = figure.add_subplot()
        width = 0.8 / len(bars)
        for index, (row, results) in enumerate(bars.items()):
            points = [(group, results[name]) for group, name in enumerate(data_sets) if name in results]
            at = [group + (index - (len(bars) - 1) / 2) * width for group, _ in points]
            means, spreads = [point.mean for _, point in points], [point.sd or 0.0 for _, point in points]
            colour, hatch = theme.colours[index % len(theme.colours)], HATCHES[index % len(HATCHES)]
            label = shortened(row_name(row))
            axes.bar(at, means, width * 0.92, label=label, edgecolor=theme.paper, color=colour, hatch=hatch)
            axes.errorbar(at, means, yerr=spreads, fmt="none", ecolor=theme.ink, capsize=3, linewidth=1.2)
        for group, name in enumerate(data_sets):
            if name in chance:
                ends = ([chance[name]] * 2, [group - 0.46, group + 0.46])
                axes.plot(ends[1], ends[0], "--", color=theme.ink, linewidth=1.3, label=None if group else "chance")
        axes.set_xticks(range(len(data_sets)), [shortened(name, 18) for name in data_sets])
        axes.set_ylabel(metric_label(metric).replace(": ", "\n"))
        quiet_axes(axes, theme)
        handles, labels = axes.get_legend_handles_labels()
        shift = int(bool(chance))  # lines come first there, but chance belongs after the rows
        order = [*handles[shift:], *handles[:shift]], [*labels[shift:], *labels[:shift]]
        axes.legend(*order, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(5, len(labels)), fontsize=9)
        return figure

    return draw


def curve_chart(panels: Sequence[Panel], x_label: str, metric: str) -> Draw:
    """Return a drawing of panels, each with a line and a band for each row, and a line at chance.

    Args:
        panels: Panels from left to right.
        x_label: Name of the horizontal axes.
        metric: Metric of the vertical axis, which all share.
    """
    rows = list(dict.fromkeys(row for panel in panels for row in panel.lines))

    def draw(theme: Theme) -> Figure:
        n_columns = min(3, len(panels))
        n_lines = math.ceil(len(panels) / n_columns)
        figure = Figure(figsize=(max(MIN_WIDTH, 3.1 * n_columns + 0.6), 2.9 * n_lines + 0.7), layout="constrained")
        grid = figure.subplots(n_lines, n_columns, sharey=True, squeeze=False)
        for axes in list(grid.flat)[len(panels) :]:
            axes.remove()
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel, rows, theme)
            axes.set_xlabel(x_label)
        for axes in grid[:, 0]:
            axes.set_ylabel(metric_label(metric).replace(": ", "\n"))
        shared_legend(figure)
        return figure

    return draw


def _draw_panel(axes: Axes, panel: Panel, rows: Sequence[str], theme: Theme) -> None:
    """Draw a panel; the number of a row in `rows` decides its colour."""
    for row, points in panel.lines.items():
        style = line_style(rows.index(row), theme)
        xs = np.array(sorted(points))
        means = np.array([points[x].mean for x in xs])
        spreads = np.array([points[x].sd or 0.0 for x in xs])
        axes.plot(xs, means, label=shortened(row_name(row)), markersize=4.5, linewidth=1.6, **style)
        axes.fill_between(xs, means - spreads, means + spreads, color=style["color"], alpha=0.16, linewidth=0)
    if panel.chance is not None:
        axes.axhline(panel.chance, color=theme.ink, linestyle=(0, (5, 3)), linewidth=1.1, label="chance")
    positions = sorted({x for points in panel.lines.values() for x in points})
    if len(positions) <= 8:
        axes.set_xticks(positions, [f"{x:g}" for x in positions])
    axes.set_title(shortened(panel.title, 34), fontsize=10)
    quiet_axes(axes, theme, "both")


@dataclass(frozen=True)
class CostPoint:
    """Result and cost of a row.

    Attributes:
        seconds: Mean wall time of a run.
        result: Value of the metric.
    """

    seconds: float
    result: Point


@dataclass(frozen=True)
class _Labels:
    """Heights of labels in the right margin: separate, and in the order of their points."""

    heights: list[float] = field(default_factory=list)

    @classmethod
    def spread(cls, values: Sequence[float], low: float, high: float) -> _Labels:
        """Return heights near `values`, which are in descending order, at least a line apart and within the margin."""
        step = min((high - low) / max(1, len(values)), (high - low) / 14)
        heights: list[float] = []
        for value in values:
            heights.append(value if not heights else min(value, heights[-1] - step))
        lift = max(0.0, low - (heights[-1] if heights else low))
        heights = [height + lift for height in heights]
        for index in range(len(heights) - 2, -1, -1):  # labels that were lifted push those above them
            heights[index] = max(heights[index], heights[index + 1] + step)
        for index, height in enumerate(heights):  # but not above the upper end
            limit = high if index == 0 else heights[index - 1] - step
            heights[index] = min(height, limit)
        return cls(heights)


def log_ticks(low: float, high: float) -> list[float]:
    """Return about four to eight round numbers on a logarithmic axis, however narrow it is.

    >>> log_ticks(20, 600)
    [20, 50, 100, 200, 500]
    """
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(n / 10 for n in range(10, 100))):
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [round(step * 10.0**exponent, 10) for exponent in exponents for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 4:
            break
    thin = max(1, math.ceil(len(inside) / 8))
    return [int(tick) if tick == int(tick) else tick for tick in inside[::thin]]


def cost_chart(rows: Mapping[str, CostPoint], metric: str) -> Draw:
    """Return a drawing of the metric over seconds (logarithmic), with labels in the margin joined to their points.

    Args:
        rows: Label -> cost and result.
        metric: Metric of the vertical axis.
    """

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(7.6, max(3.6, 0.9 + 0.22 * len(rows))))
        axes = figure.add_subplot()
        axes.set_xscale("log")
        named = sorted(rows.items(), key=lambda entry: -entry[1].result.mean)
        for index, (_, point) in enumerate(named):
            look = line_style(index, theme) | {"linestyle": "none"}
            spread = point.result.sd or 0.0
            axes.errorbar(point.seconds, point.result.mean, yerr=spread, markersize=6, capsize=2, **look)
        seconds = [point.seconds for point in rows.values()]
        axes.set_xlim(min(seconds) / 1.25, max(seconds) * 1.25)
        low, high = axes.get_ylim()
        labels = _Labels.spread([point.result.mean for _, point in named], low, high)
        for index, ((label, point), height) in enumerate(zip(named, labels.heights, strict=True)):
            arrow = {"arrowstyle": "-", "color": line_style(index, theme)["color"], "alpha": 0.45, "linewidth": 0.8}
            axes.annotate(
                shortened(row_name(label)), (point.seconds, point.result.mean), (1.03, height),
                textcoords=("axes fraction", "data"), va="center", fontsize=9, annotation_clip=False,
                color=theme.ink, arrowprops={**arrow, "shrinkA": 0, "shrinkB": 4},
            )  # fmt: skip
        axes.set_ylim(low, high)
        axes.set_xlabel("seconds of a run, all stages (logarithmic)")
        axes.set_ylabel(metric_label(metric).replace(": ", "\n"))
        ticks = log_ticks(*axes.get_xlim())
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
        quiet_axes(axes, theme, "both")
        return figure

    return draw
