"""What the recommender is trained for: one of the losses, and others that are added with a weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import torch

from mllm_srec.models import losses
from mllm_srec.types import CandidateBatch, ConfigError, check_literals

LossName = Literal["response", "pairwise", "listwise", "dpo", "softmax_dpo"]
WITH_REFERENCE = ("dpo", "softmax_dpo")
"""Losses that compare the model with itself, its adapters off."""


@dataclass(frozen=True)
class AddedLosses:
    """Weights of losses that are added to `model.loss`; 0 adds nothing.

    Args:
        response: Weight of the cross-entropy of the answer.
        pairwise: Weight of the log-sigmoid of differences of scores.
        listwise: Weight of the softmax over a group's scores.
        dpo: Weight of DPO.
        softmax_dpo: Weight of DPO against all other targets at once.
    """

    response: float = 0.0
    pairwise: float = 0.0
    listwise: float = 0.0
    dpo: float = 0.0
    softmax_dpo: float = 0.0

    def __post_init__(self) -> None:
        """Refuse weights that would train for the opposite, or for nothing."""
        for name, weight in asdict(self).items():
            if not 0 <= weight < math.inf:
                raise ConfigError(f"added_losses.{name}={weight}: must be at least 0; give 0 to leave it out")


@dataclass(frozen=True)
class Objective:
    """A loss and those that are added to it.

    Attributes:
        loss: The loss whose weight is 1.
        added: Weights of the others.
        dpo_beta: Beta of DPO in both forms.
    """

    loss: LossName = "response"
    added: AddedLosses = AddedLosses()
    dpo_beta: float = 0.1

    def __post_init__(self) -> None:
        """Refuse an unknown loss, one that is added to itself, and a beta that teaches nothing."""
        check_literals(self, "model")
        if weight := getattr(self.added, self.loss):
            raise ConfigError(
                f"model.added_losses.{self.loss}={weight}: is added to model.loss={self.loss!r}, which is the same "
                "with weight 1; give weights of the others"
            )
        if not 0 < self.dpo_beta < math.inf:
            raise ConfigError(f"model.dpo_beta={self.dpo_beta}: must be above 0; give a number such as 0.1")

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each loss that takes part, `loss` first."""
        return {self.loss: 1.0, **{name: weight for name, weight in asdict(self.added).items() if weight}}

    @property
    def ranks(self) -> bool:
        """True if targets of a group are compared, so that it needs a liked one and another."""
        return any(name != "response" for name in self.weights)

    @property
    def has_reference(self) -> bool:
        """True if the scores without adapters take part."""
        return any(name in WITH_REFERENCE for name in self.weights)

    @property
    def states_probabilities(self) -> bool:
        """True if the answer is trained, so that `sigmoid(z_yes - z_no)` is a probability of a like."""
        return "response" in self.weights

    def ranking_losses(
        self, scores: torch.Tensor, reference: torch.Tensor | None, batch: CandidateBatch
    ) -> dict[str, torch.Tensor]:
        """Compute the losses that rank, each as a mean over the groups that can be compared.

        Args:
            scores: `(B, C)`.
            reference: Scores `(B, C)` without adapters; None where `has_reference` is false.
            batch: Its `relevance` and `candidate_mask` are read.
        """
        functions: dict[str, Callable[..., torch.Tensor]] = {"pairwise": losses.pairwise, "listwise": losses.listwise}
        if reference is not None:
            functions["dpo"] = partial(losses.dpo, reference=reference, beta=self.dpo_beta)
            functions["softmax_dpo"] = partial(losses.softmax_dpo, reference=reference, beta=self.dpo_beta)
        targets = {"relevance": batch["relevance"], "mask": batch["candidate_mask"]}
        return {
            name: losses.mean_of_comparable(functions[name](scores, **targets), **targets)
            for name in self.weights
            if name != "response"
        }

    def total(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        """Add the losses up with their weights.

        Args:
            parts: Every loss of `weights` by name.
        """
        return torch.stack([weight * parts[name] for name, weight in self.weights.items()]).sum()


def probabilities_note(objective: Objective, n_negatives: int) -> str | None:
    """Say what `sigmoid(z_yes - z_no)` is not, after training that changes its meaning; None where nothing does.

    Args:
        objective: What was trained.
        n_negatives: `data.n_train_negatives`.
    """
    if not objective.states_probabilities:
        return (
            f"model.loss={objective.loss} trains the order of targets and not the answer: probabilities, their "
            "calibration and the mass of Yes and No are not those of a like"
        )
    if n_negatives > 1:
        return (
            f"the answer was trained with {n_negatives} negatives to a like (data.n_train_negatives), so probabilities "
            f"are those of a like among {n_negatives + 1} such items; for pairs of two, add log({n_negatives}) = "
            f"{math.log(n_negatives):.3f} to z_yes - z_no"
        )
    return None
