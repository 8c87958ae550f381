"""Paired bootstrap and sign flips against a plain loop, all resamples and scipy; Holm against the textbook."""

import doctest
import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mllm_srec.metrics import significance
from mllm_srec.metrics.significance import compare_users, holm, paired_bootstrap


def two_runs(n, gain=0.0, seed=0):
    """Values of n users in [0, 1], often 0 as NDCG is, of two runs that share what makes a user easy."""
    rng = np.random.default_rng(seed)
    ease = rng.random(n)
    base, other = ((rng.random(n) < ease + shift) / np.log2(rng.integers(2, 12, size=n)) for shift in (0, gain))
    return base, other


# --- against other ways to compute it -----------------------------------------------------------------------------


def looped(base, other, n_resamples, confidence, seed):
    """One resample after the other, users drawn from the sorted differences."""
    differences = sorted(b - a for a, b in zip(base, other, strict=True))
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(n_resamples):
        drawn = generator.integers(len(differences), size=len(differences))
        means.append(math.fsum(differences[i] for i in drawn) / len(differences))
    at_most, at_least = sum(m <= 1e-15 for m in means), sum(m >= -1e-15 for m in means)
    ends = np.percentile(means, [50 * (1 - confidence), 50 * (1 + confidence)])
    return min(1.0, 2 * (min(at_most, at_least) + 1) / (n_resamples + 1)), ends


@pytest.mark.parametrize(("n", "gain", "confidence"), [(40, 0.0, 0.95), (60, 0.2, 0.9), (55, -0.1, 0.5)])
def test_equal_to_a_plain_loop(n, gain, confidence):
    base, other = two_runs(n, gain, seed=n)
    result = paired_bootstrap(base, other, n_resamples=800, confidence=confidence, seed=7)
    p_value, (low, high) = looped(base, other, 800, confidence, seed=7)
    assert result.p_value == pytest.approx(p_value, abs=1e-12)
    assert (result.low, result.high) == pytest.approx((low, high), abs=1e-12)
    assert result.difference == pytest.approx(np.mean(other) - np.mean(base), abs=1e-12)
    assert (result.n_users, result.n_changed) == (n, int((base != other).sum()))


@pytest.mark.parametrize("differences", [[0.3, -0.2, 0.1, 0.4, -0.35], [1, -1, 1, 0, 0, -1], [2, 1, -2, 0.5, 1, -0.1]])
def test_close_to_the_enumeration_of_all_resamples(differences):
    """All n^n samples with replacement give the distribution that the drawn ones estimate."""
    n, n_resamples = len(differences), 20_000
    means = np.array([sum(x) / n for x in itertools.product(differences, repeat=n)])
    result = paired_bootstrap(np.zeros(n), differences, n_resamples, confidence=0.8)
    for end, quantile in ((result.low, 0.1), (result.high, 0.9)):  # within the noise of a drawn quantile
        assert np.quantile(means, quantile - 0.01) - 1e-12 <= end <= np.quantile(means, quantile + 0.01) + 1e-12


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=10), st.integers(0, 30))
def test_few_differing_users_have_the_exact_p_of_scipy(thirds, n_equal):
    """Differences of means over three seeds are thirds, so that many sums tie."""
    base = np.random.default_rng(0).integers(0, 2, len(thirds) + n_equal) * 1.0
    other = base + np.array([*thirds, *[0] * n_equal]) / 3
    changed = np.array([third for third in thirds if third], dtype=float)
    if len(changed) < 2:
        return
    expected = stats.permutation_test((changed,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert paired_bootstrap(base, other, n_resamples=5).p_value == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize(("n_for", "n_against"), [(10, 1), (8, 0), (7, 3), (13, 6), (1, 0), (20, 0), (10, 10)])
def test_equal_differences_have_the_exact_p_of_the_binomial_test(n_for, n_against):
    differences = [0.0] * 130 + [1 / 3] * n_for + [-1 / 3] * n_against
    expected = stats.binomtest(n_for, n_for + n_against).pvalue
    assert paired_bootstrap(np.zeros(len(differences)), differences).p_value == pytest.approx(expected, abs=1e-12)


def test_ten_users_for_and_one_against_are_no_finding_among_many_differences():
    """The differences of a table in which every resample agreed: p .0010 by the bound alone, and .039 after Holm."""
    thirds = [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, -1]
    result = paired_bootstrap(np.zeros(150), np.array(thirds + [0] * 139) / 3)
    assert (result.n_changed, result.difference) == (11, pytest.approx(0.0378, abs=5e-5))
    assert result.p_value == pytest.approx(8 / 2048)
    others = {str(i): 0.0002 for i in range(36)} | {f"late {i}": 0.01 + i / 100 for i in range(17)}
    assert holm({**others, "this": result.p_value})["this"] == pytest.approx(0.0703, abs=1e-4)


def test_above_the_limit_the_bootstrap_answers(monkeypatch):
    base, other = np.zeros(60), np.array([1.0] * 15 + [-1.0] * 6 + [0.0] * 39)
    assert paired_bootstrap(base, other).p_value != pytest.approx(stats.binomtest(15, 21).pvalue, rel=1e-3)
    with pytest.raises(ValueError, match="differences: 21 users differ; give at most 20, or resample"):
        significance.sign_flip_p(other)
    monkeypatch.setattr(significance, "EXACT_USERS", 21)
    assert paired_bootstrap(base, other).p_value == pytest.approx(stats.binomtest(15, 21).pvalue, abs=1e-12)


@pytest.mark.parametrize("gain", [0.0, 0.1, 0.3])
def test_interval_close_to_scipy_bootstrap(gain):
    base, other = two_runs(150, gain, seed=3)
    result = paired_bootstrap(base, other)
    expected = stats.bootstrap(
        (base, other), lambda a, b, axis: (b - a).mean(axis=axis), paired=True, method="percentile", rng=1
    ).confidence_interval
    width = expected.high - expected.low
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), abs=0.04 * width)


