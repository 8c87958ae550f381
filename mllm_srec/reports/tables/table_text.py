"""Tables as Markdown and CSV; untrusted labels and texts are escaped, so that they cannot become markup."""

from __future__ import annotations

import csv
import io
import re

from mllm_srec.reports.safe_text import one_line
from mllm_srec.reports.tables.paper_names import column_name, row_name
from mllm_srec.reports.tables.tables import KIND_WORDS, Row, Table, TableCell, emphasised

_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\`*|[]$~"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def markdown_escaped(text: str) -> str:
    """Return a text that Markdown shows literally, inside and outside of tables."""
    plain = one_line(text).translate(_MARKDOWN)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", plain)  # within a word it is no markup


def markdown(table: Table) -> str:
    """Write a table in Markdown: the best bold, the second in italics; numbers aligned to the right.

    Models and metrics have the names that papers give them.
    """
    sides = ["---"] * (1 + table.texts) + ["---:"] * (len(table.columns) - table.texts)
    columns = [markdown_escaped(column_name(column)) for column in table.columns]
    lines = [["", *columns], sides, *map(_markdown_line, table.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown_line(row: Row) -> list[str]:
    return [markdown_escaped(row_name(row.label)), *map(_markdown_cell, row.cells)]


def _markdown_cell(cell: TableCell) -> str:
    text = emphasised(cell, markdown_escaped(column_name(cell.shown)), "**{}**".format, "*{}*".format)
    return text + (" " if cell.mark.startswith(" ") else "") + markdown_escaped(cell.mark)


def csv_text(table: Table) -> str:
    """Write a table as CSV: a line for each table cell with unrounded numbers, `row`, `kind`, `column`, `mean`, ..."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "kind", "column", "mean", "sd", "n", "place", "mark", "text"])
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            numbers = (cell.mean, cell.sd, cell.n, cell.place)
            texts = [_csv_escaped(text) for text in (row.label, KIND_WORDS[row.kind], column)]
            writer.writerow([*texts, *numbers, cell.mark.strip(), _csv_escaped(cell.text or "")])
    return file.getvalue()


def _csv_escaped(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    plain = one_line(text)
    return f"'{plain}" if plain[:1] in ("=", "+", "-", "@") and not re.fullmatch(r"[-+]?[\d.]+%?|-", plain) else plain
