"""Calibration against written-out values, plain loops, scipy's optimisers and two other libraries."""

import doctest
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error

from mllm_srec.metrics import calibration
from mllm_srec.metrics.calibration import (
    CalibrationMetrics,
    expected_calibration_error,
    optimal_temperature,
    yes_no_mass,
)

INF = math.inf
WORKER = Path(__file__).with_name("gloo_worker.py")


def ece(probabilities, labels, n_bins=15):
    as_float64 = torch.tensor(probabilities, dtype=torch.float64)
    return expected_calibration_error(as_float64, torch.tensor(labels), n_bins).item()


def temperature(logits, labels):
    return optimal_temperature(torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)).item()


def result_of(metric, *batches):
    for batch in batches:
        metric.update(*batch)
    return {key: value.item() for key, value in metric.compute().items()}


def targets(n, seed=0, n_candidates=4):
    """Logits with ties, labels that lean their way, padding, and masses of n groups."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-9, 10, (n, n_candidates), generator=generator) / 3
    relevance = (torch.rand(n, n_candidates, generator=generator) < (logits / 2).sigmoid()).long()
    mask = torch.rand(n, n_candidates, generator=generator) < 0.8
    return logits, relevance, mask, torch.rand(n, n_candidates, generator=generator)


# --- mass on the two answers --------------------------------------------------------------------------------------


def test_mass_equals_the_softmax_over_the_vocabulary():
    generator = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(7, 3, 500, generator=generator)  # (B, C, V)
    yes, no = 17, 401
    logits[..., yes] += 20
    probabilities = logits.double().softmax(dim=-1)
    mass = yes_no_mass(logits[..., [yes, no]], logits.logsumexp(dim=-1))
    assert mass.dtype == torch.float64
    torch.testing.assert_close(mass, probabilities[..., yes] + probabilities[..., no], atol=1e-5, rtol=0)
    assert 0.05 < mass.mean() < 0.95


def test_mass_by_hand_and_at_its_ends():
    two_of_four = torch.tensor([[5.0, 5.0]])
    assert yes_no_mass(two_of_four, torch.tensor([5 + math.log(4)])).item() == pytest.approx(0.5, abs=1e-6)
    assert yes_no_mass(two_of_four, torch.tensor([5 + math.log(2)])).item() == pytest.approx(1.0, abs=1e-6)
    assert yes_no_mass(two_of_four, torch.tensor([4.9999 + math.log(2)])).item() == 1.0  # rounding is cut off
    assert yes_no_mass(torch.tensor([-2000.0, -2000.0]), torch.tensor(9.0)).item() == 0.0
    assert yes_no_mass(torch.zeros(0, 2), torch.zeros(0)).shape == (0,)


def test_a_normaliser_of_other_logits_is_refused():
    with pytest.raises(ValueError, match="log_normalizer: gives two tokens a mass of 2, which cannot exceed 1"):
        yes_no_mass(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"shapes \(3, 2\) and \(2,\) are not \(\.\.\., 2\) and \(\.\.\.\)"):
        yes_no_mass(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"shapes \(3, 5\) and \(3,\)"):
        yes_no_mass(torch.zeros(3, 5), torch.zeros(3))
    with pytest.raises(ValueError, match="log_normalizer=nan: 1 of 3 values are not finite"):
        yes_no_mass(torch.zeros(3, 2), torch.tensor([1.0, math.nan, 1.0]))
    with pytest.raises(ValueError, match="yes_no_logits=inf: 2 of 6 values are not finite"):
        yes_no_mass(torch.tensor([[INF, INF], [0, 0], [0, 0]]), torch.ones(3))


# --- expected calibration error -----------------------------------------------------------------------------------


def looped_ece(probabilities, labels, n_bins):
    """The definition, bin by bin: (i / n, (i + 1) / n], the first with 0."""
    total = 0.0
    for i in range(n_bins):
        inside = [k for k, p in enumerate(probabilities) if (i == 0 or p > i / n_bins) and p <= (i + 1) / n_bins]
        if inside:
            stated = math.fsum(probabilities[k] for k in inside) / len(inside)
            observed = sum(labels[k] for k in inside) / len(inside)
            total += len(inside) / len(labels) * abs(stated - observed)
    return total


def test_ece_written_out():
    # (0, .25]: .1, .2 and one like; (.5, .75]: .6, .7, .75 and two likes; the other two bins are empty
    value = ece([0.1, 0.2, 0.6, 0.7, 0.75], [0, 1, 1, 1, 0], n_bins=4)
    assert value == pytest.approx((2 * abs(0.15 - 0.5) + 3 * abs(2.05 / 3 - 2 / 3)) / 5)


def test_a_probability_on_an_edge_belongs_to_the_bin_below_and_zero_to_the_first():
    assert ece([0.5, 1.0], [1, 0], n_bins=2) == pytest.approx((0.5 + 1) / 2)  # apart: they would cancel together
    assert ece([0.0, 0.5], [1, 0], n_bins=2) == pytest.approx(abs(0.25 - 0.5))  # together
    for k in range(1, 10):
        assert ece([k / 10, k / 10 + 1e-9], [1, 0], n_bins=10) == pytest.approx(0.5, abs=1e-6)  # two bins
        assert ece([k / 10, k / 10 - 1e-9], [1, 0], n_bins=10) == pytest.approx(abs(k / 10 - 0.5), abs=1e-6)  # one


GRID = st.integers(0, 60).map(lambda k: k / 60)  # meets the edges of many numbers of bins
STATEMENTS = st.lists(st.tuples(st.one_of(GRID, st.floats(0, 1)), st.integers(0, 1)), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(STATEMENTS, st.integers(1, 24))
def test_ece_equals_the_loop_over_bins(statements, n_bins):
    probabilities, labels = [p for p, _ in statements], [label for _, label in statements]
    value = ece(probabilities, labels, n_bins)
    assert value == pytest.approx(looped_ece(probabilities, labels, n_bins), abs=1e-12)
    overall = abs(sum(probabilities) - sum(labels)) / len(labels)
    assert overall - 1e-12 <= value <= 1 + 1e-12  # never below one bin for all
    if n_bins == 1:
        assert value == pytest.approx(overall, abs=1e-12)
    mirrored = ece([1 - p for p in probabilities], [1 - label for label in labels], 1)
    assert mirrored == pytest.approx(overall, abs=1e-12)


@pytest.mark.parametrize("n_bins", [1, 7, 15, 40])
def test_ece_equals_scikit_learn_and_torchmetrics(n_bins):
    rng = np.random.default_rng(n_bins)
    probabilities = rng.beta(0.4, 0.9, size=3000)  # nothing on an edge, where the three disagree
    labels = (rng.random(3000) < probabilities**1.5).astype(int)
    value = ece(probabilities.tolist(), labels.tolist(), n_bins)
    observed, stated = calibration_curve(labels, probabilities, n_bins=n_bins)
    counts = np.histogram(probabilities, bins=n_bins, range=(0, 1))[0]
    assert value == pytest.approx((np.abs(observed - stated) * counts[counts > 0]).sum() / 3000, abs=1e-12)
    both = torch.from_numpy(probabilities), torch.from_numpy(labels)
    assert value == pytest.approx(binary_calibration_error(*both, n_bins=n_bins, norm="l1").item(), abs=1e-6)
    assert 0.01 < value < 0.5


def test_ece_of_nothing_of_one_class_and_of_certainty():
    assert math.isnan(ece([], []))
    assert expected_calibration_error(torch.zeros(0), torch.zeros(0)).dtype == torch.float64
    assert ece([0.25] * 8, [1] * 8) == 0.75
    assert ece([1.0, 0.0, 1.0], [1, 0, 1]) == 0.0
    assert ece([1.0, 0.0, 1.0], [0, 1, 0]) == 1.0
    assert ece([0.75] * 4, [1, 1, 1, 0]) == 0.0


# --- temperature --------------------------------------------------------------------------------------------------


def loss(log_temperature, logits, labels):
    margins = (2 * np.asarray(labels) - 1) * np.asarray(logits, dtype=float)
    return np.logaddexp(0, -margins * np.exp(-log_temperature)).sum()


@pytest.mark.parametrize(("size", "right", "wrong"), [(2.0, 3, 1), (0.01, 9, 2), (40.0, 1001, 1000), (1e-6, 99, 1)])
def test_temperature_of_logits_of_one_size_in_closed_form(size, right, wrong):
    """With r of r + w signs right, the best probability is r / (r + w): size / T = ln(r / w)."""
    logits = [size] * right + [-size] * wrong  # all liked, and two disliked to have both classes
    labels = [1] * (right + wrong)
    logits[0], labels[0] = -logits[0], 0
    assert temperature(logits, labels) == pytest.approx(size / math.log(right / wrong), rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 300), st.floats(-3, 3), st.floats(-1.5, 1.5))
@example(177, 193, 0.0, 0.0)  # the margins add up to 0, or to 1e-15 in another order
def test_temperature_equals_scipy(seed, n, log_scale, lean):
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(size=n), 1) * math.exp(log_scale)  # with ties and zeros
    labels = (rng.random(n) < expit(lean * logits / math.exp(log_scale))).astype(int)
    value = temperature(logits.tolist(), labels.tolist())
    margins = (2 * labels - 1) * logits
    if len(set(labels)) == 1 or not margins.any():
        assert math.isnan(value)
    elif (margins >= 0).all():
        assert value == 0
    elif math.fsum(margins) <= 1e-14 * np.abs(margins).sum():
        assert value == INF
    else:
        slope = lambda a: -(margins * expit(-margins * a)).sum()  # noqa: E731
        top = next(2.0**k for k in range(-20, 200) if slope(2.0**k) > 0)
        assert value == pytest.approx(1 / brentq(slope, 0, top, xtol=1e-300, rtol=1e-14), rel=1e-9)
        middle = math.log(value)
        found = minimize_scalar(loss, bounds=(middle - 5, middle + 4), args=(logits, labels), method="bounded")
        assert loss(middle, logits, labels) <= found.fun + 1e-9


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), max_size=8))
def test_each_outcome_is_where_the_loss_is_smallest(pairs):
    """On a grid of temperatures from sharpest to flattest, the loss must agree with 0, inf, a number or NaN."""
    logits, labels = [float(z) for z, _ in pairs], [label for _, label in pairs]
    value = temperature(logits, labels)
    if len(set(labels)) < 2 or not any(logits):
        assert math.isnan(value)
        return
    grid = np.linspace(-3, 6, 400)
    losses = np.array([loss(x, logits, labels) for x in grid])
    if value == 0:
        assert losses.argmin() == 0
        assert (np.diff(losses) >= 0).all()
    elif value == INF:
        assert (np.diff(losses) <= 1e-12).all()
    else:
        assert loss(math.log(value), logits, labels) <= losses.min() + 1e-12


def test_the_temperature_of_a_known_truth_is_found():
    rng = np.random.default_rng(5)
    true_logits = rng.normal(size=60_000)
    labels = (rng.random(60_000) < expit(true_logits)).astype(int)
    for scale in (0.2, 1.0, 7.0):
        logits = (scale * true_logits).tolist()
        value = temperature(logits, labels.tolist())
        assert value == pytest.approx(scale, rel=0.03)
        calibrated = expit(np.array(logits) / value)
        assert ece(calibrated.tolist(), labels.tolist()) < 0.01


def test_temperature_is_undefined_or_at_an_end_as_documented():
    assert math.isnan(temperature([], []))
    assert math.isnan(temperature([3.0, -1.0, 2.0], [1, 1, 1]))  # one class, though a minimum exists
    assert math.isnan(temperature([3.0, -1.0, 2.0], [0, 0, 0]))
    assert math.isnan(temperature([0.0, 0.0], [1, 0]))
    assert temperature([3.0, 0.1, -2.0], [1, 1, 0]) == 0.0  # separable at 0
    assert temperature([3.0, 0.0, -2.0], [1, 1, 0]) == 0.0
    assert temperature([-3.0, -0.1, 2.0], [1, 1, 0]) == INF  # upside down
    assert temperature([1.0, 1.0], [1, 0]) == INF  # no use on the whole
    assert temperature([0.1, 0.2, 0.3], [1, 1, 0]) == INF  # .1 + .2 - .3 is 6e-17
    assert temperature([0.3, 0.2, 0.1], [0, 1, 1]) == INF
    assert temperature([3.0, 2.0], [1, 0]) == pytest.approx(
        1 / brentq(lambda a: 3 * expit(-3 * a) - 2 * expit(2 * a), 0, 9)
    )


def test_temperature_scales_with_the_logits_over_hundreds_of_orders():
    logits, labels = [3.0, -1.0, 0.5, 1e-9, -2.0], [1, 1, 0, 1, 0]
    once = temperature(logits, labels)
    for scale in (1e-300, 1e-30, 1e-3, 1e3, 1e30, 1e300):
        assert temperature([scale * z for z in logits], labels) == pytest.approx(scale * once, rel=1e-12)
    assert temperature(logits[::-1], labels[::-1]) == pytest.approx(once, rel=1e-14)
    # one wrong sign, ever smaller: the sharpness it forbids grows like its logarithm
    assert [round(1 / temperature([1.0, 1.0, 10.0**-k], [1, 1, 0])) for k in (10, 100, 300)] == [24, 232, 692]


# --- wrong arguments ----------------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused():
    half, label = torch.tensor([0.5, 0.5]), torch.tensor([1, 0])
    with pytest.raises(ValueError, match="n_bins=0: too small; give 1 or more"):
        expected_calibration_error(half, label, n_bins=0)
    with pytest.raises(ValueError, match=r"probabilities=1.5: not a probability; give numbers from 0 to 1, and turn"):
        expected_calibration_error(half + 1, label)
    with pytest.raises(ValueError, match="probabilities=nan: not a probability"):
        expected_calibration_error(half * math.nan, label)
    with pytest.raises(ValueError, match=r"labels=5: not binary; turn ratings into labels 0 and 1 first"):
        expected_calibration_error(half, 5 * label)
    with pytest.raises(ValueError, match=r"probabilities, labels: shapes \(2,\) and \(1,\) must be the same"):
        expected_calibration_error(half, label[:1])
    with pytest.raises(ValueError, match=r"logits, labels: shapes \(1, 2\) and \(1, 2\)"):
        optimal_temperature(half[None], label[None])
    with pytest.raises(ValueError, match="logits=-inf: 1 of 2 values are not finite"):
        optimal_temperature(torch.tensor([-INF, 0.0]), label)
    with pytest.raises(ValueError, match="labels=2: not binary"):
        optimal_temperature(half, 2 * label)


# --- the accumulating metric --------------------------------------------------------------------------------------


def test_metric_written_out():
    logits = torch.tensor([[math.log(3), math.log(3), 9.0], [math.log(3), -math.log(3), -9.0]])
    relevance = torch.tensor([[1, 1, 7], [0, 0, 0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    mass = torch.tensor([[0.5, 0.25, math.nan], [0.75, 0.0, 2.0]])
    assert result_of(CalibrationMetrics(n_bins=2), (logits, relevance, mask, mass)) == pytest.approx(
        {
            "ece": (abs(3 * 0.75 - 2) + abs(0.25 - 0)) / 4,
            "temperature": 1.0,  # three of four signs are right, as the model says
            "mean_probability": (3 * 0.75 + 0.25) / 4,
            "share_liked": 0.5,
            "yes_no_mass": 0.375,
            "n_targets": 4,
            "n_mass": 4,
        },
        abs=1e-7,
    )


def test_batches_and_the_order_of_targets_do_not_change_a_digit():
    batch = targets(500)
    whole = result_of(CalibrationMetrics(), batch)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    pieces = zip(*(x[order].split(37) for x in batch), strict=True)
    batched = result_of(CalibrationMetrics(), *pieces)
    assert batched == whole


def test_masses_that_were_stored_as_float32_give_the_same_mean():
    logits, relevance, mask, _ = targets(200)
    mass = torch.rand(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(mass, mass.float().double())
    at_once = result_of(CalibrationMetrics(), (logits, relevance, mask, mass))
    stored = result_of(CalibrationMetrics(), (logits, relevance, mask, mass.float()))
    assert stored == at_once


def test_metric_equals_its_functions():
    logits, relevance, mask, mass = targets(200, seed=3)
    result = result_of(CalibrationMetrics(n_bins=9), (logits, relevance, mask, mass))
    probabilities, labels = logits[mask].double().sigmoid(), relevance[mask]
    assert result == pytest.approx(
        {
            "ece": looped_ece(probabilities.tolist(), labels.tolist(), 9),
            "temperature": optimal_temperature(logits[mask], labels).item(),
            "mean_probability": probabilities.mean().item(),
            "share_liked": labels.double().mean().item(),
            "yes_no_mass": mass[mask].float().double().mean().item(),
            "n_targets": int(mask.sum()),
            "n_mass": int(mask.sum()),
        },
        abs=1e-12,
    )
    assert 0 < result["temperature"] < INF


def test_a_model_without_a_vocabulary_has_no_mass():
    logits, relevance, mask, mass = targets(20)
    result = result_of(CalibrationMetrics(), (logits, relevance, mask))
    assert math.isnan(result["yes_no_mass"])
    assert (result["n_mass"], result["n_targets"]) == (0, int(mask.sum()))
    some = result_of(CalibrationMetrics(), (logits, relevance), (logits, relevance, mask, mass))
    assert (some["n_targets"], some["n_mass"]) == (80 + int(mask.sum()), int(mask.sum()))
    assert some["yes_no_mass"] == pytest.approx(mass[mask].mean().item(), abs=1e-6)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_is_nan_and_not_zero():
    result = result_of(CalibrationMetrics())
    assert {key for key, value in result.items() if math.isnan(value)} == set(result) - {"n_targets", "n_mass"}
    assert result["n_targets"] == result["n_mass"] == 0
    assert {x.dtype for x in CalibrationMetrics().compute().values()} == {torch.float64}


def test_one_class_has_a_calibration_error_but_no_temperature():
    result = result_of(CalibrationMetrics(), (torch.tensor([0.0, 0.0]), torch.tensor([1, 1])))
    assert (result["ece"], result["share_liked"]) == (0.5, 1.0)
    assert math.isnan(result["temperature"])


def test_reset_forgets():
    metric = CalibrationMetrics()
    metric.update(*targets(5))
    metric.reset()
    assert result_of(metric, targets(9, seed=2)) == result_of(CalibrationMetrics(), targets(9, seed=2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_precision_of_a_module_does_not_touch_the_states(dtype):
    module = torch.nn.ModuleDict({"metric": CalibrationMetrics()})
    module["metric"].update(*targets(40))
    module.to(dtype).half()
    assert module["metric"].liked[0].dtype == torch.float32
    assert result_of(module["metric"]) == result_of(CalibrationMetrics(), targets(40))


def test_wrong_targets_are_refused():
    logits, relevance, mask, mass = targets(3)
    full = torch.ones_like(mask)
    with pytest.raises(ValueError, match=r"logits, relevance, mask, mass: shapes .* differ; give all the same shape"):
        CalibrationMetrics().update(logits, relevance[:, :2], mask)
    with pytest.raises(ValueError, match=r"shapes .*\(3, 4, 1\)\] differ; give all the same shape"):
        CalibrationMetrics().update(logits, relevance, mask, mass[..., None])
    with pytest.raises(ValueError, match=r"mask: dtype torch.int64 is not torch.bool"):
        CalibrationMetrics().update(logits, relevance, mask.long())
    with pytest.raises(ValueError, match="logits=-inf: 12 of 12 values are not finite"):
        CalibrationMetrics().update(torch.full_like(logits, -INF), relevance, full)
    with pytest.raises(ValueError, match="relevance=2: not binary; turn ratings into labels 0 and 1"):
        CalibrationMetrics().update(logits, 2 * torch.ones_like(relevance), full)
    with pytest.raises(ValueError, match="mass=nan: not a probability; give numbers from 0 to 1"):
        CalibrationMetrics().update(logits, relevance, full, mass * math.nan)
    with pytest.raises(ValueError, match="n_bins=0"):
        CalibrationMetrics(n_bins=0)


def run_processes(folder, world_size, scenarios):
    """What every process says after each was fed its own batches, scenario by scenario."""
    torch.save(scenarios, folder / "scenarios.pt")
    processes = [
        subprocess.Popen([sys.executable, str(WORKER), str(folder), str(rank), str(world_size)])
        for rank in range(world_size)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0] * world_size
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"result_{rank}.json").read_text()) for rank in range(world_size)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_processes_agree_with_one_process(tmp_path):
    """Each scenario is a number of batches per process: uneven, some with nothing, and one with likes on one only."""
    shares, expected = {}, {}
    for updates in [(3, 1), (4, 0), (0, 2), (0, 0)]:
        batches = [targets(3 + 2 * i, seed=i, n_candidates=2 + i) for i in range(sum(updates))]
        cuts = itertools.pairwise(itertools.accumulate(updates, initial=0))
        shares[str(updates)] = [{"calibration": batches[a:b]} for a, b in cuts]
        expected[str(updates)] = result_of(CalibrationMetrics(), *batches)
    apart = [(torch.tensor([2.0, -0.5]), torch.tensor([1, 1])), (torch.tensor([-1.0]), torch.tensor([0]))]
    shares["apart"] = [{"calibration": [batch]} for batch in apart]
    expected["apart"] = result_of(CalibrationMetrics(), *apart)
    for result in run_processes(tmp_path, 2, shares):
        assert list(result) == list(expected)
        for name, values in result.items():
            for dtype, value in zip(("float32", "bfloat16"), values, strict=True):
                assert value == pytest.approx(expected[name], abs=1e-15, nan_ok=True), (name, dtype)


def test_the_examples_in_docstrings_hold():
    result = doctest.testmod(calibration, extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