@pytest.mark.parametrize("gain", [0.0, 0.04, 0.1, -0.1])
def test_p_value_close_to_the_t_test_and_the_sign_flip_test_for_many_users(gain):
    base, other = two_runs(1500, gain, seed=11)
    result = paired_bootstrap(base, other)
    assert result.p_value == pytest.approx(stats.ttest_rel(other, base).pvalue, abs=0.02)
    flipped = stats.permutation_test(
        (other - base,), np.mean, permutation_type="samples", n_resamples=2000, vectorized=False, rng=0
    )
    assert result.p_value == pytest.approx(flipped.pvalue, abs=0.05)


def test_false_findings_are_as_rare_as_the_level_says():
    """Of 400 pairs of runs without a difference, 5 % may fall below .05, give or take four standard errors."""
    p_values = [paired_bootstrap(*two_runs(120, seed=s), n_resamples=400, seed=s).p_value for s in range(400)]
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(p_values) <= level)
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 400))


def test_pairing_finds_what_the_spread_of_users_hides():
    base = np.random.default_rng(0).random(200)
    result = paired_bootstrap(base, base + 0.01 + 0.02 * np.tile([1, -1], 100))
    assert result.p_value == pytest.approx(2 / 10_001)
    assert 0 < result.low < 0.01 < result.high < 0.02
    assert stats.ttest_ind(base, base + 0.01).pvalue > 0.5


# --- what must not matter -----------------------------------------------------------------------------------------


def test_the_seed_decides_and_the_order_of_users_does_not():
    base, other = two_runs(90, 0.05)
    once = paired_bootstrap(base, other, n_resamples=500, seed=4)
    order = np.random.default_rng(1).permutation(90)
    assert paired_bootstrap(base, other, n_resamples=500, seed=4) == once
    assert paired_bootstrap(base[order], other[order], n_resamples=500, seed=4) == once
    assert paired_bootstrap(list(base), list(other), n_resamples=500, seed=4) == once
    assert paired_bootstrap(base, other, n_resamples=500, seed=5) != once


@pytest.mark.parametrize("draws", [1, 89, 91, 1000, 90 * 333])
def test_the_size_of_a_chunk_does_not_matter(monkeypatch, draws):
    base, other = two_runs(90, 0.05)
    once = paired_bootstrap(base, other, n_resamples=333)
    monkeypatch.setattr(significance, "_DRAWS_AT_ONCE", draws)
    assert paired_bootstrap(base, other, n_resamples=333) == once


