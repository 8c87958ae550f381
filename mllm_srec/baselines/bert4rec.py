"""BERT4Rec: masked items predicted from both sides; to predict the next item, a mask is appended to the history.

Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer",
CIKM 2019.

Deviations from the paper, with reasons:

- Masks are drawn anew in each step; the paper makes ten fixed copies of each sequence.
- Half of the examples mask only the last item, as at test time (the paper adds such examples too, but names no share;
  this one is RecBole's). They are cut after a random item, so that the model learns to predict from histories of every
  length (`random_prefixes=False` for complete sequences, as in the paper). `last_only_share=0` is the plain Cloze task.
- `lr=1e-3` without schedule reaches the same quality in fewer steps. The paper: 1e-4 with linear warm-up and decay
  (`lr`, `warmup_steps`, `decay_steps`), decoupled weight decay 0.01 (`weight_decay` here is Adam's L2, default 0),
  gradients clipped at 5 (`trainer.gradient_clip_val`), 400,000 steps on Beauty.
- Xavier initialisation (`initial_weights=xavier`). The paper's standard deviation of 0.02, which BERT chose for a width
  of 768, is a sixth of Xavier's at a width of 64, so attention starts out nearly uniform. On a synthetic world of 150
  items NDCG@10 was .52 after 600 steps and .60 after 1200, against .13 and .31 with `initial_weights=paper`.
- `mask_ratio=0.4`; the paper has 0.6 for Beauty, 0.4 for Steam, 0.2 for MovieLens. Tune it.
- `max_history=50` items plus the mask; the paper's 50 include it.
- Embeddings are normalised before the first layer (the authors' code; the paper does not mention it).

Train it long: Petrov and Macdonald (RecSys 2022) found that most published results were undertrained, some by a factor
of 30. That is why `patience` is 50. In training it reads items on both sides of a mask. With random splits these may be
later than a test item: the same data that all models read, but in another order.

Inside the model the mask is item number N + 1, which is not part of the catalogue. Positions are counted from the right
end, so the appended mask has the position at which training masks the last item. An empty history is the mask alone.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from mllm_srec.baselines.base import DotProductRecommender
from mllm_srec.baselines.parts.attention import MultiHeadAttention, attention_mask
from mllm_srec.baselines.parts.losses import full_cross_entropy
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_choice, check_heads, check_share
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import ConfigError, ItemBatch, TrainBatch

InitialWeights = Literal["xavier", "paper"]

INITIAL_STD, INITIAL_BOUND = 0.02, 0.02
"""Standard deviation and bound of the paper's truncated normal initialisation (section 4.3)."""


