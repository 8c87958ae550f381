"""Whether sigmoid(z_yes - z_no) is a probability: calibration error, best temperature, mass left on the two answers.

A model can rank well and be badly calibrated: AUC, HR and NDCG do not change when all logits are doubled, these do.
All of it describes the targets it was measured on. Their share of likes is set by how negatives were drawn (one half
with one negative for each like), so a probability calibrated here is not the probability of a like in the catalogue.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mllm_srec.metrics.base import StableDtypeMetric

_HALVINGS = 64  # of an interval of at most some hundreds in log(1 / T): down to the last digits of float64
_ROUNDING = 1e-14  # a sum this small beside its terms is 0: else the order of addition decides between 1e16 and inf


def yes_no_mass(yes_no_logits: Tensor, log_normalizer: Tensor) -> Tensor:
    """Probability mass that the whole vocabulary leaves on Yes and No, P_yes + P_no.

    The restricted softmax of Eq. 4 hides it: where the mean is small the model wanted to say something else, and the
    ranking comes from noise.

    Args:
        yes_no_logits: float `(..., 2)`, logits of Yes and No.
        log_normalizer: float `(...)`, logsumexp of the logits of all V tokens at the same positions, from the same
            float32 product (V logits rounded to bfloat16 do not fit two exact ones).

    Returns:
        float64 `(...)` in [0, 1], one value per target.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or a mass is above 1 by more than rounding.

    >>> logits = torch.tensor([[2.0, 2.0, 0.0, 0.0]])
    >>> yes_no_mass(logits[:, :2], logits.logsumexp(-1)).item()
    0.88...
    """
    if yes_no_logits.ndim == 0 or yes_no_logits.shape != (*log_normalizer.shape, 2):
        raise ValueError(
            f"yes_no_logits, log_normalizer: got shapes {tuple(yes_no_logits.shape)} and {tuple(log_normalizer.shape)};"
            " accepted are (..., 2) and (...). Give one normaliser per pair of logits."
        )
    _check_finite("yes_no_logits", yes_no_logits)
    _check_finite("log_normalizer", log_normalizer)
    mass = (yes_no_logits.double() - log_normalizer.double()[..., None]).exp().sum(dim=-1)  # (...)
    if (mass > 1.001).any():
        raise ValueError(
            f"log_normalizer: got a mass of {mass.max().item():.4g} on two tokens, at most 1 is possible. Compute it in"
            " float32 over all tokens, at the positions and from the head that gave yes_no_logits."
        )
    return mass.clamp(max=1)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, n_bins: int = 15) -> Tensor:
    """Expected calibration error: mean distance of stated and observed share of likes (Guo et al., ICML 2017, Eq. 3).

    The bins have equal width: (i / n_bins, (i + 1) / n_bins], the first with 0. An empty bin adds nothing. Binned is
    the probability of a like, not the confidence in the likelier answer. The value depends on `n_bins` and, for few
    targets, is above 0 even for a perfect model: compare only values of the same targets and bins.

    Args:
        probabilities: float `(N,)` in [0, 1], of a like.
        labels: `(N,)` of 0 and 1.
        n_bins: Number of bins, at least 1.

    Returns:
        float64 scalar in [0, 1]; NaN for no targets.

    Raises:
        ValueError: If shapes differ, a probability is outside [0, 1], `labels` is not binary, or `n_bins` < 1.

    >>> expected_calibration_error(torch.tensor([0.75, 0.75, 0.25]), torch.tensor([1, 0, 0])).item()
    0.25
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
    """The T that gives sigmoid(logits / T) the smallest negative log-likelihood (Guo et al., ICML 2017, section 4.2).

    Above 1 the model is too sure of itself, below 1 it knows more than it says; the ranking is the same for every T.
    The loss is convex in 1 / T, so there is one minimum, found by bisection. Where it does not lie inside (0, inf):

    - 0: every logit has the right sign (the classes are separated at 0), so sharper is always better.
    - inf: `sum((2 * labels - 1) * logits) <= 0`: on the whole the logits point the wrong way, and 1/2 is better.
    - NaN: one class is absent, or all logits are 0 and no T differs from any other.

    Args:
        logits: float `(N,)`, finite; `z_yes - z_no`.
        labels: `(N,)` of 0 and 1.

    Returns:
        float64 scalar in [0, inf], or NaN.

    Raises:
        ValueError: If shapes differ, a logit is not finite, or `labels` is not binary.

    >>> optimal_temperature(torch.tensor([2.0, 2.0, 2.0, -2.0]), torch.tensor([1, 1, 0, 0])).item()  # 2 / ln(3)
    1.82...
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
    """The root a = 1 / T of sum(m * sigmoid(-m * a)), minus the slope of the loss, which falls from above 0 to below.

    Both ends are known: the slope is -sum(m) / 2 at a = 0 and grows by at most sum(m^2) / 4 per unit of a; and beyond
    2 N / (e * sum of wrong margins) the right ones, each below 1 / (e * a), cannot balance the wrong ones.

    Args:
        margins: float64 `(N,)`, the largest of size 1, some below 0, their sum above 0.
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

    Logits are kept, 4 bytes each, as float32, and put in order before they are summed: neither batches nor processes
    change a digit of what depends on them.

    Args:
        n_bins: Bins of the calibration error, at least 1.
        **kwargs: Passed to `torchmetrics.Metric`.
    """

    higher_is_better = None
    liked: list[Tensor]
    not_liked: list[Tensor]
    mass_sum: Tensor
    n_mass: Tensor

    def __init__(self, n_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_n_bins(n_bins)
        self.n_bins = n_bins
        self.add_state("liked", [], dist_reduce_fx="cat")
        self.add_state("not_liked", [], dist_reduce_fx="cat")
        self.add_state("mass_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n_mass", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, relevance: Tensor, mask: Tensor | None = None, mass: Tensor | None = None) -> None:
        """Add targets; every one must be given once, on one process.

        Args:
            logits: float, any shape, usually `(B, C)`; `z_yes - z_no`, finite where not masked.
            relevance: Same shape, 0 and 1.
            mask: bool, same shape, False at padding; None: no padding.
            mass: float, same shape, from `yes_no_mass`; None for a model that has no vocabulary.

        Raises:
            ValueError: If shapes differ, an unmasked logit is not finite, `relevance` is not binary, or an unmasked
                mass is outside [0, 1].
        """
        mask = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask
        shapes = [tuple(x.shape) for x in (logits, relevance, mask, logits if mass is None else mass)]
        if len(set(shapes)) > 1:
            raise ValueError(f"logits, relevance, mask, mass: got shapes {shapes}; all must be the same.")
        if mask.dtype != torch.bool:
            raise ValueError(f"mask: got dtype {mask.dtype}; it must be torch.bool, True where there is a target.")
        kept = logits[mask].detach().float()  # (N,)
        liked = _checked_labels("logits", kept, relevance[mask], "relevance")
        _check_finite("logits", kept)
        if mass is not None:
            _check_probabilities("mass", mass[mask])
            self.mass_sum += mass[mask].detach().double().sum()
            self.n_mass += mask.sum()
        self.liked.append(kept[liked])
        self.not_liked.append(kept[~liked])

    def compute(self) -> dict[str, Tensor]:
        """Calibration over everything seen by all processes.

        Returns:
            `ece`: `expected_calibration_error`, in [0, 1]. `temperature`: `optimal_temperature`, in [0, inf], fitted to
            the very targets it describes, so a diagnosis and no gain to claim. `mean_probability` and `share_liked`:
            in [0, 1], equal if the model is right on the whole. `yes_no_mass`: mean over the `n_mass` targets that had
            one. `n_targets`: their number. All float64, NaN where undefined.
        """
        logits = torch.cat([self.joined(name).sort().values for name in ("liked", "not_liked")])  # (N,)
        labels = torch.arange(len(logits), device=logits.device) < len(self.joined("liked"))  # (N,)
        probabilities = logits.double().sigmoid()  # (N,)
        return {
            "ece": expected_calibration_error(probabilities, labels, self.n_bins),
            "temperature": optimal_temperature(logits, labels),
            "mean_probability": probabilities.mean(),
            "share_liked": labels.double().mean(),
            "yes_no_mass": self.mass_sum / self.n_mass,
            "n_targets": probabilities.new_tensor(len(logits)),
            "n_mass": self.n_mass.double(),
        }


def _checked_labels(name: str, values: Tensor, labels: Tensor, labels_name: str = "labels") -> Tensor:
    """The labels of `values` as bool `(N,)`."""
    if values.ndim != 1 or values.shape != labels.shape:
        shapes = f"{tuple(values.shape)} and {tuple(labels.shape)}"
        raise ValueError(
            f"{name}, {labels_name}: got shapes {shapes}; both must be the same (N,). Select what is not padding first:"
            " values[mask]."
        )
    odd = (labels != 0) & (labels != 1)
    if odd.any():
        raise ValueError(
            f"{labels_name}: got {labels[odd][0].item()}; accepted are 0 and 1. Turn ratings into labels first."
        )
    return labels == 1


def _check_finite(name: str, values: Tensor) -> None:
    bad = ~values.isfinite()
    if bad.any():
        raise ValueError(
            f"{name}: got {values[bad][0].item()}; {int(bad.sum())} of {values.numel()} values are not finite numbers."
            " Leave out what a retriever missed; if nothing was missed, look for an overflow in the model."
        )


def _check_probabilities(name: str, values: Tensor) -> None:
    bad = ~((values >= 0) & (values <= 1))  # NaN too
    if bad.any():
        raise ValueError(
            f"{name}: got {values[bad][0].item()}; accepted are numbers from 0 to 1. Turn logits into probabilities"
            " with torch.sigmoid first."
        )


def _check_n_bins(n_bins: int) -> None:
    if n_bins < 1:
        raise ValueError(f"n_bins: got {n_bins}; it must be a whole number of at least 1, such as 15.")
