"""SASRec: the next item from self-attention over the items before it.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018. Losses beyond the paper: `gbce` of gSASRec
(Petrov and Macdonald, RecSys 2023), and cross-entropy over all items, with which SASRec is far stronger than with its
own loss (Klenitskiy and Vasilev, RecSys 2023): publish both `loss=bce` and `loss=ce`. Two later models are settings of
this one: gSASRec is `loss=gbce`, and eSASRec (Tikhonovich et al., RecSys 2025), the best of a comparison of parts, is
`block=ligr` with `loss=sampled_softmax`; the authors' has no norm after the last block, here all have one.

Deviations from the paper, with reasons:

- `norm=pre` (x + f(LN(x))) is the paper's formula, and later work found it better. The authors' code instead adds the
  sublayer to the *normalised* queries, and computes keys and values from unnormalised states: `norm=original`.
- `hidden=64` instead of 50, as in all models here.
- Embeddings are multiplied by sqrt(D), as in the authors' code; the paper does not mention it.
- Dropout is on embeddings and on the output of sublayers (the paper's section 3.3); the authors' code applies it to
  attention weights and to the hidden layer of the feed-forward network instead.
- Negatives of `bce` and `gbce` have no interaction with the user in the train split, liked or not. So neither loss
  ranks the items of a history below others: exclude seen items when ranking. `ce` and `sampled_softmax` do push a
  user's other items down, which hurts where users have seen much of the catalogue: `spare_known=True` leaves them out
  of the softmax of `ce` (on MovieLens, 50 of 300 films seen, NDCG@10 .154 with it, .135 without, `bce` .134).

Positional embeddings count from the right end, like the paper's padding to a fixed length: the item just before the
target always has the same position. So every user trains the position that predicts the next item; counted from the
first item, long histories would predict from positions that few users ever trained. Left padding changes nothing.

An empty history is encoded as the bias of the last norm, which all contexts share. It orders items nearly by popularity
(rank correlation .91 to .96 on a synthetic world, after 300 steps).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from mllm_srec.baselines.base import SequenceEncoder
from mllm_srec.baselines.parts.attention import MultiHeadAttention, attention_mask
from mllm_srec.baselines.parts.ligr import LiGRBlock
from mllm_srec.baselines.parts.losses import bce, full_cross_entropy, gbce, sampled_softmax
from mllm_srec.baselines.parts.negatives import KnownItems, NegativeSampler
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_choice, check_heads, check_share
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import ConfigError, TrainBatch

Norm = Literal["pre", "original"]
Loss = Literal["bce", "ce", "gbce", "sampled_softmax"]
Block = Literal["sasrec", "ligr"]

BETAS = (0.9, 0.98)
"""Betas of Adam in the authors' code."""


