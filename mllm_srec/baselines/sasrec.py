"""SASRec: the next item from self-attention over the items before it.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018. Losses beyond the paper: `gbce` of gSASRec
(Petrov and Macdonald, RecSys 2023), and cross-entropy over all items, with which SASRec is far stronger than with its
own loss (Klenitskiy and Vasilev, RecSys 2023): publish both `loss=bce` and `loss=ce`.

What differs from the paper, and why:

- `norm=pre` (x + f(LN(x))), which the paper's formula says and which later work found better. The authors' code adds
  the sublayer to the *normalised* queries instead, and reads keys and values from unnormalised states: `norm=original`.
- `hidden=64` in place of 50, as all models here.
- Embeddings are multiplied by sqrt(D), as in the authors' code; the paper does not say so.
- Dropout is on embeddings and on the output of sublayers (the paper's section 3.3); the authors' code drops attention
  weights and the hidden layer of the feed-forward network instead.
- Negatives of `bce` and `gbce` have no interaction with the user in the train split, liked or not. So neither loss puts
  the items of a history below others: rank without what the user has seen. `ce` and `sampled_softmax` do push a user's
  other items down, which costs where users know a good part of the catalogue: `spare_known=True` leaves them out of the
  softmax of `ce` (on MovieLens, 50 of 300 films known, NDCG@10 .154 with it, .135 without, `bce` .134).

Positions are counted from the right end, as the paper's padding to a fixed length does: the item just before the target
is always at the same place. So every user trains the place from which all questions are asked; counted from the first
item, long histories would ask from places that few users ever trained. Left padding changes nothing either way.

An empty history has the vector of an empty sequence: the bias of the last norm, which is what all contexts share. It
orders items nearly by popularity (rank correlation .91 to .96 on a synthetic world, after 300 steps).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mllm_srec.baselines.parts.attention import MultiHeadAttention, attention_mask
from mllm_srec.baselines.parts.losses import bce, full_cross_entropy, gbce, sampled_softmax
from mllm_srec.baselines.parts.negatives import KnownItems, NegativeSampler
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_choice, check_heads, check_share
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.baselines.sequence_base import SequenceEncoder
from mllm_srec.types import ConfigError, TrainBatch

Norm = Literal["pre", "original"]
Loss = Literal["bce", "ce", "gbce", "sampled_softmax"]

BETAS = (0.9, 0.98)
"""Of Adam, in the authors' code."""


