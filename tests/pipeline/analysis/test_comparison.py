"""Comparison of runs with the first: numbers against pandas and numpy, and refusals of runs measured differently."""

import json
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest

from mllm_srec.metrics.seed_bootstrap import seed_bootstrap
from mllm_srec.metrics.significance import paired_bootstrap
from mllm_srec.pipeline.analysis.comparison import (
    as_record,
    check_output,
    compare_runs,
    notes,
    write_comparison,
)
from mllm_srec.pipeline.analysis.run_groups import RunGroup
from mllm_srec.pipeline.runs.protocol import MUST_AGREE
from mllm_srec.types import ConfigError, DataError


def values(n=80, gain=0.0, seed=0, metrics=("hr@10", "ndcg@10")):
    rng = np.random.default_rng(seed)
    ease = np.linspace(0, 1, n)
    return {metric: (rng.random(n) < ease + gain) * rng.random(n) for metric in metrics}


def compare(*groups, metrics=("hr@10",), **changes):
    """`compare_runs` of folders, or of tuples of folders; few resamples."""
    named = [RunGroup(f"g{i}", g if isinstance(g, tuple) else (g,)) for i, g in enumerate(groups)]
    return compare_runs(named, metrics, **{"n_resamples": 300, **changes})


def refusal(*groups, error=ConfigError, **changes):
    with pytest.raises(error) as caught:
        compare(*groups, **changes)
    return str(caught.value)


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_two_runs_by_hand(finished_run):
    a, b = values(), values(gain=0.2, seed=1)
    found = compare(finished_run("a", a), finished_run("b", b), metrics=("ndcg@10", "hr@10"), seed=5)
    assert [(row.metric, row.run) for row in found.rows] == [
        ("ndcg@10", "g0"), ("ndcg@10", "g1"), ("hr@10", "g0"), ("hr@10", "g1"),
    ]  # fmt: skip
    for metric, base, row in (("ndcg@10", *found.rows[:2]), ("hr@10", *found.rows[2:])):
        assert (base.mean, row.mean) == pytest.approx((np.mean(a[metric]), np.mean(b[metric])), abs=1e-12)
        assert row.difference == paired_bootstrap(a[metric], b[metric], 300, seed=5)
        assert (base.difference, base.seed_sd, row.seed_sd) == (None, None, None)
    p_values = sorted([found.rows[1].difference.p_value, found.rows[3].difference.p_value])
    expected = [min(1, 2 * p_values[0]), max(min(1, 2 * p_values[0]), p_values[1])]
    assert sorted([found.rows[1].holm_p, found.rows[3].holm_p]) == pytest.approx(expected)
    assert (found.n_users, found.n_lists, found.n_differences) == (80, 80, 2)


def test_rows_are_joined_by_their_group_and_not_by_their_place(finished_run):
    a, b = values(), values(gain=0.2, seed=1)
    for of in (a, b):
        of["hr@10"][[2, 9]] = math.nan  # what has no value is found by its group too
    order = np.random.default_rng(3).permutation(80)
    shuffled = finished_run(
        "s", {m: v[order] for m, v in b.items()}, users=[f"u{i}" for i in order], groups=order + 100
    )
    first = finished_run("a", a)
    assert compare(first, shuffled).rows == compare(first, finished_run("b", b)).rows


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_nothing_is_written_as_null_or_as_nan(finished_run, nothing):
    """Parquet knows both, and a mean would be NaN with the second."""
    runs = [finished_run(name, values(5, seed=i)) for i, name in enumerate("ab")]
    for run in runs:
        path = run / "predictions/test_users.parquet"
        column = pl.Series([nothing, 0.0, 1.0, 0.0, 1.0], dtype=pl.Float64)
        pl.read_parquet(path).with_columns(column.alias("user_auc")).write_parquet(path)
    found = compare(*runs, metrics=("user_auc",))
    assert dict(found.left_out) == {"user_auc": 1}
    assert [row.mean for row in found.rows] == [0.5, 0.5]