class SASRecBlock(nn.Module):
    """Causal self-attention, then a position-wise feed-forward network; eq. 3 to 6, section 3.3."""

    def __init__(self, hidden: int, n_heads: int, inner: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.norm: Norm = norm
        self.attention = MultiHeadAttention(hidden, n_heads, project=False)
        self.feed_forward = nn.Sequential(nn.Linear(hidden, inner), nn.ReLU(), nn.Linear(inner, hidden))
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Apply the block to states `(B, S, D)`, with a mask from `attention_mask`."""
        normed = self.attention_norm(states)
        original = self.norm == "original"
        attended = self.attention(normed, states if original else normed, mask)  # (B, S, D)
        states = (normed if original else states) + self.dropout(attended)
        normed = self.feed_forward_norm(states)
        output: Tensor = (normed if original else states) + self.dropout(self.feed_forward(normed))
        return output


class SASRec(SequenceEncoder):
    """Self-attentive sequential recommendation.

    Args:
        hidden: D, width of item embeddings and states.
        n_layers: Number of blocks.
        n_heads: Number of attention heads; as in the authors' code, no output projection mixes them.
        inner: Width of the feed-forward network; None for D (the paper), not 4 D; with `block=ligr`, for 4 D.
        dropout: Dropout of embeddings and sublayers; 0.5 suits sparse data, 0.2 dense data (section 4.4).
        norm: `pre`, or the authors' order of operations, `original`.
        loss: `bce` is the paper's, with one negative; `ce` is over all items.
        n_negatives: Number of negatives of `gbce` (for each position) and of `sampled_softmax` (shared by the batch).
        gbce_t: Calibration of `gbce`, from 0 (none) to 1.
        spare_known: Only with `ce`: leave the user's other items of the train split, liked or not, out of the softmax.
        block: Layers: the paper's, or the gated ones of eSASRec, `ligr`, which are always pre-norm.
        **kwargs: `lr`, `weight_decay`, `max_history` and `patience` of `ItemRecommender`.

    Raises:
        ConfigError: If a setting is out of range.
    """

    later_settings: ClassVar[Mapping[str, Any]] = MappingProxyType({"block": "sasrec"})

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
        block: Block = "sasrec",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden, self.n_layers, self.n_heads = hidden, n_layers, n_heads
        check_choice(get_args(Block), block=block)
        self.inner = inner if inner is not None else hidden if block == "sasrec" else 4 * hidden
        check_at_least(1, hidden=hidden, n_layers=n_layers, inner=self.inner, n_negatives=n_negatives)
        check_heads(hidden, n_heads)
        check_share(dropout=dropout, below_one=True)
        check_share(gbce_t=gbce_t)
        check_choice(get_args(Norm), norm=norm)
        check_choice(get_args(Loss), loss=loss)
        if spare_known and loss != "ce":
            raise ConfigError(f"spare_known=true: has no effect on loss={loss!r}; give loss='ce' or spare_known=false")
        if block == "ligr" and norm != "pre":
            raise ConfigError(f"norm={norm!r}: has no effect on block='ligr'; give norm='pre' or block='sasrec'")
        self.block: Block = block
        self.norm, self.loss_name, self.n_negatives, self.gbce_t = norm, loss, n_negatives, gbce_t
        self.spare_known = spare_known
        self.dropout = nn.Dropout(dropout)

    def build(self, train: TrainData) -> None:
        """Make embeddings and blocks with Xavier initialisation (the authors' code).

        Raises:
            ConfigError: If `gbce` has as many negatives as the catalogue has items.
        """
        if self.loss_name == "gbce" and self.n_negatives >= train.n_items:
            raise ConfigError(f"n_negatives={self.n_negatives}: too many; with gbce give fewer than {train.n_items}")
        if self.loss_name in ("bce", "gbce"):
            self.sampler = NegativeSampler(train)
        if self.spare_known:
            self.known = KnownItems(train)
        self.items = nn.Embedding(train.n_items + 1, self.hidden, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(self.max_history, self.hidden))  # the last row is for the latest item
        self.blocks = nn.ModuleList(self._block() for _ in range(self.n_layers))
        self.last_norm = nn.LayerNorm(self.hidden)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                nn.init.xavier_normal_(weight)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        with torch.no_grad():
            self.items.weight[0] = 0  # padding

    def _block(self) -> nn.Module:
        """Make one block."""
        sizes = (self.hidden, self.n_heads, self.inner, self.dropout.p)
        return LiGRBlock(*sizes) if self.block == "ligr" else SASRecBlock(*sizes, self.norm)

    def encode(self, history: Tensor) -> Tensor:
        """Encode every prefix of histories `(B, S)`: `(B, S, D)`, see `SequenceEncoder`."""
        is_item = history > 0  # (B, S)
        mask, kept = attention_mask(is_item, causal=True), is_item[..., None]  # (B, 1, S, S), (B, S, 1)
        positions = self.positions[self.max_history - history.shape[1] :]  # (S, D)
        states = self.dropout(self.items(history) * self.hidden**0.5 + positions) * kept  # (B, S, D)
        for block in self.blocks:
            states = block(states, mask) * kept
        encoded: Tensor = self.last_norm(states)
        return encoded

    def loss(self, batch: TrainBatch) -> Tensor:
        """Compute the loss of predicting the next item at every position of the sequences."""
        inputs, next_items = self.steps(batch)  # (B, S)
        valid = inputs > 0
        queries, targets = self.encode(inputs)[valid], next_items[valid]  # (P, D), (P,)
        if self.loss_name == "ce":
            left_out = self.known.mask(batch["user"])[valid.nonzero()[:, 0]] if self.spare_known else None  # (P, N)
            return full_cross_entropy(queries, self.items.weight[1:], targets - 1, left_out=left_out)
        if self.loss_name == "sampled_softmax":
            return self._sampled_softmax(queries, targets)
        n_negatives = self.n_negatives if self.loss_name == "gbce" else 1
        sampled = self.sampler(batch["user"][:, None].expand_as(inputs)[valid], n_negatives)  # (P, K)
        positive = (queries * self.items(targets)).sum(dim=-1)  # (P,)
        negatives = torch.einsum("pd,pkd->pk", queries, self.items(sampled))  # (P, K)
        if self.loss_name == "gbce":
            return gbce(positive, negatives, len(self.items.weight) - 1, self.gbce_t)
        return bce(positive, negatives)

    def _sampled_softmax(self, queries: Tensor, targets: Tensor) -> Tensor:
        """Share the negatives within the batch: one matrix product instead of P x K gathered vectors."""
        n_items = len(self.items.weight) - 1
        sampled = torch.randint(1, n_items + 1, (self.n_negatives,), device=queries.device)  # (K,)
        positive = (queries * self.items(targets)).sum(dim=-1)  # (P,)
        negatives = queries @ self.items(sampled).T  # (P, K)
        return sampled_softmax(positive, negatives, targets[:, None] == sampled, n_items)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make Adam with the authors' betas."""
        return torch.optim.Adam(self.parameters(), lr=self.lr, betas=BETAS, weight_decay=self.weight_decay)
