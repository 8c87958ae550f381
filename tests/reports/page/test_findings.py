"""What stands at the top of a page: sentences whose every number follows from the tables."""

from dataclasses import replace

import polars as pl

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


def table(values, metrics=("ndcg@10",), data_sets=("shop",), seeds=(0, 1)):
    """A summary of rows with the same values of every metric, on every data set, with every seed."""
    rows = [
        {"row": row, "data_set": name, "seed": seed, "metric": f"test/{metric}", "value": value}
        for row, value in values.items() for name in data_sets for metric in metrics for seed in seeds
    ]  # fmt: skip
    return summarise(pl.DataFrame(rows, schema_overrides={"value": pl.Float64}), list(metrics))


def test_what_cannot_be_best_is_not_called_so():
    assert findings(about(), table({"vbpr": 0.5}), []) == (), "one row is the best of nothing"
    (line,) = findings(about(), table({"vbpr": 0.5, "mine": 0.4, "mmsr": None}), [])
    assert line == "Best NDCG@10: VBPR 0.500 ± 0.000, then mine 0.400 ± 0.000."
    assert findings(about(), table({"vbpr": 0.5, "mmsr": None}), []) == ()
    (line,) = findings(about(), table({"vbpr": 0.5, "mine": 0.4}, seeds=(0,)), [])
    assert line == "Best NDCG@10: VBPR 0.500, then mine 0.400. One seed."


def test_less_is_better_where_it_is():
    (line,) = findings(about(metrics=["ece"]), table({"vbpr": 0.5, "mine": 0.4}, ("ece",)), [])
    assert "mine 0.400 ± 0.000, then VBPR 0.500" in line


def test_best_rows_are_named_for_few_data_sets_and_of_several_for_the_first_metric_only():
    values, metrics = {"vbpr": 0.5, "mllm_srec": 0.4}, ("ndcg@10", "hr@10")
    compared = [difference("vbpr", 0.1, 0.01, name) for name in "abcde"]
    compared += [replace(d, metric="hr@10") for d in compared]
    best = []
    for n in (1, 2, 5):
        names = tuple("abcde"[:n])
        lines = findings(
            about(names, metrics=list(metrics)),
            table(values, metrics, names),
            [d for d in compared if d.data_set in names],
        )
        best.append([line.partition(":")[0] for line in lines if line.startswith("Best")])
    assert best == [["Best NDCG@10", "Best HR@10"], ["Best NDCG@10 on a", "Best NDCG@10 on b"], []]


def test_many_findings_are_counted():
    rows = [difference(f"row {n}", -0.01 * n, 0.01) for n in range(1, 8)]
    line = findings(about(), summary(), rows)[-1]
    assert "below it row 7 (-0.070), row 6 (-0.060), row 5 (-0.050), row 4 (-0.040) and 3 more." in line


def test_a_quick_grid_finds_nothing():
    compared = [difference("vbpr", 0.04, 0.03)]
    assert len(findings(about(), summary(), compared)) == 2
    assert findings(about(quick=True), summary(), compared) == ()