def test_seeds_are_averaged_within_each_user(finished_run):
    base, other = [values(seed=i) for i in range(3)], [values(seed=10 + i, gain=0.1) for i in range(2)]
    folders = [tuple(finished_run(f"{n}{i}", v) for i, v in enumerate(g)) for n, g in (("a", base), ("b", other))]
    rows = compare(*folders).rows
    averaged = [sum(v["hr@10"] for v in g) / len(g) for g in (base, other)]
    assert [row.mean for row in rows] == pytest.approx([np.mean(x) for x in averaged], abs=1e-12)
    assert [row.n_seeds for row in rows] == [3, 2]
    for row, group in zip(rows, (base, other), strict=True):
        assert row.seed_sd == pytest.approx(np.std([np.mean(v["hr@10"]) for v in group], ddof=1), abs=1e-12)
    expected = paired_bootstrap(*averaged, n_resamples=300)
    assert (rows[1].difference.low, rows[1].difference.high, rows[1].difference.p_value) == pytest.approx(
        (expected.low, expected.high, expected.p_value), abs=1e-12
    )


def test_a_user_with_several_lists_counts_once(finished_run):
    """Three lists of u1, one of u2, two of u3: users are resampled, so a user's lists are averaged first."""
    users = ["u1", "u2", "u1", "u3", "u1", "u3"]
    a, b = {"hr@10": [1, 0, 0, 1, 0.5, 0]}, {"hr@10": [1, 1, 1, 0.5, 1, 0]}
    found = compare(finished_run("a", a, users=users), finished_run("b", b, users=users))
    assert [row.mean for row in found.rows] == pytest.approx([(0.5 + 0 + 0.5) / 3, (1 + 1 + 0.25) / 3])
    expected = paired_bootstrap([0.5, 0, 0.5], [1, 1, 0.25], 300)
    assert found.rows[1].difference == expected
    assert (found.n_users, found.n_lists, expected.n_users) == (3, 6, 3)
    assert "6 lists of 3 users: here a user counts once, with the mean of their lists" in "\n".join(notes(found))
    by_pandas = pd.DataFrame({"user": users, **b}).groupby("user")["hr@10"].mean().mean()
    assert found.rows[1].mean == pytest.approx(by_pandas)


def test_users_without_a_value_in_any_run_are_left_out_and_counted(finished_run):
    a, b = values(metrics=("hr@10", "user_auc")), values(seed=1, metrics=("hr@10", "user_auc"))
    for of in (a, b):
        of["user_auc"][[3, 7]] = math.nan
    found = compare(finished_run("a", a), finished_run("b", b), metrics=("user_auc", "hr@10"))
    assert dict(found.left_out) == {"user_auc": 2, "hr@10": 0}
    assert [row.n_users for row in found.rows] == [78, 78, 80, 80]
    kept = np.delete(np.arange(80), [3, 7])
    assert found.rows[1].difference == paired_bootstrap(a["user_auc"][kept], b["user_auc"][kept], 300)
    assert "user_auc: 2 users without a value in any run, left out" in notes(found)


@pytest.mark.parametrize("old", [True, False])
def test_the_auc_of_reranked_lists_has_its_own_name_in_old_runs_too(finished_run, old):
    stored = "user_auc" if old else "user_auc_reranked"
    runs = [
        finished_run(name, values(seed=i, metrics=(stored, "hr@10")), evaluator="rerank@5", m=None)
        for i, name in enumerate("ab")
    ]
    found = compare(*runs, metrics=("user_auc", "hr@10"))
    assert [row.metric for row in found.rows] == ["user_auc_reranked"] * 2 + ["hr@10"] * 2
    assert found.rows[0].mean == pytest.approx(np.mean(values(metrics=(stored, "hr@10"))[stored]))
    assert compare(*runs, metrics=("user_auc_reranked",)).rows[1].mean == found.rows[1].mean
    assert "metrics='user_auc_reranked': is given 2 times" in refusal(*runs, metrics=("user_auc", "user_auc_reranked"))


