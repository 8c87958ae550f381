"""Tables as Markdown, LaTeX and CSV; untrusted labels and texts are escaped, so that they cannot become markup."""

from __future__ import annotations

import csv
import io
import re

from mllm_srec.reports.safe_text import one_line
from mllm_srec.reports.tables.tables import KIND_WORDS, Row, Table, TableCell, emphasised

_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\`*|[]$~"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "{}$&#_%"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", '"': "''"}
    | {"[": "{[}", "]": "{]}", "*": "{*}"}  # after a line break they would be its arguments
    | {"±": r"$\pm$", "†": r"$^{\dagger}$", "…": r"\ldots{}", "\N{MINUS SIGN}": "$-$"}
)


def markdown_escaped(text: str) -> str:
    """Return a text that Markdown shows literally, inside and outside of tables."""
    plain = one_line(text).translate(_MARKDOWN)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", plain)  # within a word it is no markup


def latex_escaped(text: str) -> str:
    """Return a text that LaTeX typesets literally."""
    return one_line(text).translate(_LATEX)


def markdown(table: Table) -> str:
    """Write a table in Markdown: the best bold, the second in italics; numbers aligned to the right."""
    sides = ["---"] * (1 + table.texts) + ["---:"] * (len(table.columns) - table.texts)
    lines = [["", *map(markdown_escaped, table.columns)], sides, *map(_markdown_line, table.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown_line(row: Row) -> list[str]:
    return [markdown_escaped(row.label), *map(_markdown_cell, row.cells)]


def _markdown_cell(cell: TableCell) -> str:
    text = emphasised(cell, markdown_escaped(cell.shown), "**{}**".format, "*{}*".format)
    return text + (" " if cell.mark.startswith(" ") else "") + markdown_escaped(cell.mark)


WIDE = 110
"""Characters of a row above which a LaTeX table is scaled down to fit a page."""


def _is_wide(table: Table) -> bool:
    columns = zip(*(row.cells for row in table.rows), strict=True)
    widths = [
        max(len(name), *(len(cell.shown) for cell in cells))
        for name, cells in zip(table.columns, columns, strict=False)
    ]
    return sum(widths) + max((len(row.label) for row in table.rows), default=0) > WIDE


def latex(table: Table, name: str) -> str:
    r"""Write a floating table with the rules of `booktabs`, for `\input`.

    Args:
        table: Table; a rule separates kinds of rows.
        name: Name in the label, of which letters, digits and hyphens are kept.
    """
    sides = "l" * (1 + table.texts) + "r" * (len(table.columns) - table.texts)
    wide = _is_wide(table)
    lines = [
        r"% needs \usepackage{booktabs}" + (r" and \usepackage{graphicx}" if wide else ""),
        r"\begin{table*}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"  \caption{{{latex_escaped(table.caption)}}}",
        rf"  \label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', name)}}}",
        *([r"  \resizebox{\textwidth}{!}{%"] if wide else []),
        rf"  \begin{{tabular}}{{{sides}}}",
        r"    \toprule",
        "    " + " & ".join(["", *map(latex_escaped, table.columns)]) + r" \\",
    ]
    for index, row in enumerate(table.rows):
        if index == 0 or table.begins_part(index):
            lines.append(r"    \midrule")
        lines.append("    " + " & ".join([latex_escaped(row.label), *map(_latex_cell, row.cells)]) + r" \\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}" + ("}" if wide else ""), r"\end{table*}"]) + "\n"


def _latex_cell(cell: TableCell) -> str:
    shown = latex_escaped(cell.shown)
    if cell.mean is not None:
        shown = re.sub(r"^-(?=[\d.])", "$-$", shown)
    return emphasised(cell, shown, r"\textbf{{{}}}".format, r"\textit{{{}}}".format) + latex_escaped(cell.mark)


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
