"""VBPR: matrix factorisation with visual item features.

He and McAuley, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI 2016.
s(u, i) = b_i + p_u q_i + theta_u (E f_i) + beta f_i. Global and user biases cancel in BPR and are left out.

Deviations: the loss is a mean over the batch and is minimised by Adam (paper: stochastic steps, pair by pair); features
are L2-normalised CLIP features (paper: 4096 CNN activations); default widths are 64 and 64, as in the toolbox MMRec, so
that models are of similar size (paper: 10 and 10). An item without a picture (or text) gets a learnt feature, one per
modality. A user without likes in the train split is scored by the item terms only.

To follow MMRec: `bias=False` leaves out b_i and beta, `modality=both` appends text features.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from mllm_srec.baselines.base import DotProductRecommender
from mllm_srec.baselines.parts.bpr import bpr_loss, feature_tensors
from mllm_srec.baselines.parts.negatives import NegativeSampler
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_choice
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import ItemBatch, TrainBatch

Modality = Literal["image", "both"]


class ModalityFeatures(nn.Module):
    """Frozen features of a modality, with a learnt vector for items that have none.

    Args:
        values: `(N + 1, F)` float32 features; row 0 is padding.
        mask: `(N + 1,)` float32, 1 where an item has the feature.
    """

    values: Tensor
    mask: Tensor

    def __init__(self, values: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("mask", mask[:, None], persistent=False)
        missing = bool((mask[1:] == 0).any())  # otherwise nothing would ever train it
        self.missing = nn.Parameter(torch.zeros(values.shape[1])) if missing else None

    def forward(self, items: Tensor) -> Tensor:
        """Look up the features `(..., F)` of item numbers `(...)`."""
        values = self.values[items]
        return values if self.missing is None else values + (1 - self.mask[items]) * self.missing


class VBPR(DotProductRecommender):
    """Matrix factorisation with an additional visual factor of the items.

    Args:
        hidden: d, width of p and q.
        visual_hidden: d', width of theta and E f.
        modality: Features of an item: `image`, or `both` for image and text.
        bias: True to have the biases b and beta.
        reg: lambda, weight of the squared norms of p, q, theta and b of a triple.
        reg_visual: lambda_E, weight of the squared norms of E and beta.
        **kwargs: `lr`, `weight_decay`, `max_history` and `patience` of `ItemRecommender`.

    Raises:
        ConfigError: If a setting is out of range.
    """

    unit: ClassVar = "targets"
    needs_features: ClassVar[bool] = True
    learns_users: ClassVar[bool] = True
    has_likes: Tensor

    def __init__(
        self,
        hidden: int = 64,
        visual_hidden: int = 64,
        modality: Modality = "image",
        bias: bool = True,
        reg: float = 1e-4,
        reg_visual: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(1, hidden=hidden, visual_hidden=visual_hidden)
        check_at_least(0, reg=reg, reg_visual=reg_visual)
        check_choice(get_args(Modality), modality=modality)
        self.hidden, self.visual_hidden, self.modality, self.bias = hidden, visual_hidden, modality, bias
        self.reg, self.reg_visual = reg, reg_visual

    def build(self, train: TrainData) -> None:
        """Make p and theta (as one matrix), q, E and the biases."""
        modalities = ("image",) if self.modality == "image" else ("image", "text")
        pairs = [feature_tensors(self.features, name, type(self).__name__) for name in modalities]
        self.inputs = nn.ModuleList(ModalityFeatures(values, mask) for values, mask in pairs)
        width = sum(values.shape[1] for values, _ in pairs)  # F
        self.users = nn.Embedding(train.n_users + 1, self.hidden + self.visual_hidden)
        self.items = nn.Embedding(train.n_items + 1, self.hidden)
        self.projection = nn.Linear(width, self.visual_hidden, bias=False)  # E
        for weight in (self.users.weight, self.items.weight, self.projection.weight):
            nn.init.xavier_uniform_(weight)
        self.b = nn.Parameter(torch.zeros(train.n_items + 1)) if self.bias else None
        self.beta = nn.Parameter(torch.zeros(width)) if self.bias else None
        self.negatives = NegativeSampler(train)
        has_likes = np.isin(np.arange(train.n_users + 1), train.likes[0])
        self.register_buffer("has_likes", torch.from_numpy(has_likes).float(), persistent=False)  # (U + 1,)

    def loss(self, batch: TrainBatch) -> Tensor:
        """Compute the BPR loss with one sampled negative per liked item, plus both regularisers."""
        liked = batch["target"]
        unseen = self.negatives(batch["user"], 1)[:, 0]  # (B,)
        user = self.users(batch["user"])  # (B, D)
        positive, negative = ((user * self._vectors(items)).sum(-1) for items in (liked, unseen))
        squares = user.square().sum() + self.items(liked).square().sum() + self.items(unseen).square().sum()
        visual = self.projection.weight.square().sum()
        if self.b is not None and self.beta is not None:
            positive, negative = positive + self._bias(liked), negative + self._bias(unseen)
            squares = squares + self.b[liked].square().sum() + self.b[unseen].square().sum()
            visual = visual + self.beta.square().sum()
        penalty: Tensor = self.reg * squares / len(liked) + self.reg_visual * visual
        return bpr_loss(positive, negative) + penalty

    def query(self, batch: ItemBatch) -> Tensor:
        """Look up p and theta `(B, D)`; zero for a user without likes in the train split."""
        vectors: Tensor = self.users(batch["user"]) * self.has_likes[batch["user"]][:, None]
        return vectors

    def item_vectors(self) -> Tensor:
        """Compute q and E f of all items `(N + 1, D)`."""
        return self._vectors(torch.arange(len(self.items.weight), device=self.items.weight.device))

    def item_bias(self) -> Tensor | None:
        """Compute the biases b + beta f of all items `(N + 1,)`; None without biases."""
        return None if self.b is None else self._bias(torch.arange(len(self.b), device=self.b.device))

    def _features(self, items: Tensor) -> Tensor:
        """Features f `(B, F)` of item numbers `(B,)`."""
        return torch.cat([inputs(items) for inputs in self.inputs], dim=-1)

    def _vectors(self, items: Tensor) -> Tensor:
        """Vectors q and E f `(B, D)` of item numbers `(B,)`."""
        return torch.cat([self.items(items), self.projection(self._features(items))], dim=-1)

    def _bias(self, items: Tensor) -> Tensor:
        """Biases b + beta f `(B,)` of item numbers `(B,)`; zero without biases."""
        if self.b is None or self.beta is None:
            return self.items.weight.new_zeros(items.shape)
        return self.b[items] + self._features(items) @ self.beta