def test_global_random_state_is_left_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    paired_bootstrap(*two_runs(20), n_resamples=10)
    assert np.random.random() == expected


VALUES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.integers(1, 300), st.sampled_from([0.5, 0.8, 0.95]))
def test_properties(pairs, n_resamples, confidence):
    base, other = (np.array(x, dtype=float) / 4 for x in zip(*pairs, strict=True))
    result = paired_bootstrap(base, other, n_resamples, confidence)
    assert 0 < result.p_value <= 1
    exact = result.n_changed <= significance.EXACT_USERS
    assert result.p_value >= (2.0 ** (1 - max(1, result.n_changed)) if exact else min(1, 2 / (n_resamples + 1)))
    differences = other - base
    assert differences.min() <= result.low <= result.high <= differences.max()
    moved = paired_bootstrap(base + 1, other + 1, n_resamples, confidence)  # only differences count
    assert (moved.p_value, moved.n_changed) == (result.p_value, result.n_changed)
    if exact:
        return
    if result.p_value <= 1 - confidence - 2 / (n_resamples + 1):  # p and interval agree to within one resample
        assert not result.low < 0 < result.high
    if result.low > 0 or result.high < 0:
        assert result.p_value <= 1 - confidence + 4 / (n_resamples + 1)


# --- edges --------------------------------------------------------------------------------------------------------


def test_equal_runs_differ_by_nothing():
    base, _ = two_runs(30)
    result = asdict(paired_bootstrap(base, base))
    assert result == {"difference": 0, "low": 0, "high": 0, "p_value": 1, "n_users": 30, "n_changed": 0}


def test_rounding_is_not_a_difference():
    values = np.random.default_rng(0).random((5, 100))  # five seeds
    added, reversed_ = values.sum(axis=0) / 5, values[::-1].cumsum(axis=0)[-1] / 5
    assert (added != reversed_).any()
    result = paired_bootstrap(added, reversed_ + 1e-15)
    assert (result.difference, result.p_value, result.n_changed) == (0, 1, 0)


def test_gains_and_losses_that_cancel_count_on_both_sides():
    result = paired_bootstrap([0.1, 0.3, 0.7], [0.3, 0.1, 0.7], n_resamples=2000)  # sums such as .2 - .2 up to rounding
    assert result.p_value == 1.0


