"""Tables of grids by hand: which number is best, and what a cell of a Markdown table may hold."""

import polars as pl
import pytest

from mllm_srec.metrics.comparison import Compared
from mllm_srec.metrics.significance import PairedDifference
from mllm_srec.reports.tables.grid import cost_table, result_table, summarise
from mllm_srec.reports.tables.grid_summary import DataSetReport, summary_rows, summary_text
from mllm_srec.reports.tables.table_text import markdown
from mllm_srec.reports.tables.tables import Row, Table, TableCell


def results(**rows):
    """Row -> values of `test/hr@5` by seed."""
    return pl.DataFrame(
        [("shop", row, seed, "test/hr@5", value) for row, values in rows.items() for seed, value in enumerate(values)],
        schema={"data_set": pl.String, "row": pl.String, "seed": pl.Int64, "metric": pl.String, "value": pl.Float64},
        orient="row",
    )


def places(**rows):
    table = summarise(results(**rows), ["hr@5"])
    return dict(zip(table["row"], table["place"], strict=True))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"a": [0.1, 0.3], "b": [0.5], "c": [0.3]}, {"a": None, "b": 1, "c": 2}),
        ({"a": [0.5], "b": [0.5], "c": [0.3]}, {"a": 1, "b": 1, "c": None}),
        ({"a": [0.5], "b": [0.3], "c": [0.3]}, {"a": 1, "b": 2, "c": 2}),
        ({"a": [0.50001], "b": [0.50002], "c": [0.3]}, {"a": 1, "b": 1, "c": None}),
        ({"a": [0.5]}, {"a": None}),
        ({"a": [0.5], "b": [None]}, {"a": None}),
    ],
    ids=["in order", "first place shared", "second shared", "written alike", "alone", "alone with a value"],
)
def test_best_and_second(rows, expected):
    assert places(**rows) == expected


def test_mean_and_deviation_by_hand():
    (row,) = summarise(results(a=[0.1, 0.2, 0.6, None]), ["hr@5"]).iter_rows(named=True)
    assert row["mean"] == pytest.approx(0.3)
    assert row["sd"] == pytest.approx((0.14 / 2) ** 0.5)
    assert row["n_seeds"] == 3


def test_a_single_seed_has_no_deviation():
    table = summarise(results(a=[0.25], b=[0.5]), ["hr@5"])
    assert table["sd"].to_list() == [None, None]
    text = markdown(result_table(table, ["hr@5"], {("a", "hr@5"): " †"}))
    assert text.splitlines() == ["|  | HR@5 |", "| --- | ---: |", "| a | *0.2500* † |", "| b | **0.5000** |"]


def test_a_reference_is_not_the_row_of_its_name():
    named = results(popularity=[0.1], b=[0.2])
    reference = named.filter(pl.col("row") == "b").with_columns(
        metric=pl.lit("test/reference/popularity/hr@5"), value=0.9
    )
    summary = summarise(pl.concat([named, reference]), ["hr@5"])
    text = markdown(result_table(summary, ["hr@5"], {("popularity", "hr@5"): "!"}))
    assert text.splitlines()[2:] == ["| Popularity | *0.1000*! |", "| b | **0.2000** |", "| (popularity) | 0.9000 |"]


def test_other_splits_and_metrics_do_not_count():
    others = results(a=[0.9]).with_columns(metric=pl.lit("val/hr@5"))
    table = summarise(pl.concat([results(a=[0.1]), others]), ["hr@5"])
    assert table["mean"].to_list() == [0.1]
    with pytest.raises(ValueError, match=r"no result has ndcg@5; there are hr@5\."):
        summarise(results(a=[0.1]), ["ndcg@5"])


def test_less_is_no_win():
    table = pl.concat([results(good=[0.01], bad=[0.3]).with_columns(metric=pl.lit("test/ece")),
                       results(good=[0.9], bad=[0.5])])  # fmt: skip
    places = {(r["metric"], r["row"]): r["place"] for r in summarise(table, ["ece", "hr@5"]).iter_rows(named=True)}
    assert places == {("ece", "good"): None, ("ece", "bad"): None, ("hr@5", "good"): 1, ("hr@5", "bad"): 2}


