"""What stands at the top of a page: sentences whose every number follows from the tables."""

import polars as pl
import pytest

from mllm_srec.reports.page.findings import findings
from mllm_srec.reports.tables.grid import summarise
from mllm_srec.reports.tables.grid_about import AboutDataSet, AboutGrid, GridReport, Significance
from mllm_srec.reports.tables.grid_summary import Difference

VALUES = {"mllm_srec": (0.90, 0.92), "vbpr": (0.95, 0.95), "mine": (0.5, 0.6)}


def about(data_sets=("shop",), **changes):
    values = {
        "name": "table3", "quick": False, "seeds": [0, 1], "rows": list(VALUES), "metrics": ["ndcg@10"],
        "data_sets": [AboutDataSet(name) for name in data_sets], "significance": Significance(), "report": GridReport(),
    }  # fmt: skip
    return AboutGrid(**{**values, **changes})


def summary(data_sets=("shop",), references=None):
    rows = [
        {"row": row, "data_set": name, "seed": seed, "metric": "test/ndcg@10", "value": value}
        for name in data_sets for row, values in VALUES.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    rows += [
        {"row": "vbpr", "data_set": name, "seed": 0, "metric": "test/reference/chance/ndcg@10", "value": 0.25}
        for name in data_sets
    ]
    rows += [
        {"row": "vbpr", "data_set": name, "seed": 0, "metric": f"test/reference/{who}/ndcg@10", "value": value}
        for name in data_sets for who, value in (references or {}).items()
    ]  # fmt: skip
    return summarise(pl.DataFrame(rows), ["ndcg@10"])


def difference(row, value, holm, data_set="shop"):
    return Difference(data_set, row, "ndcg@10", "mllm_srec", value, value - 0.1, value + 0.1, holm / 2, holm, 40)


def test_best_rows_and_findings_by_hand():
    compared = [difference("vbpr", 0.04, 0.03), difference("mine", -0.36, 0.001)]
    assert findings(about(), summary(), compared) == (
        "Best NDCG@10: VBPR 0.950 ± 0.000, then MLLM-SRec 0.910 ± 0.014; beside them (chance) 0.250.",
        "NDCG@10: 2 of 2 comparisons with MLLM-SRec are findings (Holm p at most 0.05): above it VBPR (+0.040); "
        "below it mine (-0.360).",
    )


def test_both_ceilings_stand_beside_the_best():
    best = findings(
        about(), summary(references={"hindsight_both": 0.97, "reader_both": 0.78, "oracle_both": 0.87}), []
    )[0]
    assert best.endswith("beside them (chance) 0.250, (reader, both) 0.780, (hindsight, both) 0.970.")


def test_no_finding_is_said_and_no_comparison_is_not_invented():
    best = "Best NDCG@10: VBPR 0.950 ± 0.000, then MLLM-SRec 0.910 ± 0.014; beside them (chance) 0.250."
    assert findings(about(), summary(), []) == (best,)
    _, line = findings(about(), summary(), [difference("vbpr", 0.04, 0.051)])
    assert line == "NDCG@10: 0 of 1 comparisons with MLLM-SRec are findings (Holm p at most 0.05)."


def test_several_data_sets_are_named():
    names = ("a", "b")
    compared = [difference("vbpr", 0.04, 0.03, "b"), difference("vbpr", 0.01, 0.5, "a")]
    found = findings(about(names), summary(names), compared)
    assert found[0].startswith("Best NDCG@10 on a: VBPR")
    assert found[1].startswith("Best NDCG@10 on b: VBPR")
    assert "1 of 2 comparisons with MLLM-SRec over 2 data sets are findings" in found[2]
    assert "VBPR on b (+0.040)" in found[2]


def test_many_findings_are_counted():
    rows = [difference(f"row {n}", -0.01 * n, 0.01) for n in range(1, 8)]
    line = findings(about(), summary(), rows)[-1]
    assert "below it row 7 (-0.070), row 6 (-0.060), row 5 (-0.050), row 4 (-0.040) and 3 more." in line


@pytest.mark.parametrize("quick", [True])
def test_a_quick_grid_finds_nothing(quick):
    assert findings(about(quick=quick), summary(), [difference("vbpr", 0.04, 0.03)]) == ()
