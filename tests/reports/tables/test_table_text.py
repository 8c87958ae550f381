"""Tables as Markdown and CSV: what they show is one, and no label becomes markup."""

import csv
import io
import re

import pytest

from mllm_srec.reports.tables.table_text import csv_text, markdown, markdown_escaped
from mllm_srec.reports.tables.tables import Row, Table, TableCell

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><b>x</b>",
    "a|b",
    "$x_1$ & 50% #1",
    "\\input{/etc/passwd}",
    "^~{}",
    "*bold* _it_ `code` [a](http://x)",
    "[5cm] row",
    "line\nbreak\x1b[31m\u202eevil",
]
TABLE = Table(
    ("auc", "note"),
    (
        Row("a_b", (TableCell(0.12345, 0.01, 3, 1, " †"), TableCell(text="x"))),
        Row("b", (TableCell(-0.5, place=2, signed=True), TableCell())),
        Row("best over second, %", (TableCell(9.876, digits=2, signed=True), TableCell()), "gain"),
        Row("(chance)", (TableCell(0.5), TableCell()), "reference"),
    ),
    "A caption & more",
)


def test_markdown_by_hand():
    assert markdown(TABLE).splitlines() == [
        "|  | AUC | note |",
        "| --- | ---: | ---: |",
        "| a_b | **0.1235 ± 0.0100** † | x |",
        "| b | *-0.5000* | - |",
        "| best over second, % | +9.88 | - |",
        "| (chance) | 0.5000 | - |",
    ]


def test_csv_has_the_numbers_unrounded():
    rows = list(csv.DictReader(io.StringIO(csv_text(TABLE))))
    assert len(rows) == 8
    first = {"row": "a_b", "kind": "model", "column": "auc", "mean": "0.12345", "sd": "0.01", "n": "3", "place": "1"}
    assert {key: rows[0][key] for key in first} == first
    assert rows[0]["mark"] == "†"
    assert rows[6]["kind"] == "comparison, no model of the table"


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_a_label_literally(text):
    (line,) = markdown(Table(("x",), (Row(text, (TableCell(text=text),)),))).splitlines()[2:]
    assert len(re.findall(r"(?<!\\)\|", line)) == 3, "three bars that are no text"
    assert not re.search(r"<|>|(?<!\\)[$*`\[\]]", line)
    assert not any(ord(letter) < 32 or letter == "\u202e" for letter in line)
    # Taking the escapes away gives the text back, so nothing is lost.
    plain = re.sub(r"\\(.)", r"\1", markdown_escaped(text))
    plain = plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert plain == " ".join(text.replace("\x1b", "").replace("\u202e", "").split())


def test_no_cell_of_a_csv_is_a_formula():
    table = Table(("=1+1",), (Row("=cmd|' /C calc'!A0", (TableCell(text="@SUM(A1)"),)),))
    (row,) = csv.DictReader(io.StringIO(csv_text(table)))
    assert (row["row"][0], row["column"][0], row["text"][0]) == ("'", "'", "'")


def test_rows_and_columns_must_fit():
    with pytest.raises(ValueError, match=r"rows=\['a'\]: not 2 cells"):
        Table(("x", "y"), (Row("a", (TableCell(1.0),)),))
