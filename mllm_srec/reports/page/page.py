"""A self-contained page: sections of tables, figures, notes and case studies, rendered with escaping."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mllm_srec.reports.figures.drawing import DARK, LIGHT, Drawing, drawn
from mllm_srec.reports.page.cases import CaseStudies
from mllm_srec.reports.safe_text import one_line
from mllm_srec.reports.tables.metric_words import metric_family, metric_label, metric_meaning
from mllm_srec.reports.tables.paper_names import column_name, named, row_name
from mllm_srec.reports.tables.tables import Table, TableCell, emphasised

GENERATOR = "mllm_srec report"
"""Name in the page and in `report.json`, by which a later report knows what it may replace."""


@dataclass(frozen=True)
class TableBlock:
    """A table of a section.

    Attributes:
        name: Safe name of its files.
        title: Heading.
        table: Table.
        notes: Lines below the table.
        folded: True if it opens only on a click.
    """

    name: str
    title: str
    table: Table
    notes: tuple[str, ...] = ()
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class FigureBlock:
    """A figure of a section."""

    title: str
    drawing: Drawing
    kind: str = "figure"


@dataclass(frozen=True)
class NoteBlock:
    """Lines of text under a heading."""

    title: str
    lines: tuple[str, ...]
    kind: str = "note"


@dataclass(frozen=True)
class CaseBlock:
    """Case studies of a run."""

    title: str
    studies: CaseStudies
    kind: str = "cases"


Block = TableBlock | FigureBlock | NoteBlock | CaseBlock


@dataclass(frozen=True)
class Section:
    """The part of a page about a grid or a run.

    Attributes:
        anchor: Safe name for links.
        title: Heading.
        caption: A sentence below the heading; may be empty.
        quick: True for a trial that only shows that everything runs.
        demo: True if the data are of the generated shop.
        facts: Names and texts on how it was measured.
        blocks: Content, in order.
        metrics: Names of the shown metrics.
        findings: What was found, a sentence each.
    """

    anchor: str
    title: str
    caption: str
    quick: bool
    demo: bool
    facts: tuple[tuple[str, str], ...]
    blocks: tuple[Block, ...]
    metrics: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


def render_page(title: str, sections: Sequence[Section], made: str) -> str:
    """Render the page in HTML.

    Args:
        title: Title of the page.
        sections: Sections, in order.
        made: A line on the version and the results that it was made from.
    """
    environment = Environment(
        loader=PackageLoader("mllm_srec.reports.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        plain=one_line, cell=_table_cell, svg=_svg, picture=_picture, percent=_percent, number=_number,
        named=_named, row=_row, column=_column,
    )  # fmt: skip
    names = dict.fromkeys(metric_family(metric) for section in sections for metric in section.metrics)
    meanings = {metric_label(name): text for name in names if (text := metric_meaning(name)) is not None}
    context: dict[str, Any] = {"title": title, "sections": sections, "made": made, "generator": GENERATOR}
    return environment.get_template("page.html.j2").render(**context, meanings=meanings)


def _table_cell(cell: TableCell) -> Markup:
    """Render a table cell; the deviation is below the number, so that many columns fit a screen."""
    number, _, spread = _column(cell.shown).partition(" ± " if cell.sd is not None else "\n")
    number_text = emphasised(cell, str(escape(number)), "<strong>{}</strong>".format, "<em>{}</em>".format)
    below = f'<span class="sd">± {escape(spread)}</span>' if spread else ""
    return Markup(f"{number_text}{escape(cell.mark)}{below}")


def _named(text: str) -> str:
    return one_line(named(text))


def _row(label: str) -> str:
    return one_line(row_name(label))


def _column(column: str) -> str:
    return one_line(column_name(column))


def _svg(drawing: Drawing, dark: bool) -> str:
    return _data_uri(drawn(drawing, DARK if dark else LIGHT), "image/svg+xml")


def _picture(content: bytes) -> str:
    return _data_uri(content, "image/png" if content.startswith(b"\x89PNG") else "image/jpeg")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
