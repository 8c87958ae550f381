"""Calibration of sigmoid(z_yes - z_no) as a probability: calibration error, best temperature, and mass of the answers.

A model can rank well and be badly calibrated: doubling all logits changes these values, but not AUC, HR or NDCG.
They describe the targets they were measured on. The share of likes among those depends on how negatives were drawn
(one half with one negative per like), so a probability calibrated here is not that of a like in the catalogue.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mllm_srec.metrics.base import StableDtypeMetric
from mllm_srec.metrics.ties import check_bool_mask

_HALVINGS = 64  # of an interval at most some hundreds wide in log(1 / T): down to the last digits of float64
_ROUNDING = 1e-14  # a sum this small relative to its terms is 0: else the order of addition decides for 1e16 or inf


def yes_no_mass(yes_no_logits: Tensor, log_normalizer: Tensor) -> Tensor:
    """Compute the probability mass that the full softmax puts on Yes and No, P_yes + P_no.

    The restricted softmax of Eq. 4 hides it: where the mean is small, the model preferred other answers and the ranking
    comes from noise.

    Args:
        yes_no_logits: Float `(..., 2)`, logits of Yes and No.
        log_normalizer: Float `(...)`, logsumexp of the logits of all V tokens at the same positions, from the same
            float32 product (V logits rounded to bfloat16 do not match two exact ones).

    Returns:
        Float64 `(...)` in [0, 1], one value per target.

    Raises:
        ValueError: If shapes do not match, a value is not finite, or a mass exceeds 1 by more than rounding.

    Example:
        >>> logits = torch.tensor([[2.0, 2.0, 0.0, 0.0]])
        >>> yes_no_mass(logits[:, :2], logits.logsumexp(-1))
        tensor([0.8808], dtype=torch.float64)
    """
    if yes_no_logits.ndim == 0 or yes_no_logits.shape != (*log_normalizer.shape, 2):
        raise ValueError(
            f"yes_no_logits, log_normalizer: shapes {tuple(yes_no_logits.shape)} and {tuple(log_normalizer.shape)} are "
            "not (..., 2) and (...); give one normaliser per pair of logits"
        )
    _check_finite("yes_no_logits", yes_no_logits)
    _check_finite("log_normalizer", log_normalizer)
    mass = (yes_no_logits.double() - log_normalizer.double()[..., None]).exp().sum(dim=-1)  # (...)
    if (mass > 1.001).any():
        raise ValueError(
            f"log_normalizer: gives two tokens a mass of {mass.max().item():.4g}, which cannot exceed 1; compute it in "
            "float32 over all tokens, at the positions and from the head that gave yes_no_logits"
        )
    return mass.clamp(max=1)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, n_bins: int = 15) -> Tensor:
    """Mean distance between predicted and observed share of likes (ECE; Guo et al., ICML 2017, Eq. 3).

    The bins have equal width: (i / n_bins, (i + 1) / n_bins], the first one including 0. An empty bin adds nothing.
    Targets are binned by the probability of a like, not by the confidence in the likelier answer. The value depends on
    `n_bins` and, with few targets, exceeds 0 even for a perfect model: compare only over the same targets and bins.

    Args:
        probabilities: Float `(N,)`, predicted probabilities of a like, in [0, 1].
        labels: `(N,)` of 0 and 1.
        n_bins: Number of bins, at least 1.

    Returns:
        Float64 scalar in [0, 1]; NaN if there are no targets.

    Raises:
        ValueError: If shapes differ, a probability is outside [0, 1], `labels` is not binary, or `n_bins` < 1.

    Example:
        >>> from torch import tensor
        >>> expected_calibration_error(tensor([0.75, 0.75, 0.25]), tensor([1, 0, 0]))
        tensor(0.2500, dtype=torch.float64)
    """
    _check_n_bins(n_bins)
    liked = _checked_labels("probabilities", probabilities, labels)
    _check_probabilities("probabilities", probabilities)
    probabilities = probabilities.double()
    inner_edges = torch.arange(1, n_bins, device=probabilities.device).double() / n_bins  # (n_bins - 1,)
    bins = torch.bucketize(probabilities, inner_edges)  # (N,)
    stated = torch.bincount(bins, weights=probabilities, minlength=n_bins)  # (n_bins,)
    observed = torch.bincount(bins, weights=liked.double(), minlength=n_bins)  # (n_bins,)
    return (stated - observed).double().abs().sum() / len(liked)  # 0 / 0 = NaN


def optimal_temperature(logits: Tensor, labels: Tensor) -> Tensor:
    """Find the T with the smallest negative log-likelihood of sigmoid(logits / T) (Guo et al., ICML 2017, section 4.2).

    Above 1 the model is overconfident, below 1 underconfident; the ranking is the same for every T. The loss is convex
    in 1 / T, so there is one minimum, found by bisection. Where it does not lie inside (0, inf):

    - 0: every logit has the right sign (the classes are separated at 0), so sharper is always better.
    - inf: `sum((2 * labels - 1) * logits) <= 0`: on average the logits point the wrong way, and 1/2 is better.
    - NaN: one class is absent, or all logits are 0 and every T gives the same loss.

    Args:
        logits: Float `(N,)`, finite; `z_yes - z_no`.
        labels: `(N,)` of 0 and 1.

    Returns:
        Float64 scalar in [0, inf], or NaN.

    Raises:
        ValueError: If shapes differ, a logit is not finite, or `labels` is not binary.

    Example:
        >>> from torch import tensor
        >>> optimal_temperature(tensor([2.0, 2.0, 2.0, -2.0]), tensor([1, 1, 0, 0]))  # 2 / ln(3)
        tensor(1.8205, dtype=torch.float64)
    """
    liked = _checked_labels("logits", logits, labels)
    _check_finite("logits", logits)
    logits = logits.double()
    if liked.all() or not liked.any():
        return logits.new_tensor(math.nan)
    margins = torch.where(liked, logits, -logits)  # (N,) above 0 where the sign is right
    largest = margins.abs().max()
    if largest == 0:
        return logits.new_tensor(math.nan)
    margins = margins / largest
    if (margins >= 0).all():
        return logits.new_tensor(0.0)
    if margins.sum() <= _ROUNDING * margins.abs().sum():
        return logits.new_tensor(math.inf)
    return largest / _best_sharpness(margins)


def _best_sharpness(margins: Tensor) -> float:
    """Find the root a = 1 / T of sum(m * sigmoid(-m * a)), the negative slope of the loss, which falls through 0.

    The bracket is exact: the slope is -sum(m) / 2 at a = 0 and grows by at most sum(m^2) / 4 per unit of a; and beyond
    2 N / (e * sum of wrong margins) the right ones, each below 1 / (e * a), cannot balance the wrong ones.

    Args:
        margins: Float64 `(N,)`, largest magnitude 1, some below 0, with a sum above 0.
    """
    low = math.log(2 * margins.sum().item() / margins.square().sum().item())
    high = math.log(2 * len(margins) / math.e) - math.log(-margins[margins < 0].sum().item())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if (margins * torch.sigmoid(-margins * math.exp(middle))).sum() > 0:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


class CalibrationMetrics(StableDtypeMetric):
    """Calibration of the probability of a like over everything seen by all processes.

    Logits are kept as float32, 4 bytes each, and sorted before they are summed, so that results do not depend on
    batches or processes, down to the last digit.

    Args:
        n_bins: Bins of the calibration error, at least 1.
        **kwargs: Settings of `torchmetrics.Metric`.

    Example:
        >>> metric = CalibrationMetrics()
        >>> metric.update(torch.tensor([2.0, 2.0, 2.0, -2.0]), torch.tensor([1, 1, 0, 0]))
        >>> metric.compute()["temperature"]
        tensor(1.8205, dtype=torch.float64)
    """

    higher_is_better = None
    liked: list[Tensor]
    not_liked: list[Tensor]
    mass: list[Tensor]

    def __init__(self, n_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_n_bins(n_bins)
        self.n_bins = n_bins
        self.add_state("liked", [], dist_reduce_fx="cat")
        self.add_state("not_liked", [], dist_reduce_fx="cat")
        self.add_state("mass", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, relevance: Tensor, mask: Tensor | None = None, mass: Tensor | None = None) -> None:
        """Add targets; give every target once, on one process.

        Args:
            logits: Float, any shape, usually `(B, C)`; `z_yes - z_no`, finite where not masked.
            relevance: Same shape, 1 for liked targets and 0 for others.
            mask: Bool, same shape, False at padding; None if there is no padding.
            mass: Float, same shape, from `yes_no_mass`; None for a model without a vocabulary.

        Raises:
            ValueError: If shapes differ, `mask` is not bool, an unmasked logit is not finite, `relevance` is not
                binary, or an unmasked mass is outside [0, 1].
        """
        mask = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask
        shapes = [tuple(x.shape) for x in (logits, relevance, mask, logits if mass is None else mass)]
        if len(set(shapes)) > 1:
            raise ValueError(f"logits, relevance, mask, mass: shapes {shapes} differ; give all the same shape")
        check_bool_mask(mask)
        kept = logits[mask].detach().float()  # (N,)
        liked = _checked_labels("logits", kept, relevance[mask], "relevance")
        _check_finite("logits", kept)
        if mass is not None:
            _check_probabilities("mass", mass[mask])
            self.mass.append(mass[mask].detach().float())  # as predictions are stored, from which a test may go on
        self.liked.append(kept[liked])
        self.not_liked.append(kept[~liked])

    def compute(self) -> dict[str, Tensor]:
        """Compute the calibration over everything seen by all processes.

        Returns:
            `ece`: `expected_calibration_error`, in [0, 1]. `temperature`: `optimal_temperature`, in [0, inf], fitted to
            the same targets that it describes, so a diagnosis and not an improvement to claim. `mean_probability` and
            `share_liked`: in [0, 1], equal if the model is right on average. `yes_no_mass`: mean over the `n_mass`
            targets that have one. `n_targets`: number of targets. All float64, NaN where undefined.
        """
        logits = torch.cat([self.joined(name).sort().values for name in ("liked", "not_liked")])  # (N,)
        labels = torch.arange(len(logits), device=logits.device) < len(self.joined("liked"))  # (N,)
        probabilities = logits.double().sigmoid()  # (N,)
        mass = self.joined("mass").sort().values.double()  # (n_mass,), sorted: its mean depends on no order
        return {
            "ece": expected_calibration_error(probabilities, labels, self.n_bins),
            "temperature": optimal_temperature(logits, labels),
            "mean_probability": probabilities.mean(),
            "share_liked": labels.double().mean(),
            "yes_no_mass": mass.mean(),
            "n_targets": probabilities.new_tensor(len(logits)),
            "n_mass": probabilities.new_tensor(len(mass)),
        }


def _checked_labels(name: str, values: Tensor, labels: Tensor, labels_name: str = "labels") -> Tensor:
    """Check the labels of `values` and return them as bool `(N,)`."""
    if values.ndim != 1 or values.shape != labels.shape:
        shapes = f"{tuple(values.shape)} and {tuple(labels.shape)}"
        raise ValueError(
            f"{name}, {labels_name}: shapes {shapes} must be the same (N,); drop padding first, as in values[mask]"
        )
    odd = (labels != 0) & (labels != 1)
    if odd.any():
        raise ValueError(f"{labels_name}={labels[odd][0].item()}: not binary; turn ratings into labels 0 and 1 first")
    return labels == 1


def _check_finite(name: str, values: Tensor) -> None:
    bad = ~values.isfinite()
    if bad.any():
        raise ValueError(
            f"{name}={values[bad][0].item()}: {int(bad.sum())} of {values.numel()} values are not finite; leave out "
            "items that a retriever missed or, without a retriever, look for an overflow in the model"
        )


def _check_probabilities(name: str, values: Tensor) -> None:
    bad = ~((values >= 0) & (values <= 1))  # NaN too
    if bad.any():
        raise ValueError(
            f"{name}={values[bad][0].item()}: not a probability; give numbers from 0 to 1, and turn logits into "
            "probabilities with torch.sigmoid first"
        )


def _check_n_bins(n_bins: int) -> None:
    if n_bins < 1:
        raise ValueError(f"n_bins={n_bins}: too small; give 1 or more, such as 15")
