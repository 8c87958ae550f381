"""The table of several runs: each number against numpy, the paired bootstrap of two runs, and Holm by hand."""

import doctest
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from mllm_srec.metrics import comparison
from mllm_srec.metrics.comparison import compare_with_first
from mllm_srec.metrics.significance import paired_bootstrap


def runs(n_users=60, seed=0, **gains):
    """Run -> metric -> values (seeds, users); `name=(n_seeds, gain)`."""
    rng = np.random.default_rng(seed)
    ease = rng.random(n_users)
    return {
        name: {metric: (rng.random((n_seeds, n_users)) < ease + gain) * 1.0 for metric in ("hr@5", "ndcg@10")}
        for name, (n_seeds, gain) in gains.items()
    }


def by_hand(p_values):
    """Holm: the i-th smallest times how many are not smaller, and never below an earlier one."""
    order = np.argsort(p_values, kind="stable")
    result, largest = [0.0] * len(p_values), 0.0
    for left, place in zip(range(len(p_values), 0, -1), order, strict=True):
        largest = max(largest, min(1.0, left * p_values[place]))
        result[place] = largest
    return result


def test_every_number_of_the_table():
    values = runs(base=(3, 0.0), better=(2, 0.2), same=(1, 0.0))
    rows = compare_with_first(values, n_resamples=500, seed=3)
    assert [(row.metric, row.run) for row in rows] == [(m, r) for m in ("hr@5", "ndcg@10") for r in values]
    p_values = []
    for row in rows:
        table = values[row.run][row.metric].tolist()
        seed_means = [sum(seed) / 60 for seed in table]
        assert row.mean == pytest.approx(sum(seed_means) / len(seed_means))
        assert (row.n_seeds, row.n_users) == (len(table), 60)
        assert row.seed_sd == (pytest.approx(statistics.stdev(seed_means)) if len(table) > 1 else None)
        if row.run == "base":
            assert (row.difference, row.holm_p) == (None, None)
            continue
        base, other = (np.mean(values[name][row.metric], axis=0) for name in ("base", row.run))
        assert row.difference == paired_bootstrap(base, other, n_resamples=500, seed=3)
        assert row.difference.difference == pytest.approx(row.mean - sum(map(sum, values["base"][row.metric])) / 180)
        p_values.append(row.difference.p_value)
    assert [row.holm_p for row in rows if row.run != "base"] == pytest.approx(by_hand(p_values))


def test_the_interval_is_that_of_scipy_over_users_whose_seeds_were_averaged():
    values = runs(n_users=200, a=(4, 0.0), b=(3, 0.15))
    row = compare_with_first(values)[1]
    base, other = (values[name]["hr@5"].mean(axis=0) for name in "ab")
    expected = stats.bootstrap((other - base,), np.mean, method="percentile", rng=0).confidence_interval
    width = expected.high - expected.low
    assert (row.difference.low, row.difference.high) == pytest.approx((expected.low, expected.high), abs=0.05 * width)


def test_more_seeds_narrow_the_interval_and_do_not_count_as_more_users():
    few, many = (compare_with_first(runs(n_users=100, a=(n, 0.0), b=(n, 0.1)))[1] for n in (1, 20))
    assert many.difference.high - many.difference.low < 0.7 * (few.difference.high - few.difference.low)
    assert many.difference.n_users == few.difference.n_users == 100
    repeated = {
        run: {m: np.repeat(v, 5, axis=0) for m, v in of.items()} for run, of in runs(a=(1, 0), b=(1, 0.1)).items()
    }
    once, again = compare_with_first(runs(a=(1, 0), b=(1, 0.1)))[1], compare_with_first(repeated)[1]
    assert (again.difference, again.seed_sd) == (once.difference, 0.0)  # the same seed five times proves nothing more


def test_a_family_is_the_whole_table():
    """The same difference is corrected more where more is looked at."""
    values = runs(a=(1, 0.0), b=(1, 0.25), c=(1, 0.0), d=(1, 0.0))
    two = compare_with_first({name: {"hr@5": values[name]["hr@5"]} for name in "ab"})
    assert two[1].holm_p == two[1].difference.p_value
    all_of_it = compare_with_first(values)
    smallest = min((row for row in all_of_it if row.difference), key=lambda row: row.difference.p_value)
    assert smallest.holm_p == pytest.approx(6 * smallest.difference.p_value)


def test_a_metric_may_have_fewer_users():
    values = runs(a=(1, 0.0), b=(1, 0.1))
    for of in values.values():
        of["user_auc"] = of["hr@5"][:, :17]
    assert {row.metric: row.n_users for row in compare_with_first(values)} == {
        "hr@5": 60,
        "ndcg@10": 60,
        "user_auc": 17,
    }


def test_names_cannot_be_mixed_up():
    one = {"m": np.zeros((1, 9)), "b/m": np.ones((1, 9))}
    rows = compare_with_first({"a": one, "a/b": {"m": one["b/m"], "b/m": one["m"]}, "a/b/m": one})
    assert [(row.run, row.metric, row.mean) for row in rows] == [
        ("a", "m", 0), ("a/b", "m", 1), ("a/b/m", "m", 0), ("a", "b/m", 1), ("a/b", "b/m", 0), ("a/b/m", "b/m", 1),
    ]  # fmt: skip
    assert [row.difference.difference for row in rows if row.difference] == [1, 0, -1, 0]


def test_wrong_tables_are_refused():
    good = {"hr@5": np.zeros((1, 3))}
    with pytest.raises(ValueError, match=r"values: 1 runs \('a'\) are too few; give at least two"):
        compare_with_first({"a": good})
    with pytest.raises(ValueError, match=r"metrics \['mrr@5'\] of 'b' and \['hr@5'\] of the first run"):
        compare_with_first({"a": good, "b": {"mrr@5": np.zeros((1, 3))}})
    with pytest.raises(ValueError, match=r"metrics \[\] of 'a'"):
        compare_with_first({"a": {}, "b": {}})
    for shape in ((3,), (0, 3), (1, 1, 3)):
        with pytest.raises(
            ValueError, match=rf"shape {shape} of 'hr@5' of 'b'".replace("(", r"\(").replace(")", r"\)")
        ):
            compare_with_first({"a": good, "b": {"hr@5": np.zeros(shape)}})
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(4,\)"):
        compare_with_first({"a": good, "b": {"hr@5": np.zeros((1, 4))}})
    with pytest.raises(ValueError, match="other=nan: 1 of 3 users"):
        compare_with_first({"a": good, "b": {"hr@5": np.array([[0, math.nan, 0]])}})


def test_the_examples_in_docstrings_hold():
    result = doctest.testmod(comparison)
    assert result.attempted > 0
    assert result.failed == 0