@pytest.mark.parametrize(
    ("n_changed", "expected"), [(0, 1), (1, 1), (2, 0.5), (5, 2**-4), (10, 2**-9), (15, 2**-14), (25, 2 / 10_001)]
)
def test_few_users_who_all_agree_prove_little(n_changed, expected):
    """Every resample of the changed users agrees too, but k coins all show heads with probability 2^(1 - k)."""
    result = paired_bootstrap(np.zeros(n_changed + 1), [0.0] + [1.0] * n_changed, n_resamples=10_000)
    assert result.p_value == pytest.approx(expected, abs=1e-12)
    assert result.n_changed == n_changed


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"base, other: shapes \(2,\) and \(3,\) must be the same \(users,\)"):
        paired_bootstrap([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"shapes \(0,\) and \(0,\) .* at least one user"):
        paired_bootstrap([], [])
    with pytest.raises(ValueError, match=r"shapes \(1, 2\) and \(1, 2\)"):
        paired_bootstrap([[1, 2]], [[1, 2]])
    with pytest.raises(ValueError, match="other=nan: 2 of 3 users have no finite value, the first at index 1"):
        paired_bootstrap([1, 2, 3], [1, math.nan, math.nan])
    with pytest.raises(ValueError, match="base=inf: 1 of 2 users have no finite value, the first at index 0"):
        paired_bootstrap([math.inf, 2], [1, 2])
    with pytest.raises(ValueError, match="n_resamples=0: too small; give at least 1"):
        paired_bootstrap([1, 2], [1, 2], n_resamples=0)
    for confidence in (0, 1, 95, math.nan):
        with pytest.raises(
            ValueError, match=f"confidence={confidence}: out of range; give a number above 0 and below 1"
        ):
            paired_bootstrap([1, 2], [1, 2], confidence=confidence)


# --- tables keyed by user -----------------------------------------------------------------------------------------


def test_tables_are_joined_by_user_and_not_by_place():
    base, other = two_runs(50, 0.1)
    users = [f"u{i}" for i in range(50)]
    table, reordered = dict(zip(users, base, strict=True)), dict(zip(users[::-1], other[::-1], strict=True))
    expected = paired_bootstrap(base, other, n_resamples=200, confidence=0.9, seed=3)
    assert compare_users(table, reordered, n_resamples=200, confidence=0.9, seed=3) == expected
    by_number = compare_users(dict(enumerate(base)), dict(enumerate(other)), n_resamples=200, confidence=0.9, seed=3)
    assert by_number == expected


def test_users_missing_in_one_table_are_an_error_that_counts_and_names_them():
    whole, part = {"u1": 0.5, "u2": 0.0, "u3": 1.0, "u4": 1.0}, {"u1": 0.5, "u3": 0.25}
    with pytest.raises(ValueError, match="other: 2 of 4 users of the other run are missing, the first is 'u2'"):
        compare_users(whole, part)
    with pytest.raises(ValueError, match="base: 2 of 4 users of the other run are missing, the first is 'u2'"):
        compare_users(part, whole)
    with pytest.raises(ValueError, match="base: 1 of 2 users of the other run are missing, the first is 'u9'"):
        compare_users({"u1": 1.0, "u2": 1.0}, {"u1": 1.0, "u9": 1.0})


@pytest.mark.parametrize("value", [math.nan, None, math.inf])
def test_a_user_without_a_value_is_an_error(value):
    whole, odd = {"u1": 0.5, "u2": 0.0, "u3": 1.0}, {"u1": 0.5, "u2": value, "u3": value}
    with pytest.raises(ValueError, match=rf"other={value}: 2 of 3 users have no finite value, the first is 'u2'"):
        compare_users(whole, odd)
    with pytest.raises(ValueError, match=rf"base={value}: 2 of 3 users have no finite value, the first is 'u2'"):
        compare_users(odd, whole)


def test_tables_without_users_are_an_error():
    with pytest.raises(ValueError, match="at least one user"):
        compare_users({}, {})


# --- Holm ---------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})  # .005 * 4, .01 * 3, .03 * 2, then not below .06
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert holm({"x": 0.2}) == {"x": 0.2}
    assert holm({"x": 0.5, "y": 0.6, "z": 0.0}) == {"x": 1.0, "y": 1.0, "z": 0.0}
    assert holm({"x": 0.02, "y": 0.02}) == {"x": 0.04, "y": 0.04}
    assert holm({}) == {}


FAMILIES = st.lists(st.one_of(st.sampled_from([0.0, 0.01, 0.02, 0.05, 1.0]), st.floats(0, 1)), min_size=1, max_size=7)


@settings(max_examples=200, deadline=None)
@given(FAMILIES)
def test_holm_equals_the_closed_test_with_bonferroni(p_values):
    """A hypothesis falls when every set of hypotheses that holds it falls by Bonferroni (Marcus et al. 1976)."""
    everyone = range(len(p_values))
    sets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(everyone, size)]
    expected = {str(i): max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s) for i in everyone}
    assert holm({str(i): p for i, p in enumerate(p_values)}) == pytest.approx(expected, abs=1e-15)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    adjusted = holm({str(i): p for i, p in enumerate(p_values)})
    rejected = set()
    for left, i in zip(
        range(len(p_values), 0, -1), sorted(range(len(p_values)), key=p_values.__getitem__), strict=True
    ):
        if left * p_values[i] > level:
            break
        rejected.add(str(i))
    assert {name for name, p in adjusted.items() if p <= level} == rejected
    assert all(p_values[int(name)] <= p <= min(1, len(p_values) * p_values[int(name)]) for name, p in adjusted.items())
    backwards = holm({str(i): p for i, p in reversed(list(enumerate(p_values)))})
    assert backwards == adjusted


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_what_is_no_p_value_is_refused(value):
    with pytest.raises(ValueError, match=rf"p_values\['b'\]={value}: not a probability; give numbers from 0 to 1"):
        holm({"a": 0.5, "b": value})


def test_the_examples_in_docstrings_hold():
    result = doctest.testmod(significance)
    assert result.attempted > 0
    assert result.failed == 0
