"""Tables for the terminal: what stands in them, and that a narrow terminal is enough."""

from mllm_srec.reports.terminal.results import print_results

CUTS = ("hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "recall@5", "recall@10", "recall@20")
METRICS = {
    "test/auc": 0.75, "test/auc_disliked": None, "test/user_auc": 0.5, "test/n_users": 11, "test/n_pairs": 40,
    "test/split": "test", "val/auc": 0.111, "test/hr_worst@5": 0.2, **{f"test/{name}": 0.25 for name in CUTS},
}  # fmt: skip
CEILINGS = {f"{who}, {what}": {"auc": 0.98765} for who in ("oracle", "reader") for what in ("both", "text", "image")}


def printed(capsys, **changes):
    values = {"title": "demo, test", "metrics": METRICS, "split": "test", "references": {}, "notes": []} | changes
    print_results(**values)
    return capsys.readouterr().out


def rows(out):
    """First cell -> other cells."""
    lines = [line.split() for line in out.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells}


def test_a_row_a_metric_beside_its_references(capsys):
    out = printed(capsys, references={"chance": {"auc": 0.5, "hr@5": 0.2381}})
    found = rows(out)
    assert found["auc"] == ["0.7500", "0.5000"]
    assert found["hr@5"] == ["0.2500", "0.2381"]
    assert found["ndcg@10"] == ["0.2500", "-"]
    assert out.splitlines()[0].strip() == "demo, test"


def test_cut_offs_are_those_that_were_measured_and_say_something(capsys):
    more = {**METRICS, "test/hr@1": 0.125, "test/m": 20}
    assert rows(printed(capsys, metrics=more))["hr@1"] == ["0.1250"]
    assert "hr@20" in rows(printed(capsys, metrics=more))
    assert "hr@20" not in rows(printed(capsys, metrics=more, n_drawn=20))
    assert "n_without" not in printed(capsys)
    assert "3 lists without negatives" in printed(capsys, metrics={**METRICS, "test/n_without_negatives": 3})


def test_what_is_undefined_or_of_another_stage_has_no_row(capsys):
    found = rows(printed(capsys))
    assert "auc_disliked" not in found
    assert "hr_worst@5" not in found
    assert "0.1110" not in str(found)


def test_it_says_on_how_much_was_measured(capsys):
    assert "measured on the lists of 11 users and on 40 labelled targets" in printed(capsys)


def test_notes_are_printed_as_they_are(capsys):
    note = "results: runs/demo/[a] " + "x" * 200
    assert note in printed(capsys, notes=[note]).splitlines()  # no markup, no line break in a path


def test_all_columns_fit_into_80_characters(capsys):
    out = printed(capsys, references={"chance": {"auc": 0.5}, "popularity": {"auc": 0.5}, **CEILINGS})
    table = [line for line in out.splitlines() if not line.startswith("measured")]
    assert max(len(line.rstrip()) for line in table) <= 80
    assert rows(out)["auc"] == ["0.7500", "0.5000", "0.5000", *["0.9877"] * 4]
    hindsight = {f"hindsight, {what}": {"auc": 0.98765} for what in ("both", "text", "image")}
    wider = printed(capsys, references={"chance": {"auc": 0.5}, "popularity": {"auc": 0.5}, **CEILINGS, **hindsight})
    assert max(len(line.rstrip()) for line in wider.splitlines() if not line.startswith("measured")) <= 80
    assert rows(wider)["auc"] == ["0.7500", "0.5000", "0.5000", *["0.9877"] * 5]
    headers = [line.split() for line in out.splitlines()[1:5]]
    assert ["oracle"] + ["reader"] * 3 in headers
    assert ["this", "run", "chance", "popular", "both", "both", "text", "image"] in headers


def test_whether_probabilities_can_be_believed(capsys):
    stated = {"mean_probability": 0.61, "share_liked": 0.5, "ece": 0.1234, "yes_no_mass": 0.99912, "temperature": 1.5}
    out = printed(capsys, metrics={**METRICS, **{f"test/{name}": value for name, value in stated.items()}})
    assert (
        "probability of a like: 0.610 on average where 0.500 are liked, calibration error 0.123, temperature 1 where "
        "1.50 would be best; 0.9991 of the vocabulary's probability is on Yes and No"
    ) in out
    assert "probability" not in printed(capsys)
