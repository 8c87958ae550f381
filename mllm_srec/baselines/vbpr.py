"""VBPR: He and McAuley, Visual Bayesian Personalized Ranking from Implicit Feedback, AAAI 2016.

s(u, i) = b_i + p_u q_i + theta_u (E f_i) + beta f_i. Global and user biases cancel in BPR, and are left out.

Deviations: the loss is a mean over the batch and is minimised by Adam, where the paper takes stochastic steps pair by
pair; features are L2-normalised CLIP features in place of 4096 CNN activations; default widths are 64 and 64 as in the
toolbox MMRec, so that models are of like size, where the paper has 10 and 10. An item without a picture (or text) gets
a learnt feature, one for the modality. A user without likes in the train split is scored by item terms only.

Fidelity: `bias=False` leaves out b_i and beta, as MMRec does; `modality=both` appends text features, as MMRec does.
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
        values: `(N + 1, F)` float32.
        mask: `(N + 1,)` float32, 1 where an item has the feature; row 0 is padding's.
    """

    values: Tensor
    mask: Tensor

    def __init__(self, values: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("mask", mask[:, None], persistent=False)
        missing = bool((mask[1:] == 0).any())  # else nothing would ever train it
        self.missing = nn.Parameter(torch.zeros(values.shape[1])) if missing else None

    def forward(self, items: Tensor) -> Tensor:
        """Features `(..., F)` of item numbers `(...)`."""
        known = self.values[items]
        return known if self.missing is None else known + (1 - self.mask[items]) * self.missing


class VBPR(DotProductRecommender):
    """Matrix factorisation whose items have a visual side too.

    Args:
        hidden: d, width of p and q.
        visual_hidden: d', width of theta and E f.
        modality: Features of an item: its picture, or both its picture and its text.
        bias: Whether there are b and beta.
        reg: lambda, on squared norms of p, q, theta and b of a pair.
        reg_visual: lambda_E, on squared norms of E and beta.
        **kwargs: Settings of `ItemRecommender`.

    Raises:
        ConfigError: A setting is out of range.
    """

    unit: ClassVar = "targets"
    needs_features: ClassVar[bool] = True
    known: Tensor

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
        """Make p and theta as one matrix, q, E, and the biases."""
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
        known = np.isin(np.arange(train.n_users + 1), train.likes[0])
        self.register_buffer("known", torch.from_numpy(known).float(), persistent=False)  # (U + 1,)

    def loss(self, batch: TrainBatch) -> Tensor:
        """BPR with one unseen item for each liked one, plus both regularisers."""
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
        """Vectors p and theta `(B, D)`; zero for a user without likes in the train split."""
        vectors: Tensor = self.users(batch["user"]) * self.known[batch["user"]][:, None]
        return vectors

    def item_vectors(self) -> Tensor:
        """Vectors q and E f `(N + 1, D)`."""
        return self._vectors(torch.arange(len(self.items.weight), device=self.items.weight.device))

    def item_bias(self) -> Tensor | None:
        """Biases b + beta f `(N + 1,)`."""
        return None if self.b is None else self._bias(torch.arange(len(self.b), device=self.b.device))

    def _features(self, items: Tensor) -> Tensor:
        """Features f `(B, F)` of item numbers `(B,)`."""
        return torch.cat([inputs(items) for inputs in self.inputs], dim=-1)

    def _vectors(self, items: Tensor) -> Tensor:
        """Vectors q and E f `(B, D)` of item numbers `(B,)`."""
        return torch.cat([self.items(items), self.projection(self._features(items))], dim=-1)

    def _bias(self, items: Tensor) -> Tensor:
        """Biases b + beta f `(B,)` of item numbers `(B,)`; only where there are biases."""
        if self.b is None or self.beta is None:
            return self.items.weight.new_zeros(items.shape)
        return self.b[items] + self._features(items) @ self.beta