class BertBlock(nn.Module):
    """Bidirectional attention, then a position-wise GELU network, with a norm after each residual sum; eq. 2 to 6."""

    def __init__(self, hidden: int, n_heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(hidden, n_heads, project=True)
        self.feed_forward = nn.Sequential(nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden))
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Apply the block to states `(B, S, D)`, with a mask from `attention_mask`."""
        states = self.attention_norm(states + self.dropout(self.attention(states, states, mask)))
        output: Tensor = self.feed_forward_norm(states + self.dropout(self.feed_forward(states)))
        return output


def cloze_positions(is_item: Tensor, mask_ratio: float, last_only: Tensor) -> Tensor:
    """Draw the positions to mask: each item with probability `mask_ratio` and at least one per row, or the last alone.

    Args:
        is_item: Bool `(B, S)`, False on padding, which is on the left.
        mask_ratio: Probability of masking an item; a row that would have no mask gets one at a random item.
        last_only: Bool `(B,)`, True for rows in which only the last position is masked.

    Returns:
        Bool `(B, S)`, True where the item is masked.
    """
    draws = torch.rand(is_item.shape, device=is_item.device).masked_fill(~is_item, 2.0)  # (B, S), above 1 on padding
    smallest = draws.min(dim=1, keepdim=True).values  # always masked, so that no row is without a mask
    masked = is_item & ((draws < mask_ratio) | (draws == smallest))
    last = torch.zeros_like(is_item)
    last[:, -1] = True
    return torch.where(last_only[:, None], last & is_item, masked)


def random_prefixes(history: Tensor, chosen: Tensor) -> Tensor:
    """Cut sequences after a random item, each with the same probability; padding stays on the left.

    Args:
        history: `(B, S)` item numbers, 0 on padding.
        chosen: Bool `(B,)`, True for rows to cut.

    Returns:
        `(B, S)`; a row that has items keeps at least one.
    """
    n_items = (history > 0).sum(dim=1)  # (B,)
    cut = (torch.rand(len(history), device=history.device) * n_items).long() * chosen  # (B,), below n_items
    source = torch.arange(history.shape[1], device=history.device) - cut[:, None]  # (B, S) columns to shift right
    return history.gather(1, source.clamp(min=0)) * (source >= 0)


class BERT4Rec(DotProductRecommender):
    """Bidirectional encoder trained on the Cloze task.

    Args:
        hidden: D, width of item embeddings and states.
        n_layers: Number of blocks.
        n_heads: Number of attention heads.
        inner: Width of the feed-forward network; None for 4 D (the paper).
        dropout: Dropout of embeddings and sublayers.
        mask_ratio: Probability of masking an item.
        last_only_share: Share of the examples in which only the last item is masked.
        random_prefixes: Cut these examples after a random item, and mask that one.
        initial_weights: `xavier`, or the paper's small weights that do not depend on the width, `paper`.
        warmup_steps: Steps over which the learning rate rises linearly to `lr`; 0 for no warm-up.
        decay_steps: Step at which the learning rate has fallen linearly to 0 and training must end; 0 for no decay.
        patience: Validations without a better `monitor` after which training stops; this model needs many.
        **kwargs: `lr`, `weight_decay` and `max_history` of `ItemRecommender`.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(
        self,
        hidden: int = 64,
        n_layers: int = 2,
        n_heads: int = 2,
        inner: int | None = None,
        dropout: float = 0.2,
        mask_ratio: float = 0.4,
        last_only_share: float = 0.5,
        random_prefixes: bool = True,
        initial_weights: InitialWeights = "xavier",
        warmup_steps: int = 0,
        decay_steps: int = 0,
        patience: int = 50,
        **kwargs: Any,
    ) -> None:
        super().__init__(patience=patience, **kwargs)
        self.hidden, self.n_layers, self.n_heads = hidden, n_layers, n_heads
        self.inner = 4 * hidden if inner is None else inner
        check_at_least(1, hidden=hidden, n_layers=n_layers, inner=self.inner)
        check_heads(hidden, n_heads)
        check_at_least(0, warmup_steps=warmup_steps, decay_steps=decay_steps)
        check_share(dropout=dropout, below_one=True)
        check_share(mask_ratio=mask_ratio, last_only_share=last_only_share)
        check_choice(get_args(InitialWeights), initial_weights=initial_weights)
        if 0 < decay_steps <= warmup_steps:
            raise ConfigError(f"decay_steps={decay_steps}: too small; give 0, or more than warmup_steps={warmup_steps}")
        self.mask_ratio, self.last_only_share, self.initial_weights = mask_ratio, last_only_share, initial_weights
        self.random_prefixes = random_prefixes
        self.warmup_steps, self.decay_steps = warmup_steps, decay_steps
        self.dropout = nn.Dropout(dropout)

    def build(self, train: TrainData) -> None:
        """Make embeddings, blocks and prediction head."""
        self.mask_number = train.n_items + 1
        self.items = nn.Embedding(train.n_items + 2, self.hidden, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(self.max_history + 1, self.hidden))  # the last row is for the latest
        self.embedding_norm = nn.LayerNorm(self.hidden)
        sizes = (self.hidden, self.n_heads, self.inner, self.dropout.p)
        self.blocks = nn.ModuleList(BertBlock(*sizes) for _ in range(self.n_layers))
        self.head = nn.Sequential(nn.Linear(self.hidden, self.hidden), nn.GELU())
        self.output_bias = nn.Parameter(torch.zeros(train.n_items + 1))
        self._draw_weights()

    @torch.no_grad()
    def _draw_weights(self) -> None:
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif weight.ndim > 1 and self.initial_weights == "xavier":
                nn.init.xavier_normal_(weight)
            elif weight.ndim > 1:
                nn.init.trunc_normal_(weight, std=INITIAL_STD, a=-INITIAL_BOUND, b=INITIAL_BOUND)
        self.items.weight[0] = 0  # padding

    def encode(self, numbers: Tensor) -> Tensor:
        """Encode every position from both sides, to predict the item there.

        Args:
            numbers: `(B, S)` item numbers and masks, padded on the left, S at most `max_history` + 1.

        Returns:
            `(B, S, D)`, whose product with the item vectors, plus the bias, is the score (eq. 7).
        """
        mask = attention_mask(numbers > 0, causal=False)  # (B, 1, S, S)
        positions = self.positions[self.max_history + 1 - numbers.shape[1] :]  # (S, D)
        states = self.dropout(self.embedding_norm(self.items(numbers) + positions))  # (B, S, D)
        for block in self.blocks:
            states = block(states, mask)
        encoded: Tensor = self.head(states)
        return encoded

    def query(self, batch: ItemBatch) -> Tensor:
        """Encode a mask appended to each history: `(B, D)`."""
        history = batch["history"][:, -self.max_history :]  # (B, S)
        mask = history.new_full((len(history), 1), self.mask_number)  # (B, 1)
        return self.encode(torch.cat([history, mask], dim=1))[:, -1]

    def item_vectors(self) -> Tensor:
        """Return the item embeddings `(N + 1, D)`, without that of the mask."""
        return self.items.weight[: self.mask_number]

    def item_bias(self) -> Tensor:
        """Return the biases of the items `(N + 1,)`."""
        return self.output_bias

    def loss(self, batch: TrainBatch) -> Tensor:
        """Compute the cross-entropy over all items at masked positions."""
        history = batch["history"][:, -self.max_history - 1 :]  # (B, S + 1)
        last_only = torch.rand(len(history), device=history.device) < self.last_only_share  # (B,)
        if self.random_prefixes:
            history = random_prefixes(history, last_only)
        masked = cloze_positions(history > 0, self.mask_ratio, last_only)  # (B, S + 1)
        queries = self.encode(history.masked_fill(masked, self.mask_number))[masked]  # (P, D)
        return full_cross_entropy(queries, self.item_vectors()[1:], history[masked] - 1, self.output_bias[1:])

    def lr_factor(self, step: int) -> float:
        """Compute the factor of `lr` at an optimizer step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if not self.decay_steps:
            return 1.0
        return max(0.0, (self.decay_steps - step) / (self.decay_steps - self.warmup_steps))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make Adam, with a schedule if `warmup_steps` or `decay_steps` is set."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        if not (self.warmup_steps or self.decay_steps):
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
