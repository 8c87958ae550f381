r"""Tables in LaTeX, to be read across both columns of a paper: few columns, three decimals, a page at most.

Whatever is left out or rounded stands in the CSV file of the same name, and a comment says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mllm_srec.reports.safe_text import one_line
from mllm_srec.reports.tables.paper_names import column_name, named, row_name
from mllm_srec.reports.tables.tables import Row, Table, TableCell, emphasised

LATEX_DIGITS = 3
"""Decimals of means and deviations."""

MAX_METRICS = 6
"""Number of metric columns above which only one cut-off is kept."""

KEPT_CUT_OFF = "@10"
"""The cut-off that is kept (article, Tables 3 to 5)."""

MAX_CHARACTERS = 105
"""Characters of a row that fit the text width at `footnotesize`; wider tables are continued with further columns."""

MAX_ROWS = 40
"""Rows that fit a page; longer tables are continued."""

_ESCAPES = str.maketrans(
    {sign: f"\\{sign}" for sign in "{}$&#_%"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", '"': "''"}
    | {"[": "{[}", "]": "{]}", "*": "{*}"}  # after a line break they would be its arguments
    | {"±": r"$\pm$", "†": r"$^{\dagger}$", "…": r"\ldots{}", "\N{MINUS SIGN}": "$-$"}
)


def latex_escaped(text: str) -> str:
    """Return a text that LaTeX typesets literally, without commands."""
    return one_line(text).translate(_ESCAPES)


def latex(table: Table, name: str) -> str:
    r"""Write a table as floats with the rules of `booktabs`, for `\input`.

    A float holds the rows and columns that fit a page; further ones continue it under labels with a number.

    Args:
        table: Table; a rule separates kinds of rows.
        name: Name in the label, of which letters, digits and hyphens are kept.
    """
    label = re.sub(r"[^A-Za-z0-9-]+", "-", name)
    chosen, left_out = _chosen(table)
    lines = [r"% needs \usepackage{booktabs}"]
    if left_out:
        names = ", ".join(map(column_name, left_out))
        lines.append(f"% not shown: {latex_escaped(names)}; see {label}.csv")
    parts = [part for columns in _column_parts(_rounded(chosen)) for part in _row_parts(columns)]
    for number, part in enumerate(parts, 1):
        lines += _float(part, label if number == 1 else f"{label}-{number}", continued=number > 1)
    return "\n".join(lines) + "\n"


# --- what is shown ---------------------------------------------------------------------------------------------------


def _chosen(table: Table) -> tuple[Table, tuple[str, ...]]:
    """Return the table with one cut-off where there are many metrics, and the columns that were left out."""
    cut_offs = [column for column in table.columns if "@" in column]
    if len(table.columns) - table.texts <= MAX_METRICS or not any(c.endswith(KEPT_CUT_OFF) for c in cut_offs):
        return table, ()
    left_out = tuple(column for column in cut_offs if not column.endswith(KEPT_CUT_OFF))
    kept = [index for index, column in enumerate(table.columns) if column not in left_out]
    return _with_columns(table, kept), left_out


def _rounded(table: Table) -> Table:
    """Return the table with fewer decimals; numbers that are then written alike have the same place."""
    places = [_places(table, index) for index in range(len(table.columns))]
    rows = [
        replace(row, cells=tuple(_rounded_cell(cell, places[i].get(n)) for i, cell in enumerate(row.cells)))
        for n, row in enumerate(table.rows)
    ]
    return replace(table, rows=tuple(rows))


def _rounded_cell(cell: TableCell, place: int | None) -> TableCell:
    """Return a table cell with fewer decimals; a signed number within a text, such as an interval, is rounded too."""
    if cell.text is not None:
        return replace(cell, text=re.sub(r"[+-]\d+\.\d{4}\b", lambda n: f"{float(n[0]):+.{LATEX_DIGITS}f}", cell.text))
    return replace(cell, digits=min(cell.digits, LATEX_DIGITS), place=place)


def _places(table: Table, column: int) -> dict[int, int]:
    """Return row -> 1 for the best and 2 for the second after rounding, in a column that ranks its rows."""
    if not any(row.cells[column].place for row in table.rows):
        return {}
    written = {
        index: round(mean, LATEX_DIGITS)
        for index, row in enumerate(table.rows)
        if row.kind == "model" and (mean := row.cells[column].mean) is not None
    }
    ranks = {index: 1 + sum(other > value for other in written.values()) for index, value in written.items()}
    return {index: rank for index, rank in ranks.items() if rank <= 2}


def _column_parts(table: Table) -> Iterator[Table]:
    """Yield tables that are narrow enough, each with the labels and texts of the rows."""
    texts = list(range(table.texts))
    widths = [_width(table, index) for index in range(len(table.columns))]
    fixed = max((len(row.label) for row in table.rows), default=0) + sum(widths[index] for index in texts)
    part: list[int] = []
    for index in range(table.texts, len(table.columns)):
        if part and fixed + sum(widths[i] for i in part) + widths[index] > MAX_CHARACTERS:
            yield _with_columns(table, [*texts, *part])
            part = []
        part.append(index)
    yield _with_columns(table, [*texts, *part])


def _width(table: Table, column: int) -> int:
    """Return the characters of a column, with a space."""
    return 1 + max(len(table.columns[column]), *(len(row.cells[column].shown) for row in table.rows), 0)


def _row_parts(table: Table) -> Iterator[Table]:
    """Yield tables that are short enough."""
    for start in range(0, max(1, len(table.rows)), MAX_ROWS):
        yield replace(table, rows=table.rows[start : start + MAX_ROWS])


def _with_columns(table: Table, kept: Sequence[int]) -> Table:
    """Return the table with some of its columns."""
    rows = tuple(replace(row, cells=tuple(row.cells[index] for index in kept)) for row in table.rows)
    return replace(table, columns=tuple(table.columns[index] for index in kept), rows=rows)


# --- how it is written -----------------------------------------------------------------------------------------------


def _float(table: Table, label: str, continued: bool) -> Iterator[str]:
    """Yield the lines of one float."""
    # LaTeX counts tables itself; "Table 3: Table 3: ..." would name two numbers.
    caption = re.sub(r"^(Table|Figure) \d+[a-z]?: ", "", named(table.caption)) + (" (continued)" if continued else "")
    yield r"\begin{table*}"
    yield r"  \centering\footnotesize\setlength{\tabcolsep}{4pt}"
    yield rf"  \caption{{{latex_escaped(caption[:1].upper() + caption[1:])}}}"
    yield rf"  \label{{tab:{label}}}"
    yield rf"  \begin{{tabular}}{{{'l' * (1 + table.texts)}{'r' * (len(table.columns) - table.texts)}}}"
    yield r"    \toprule"
    yield "    " + " & ".join(["", *(latex_escaped(column_name(column)) for column in table.columns)]) + r" \\"
    for index, row in enumerate(table.rows):
        if index == 0 or table.begins_part(index):
            yield r"    \midrule"
        yield "    " + " & ".join(_cells(row)) + r" \\"
    yield r"    \bottomrule"
    yield r"  \end{tabular}"
    yield r"\end{table*}"


def _cells(row: Row) -> Iterator[str]:
    """Yield label and table cells of a row."""
    yield latex_escaped(row_name(row.label))
    for cell in row.cells:
        shown = latex_escaped(column_name(cell.shown))
        if cell.mean is not None or re.match(r"[+-]\d", shown):
            shown = re.sub(r"(?<![\w.])-(?=[\d.])", "$-$", shown)
        yield emphasised(cell, shown, r"\textbf{{{}}}".format, r"\textit{{{}}}".format) + latex_escaped(cell.mark)