def test_a_list_without_a_value_leaves_the_user_the_others(finished_run):
    users = ["u1", "u1", "u2", "u2", "u3"]
    a, b = {"user_auc": [1, None, None, None, 0]}, {"user_auc": [0.5, None, None, None, 1]}
    found = compare(*(finished_run(n, v, users=users) for n, v in (("a", a), ("b", b))), metrics=("user_auc",))
    assert dict(found.left_out) == {"user_auc": 1}
    assert [row.mean for row in found.rows] == [0.5, 0.75]


def test_the_validation_split_has_files_and_keys_of_its_own(finished_run):
    a, b = (finished_run(n, values(seed=i), split="val") for i, n in enumerate("ab"))
    assert compare(a, b, split="val").rows[0].mean == pytest.approx(np.mean(values()["hr@10"]))
    assert "holds no test results; run `python -m mllm_srec test` with its checkpoint" in refusal(a, b)
    assert "split='train': has no rank lists; accepted are test, val" in refusal(a, b, split="train")


@pytest.mark.parametrize("name", ["[a]", "a*?", "m=5", "null", "-x", "a b\n\x1b[31m", "grün\u202e", "x" * 200])
def test_any_folder_name_is_read(finished_run, name):
    """Some libraries read brackets and stars in a path as patterns, and `m=5` as a column."""
    found = compare(finished_run("first", values()), finished_run(name, values(seed=1)))
    assert found.rows[1].mean == pytest.approx(np.mean(values(seed=1)["hr@10"]))


# --- what must agree ------------------------------------------------------------------------------------------------

OTHER = {
    "candidates_hash": "bead", "evaluator": "rerank@20", "m": 100, "split": "val", "ties": "worst", "max_groups": 50,
    "groups_seed": 1, "retriever": "sasrec", "lists_hash": "f00d", "corruption": "blur=2",
}  # fmt: skip


@pytest.mark.parametrize("key", MUST_AGREE)
def test_runs_of_another_protocol_are_refused(finished_run, key):
    stated = {"retriever": "popularity", "lists_hash": "beef"}
    a = finished_run("a", values(), **stated)
    b = finished_run("b", values(seed=1), **stated)
    results = json.loads((b / "metrics.json").read_text())
    value = results.get(f"test/{key}")  # a run of an earlier version does not state that its pictures are clean
    (b / "metrics.json").write_text(json.dumps({**results, f"test/{key}": OTHER[key]}))
    message = refusal(a, b)
    assert message.startswith(
        f"{key} is {value!r} in {str(a)!r} and {OTHER[key]!r} in {str(b)!r}; numbers of different"
    )


def test_what_models_differ_in_may_differ(finished_run):
    a = finished_run("a", values())
    b = finished_run("b", values(seed=1), score="literal", prompt="v2/1", checkpoint=None)
    assert len(compare(a, b).rows) == 2


@pytest.mark.parametrize(("key", "value"), [("prompt", "v2/1"), ("score", "literal")])
def test_seeds_of_one_thing_may_not(finished_run, key, value):
    a, b = finished_run("a", values()), finished_run("b", values(seed=1), **{key: value})
    c = finished_run("c", values(seed=2), checkpoint="last.ckpt")
    assert f"{str(b)!r}; runs in the group 'g1' may differ in their seed only" in refusal(c, (a, b))
    assert len(compare(b, (a, c)).rows) == 2


def test_parts_that_an_older_run_does_not_state_are_noted_and_not_compared(finished_run):
    old = finished_run("old", values(), m="absent", max_groups="absent")
    new, third = finished_run("new", values(seed=1), retriever=None), finished_run("3", values(seed=2))
    found = compare(old, new, third)
    assert dict(found.unstated) == {"m": old}
    assert f"m is not stated by {str(old)!r}, so it was not compared" in notes(found)
    assert found.protocol["m"] == 20
    other = finished_run("other", values(seed=3), m=100)
    message = refusal(old, new, other)  # the first says nothing, the others contradict each other
    assert message.startswith(f"m is 20 in {str(new)!r} and 100 in {str(other)!r}")


