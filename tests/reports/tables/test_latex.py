"""Tables in LaTeX: a page at most, three decimals, one number in the caption, and no label becomes a command."""

import re

import pytest

from mllm_srec.reports.tables.latex import MAX_CHARACTERS, MAX_ROWS, latex, latex_escaped
from mllm_srec.reports.tables.tables import Row, Table, TableCell
from tests.reports.tables.test_table_text import HOSTILE, TABLE


def test_latex_by_hand():
    lines = latex(TABLE, "my table_1").splitlines()
    assert r"  \caption{A caption \& more}" in lines
    assert r"  \label{tab:my-table-1}" in lines
    body = lines[lines.index(r"    \toprule") :]
    assert body == [
        r"    \toprule",
        r"     & AUC & note \\",
        r"    \midrule",
        r"    a\_b & \textbf{0.123 $\pm$ 0.010}$^{\dagger}$ & x \\",
        r"    b & \textit{$-$0.500} & - \\",
        r"    \midrule",
        r"    best over second, \% & +9.88 & - \\",
        r"    \midrule",
        r"    (chance) & 0.500 & - \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table*}",
    ]


def floats(text):
    """Rows of each float, as lists of cells."""
    bodies = re.findall(r"\\toprule(.*?)\\bottomrule", text, flags=re.DOTALL)
    return [[line[4:].removesuffix(r" \\").split(" & ") for line in b.splitlines() if "&" in line] for b in bodies]


def test_a_wide_table_is_continued_with_further_columns_and_loses_none():
    columns = tuple(f"column {n}" for n in range(12))
    wide = Table(columns, (Row("x", tuple(TableCell(n / 100, 0.1) for n in range(12))),))
    parts = floats(latex(wide, "w"))
    assert len(parts) > 1
    assert [column for part in parts for column in part[0][1:]] == list(columns)
    assert [cell for part in parts for cell in part[1][1:]] == [rf"{n / 100:.3f} $\pm$ 0.100" for n in range(12)]
    assert all(sum(len(cell.replace(r"$\pm$", "±")) for cell in part[1]) <= MAX_CHARACTERS for part in parts)
    assert all(part[1][0] == "x" for part in parts), "each part names its rows"
    assert "resizebox" not in latex(wide, "w")


def test_a_long_table_is_continued_and_loses_no_row():
    rows = tuple(Row(f"row {n}", (TableCell(float(n)),)) for n in range(2 * MAX_ROWS + 1))
    text = latex(Table(("a",), rows, "Table 3: long"), "t")
    assert [line[0] for part in floats(text) for line in part[1:]] == [row.label for row in rows]
    assert re.findall(r"\\label\{(.*?)\}", text) == ["tab:t", "tab:t-2", "tab:t-3"]
    assert re.findall(r"\\caption\{(.*?)\}", text) == ["Long", "Long (continued)", "Long (continued)"]


def test_of_many_metrics_one_cut_off_is_shown_and_the_rest_is_named():
    columns = ("auc", *(f"{name}@{k}" for name in ("hr", "ndcg", "recall") for k in (5, 10, 20)))
    text = latex(Table(columns, (Row("sasrec_bce", tuple(TableCell(0.5) for _ in columns)),)), "t")
    ((head, row),) = floats(text)
    assert head == ["", "AUC", "HR@10", "NDCG@10", "Recall@10"]
    assert row[0] == "SASRec (BCE)"
    assert "% not shown: HR@5, HR@20, NDCG@5, NDCG@20, Recall@5, Recall@20; see t.csv" in text
    few = latex(Table(columns[:4], (Row("x", tuple(TableCell(0.5) for _ in columns[:4])),)), "t")
    assert floats(few)[0][0] == ["", "AUC", "HR@5", "HR@10", "HR@20"]
    assert "not shown" not in few


def test_numbers_that_are_written_alike_have_the_same_place():
    rows = [("a", 0.71634, 1), ("b", 0.71612, 2), ("c", 0.7151, None), ("d", 0.6, None)]
    table = Table(("ndcg@10",), tuple(Row(name, (TableCell(mean, place=place),)) for name, mean, place in rows))
    assert [cells[1] for cells in floats(latex(table, "t"))[0][1:]] == [
        r"\textbf{0.716}", r"\textbf{0.716}", "0.715", "0.600"
    ]  # fmt: skip


def test_an_interval_is_rounded_and_its_signs_are_typeset():
    row = Row("a", (TableCell(text="-0.3178 … +0.2178"), TableCell(text="0.00098")))
    assert floats(latex(Table(("95 % interval", "p"), (row,)), "t"))[0][1] == [
        "a", r"$-$0.318 \ldots{} +0.218", "0.00098"
    ]  # fmt: skip


def test_an_empty_table_is_a_float():
    assert r"\toprule" in latex(Table(("a",), ()), "empty")


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_typesets_a_label_literally(text):
    commands = set(re.findall(r"\\([A-Za-z]+)", latex_escaped(text)))
    assert commands <= {"textbackslash", "textasciitilde", "textasciicircum", "textbar", "textless", "textgreater"}
    bare = re.sub(r"\\[{}$&#_%]|\\[a-z]+\{\}|\{[][*]\}", "", latex_escaped(text))
    assert not re.search(r"[\\{}$&#_%~^<>|\[\]*]", bare)
