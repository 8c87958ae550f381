"""Bootstrap over users: by drawing rows with pandas, and by theory."""

from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest

from mllm_srec.metrics.clustered import bootstrap, clustered_mean


def test_a_row_a_user_by_resampling_the_rows_themselves():
    values = np.random.default_rng(1).random(40)
    found = clustered_mean(values, np.arange(40) + 7, n_resamples=300, seed=5)
    generator = np.random.default_rng(5)
    means = [values[generator.integers(40, size=40)].mean() for _ in range(300)]
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert found.n_users == 40


def test_several_rows_of_a_user_are_drawn_together():
    """Each resample is built row by row with pandas."""
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"user": rng.integers(0, 9, 60), "value": rng.random(60)})
    of_user = dict(list(table.groupby("user")["value"]))
    names, generator = sorted(of_user), np.random.default_rng(3)
    means = [
        pd.concat([of_user[names[i]] for i in generator.integers(len(names), size=len(names))]).mean()
        for _ in range(200)
    ]
    found = clustered_mean(table["value"], table["user"], n_resamples=200, confidence=0.8, seed=3)
    assert found.value == pytest.approx(table["value"].mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.1, 0.9])))


def test_the_width_is_that_of_theory():
    values = np.random.default_rng(4).normal(size=900)
    found = clustered_mean(values, np.arange(900), n_resamples=4000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 30, rel=0.05)


def test_copies_of_a_users_rows_do_not_make_the_interval_narrower():
    values, user = np.random.default_rng(5).random(30), np.arange(30)
    once, copied = clustered_mean(values, user), clustered_mean(np.repeat(values, 10), np.repeat(user, 10))
    assert astuple(copied) == pytest.approx(astuple(once))


def test_nothing_is_no_number():
    found = clustered_mean([], [])
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.n_users == 0
    undefined = bootstrap(lambda weights: np.nan, [1, 2], 5)
    assert np.isnan(undefined.low)
    assert undefined.n_users == 2


def test_resamples_without_a_value_are_left_out_of_the_interval():
    found = bootstrap(lambda weights: np.nan if weights[0] == 0 else 3.0, [0, 1, 2], 50)
    assert (found.value, found.low, found.high) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize("changes", [{"n_resamples": 0}, {"confidence": 1.0}, {"confidence": 0}])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=r"n_resamples=0: too small|confidence=(1\.0|0): out of range"):
        clustered_mean([1.0], [1], **changes)


def test_values_that_are_none_are_refused():
    with pytest.raises(ValueError, match="1 of 2 are not finite; leave them out and count them"):
        clustered_mean([1.0, np.nan], [1, 2])
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(1,\)"):
        clustered_mean([1.0, 2.0], [1])