def test_a_limit_in_one_run_only_is_a_difference(finished_run):
    a, b = finished_run("a", values(), max_groups=50, groups_seed=0), finished_run("b", values(seed=1))
    assert refusal(a, b).startswith(f"max_groups is 50 in {str(a)!r} and None in {str(b)!r}")


def test_other_lists_are_refused(finished_run):
    a = finished_run("a", values(10))
    fewer = finished_run("fewer", values(7, seed=1))
    more = finished_run("more", values(12, seed=1))
    message = refusal(a, fewer)
    assert "did not rank the same lists" in message
    assert f"{str(fewer)!r} lacks 3 of 10, the first is group 107 of user 'u7'" in message
    assert f"{str(a)!r} lacks 2 of 12, the first is group 110 of user 'u10'" in refusal(a, more)
    renamed = finished_run("renamed", values(10), users=["u0", "x", *(f"u{i}" for i in range(2, 10))])
    assert "lacks 1 of 10, the first is group 101 of user 'u1'" in refusal(a, renamed)


@pytest.mark.parametrize("lacking", ["a", "b"])
def test_a_value_in_one_run_only_is_refused(finished_run, lacking):
    of = {"a": values(9), "b": values(9, seed=1)}
    of[lacking]["hr@10"][4] = math.nan
    runs = {name: finished_run(name, v) for name, v in of.items()}
    message = refusal(*runs.values())
    assert "hr@10 of 1 lists has a value in only one of them, the first is group 104 of user 'u4'" in message
    assert f"without one in {str(runs[lacking])!r}" in message


# --- requests and files that are not what they should be ------------------------------------------------------------


def test_metrics_that_cannot_be_compared(finished_run):
    nothing = {**values(), "user_auc": [None] * 80}
    a, b = finished_run("a", nothing), finished_run("b", nothing)
    assert "metrics='ndgc@10': is not in" in refusal(a, b, metrics=("ndgc@10",))
    assert "did you mean 'ndcg@10'? Accepted are hr@10, ndcg@10, user_auc" in refusal(a, b, metrics=("ndgc@10",))
    assert "computed over the pairs of all users together, not per user" in refusal(a, b, metrics=("auc",))
    for name in ("user_id", "group_id", "^hr.*$", "*", ""):
        assert f"metrics={name!r}: is not in" in refusal(a, b, metrics=(name,))
    assert "metrics='hr@10': is given 2 times; name it once" in refusal(a, b, metrics=("hr@10",) * 2)
    assert "metrics=[]: is empty" in refusal(a, b, metrics=())
    assert "metrics='user_auc': no user has a value of it in these runs" in refusal(a, b, metrics=("user_auc",))


