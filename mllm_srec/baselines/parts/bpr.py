"""What models of pairs share: the loss of Bayesian personalised ranking, and item features with their masks.

Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mllm_srec.baselines.parts.train_data import ItemFeatures
from mllm_srec.types import ConfigError


def bpr_loss(positive: Tensor, negative: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of -log sigmoid(positive - negative) (BPR, section 4.1, without the regulariser).

    Args:
        positive: Scores of liked items `(B,)`.
        negative: Scores of unseen items `(B,)`.
        mask: `(B,)`, 1 for pairs that count, 0 for others; None counts all.

    Returns:
        A scalar, at least 0; ln 2 where both score alike; 0 where no pair counts.
    """
    losses = functional.softplus(negative - positive)  # (B,)
    return losses.mean() if mask is None else (losses * mask).sum() / mask.sum().clamp(min=1)


def feature_tensors(features: ItemFeatures, modality: str, model: str) -> tuple[Tensor, Tensor]:
    """Features of a modality and who has them.

    Args:
        features: Of the items.
        modality: `image` or `text`.
        model: Who asks, for the error.

    Returns:
        Values `(N + 1, F)` float32, zero where missing, and a mask `(N + 1,)` float32, 1 where there is a feature.

    Raises:
        ConfigError: No item has any.
    """
    values, has = (features.image, features.has_image) if modality == "image" else (features.text, features.has_text)
    if not has.any():
        raise ConfigError(f"{model} needs {modality} features, but no item of {features.source!r} has any")
    return torch.from_numpy(values).float(), torch.from_numpy(has).float()
