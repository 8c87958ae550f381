"""Relative gains by hand, and the article's Table 5 as it was published."""

import pytest

from mllm_srec.reports.tables.article import NOT_AVAILABLE, TABLE5, TABLE5_METRICS, article_key, article_note
from mllm_srec.reports.tables.gains import article_table, gain_row
from mllm_srec.reports.tables.grid_about import AboutDataSet, AboutGrid, GridReport, Significance

MEANS = {("base", "auc"): 0.5, ("sv", "auc"): 0.8, ("full", "auc"): 0.6, ("base", "hr@5"): 0.0, ("full", "hr@5"): 0.2}


def about(**changes):
    base, rows = changes.pop("base", "best"), changes.pop("baseline_rows", [])
    values = {"name": "t", "quick": False, "seeds": [0], "rows": [], "data_sets": [AboutDataSet("demo")]}
    sections = {"significance": Significance(base), "report": GridReport(baseline_rows=rows)}
    return AboutGrid(**{**values, "metrics": ["auc", "hr@5"], **sections, **changes})


@pytest.mark.parametrize(
    ("changes", "label", "expected"),
    [
        ({"base": "full"}, "full over best other, %", [-25.0, None]),
        ({"base": "best"}, "best over second, %", [100 / 3, None]),
        ({"base": "first"}, "best over base, %", [60.0, None]),
        ({"base": "base", "baseline_rows": ["base"]}, "best over base, %", [60.0, None]),
        ({"base": "full", "baseline_rows": ["base", "sv"]}, "full over best of base, sv, %", [-25.0, None]),
    ],
)
def test_gains_by_hand(changes, label, expected):
    row = gain_row(about(**changes), MEANS)
    assert (row.label, row.kind) == (label, "gain")
    found = [cell.mean for cell in row.cells]
    assert found[0] == pytest.approx(expected[0])
    assert found[1] is None, "nothing can be divided by 0"


def test_a_row_alone_has_no_gain():
    assert gain_row(about(), {("a", "auc"): 0.5}) is None


def test_the_articles_percentages_follow_from_its_rows():
    table = article_table({("base", "ndcg@5"): 0.2, ("full", "ndcg@5"): 0.3})
    rows = {row.label: row for row in table.rows}
    published = [9.44, 10.50, 9.82, 14.70, 12.53, 8.42]  # the last line of Table 5
    found = [cell.mean for cell in rows["MLLM-SRec (+ VIU, IMSG, TUBC) over Base, %: article"].cells]
    assert [round(value, 2) for value in found] == published
    ours = rows["MLLM-SRec (+ VIU, IMSG, TUBC) over Base, %: ours"].cells
    assert ours[0].mean == pytest.approx(50.0)
    assert ours[1].shown == "-"
    assert rows["MLLM-SV (+ VIU): ours"].cells[0].shown == "not run"
    assert [cell.mean for cell in rows["Base model: article"].cells] == list(TABLE5["Base model"])
    assert table.columns == TABLE5_METRICS


def test_grids_of_other_rows_have_no_such_table():
    assert article_table({("sasrec", "ndcg@5"): 0.2}) is None


def test_what_is_not_available_is_said():
    assert article_key(None, "table3-quick") == "table3"
    assert article_key("table4", "mine") == "table4"
    assert article_key(None, "movielens") is None
    assert all("not available" in article_note(key) for key in [*NOT_AVAILABLE, "table9"])
    assert article_note(None) is None
