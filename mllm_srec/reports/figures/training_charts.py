"""Training curves: a small panel for each trained row, a line for each seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mllm_srec.reports.figures.drawing import MIN_WIDTH, Draw, Theme, line_style, quiet_axes, shared_legend
from mllm_srec.reports.safe_text import shortened
from mllm_srec.reports.tables.paper_names import named, row_name


@dataclass(frozen=True)
class Curve:
    """A logged quantity of one run.

    Attributes:
        steps: Optimiser steps.
        values: Values at these steps.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class TrainingLog:
    """The curves that a run logged in training.

    Attributes:
        row: Row of the table, or name of the run.
        seed: Seed of the run; None if it is unknown.
        loss: Training loss.
        validation: Validation metric.
        metric: Name of the validation metric; empty if nothing was validated.
    """

    row: str
    seed: int | None
    loss: Curve
    validation: Curve
    metric: str = ""


def training_chart(logs: Sequence[TrainingLog], quantity: str, label: str) -> Draw:
    """Return a drawing with one small panel for each row of the table, one line for each seed.

    Args:
        logs: Logs of all trained runs.
        quantity: `loss` (each panel has its own axis, since losses of different models cannot be compared) or
            `validation` (all share one axis).
        label: Name of the vertical axes.
    """
    rows: dict[str, list[tuple[int | None, Curve]]] = {}
    for log in logs:
        curve = log.loss if quantity == "loss" else log.validation
        if curve.steps:
            rows.setdefault(log.row, []).append((log.seed, curve))

    def draw(theme: Theme) -> Figure:
        n_columns = min(4, max(1, len(rows)))
        n_lines = max(1, math.ceil(len(rows) / n_columns))
        size = (max(MIN_WIDTH, 2.3 * n_columns), (2.6 if n_lines == 1 else 1.9 * n_lines) + 0.6)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(n_lines, n_columns, squeeze=False, sharey=quantity != "loss")
        seeds = list(dict.fromkeys(seed for curves in rows.values() for seed, _ in curves))
        for axes in list(grid.flat)[len(rows) :]:
            axes.remove()
        for axes, (row, curves) in zip(grid.flat, rows.items(), strict=False):
            for seed, curve in curves:
                look = line_style(seeds.index(seed), theme)
                marker = look["marker"] if len(curve.steps) < 12 else ""
                axes.plot(
                    curve.steps, curve.values, color=look["color"], linestyle=look["linestyle"], marker=marker,
                    markersize=4, linewidth=1.3, label=f"seed {seed}",
                )  # fmt: skip
            axes.set_title(shortened(row_name(row), 26), fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            steps = {step for _, curve in curves for step in curve.steps}
            if len(steps) == 1:
                axes.set_xlim(min(steps) - 1, max(steps) + 1)
            quiet_axes(axes, theme, "both")
        figure.supxlabel("step", fontsize=9)
        figure.supylabel(named(label), fontsize=9)
        if len(seeds) > 1:
            shared_legend(figure)
        return figure

    return draw


def has_curves(logs: Sequence[TrainingLog], quantity: str) -> bool:
    """Return True if any run logged the quantity."""
    return any((log.loss if quantity == "loss" else log.validation).steps for log in logs)