def test_undefined_is_no_win():
    table = summarise(results(a=[0.9], b=[float("nan")], c=[0.5]), ["hr@5"])
    assert dict(table.select("row", "place").iter_rows()) == {"a": 1, "c": 2}


def test_what_is_written_alike_is_ranked_alike():
    table = summarise(results(a=[9 / 160], b=[0.05628], c=[0.05622]), ["hr@5"])
    written = {f"{mean:.4f}": set() for mean in table["mean"]}
    for mean, place in table.select("mean", "place").iter_rows():
        written[f"{mean:.4f}"].add(place)
    assert all(len(places) == 1 for places in written.values())


def test_names_cannot_break_the_summary():
    evil = "<img src=x> | # shop"
    summary = summarise(results(a=[0.1], b=[0.2]).with_columns(data_set=pl.lit(evil)), ["hr@5"])
    report = DataSetReport(evil, evil, [], [evil], [])
    text = summary_text(evil, summary, ["hr@5"], [report], ["code: abc"])
    assert "<img" not in text
    assert "## &lt;img src=x&gt; \\| # shop\n" in text


def test_a_label_cannot_break_the_table():
    table = Table(("x",), (Row("a|b\n# c", (TableCell(text="1"),)),))
    assert markdown(table).splitlines()[-1] == "| a\\|b # c | 1 |"


def test_costs_by_hand():
    records = [
        {"row": "a", "seconds": {"test": 1.0, "total": 4.0, "fit": 1.0}, "peak_memory": 2**30, "metrics": {}},
        {"row": "a", "seconds": {"fit": 2.0, "total": 5.0}, "peak_memory": 3 * 2**30, "metrics": {"test/hr@5": 1.0}},
        {"row": "b", "seconds": {}, "peak_memory": None, "metrics": {}},
    ]
    assert markdown(cost_table(records)).splitlines() == [
        "|  | runs | fit, s | test, s | total, s | peak memory, GiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| a | 2 | 1.5 | 1.0 | 4.5 | 3.00 |",
        "| b | 1 | - | - | - | - |",
    ]
    records[0]["metrics"] = {"fit/tokens": 12_300, "test/tokens": 2_000}
    records[1]["metrics"] = {"test/tokens": 4_000, "val/tokens": 7}
    head, _, first, second = markdown(cost_table(records)).splitlines()
    assert head.endswith("| peak memory, GiB | in an epoch, 1000 tokens | in test, 1000 tokens |")
    assert (first, second) == ("| a | 2 | 1.5 | 1.0 | 4.5 | 3.00 | 12.3 | 3.0 |", "| b | 1 | - | - | - | - | - | - |")


def compared(holm_p):
    difference = PairedDifference(difference=-0.1, low=-0.2, high=-0.01, p_value=0.004, n_users=9, n_changed=9)
    base = Compared("b", "hr@5", 0.2, None, 1, 9, None, None)
    return [base, Compared("a", "hr@5", 0.1, None, 1, 9, difference, holm_p)]


@pytest.mark.parametrize(("holm_p", "mark"), [(0.05, " †"), (0.051, "")])
def test_findings_are_marked_in_both_tables(holm_p, mark):
    summary = summarise(results(a=[0.1], b=[0.2]), ["hr@5"])
    report = DataSetReport("shop", "sampled@20", compared(holm_p), ["a note"], [])
    text = summary_text("table", summary, ["hr@5"], [report], ["code: abc"])
    assert text.startswith("# table\n\n- code: abc\n\n## shop\n\nsampled@20\n\n|")
    assert f"| a | *0.1000*{mark} |" in text
    assert f"| a | HR@5 | -0.1000 | -0.2000 … -0.0100 | 0.004 | {holm_p:.2g}{mark} |" in text
    assert "\n- a note\n" in text
    rows = summary_rows(summary, [report]).to_dicts()
    assert [(row["row"], row["base"], row["difference"], row["holm_p"]) for row in rows] == [
        ("a", "b", -0.1, holm_p), ("b", None, None, None),
    ]  # fmt: skip
