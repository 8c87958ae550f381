"""Bootstrap over users and seeds: against a plain loop, known variances, and the bootstrap over users alone."""

import doctest
import math

import numpy as np
import pytest

from mllm_srec.metrics import seed_bootstrap as module
from mllm_srec.metrics.seed_bootstrap import seed_bootstrap
from mllm_srec.metrics.significance import paired_bootstrap


def trained(n_seeds, n_users, gain=0.0, between_seeds=0.0, seed=0):
    """Values (seeds, users): what makes a user easy, a gain, and what a seed adds to all users."""
    rng = np.random.default_rng([seed, 1])
    ease = np.random.default_rng(seed).random(n_users)
    return ease + gain + 0.1 * rng.normal(size=(n_seeds, n_users)) + between_seeds * rng.normal(size=(n_seeds, 1))


def test_the_spread_is_that_of_a_plain_loop():
    base, other = trained(3, 40, seed=1), trained(4, 40, gain=0.05, between_seeds=0.1, seed=2)
    rng, means = np.random.default_rng(5), []
    for _ in range(6000):
        users = rng.integers(40, size=40)
        one, two = (v[rng.integers(len(v), size=len(v))][:, users].mean() for v in (base, other))
        means.append(two - one)
    result = seed_bootstrap(base, other)
    low, high = np.quantile(means, [0.025, 0.975])
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    assert result.difference == pytest.approx(other.mean() - base.mean(), abs=1e-12)


def test_seeds_that_disagree_widen_the_interval_and_raise_p():
    """The gain of .1 over users is beyond doubt, but seeds differ by as much."""
    base, other = trained(3, 200), trained(3, 200, gain=0.1, between_seeds=0.15)
    of_users = paired_bootstrap(base.mean(axis=0), other.mean(axis=0))
    of_both = seed_bootstrap(base, other)
    assert of_users.p_value < 0.001
    assert of_both.p_value > 0.05
    assert of_both.high - of_both.low > 3 * (of_users.high - of_users.low)
    assert (of_both.difference, of_both.n_users) == (of_users.difference, of_users.n_users)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_seeds_that_agree_change_nothing(n_seeds):
    base, other = (np.repeat(trained(1, 90, gain=g, seed=s), n_seeds, axis=0) for g, s in ((0, 0), (0.03, 1)))
    of_users, of_both = paired_bootstrap(base[0], other[0]), seed_bootstrap(base, other)
    width = of_users.high - of_users.low
    assert (of_both.low, of_both.high) == pytest.approx((of_users.low, of_users.high), abs=0.05 * width)
    assert of_both.p_value == pytest.approx(of_users.p_value, abs=0.02)


def test_the_variance_of_the_seeds_is_short_by_what_the_text_says():
    """Users who all have the same value leave the seeds: n of them show (n - 1) / n of their variance."""
    values = np.repeat(np.array([[0.0], [1.0], [2.0]]), 30, axis=1)
    means = module._resampled(np.zeros((1, 30)), values, 20_000, 0)
    assert means.var() == pytest.approx(values[:, 0].var(ddof=1) / 3 * 2 / 3, rel=0.05)


def test_no_seed_adds_evidence_where_few_users_differ():
    """Eight users, all for it: every resample agrees, and p is that of eight coins."""
    other = np.zeros((3, 100))
    other[:, :8] = 1
    assert seed_bootstrap(np.zeros((3, 100)), other).p_value == pytest.approx(2**-7)


def test_false_findings_are_rare_where_seeds_differ():
    """Without a difference between methods, users alone call nearly every pair of trainings a finding."""
    pairs = [
        (trained(5, 60, between_seeds=0.1, seed=s), trained(5, 60, between_seeds=0.1, seed=s)[::-1] * 1.0)
        for s in range(2)
    ]
    assert all(seed_bootstrap(one, two, 200).p_value > 0.5 for one, two in pairs)  # the same seeds in another order
    found = {"users": 0, "both": 0}
    for s in range(60):
        ease, rng = np.random.default_rng(s).random(80), np.random.default_rng([s, 9])
        one, two = (ease + 0.05 * rng.normal(size=(5, 80)) + 0.1 * rng.normal(size=(5, 1)) for _ in range(2))
        found["users"] += paired_bootstrap(one.mean(axis=0), two.mean(axis=0), 300).p_value <= 0.05
        found["both"] += seed_bootstrap(one, two, 300).p_value <= 0.05
    assert found["users"] > 40
    assert found["both"] < 14  # near .05, more with five seeds


@pytest.mark.parametrize("cells", [1, 70, 10_000])
def test_the_seed_decides_and_the_size_of_a_chunk_does_not_matter(monkeypatch, cells):
    base, other = trained(2, 35), trained(3, 35, gain=0.02)
    once = seed_bootstrap(base, other, 250, seed=4)
    assert seed_bootstrap(base, other, 250, seed=5) != once
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", cells)
    again = seed_bootstrap(base, other, 250, seed=4)
    assert (again.low, again.high, again.p_value) == pytest.approx((once.low, once.high, once.p_value), abs=1e-12)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(4,\) must be the same"):
        seed_bootstrap(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="n_resamples=0: too small"):
        seed_bootstrap(np.zeros((2, 3)), np.zeros((2, 3)), n_resamples=0)
    with pytest.raises(ValueError, match="other=nan: 1 of 3 users"):
        seed_bootstrap(np.zeros((1, 3)), np.array([[0, math.nan, 1]]))


def test_examples():
    assert doctest.testmod(module).failed == 0
