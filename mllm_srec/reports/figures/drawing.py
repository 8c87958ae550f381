"""Shared by all figures: themes for light and dark pages, distinguishable colours, and the files of a figure."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")

FORMATS = ("png", "svg", "pdf")
"""Formats of every figure."""

DPI = 160

MIN_WIDTH = 6.6
"""Inches; a page enlarges no figure, so that text has the same size in all of them."""


@dataclass(frozen=True)
class Theme:
    """Colours of a figure.

    Attributes:
        ink: Colour of text and points.
        faint: Colour of axes, grid and lines of comparison.
        paper: Colour of the background.
        colours: Colours of rows and lines, distinguishable for colour-blind readers, too.
    """

    ink: str
    faint: str
    paper: str
    colours: tuple[str, ...]


# Okabe and Ito's palette without yellow and black, and lighter tones of it.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195")
LIGHTER = ("#4DA3FF", "#FF8A3D", "#2FD0A0", "#F28CC6", "#FFD05A", "#9FE3FF", "#B694F5")
LIGHT = Theme("#1d2126", "#8a929c", "#ffffff", OKABE_ITO)
DARK = Theme("#e6e8eb", "#8d96a1", "#1b1e23", LIGHTER)

Draw = Callable[[Theme], Figure]


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn in any theme.

    Attributes:
        name: Safe name of its files.
        caption: Text below it: what it shows and how to read it.
        alt: Its content in words, for readers who cannot see it.
        draw: Function that draws it; only `drawn` calls it.
        stamp: Mark below it, such as that it shows a quick run; may be empty.
    """

    name: str
    caption: str
    alt: str
    draw: Draw
    stamp: str = ""


def drawn(drawing: Drawing, theme: Theme, kind: str = "svg") -> bytes:
    """Return the content of a figure's file, which depends on the numbers only.

    Args:
        drawing: Figure.
        theme: Colours of the figure.
        kind: One of `FORMATS`.
    """
    style: Any = {
        "text.parse_math": False,  # a $ in a label begins no formula
        "svg.hashsalt": drawing.name,
        "svg.fonttype": "path",  # the page needs no font
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.faint,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "axes.facecolor": theme.paper,
        "figure.facecolor": theme.paper,
        "legend.frameon": False,
    }
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    buffer = io.BytesIO()
    with rc_context(style):
        figure = drawing.draw(theme)
        if drawing.stamp:
            below = -0.3 / figure.get_figheight()  # as a share of the height: below the name of the axis
            figure.text(
                1.0, below, drawing.stamp, ha="right", va="top", fontsize=9, color=theme.colours[1], weight="bold"
            )
        figure.savefig(buffer, format=kind, dpi=DPI, bbox_inches="tight", pad_inches=0.08, metadata=dates.get(kind))
    return buffer.getvalue()


def write_drawing(drawing: Drawing, folder: Path) -> list[Path]:
    """Write the light figure in all `FORMATS`.

    Args:
        drawing: Figure.
        folder: Existing folder.

    Raises:
        OSError: A file cannot be written.
    """
    paths = []
    for kind in FORMATS:
        path = folder / f"{drawing.name}.{kind}"
        path.write_bytes(drawn(drawing, LIGHT, kind))
        paths.append(path)
    return paths


def line_style(index: int, theme: Theme) -> dict[str, Any]:
    """Return colour, marker and dashes of a line by its number; they repeat after 28 lines."""
    turn, position = divmod(index, len(MARKERS))
    look = {"color": theme.colours[position], "marker": MARKERS[position]}
    return {**look, "linestyle": DASHES[turn % len(DASHES)]}


def shared_legend(figure: Figure) -> None:
    """Add one legend above all panels, with each name once."""
    lines: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        lines |= dict(zip(labels, handles, strict=True))
    columns = len(lines) if len(lines) <= 6 else 5
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=columns, fontsize=9)


def quiet_axes(axes: Axes, theme: Theme, grid: Literal["x", "y", "both"] = "y") -> None:
    """Draw faint grid lines behind the data."""
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=theme.faint, alpha=0.25, linewidth=0.6)
    axes.tick_params(length=3)
