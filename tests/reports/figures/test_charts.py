"""Figures: drawn in both themes, the same bytes for the same numbers, labels apart and literal."""

import io
import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mllm_srec.reports.figures.charts import (
    CostPoint,
    Panel,
    Point,
    _Labels,
    bar_chart,
    cost_chart,
    curve_chart,
    log_ticks,
    row_chart,
)
from mllm_srec.reports.figures.drawing import DARK, LIGHT, Drawing, drawn, line_style, write_drawing
from mllm_srec.reports.figures.training_charts import Curve, TrainingLog, training_chart

ROWS = {"a": Point(0.5, 0.1), "$\\frac{$ <b>": Point(0.7), "c" * 60: Point(0.2, 0.0)}
LINES = {row: {0.0: point, 1.0: point} for row, point in ROWS.items()}
LOGS = [TrainingLog("a", seed, Curve((1, 2, 3), (0.9, 0.5, seed / 10)), Curve((3,), (0.7,))) for seed in (0, 1)] + [
    TrainingLog("b", None, Curve((), ()), Curve((1, 2), (0.5, 0.6)))
]
CHARTS = {
    "rows": row_chart(ROWS, {"(chance)": 0.5}, "auc"),
    "bars": bar_chart({row: {"x": point, "y": point} for row, point in ROWS.items()}, {"x": 0.5}, "auc"),
    "curves": curve_chart([Panel(str(i), LINES, 0.5) for i in range(4)], "x", "auc"),
    "cost": cost_chart({row: CostPoint(10.0 * n, point) for n, (row, point) in enumerate(ROWS.items(), 1)}, "auc"),
    "loss": training_chart(LOGS, "loss", "loss"),
    "validation": training_chart(LOGS, "validation", "AUC"),
}  # fmt: skip


def drawing(name, **changes):
    return Drawing(name, "caption", "alt", CHARTS[name], **changes)


@pytest.mark.parametrize("name", CHARTS)
def test_every_figure_is_drawn_in_both_themes(name):
    light, dark = (drawn(drawing(name), theme) for theme in (LIGHT, DARK))
    assert light == drawn(drawing(name), LIGHT), "the same numbers give the same bytes"
    for content, theme in ((light, LIGHT), (dark, DARK)):
        root = ElementTree.fromstring(content)
        assert root.tag.endswith("svg")
        assert theme.paper in content.decode()
        assert theme.ink in content.decode()
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert not tags & {"script", "foreignObject", "image", "a"}
        assert not re.search(r'href="(?!#)', content.decode()), "nothing is fetched"


def test_files_of_a_figure_and_their_stamp(tmp_path):
    paths = write_drawing(drawing("rows"), tmp_path)
    assert [path.name for path in paths] == ["rows.png", "rows.svg", "rows.pdf"]
    plain = np.asarray(Image.open(paths[0]).convert("RGB"))
    stamped = np.asarray(Image.open(io.BytesIO(drawn(drawing("rows", stamp="quick run"), LIGHT, "png"))).convert("RGB"))
    assert stamped.shape[0] > plain.shape[0], "the stamp stands below"
    assert plain.std() > 5, "not blank"


def test_points_stand_where_the_numbers_are():
    figure = row_chart({"a": Point(0.25, 0.1), "b": Point(0.75)}, {"(chance)": 0.5}, "auc")(LIGHT)
    (axes,) = figure.axes
    points, _, _ = axes.containers[0]
    assert points.get_xdata().tolist() == [0.25, 0.75]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert points.get_ydata().tolist() == [1, 0], "the first row is on top"
    assert [line.get_xdata()[0] for line in axes.lines if line.get_label() == "(chance)"] == [0.5]


def test_bars_have_the_heights_of_the_numbers():
    bars = {"a": {"x": Point(0.2, 0.05), "y": Point(0.4)}, "b": {"y": Point(0.6)}}
    (axes,) = bar_chart(bars, {"y": 0.5}, "auc")(LIGHT).axes
    heights = {c.get_label(): [bar.get_height() for bar in c] for c in axes.containers if hasattr(c, "patches")}
    assert heights == {"a": [0.2, 0.4], "b": [0.6]}
    boxes = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(one[1] <= other[0] + 1e-9 for one, other in itertools.pairwise(boxes)), "bars overlap"


def test_names_in_the_margin_do_not_overlap():
    values = sorted([0.5, 0.5001, 0.5002, 0.9, 0.9001, 0.51] * 3, reverse=True)
    heights = _Labels.spread(values, 0.4, 1.0).heights
    gaps = -np.diff(heights)
    assert gaps.min() >= (1.0 - 0.4) / len(values) - 1e-9
    assert max(heights) <= 1.0
    assert min(heights) >= 0.4 - 1e-9


@pytest.mark.parametrize(("low", "high"), [(20, 600), (40, 60), (0.3, 3), (1, 1e6), (99, 101)])
def test_ticks_of_a_logarithmic_axis(low, high):
    ticks = log_ticks(low, high)
    assert ticks == sorted(ticks)
    assert all(low <= tick <= high for tick in ticks)
    assert len(ticks) <= 9
    assert len(ticks) >= 3 or high / low < 1.1


def rgb(colour):
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def contrast(one, other):
    """Contrast ratio of WCAG 2."""
    linear = [np.where((c := rgb(x) / 255) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for x in (one, other)]
    low, high = sorted(float(values @ [0.2126, 0.7152, 0.0722]) for values in linear)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_can_be_told_apart(theme):
    styles = {tuple(line_style(index, theme).values()) for index in range(28)}
    assert len(styles) == 28
    pairs = itertools.combinations(theme.colours, 2)
    assert min(np.linalg.norm(rgb(one) - rgb(other)) for one, other in pairs) > 60
    assert min(contrast(colour, theme.paper) for colour in theme.colours) > 2
    assert contrast(theme.ink, theme.paper) > 7
