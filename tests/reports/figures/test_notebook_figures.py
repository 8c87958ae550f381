"""Figures of strata and seeds: what is drawn equals what was given; labels are literal."""

import io

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from PIL import Image

from mllm_srec.reports.figures.notebook_figures import picture_figure, png, seeds_figure, strata_figure


def row(run, stratum, value, n=10, metric="auc"):
    ends = {"low": None, "high": None} if value is None else {"low": value - 0.1, "high": value + 0.2}
    names = {"run": run, "analysis": "history_length", "stratum": stratum, "metric": metric, "unit": "lists"}
    return {**names, "value": value, "n": n, **ends}


def drawn(figure):
    """Height of every dot and the ends of its line, series by series."""
    (axes,) = figure.axes
    series = {}
    for container in [c for c in axes.containers if isinstance(c, ErrorbarContainer)]:
        dots, _, (lines,) = container.lines
        ends = [segment[:, 1].tolist() for segment in lines.get_segments()]
        series[container.get_label()] = ([round(x) for x in dots.get_xdata()], list(dots.get_ydata()), ends)
    return series


def test_dots_and_intervals():
    rows = [
        row("a", "all", 0.9),
        row("a", "0", 0.5),
        row("a", "1+", 0.6, 1234),
        row("b", "0", None),
        row("b", "1+", 0.7),
    ]
    figure = strata_figure(
        [*rows, row("a", "0", 0.1, metric="ndcg@10"), row("a", "left out", None)], "history_length", "auc"
    )
    found = drawn(figure)
    assert found["a"] == ([0, 1], [0.5, 0.6], [pytest.approx([0.4, 0.7]), pytest.approx([0.5, 0.8])])
    assert found["b"] == ([1], [0.7], [pytest.approx([0.6, 0.9])])
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["0\n10", "1+\n1,234"]
    assert figure.axes[0].get_ylabel() == "auc"
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["chance", "a", "b"]


def test_seeds():
    rows = [
        {"row": name, "data_set": data, "seed": seed, "metric": "test/auc", "value": value}
        for name, data, seed, value in (("x", "d", 0, 0.5), ("x", "d", 1, 0.6), ("y", "d", 0, 0.7), ("y", "e", 0, 0.8))
    ]
    figure = seeds_figure(
        [*rows, {**rows[0], "metric": "test/n", "value": 9.0}, {**rows[0], "value": None}], "test/auc"
    )
    dots = [sorted(zip(*axes.lines[0].get_data(), strict=True)) for axes in figure.axes]
    assert dots == [[(0.5, 0), (0.6, 0), (0.7, 1)], [(0.8, 1)]]
    assert [axes.get_title() for axes in figure.axes] == ["d", "e"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["x", "y"]


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="metric='hr': no such values; there are history_length auc"):
        strata_figure([row("a", "0", 0.5)], "history_length", "hr")
    with pytest.raises(ValueError, match="no result has 'test/auc'"):
        seeds_figure([], "test/auc")
    with pytest.raises(ValueError, match="got 0 and 6"):
        picture_figure([])


@pytest.mark.parametrize("name", ["$x^{", r"\frac{1", "[red]", "a\x1b[31m", "long " * 40])
def test_names_are_drawn_literally(name):
    """A dollar is no formula: an unfinished one would end the drawing."""
    figures = [
        strata_figure([row(name, name, 0.5), row("b", name, 0.4)], "history_length", "auc"),
        seeds_figure([{"row": name, "data_set": name, "seed": 0, "metric": "m", "value": 1.0}], "m"),
        picture_figure([(None, name)]),
    ]
    for figure in figures:
        assert Image.open(io.BytesIO(png(figure))).width > 100
    if name.startswith("$"):
        assert figures[0].axes[0].get_xticklabels()[0].get_text().startswith("$x^{")


def test_pictures_stand_above_their_texts(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    figure = picture_figure([(tmp_path / "a.png", "a red mug"), (None, "a lamp"), (None, "a bag")], columns=2)
    assert figure.axes[0].images[0].get_array().tolist() == pixels.tolist()
    assert [axes.get_title() for axes in figure.axes] == ["a red mug", "a lamp", "a bag", ""]
    assert figure.axes[1].texts[0].get_text() == "no picture"
    assert not figure.axes[3].axison