class SASRecBlock(nn.Module):
    """Causal self-attention, then a feed-forward network at each position; eq. 3 to 6, section 3.3."""

    def __init__(self, hidden: int, n_heads: int, inner: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.norm: Norm = norm
        self.attention = MultiHeadAttention(hidden, n_heads, project=False)
        self.feed_forward = nn.Sequential(nn.Linear(hidden, inner), nn.ReLU(), nn.Linear(inner, hidden))
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States `(B, S, D)` after the block; `mask` as of `attention_mask`."""
        normed = self.attention_norm(states)
        original = self.norm == "original"
        found = self.attention(normed, states if original else normed, mask)  # (B, S, D)
        states = (normed if original else states) + self.dropout(found)
        normed = self.feed_forward_norm(states)
        output: Tensor = (normed if original else states) + self.dropout(self.feed_forward(normed))
        return output


class SASRec(SequenceEncoder):
    """Self-attentive sequential recommendation.

    Args:
        hidden: D, of items and states.
        n_layers: Blocks.
        n_heads: Attention heads; they are not mixed by a further projection, as in the authors' code.
        inner: Width of the feed-forward network; None is D (the paper), not 4 D.
        dropout: Of embeddings and sublayers; 0.5 suits sparse data, 0.2 dense data (section 4.4).
        norm: `pre`, or the authors' order of operations, `original`.
        loss: `bce` is the paper's, with one negative; `ce` is over all items.
        n_negatives: Of `gbce` (for each position) and of `sampled_softmax` (shared by the batch).
        gbce_t: Calibration of `gbce`, from 0 (none) to 1.
        spare_known: Only with `ce`: leave the user's other items of the train split, liked or not, out of the softmax.
        kwargs: `lr`, `weight_decay`, `max_history`, `patience` of `ItemRecommender`.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        hidden: int = 64,
        n_layers: int = 2,
        n_heads: int = 1,
        inner: int | None = None,
        dropout: float = 0.5,
        norm: Norm = "pre",
        loss: Loss = "bce",
        n_negatives: int = 256,
        gbce_t: float = 0.75,
        spare_known: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden, self.n_layers, self.n_heads = hidden, n_layers, n_heads
        self.inner = hidden if inner is None else inner
        check_at_least(1, hidden=hidden, n_layers=n_layers, inner=self.inner, n_negatives=n_negatives)
        check_heads(hidden, n_heads)
        check_share(dropout=dropout, below_one=True)
        check_share(gbce_t=gbce_t)
        check_choice(get_args(Norm), norm=norm)
        check_choice(get_args(Loss), loss=loss)
        if spare_known and loss != "ce":
            raise ConfigError(f"spare_known=true is for loss='ce'; got loss={loss!r}, whose negatives are drawn")
        self.norm, self.loss_name, self.n_negatives, self.gbce_t = norm, loss, n_negatives, gbce_t
        self.spare_known = spare_known
        self.dropout = nn.Dropout(dropout)

    def build(self, train: TrainData) -> None:
        """Make embeddings and blocks with Xavier's initial weights (the authors' code)."""
        if self.loss_name == "gbce" and self.n_negatives >= train.n_items:
            raise ConfigError(f"n_negatives={self.n_negatives}; gbce needs fewer than the {train.n_items} items")
        if self.loss_name in ("bce", "gbce"):
            self.sampler = NegativeSampler(train)
        if self.spare_known:
            self.known = KnownItems(train)
        self.items = nn.Embedding(train.n_items + 1, self.hidden, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(self.max_history, self.hidden))  # the last row is the latest item's
        sizes = (self.hidden, self.n_heads, self.inner, self.dropout.p, self.norm)
        self.blocks = nn.ModuleList(SASRecBlock(*sizes) for _ in range(self.n_layers))
        self.last_norm = nn.LayerNorm(self.hidden)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                nn.init.xavier_normal_(weight)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        with torch.no_grad():
            self.items.weight[0] = 0  # padding

    def encode(self, history: Tensor) -> Tensor:
        """See `SequenceEncoder`: `(B, S, D)`."""
        real = history > 0  # (B, S)
        mask, kept = attention_mask(real, causal=True), real[..., None]  # (B, 1, S, S), (B, S, 1)
        places = self.positions[self.max_history - history.shape[1] :]  # (S, D)
        states = self.dropout(self.items(history) * self.hidden**0.5 + places) * kept  # (B, S, D)
        for block in self.blocks:
            states = block(states, mask) * kept
        encoded: Tensor = self.last_norm(states)
        return encoded

    def loss(self, batch: TrainBatch) -> Tensor:
        """Loss of predicting, at every position of the sequence, the item that follows."""
        inputs, following = self.steps(batch)  # (B, S)
        valid = inputs > 0
        queries, targets = self.encode(inputs)[valid], following[valid]  # (P, D), (P,)
        if self.loss_name == "ce":
            left_out = self.known.mask(batch["user"])[valid.nonzero()[:, 0]] if self.spare_known else None  # (P, N)
            return full_cross_entropy(queries, self.items.weight[1:], targets - 1, left_out=left_out)
        if self.loss_name == "sampled_softmax":
            return self._sampled_softmax(queries, targets)
        n_negatives = self.n_negatives if self.loss_name == "gbce" else 1
        drawn = self.sampler(batch["user"][:, None].expand_as(inputs)[valid], n_negatives)  # (P, K)
        positive = (queries * self.items(targets)).sum(dim=-1)  # (P,)
        negatives = torch.einsum("pd,pkd->pk", queries, self.items(drawn))  # (P, K)
        if self.loss_name == "gbce":
            return gbce(positive, negatives, len(self.items.weight) - 1, self.gbce_t)
        return bce(positive, negatives)

    def _sampled_softmax(self, queries: Tensor, targets: Tensor) -> Tensor:
        """Negatives are shared by the batch: one product in place of P x K gathered vectors."""
        n_items = len(self.items.weight) - 1
        drawn = torch.randint(1, n_items + 1, (self.n_negatives,), device=queries.device)  # (K,)
        positive = (queries * self.items(targets)).sum(dim=-1)  # (P,)
        negatives = queries @ self.items(drawn).T  # (P, K)
        return sampled_softmax(positive, negatives, targets[:, None] == drawn, n_items)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with the authors' betas."""
        return torch.optim.Adam(self.parameters(), lr=self.lr, betas=BETAS, weight_decay=self.weight_decay)