def test_runs_that_are_not_finished(finished_run, tmp_path):
    a, b = finished_run("a", values()), finished_run("b", values(seed=1))
    assert f"run={str(tmp_path / 'x')!r}: is not a finished run (there is no such folder)" in refusal(a, tmp_path / "x")
    assert "is not a finished run (it holds no metrics.json)" in refusal(a, tmp_path)
    (b / "predictions/test_users.parquet").unlink()
    message = refusal(a, b)
    assert "b/predictions/test_users.parquet': the metrics of every user are missing; measure the run again" in message
    assert "(versions before `compare` did not write them)" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read (it is not JSON"),
        ("[1]", "cannot be read (it holds no JSON object)"),
        (b"\xff\xfe\x00", "cannot be read (it is not UTF-8 text)"),
    ],
)
def test_damaged_results(finished_run, content, message):
    a, b = finished_run("a", values()), finished_run("b", values(seed=1))
    (b / "metrics.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refusal(a, b, error=DataError)


def test_a_file_that_is_no_parquet(finished_run):
    a, b = finished_run("a", values()), finished_run("b", values(seed=1))
    whole = (b / "predictions/test_users.parquet").read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2]):
        (b / "predictions/test_users.parquet").write_bytes(content)
        assert "test_users.parquet: the table of every user's metrics cannot be read (" in refusal(
            a, b, error=DataError
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_id": ["x"] * 5}, "column group_id is String, not Int64"),
        ({"user_id": [1] * 5}, "column user_id is Int64, not String"),
        ({"hr@10": ["a"] * 5}, "column hr@10 is String, not numbers"),
        ({"group_id": [1, 2, 3, 3, 4]}, "group_id not unique; measure the run again"),
        ({"user_id": ["a", "b", None, "c", "d"]}, "group_id or user_id is null"),
        ({"hr@10": [0, 1, math.inf, 0, 0]}, "hr@10 holds an infinite value"),
    ],
)
def test_a_table_that_contradicts_itself(finished_run, change, message):
    a, b = finished_run("a", values(5)), finished_run("b", values(5))
    path = b / "predictions/test_users.parquet"
    pd.read_parquet(path).assign(**change).to_parquet(path, index=False)
    assert message in refusal(a, b, error=DataError)


def test_a_table_without_rows_or_keys(finished_run):
    a, b = finished_run("a", values(5)), finished_run("b", values(5))
    path = b / "predictions/test_users.parquet"
    table = pd.read_parquet(path)
    table.drop(columns="group_id").to_parquet(path, index=False)
    assert "column group_id is None, not Int64" in refusal(a, b, error=DataError)
    table.astype({"user_id": "string"})[:0].to_parquet(path, index=False)
    assert "holds no rank lists" in refusal(a, b, error=DataError)


@pytest.mark.parametrize("stated", [0.9, None, "high"])
def test_a_table_of_another_measurement_than_the_results_beside_it(finished_run, stated):
    """A test killed between writing its files leaves the protocol of other numbers."""
    a, b = finished_run("a", values()), finished_run("b", values(), **{"hr@10": stated})
    message = refusal(a, b, error=DataError)
    assert "the mean of hr@10 is 0." in message
    assert f"but metrics.json of the run says {json.dumps(stated)}, so they are of different measurements" in message


# --- notes and file -------------------------------------------------------------------------------------------------


def test_notes_say_what_the_numbers_mean(finished_run):
    a, b, c = (finished_run(n, values(seed=i)) for i, n in enumerate("abc"))
    lines = notes(compare((a, b), c, metrics=("hr@10", "ndcg@10"), n_resamples=2000, seed=9))
    assert lines == [
        "gain: run minus 'g0', mean over 80 users; 95% interval: paired bootstrap over users; p: from it, or exact "
        "(all sign flips) where at most 20 users differ; 2000 resamples, seed 9",
        "interval and p say what other users would change, and nothing of other seeds: those are averaged first, and "
        "sd shows how far they differ (resample: users_and_seeds accounts for both)",
        "Holm p: corrected over one family, the 2 differences shown (1 row x 2 metrics); a finding at level .05 if at "
        "most .05",
        "one seed only: 'g1'; what another seed would change is unknown and not in p",
    ]


def test_seeds_can_be_resampled_too(finished_run):
    """Seeds that differ by more than the gain: a finding over users, none over both."""
    shifts = {"a": (0, 0, 0), "b": (0.6, 0.0, -0.3)}
    folders = [
        tuple(finished_run(f"{n}{i}", {"hr@10": values()["hr@10"] + s}) for i, s in enumerate(of))
        for n, of in shifts.items()
    ]
    users, both = compare(*folders), compare(*folders, resample="users_and_seeds")
    assert users.rows[1].difference.p_value < 0.01 < 0.1 < both.rows[1].difference.p_value
    expected = seed_bootstrap(*(np.stack([values()["hr@10"] + s for s in of]) for of in shifts.values()), 300)
    found = both.rows[1].difference
    assert (found.low, found.high, found.p_value) == pytest.approx((expected.low, expected.high, expected.p_value))
    text = "\n".join(notes(both))
    assert "interval and p account for other users and other seeds" in text
    assert "nothing of other seeds" not in text
    assert (as_record(users)["comparison"]["resample"], as_record(both)["comparison"]["resample"]) == (
        "users", "users_and_seeds",
    )  # fmt: skip


