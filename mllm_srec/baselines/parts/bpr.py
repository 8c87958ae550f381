"""Shared parts of models trained on pairs: the BPR loss, and item features as tensors with masks.

Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mllm_srec.baselines.parts.train_data import ItemFeatures
from mllm_srec.types import ConfigError


def bpr_loss(positive: Tensor, negative: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the mean of -log sigmoid(positive - negative) (BPR, section 4.1, without the regulariser).

    Args:
        positive: `(B,)` scores of liked items.
        negative: `(B,)` scores of sampled negatives.
        mask: `(B,)`, 1 for pairs that count and 0 for others; None to count all.

    Returns:
        A scalar of at least 0; ln 2 if both scores are equal; 0 if no pair counts.
    """
    losses = functional.softplus(negative - positive)  # (B,)
    return losses.mean() if mask is None else (losses * mask).sum() / mask.sum().clamp(min=1)


def feature_tensors(features: ItemFeatures, modality: str, model: str) -> tuple[Tensor, Tensor]:
    """Convert the features of one modality to tensors.

    Args:
        features: Features of the items.
        modality: `image` or `text`.
        model: Name of the model, for the error message.

    Returns:
        Values `(N + 1, F)` float32, zero where missing, and a mask `(N + 1,)` float32, 1 where there is a feature.

    Raises:
        ConfigError: If no item has features of this modality.
    """
    values, has = (features.image, features.has_image) if modality == "image" else (features.text, features.has_text)
    if not has.any():
        raise ConfigError(
            f"{model} needs {modality} features, but no item of {features.source!r} has any; give items with {modality}"
            " features, or choose another model"
        )
    return torch.from_numpy(values).float(), torch.from_numpy(has).float()
