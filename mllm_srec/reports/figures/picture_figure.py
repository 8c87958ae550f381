"""Pictures of items side by side, with a line of text below each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from mllm_srec.reports.terminal.comparison import visible

WIDTH = 22
"""Letters of a line below a picture."""


def picture_figure(pictures: Sequence[tuple[Path | str | None, str]], columns: int = 6) -> Figure:
    """A sheet of pictures.

    Args:
        pictures: File (None: an empty frame that says so) and text of each.
        columns: Pictures in a row, at least 1.

    Raises:
        ValueError: There are none, or `columns` is below 1.
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
        lines = textwrap.shorten(visible(text), 3 * WIDTH, placeholder=" …")
        axes.set_title(textwrap.fill(lines, WIDTH), fontsize=7, y=-0.08, va="top", parse_math=False)
    return figure