def test_runs_that_are_all_equal_are_noted_once(finished_run):
    same = tuple(finished_run(f"same{n}", values()) for n in range(3))
    b = values()
    b["hr@10"][:12] += 0.1
    text = "\n".join(notes(compare(same, finished_run("b", b), n_resamples=20)))
    assert "all 3 runs of 'g0' have the same value for every list: right if nothing is trained or drawn" in text
    assert "are they different seeds?" not in text


def test_notes_name_doubtful_numbers(finished_run):
    a, same = finished_run("a", values()), finished_run("same", values())
    b = values()
    b["hr@10"][:12] += 0.1
    found = compare((a, same), finished_run("b", b), n_resamples=20)
    text = "\n".join(notes(found))
    assert f"{str(a)!r} and {str(same)!r} have the same value for every list; are they different seeds?" in text
    assert "at most 20 users differ at all, so that p is exact, but the interval too narrow: 'g1' hr@10 (12)" in text
    assert "with 20 resamples no Holm p can be below 0.095; raise n_resamples" in text
    b["hr@10"][:25] += 0.1
    text = "\n".join(notes(compare(a, finished_run("c", b), n_resamples=20)))
    assert "fewer than 30 users differ at all, so that interval and p are too optimistic: 'g1' hr@10 (25)" in text


def test_the_file_holds_all_of_it(finished_run, tmp_path):
    a, b = finished_run("a", values()), finished_run("[b]\x1b", values(seed=1))
    found = compare(a, b)
    path = tmp_path / "out.json"
    check_output(path)
    write_comparison(found, path)
    stored = json.loads(path.read_text())
    assert stored == as_record(found)
    assert stored["runs"] == {"g0": [str(a)], "g1": [str(b)]}
    assert stored["protocol"]["candidates_hash"] == "c0ffee"
    assert stored["comparison"] == {
        "base": "g0", "split": "test", "confidence": 0.95, "n_resamples": 300, "resample": "users", "seed": 0,
        "n_users": 80, "n_lists": 80, "n_differences": 1, "left_out": {"hr@10": 0},
    }  # fmt: skip
    base, row = stored["rows"]
    difference = found.rows[1].difference
    assert row == {
        "run": "g1", "metric": "hr@10", "mean": found.rows[1].mean, "seed_sd": None, "n_seeds": 1, "n_users": 80,
        "difference": difference.difference, "low": difference.low, "high": difference.high,
        "p_value": difference.p_value, "n_changed": difference.n_changed, "holm_p": found.rows[1].holm_p,
    }  # fmt: skip
    assert base.keys() == row.keys()
    assert [key for key, value in base.items() if value is None] == [
        "seed_sd", "difference", "holm_p", "low", "high", "p_value", "n_changed",
    ]  # fmt: skip
    check_output(path)  # a result of `compare` may be overwritten
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".partial"] == []


def test_nothing_else_is_overwritten(finished_run, tmp_path):
    run = finished_run("a", values())
    (tmp_path / "list.json").write_text("[]")
    for path in (run / "metrics.json", run / "predictions/test_users.parquet", tmp_path / "list.json", tmp_path):
        with pytest.raises(ConfigError, match="exists and is no result of `compare`; choose another file"):
            check_output(path)
    with pytest.raises(ConfigError, match="is no folder; make it first"):
        check_output(tmp_path / "absent" / "out.json")
