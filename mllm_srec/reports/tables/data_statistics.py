"""Table 2 as CSV, Markdown, LaTeX and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_srec.reports.tables.article import NOT_AVAILABLE
from mllm_srec.reports.tables.latex import latex
from mllm_srec.reports.tables.table_text import markdown, markdown_escaped
from mllm_srec.reports.tables.tables import Row, Table, TableCell

TITLE = "Table 2: data statistics"

FILE = "table2.json"
"""File that `report` reads."""

COLUMNS = {
    "users": "Users",
    "items": "Items",
    "interactions": "Interactions",
    "samples": "Samples",
    "sparsity": "Sparsity",
    "positives": "positive",
    "disliked": "negative, disliked",
    "sampled": "negative, drawn",
    "pictures": "Items with picture",
}
"""Keys of a row after its `data_set`, and their headings; the first five are those of the article."""

CAPTION = (
    "Data sets as prepared here. Sparsity is 1 - interactions / (users * items); samples are the positive and negative "
    "samples of all splits: every rated item, and one drawn negative for each positive."
)


def write_table2(rows: Sequence[Mapping[str, Any]], notes: Sequence[str], folder: Path) -> list[Path]:
    """Write `table2.csv`, `table2.md`, `table2.tex` and `table2.json`.

    Args:
        rows: A row for each data set: `data_set`, and the keys of `COLUMNS`.
        notes: Further lines below the table, such as what is left out.
        folder: Folder, which is made if it does not exist.

    Returns:
        The written files.

    Raises:
        OSError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [NOT_AVAILABLE["table2"], *notes]
    about = {"title": TITLE, "caption": CAPTION, "notes": lines, "columns": COLUMNS, "rows": list(rows)}
    texts = {
        "csv": csv_text(rows),
        "md": markdown_text(rows, lines),
        "tex": latex(statistics_table(rows), "table2"),
        "json": json.dumps(about, indent=2, ensure_ascii=False) + "\n",
    }
    paths = []
    for ending, text in texts.items():
        path = folder / f"table2.{ending}"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a line for each data set as CSV, with unrounded numbers."""
    file = io.StringIO()
    writer = csv.DictWriter(file, ["data_set", *COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def statistics_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table of the rows."""
    lines = [Row(row["data_set"], tuple(TableCell(text=_number(row[key])) for key in COLUMNS)) for row in rows]
    return Table(tuple(COLUMNS.values()), tuple(lines), CAPTION)


def markdown_text(rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """Write the table with its caption and notes in Markdown."""
    listed = "\n".join(f"- {markdown_escaped(note)}" for note in notes)
    return f"# {TITLE}\n\n{CAPTION}\n\n{markdown(statistics_table(rows))}\n\n{listed}\n"


def _number(value: float) -> str:
    """Return counts with separators, shares in percent."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.2%}"
