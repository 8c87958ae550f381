"""GPTRec: a GPT-2 over sequences of items, each written as one or several tokens.

Petrov and Macdonald, "Generative Sequential Recommendation with GPTRec" (Gen-IR at SIGIR 2023, arXiv 2306.11114).

Deviations from the paper and its code, with reasons:

- Scores are exact likelihoods of all candidates (`code_trie`). For items of several tokens the authors sample 50
  continuations and score all other items zero: enough for a short list, but not for AUC or given candidates.
- Every sequence begins with a start token, so that the first item has a likelihood and is learnt like all others. An
  empty history is ranked by what users begin with.
- Padding has no loss (in their code it has one, as token 0) and is not attended to.
- `max_history` is 50 as for all our models (paper: 100), an epoch is a pass over the users (theirs: 256 batches of 16),
  and Next-K reads fewer items, see `GPTRec`.
- The configuration takes 128 users per step (theirs: 16) and stops after 30 validations without a better one (theirs:
  300 epochs of 4,096 sequences). Its codes, two tokens of 512 values, are between the paper's two sizes.

To follow the paper: `n_tokens=1` is GPTRec-TopK of its first experiment, `n_tokens=2, n_values=2048` and
`n_tokens=4, n_values=512` are its sub-item codes, `ranking=next_k` is GPTRec-NextK, `max_history=100`.
"""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2Model

from mllm_srec.baselines.base import ItemRecommender
from mllm_srec.baselines.parts.code_trie import Context, code_likelihoods, grow, token_logits
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_choice, check_heads, check_share
from mllm_srec.baselines.parts.svd_codes import collision_rate, item_codes
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.types import CandidateBatch, ConfigError, ItemBatch, TrainBatch

Ranking = Literal["top_k", "next_k"]

LENGTH_GROUPS = 8
"""Groups into which a training batch is split by length, to save padding: most users have few items, some have many."""


class GPTRec(ItemRecommender):
    """A causal decoder of item codes; scores are likelihoods of codes, or ranks in a generated list.

    Items with equal codes tie. With `ranking=next_k` the model generates `n_generated` items one after another and
    appends each to its input. An item is decoded greedily, token by token, among the codes of items that are neither
    in the history nor generated before. The k-th generated item scores -k; all others rank below, with
    -(n_generated + 1) plus their log-likelihood. Then only the latest `max_history + 1 - n_generated` items are read,
    so that every position was seen in training. Without a training objective of its own (the authors later tune it by
    reinforcement learning), Next-K is expected to rank worse than Top-K.

    Args:
        hidden: D, width of embeddings and states.
        n_layers: Number of blocks.
        n_heads: Number of attention heads.
        n_tokens: t, tokens per item. With 1 the token is the item's number, and the vocabulary has N tokens.
        n_values: v, values of a token; not used with `n_tokens=1`. Items share tokens only if v is well below N.
        ranking: Score of an item: its likelihood (`top_k`), or its rank in a generated list (`next_k`).
        n_generated: Number of items that `next_k` generates.
        dropout: Dropout of embeddings, attention and blocks (GPT-2's value).
        **kwargs: `lr`, `weight_decay`, `max_history` and `patience` of `ItemRecommender`.

    Attributes:
        codes: `(N + 1, t)` int64 tokens of each item number; row 0, padding, holds the start token.
        collision_rate: Share of the items whose codes another item has too; logged as `train/collision_rate`.

    Raises:
        ConfigError: If a setting is out of range.
    """

    codes: Tensor
    gpt2: Any

    def __init__(
        self,
        hidden: int = 256,
        n_layers: int = 3,
        n_heads: int = 4,
        n_tokens: int = 2,
        n_values: int = 512,
        ranking: Ranking = "top_k",
        n_generated: int = 10,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(1, hidden=hidden, n_layers=n_layers, n_tokens=n_tokens, n_generated=n_generated)
        check_at_least(2, n_values=n_values)
        check_heads(hidden, n_heads)
        check_share(dropout=dropout, below_one=True)
        check_choice(get_args(Ranking), ranking=ranking)
        if ranking == "next_k" and n_generated > self.max_history:
            raise ConfigError(f"n_generated={n_generated}: too large; give at most max_history={self.max_history}")
        self.hidden, self.n_layers, self.n_heads, self.dropout = hidden, n_layers, n_heads, dropout
        self.n_tokens, self.n_values, self.ranking, self.n_generated = n_tokens, n_values, ranking, n_generated
        self.vocabulary = 0
        self.collision_rate = 0.0

    def build(self, train: TrainData) -> None:
        """Assign codes to the items, and make a decoder with random weights."""
        codes = item_codes(train, self.n_tokens, self.n_values)  # (N, t)
        self.collision_rate = collision_rate(codes)
        n_values = train.n_items if self.n_tokens == 1 else self.n_values
        self.vocabulary = n_values * self.n_tokens
        tokens = codes + n_values * torch.arange(self.n_tokens)  # (N, t): no two dimensions share tokens
        start = torch.full((1, self.n_tokens), self.vocabulary)  # (1, t)
        self.register_buffer("codes", torch.cat([start, tokens]))
        config = GPT2Config(
            vocab_size=self.vocabulary + 1,
            n_positions=self.n_tokens * (self.max_history + 1),
            n_embd=self.hidden,
            n_layer=self.n_layers,
            n_head=self.n_heads,
            embd_pdrop=self.dropout,
            attn_pdrop=self.dropout,
            resid_pdrop=self.dropout,
            bos_token_id=self.vocabulary,
            eos_token_id=None,
        )
        self.gpt2 = GPT2Model(config)

    def on_train_start(self) -> None:
        """Log the share of items whose codes are not unique."""
        super().on_train_start()
        self.log("train/collision_rate", self.collision_rate)

    def loss(self, batch: TrainBatch) -> Tensor:
        """Compute the mean cross-entropy over the tokens of all items of the sequences, the first one included."""
        history = batch["history"]
        by_length = (history > 0).sum(dim=1).argsort()  # (B,)
        parts = [self._losses(history[rows]) for rows in by_length.chunk(LENGTH_GROUPS)]
        return torch.cat(parts).mean()

    def _losses(self, history: Tensor) -> Tensor:
        """Cross-entropy of every token of the sequences `(B, S)` that is not padding, flattened.

        Projecting only these equals `ignore_index` on padding, with fewer logits.
        """
        tokens, mask = self._tokens(history, self.max_history + 1)  # (B, T) each
        hidden = self._run(tokens[:, :-1]).last_hidden_state  # (B, T - 1, D)
        logits = token_logits(self.gpt2, hidden[mask[:, 1:]], self.vocabulary).float()  # (n, V)
        return cross_entropy(logits, tokens[:, 1:][mask[:, 1:]], reduction="none")

    def score_candidates(self, batch: CandidateBatch) -> Tensor:
        """Score every candidate of an `ItemBatch`: float32 `(B, C)`."""
        items = cast(ItemBatch, batch)
        if items.get("catalogue"):
            return self.score_all(items)
        numbers = items["item_index"].clamp(min=0) + 1  # (B, C); masked ones score as item number 1
        if self.ranking == "top_k":
            return self._likelihoods(self._context(items["history"], self.max_history), self.codes[numbers])
        context, rank = self._generate(items["history"])
        return self._next_k(rank.gather(1, numbers - 1), self._likelihoods(context, self.codes[numbers]))

    def score_all(self, batch: ItemBatch) -> Tensor:
        """Score the whole catalogue: float32 `(B, N)`, column j being item row j."""
        codes = self.codes[1:].unsqueeze(0)  # (1, N, t)
        if self.ranking == "top_k":
            return self._likelihoods(self._context(batch["history"], self.max_history), codes)
        context, rank = self._generate(batch["history"])
        return self._next_k(rank, self._likelihoods(context, codes))

    # --- the decoder ----------------------------------------------------------------------------------------------

    def _tokens(self, history: Tensor, max_items: int) -> tuple[Tensor, Tensor]:
        """Write the latest items as tokens after the start token, padded on the right.

        So positions do not depend on the batch's width, and a causal model cannot attend to the padding.

        Returns:
            Tokens `(B, T)`, and a mask that is False at padding.
        """
        history = history[:, -max_items:]  # (B, S)
        n_items = (history > 0).sum(dim=1, keepdim=True)  # (B, 1)
        step = torch.arange(int(n_items.max()), device=history.device)  # (S',)
        column = (step + history.shape[1] - n_items).clamp(max=history.shape[1] - 1)  # (B, S')
        items = history.gather(1, column) * (step < n_items)  # (B, S')
        tokens = torch.cat([self.codes[0, :1].expand(len(items), 1), self.codes[items].flatten(1)], dim=1)  # (B, T)
        return tokens, torch.arange(tokens.shape[1], device=tokens.device) <= n_items * self.n_tokens

    def _run(self, tokens: Tensor, use_cache: bool = False) -> Any:
        """Run the model on tokens `(B, T)` from position 0."""
        positions = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)  # (1, T)
        return self.gpt2(input_ids=tokens, position_ids=positions, use_cache=use_cache)

    def _context(self, history: Tensor, max_items: int) -> Context:
        """Run histories `(B, S)` and keep their keys and values."""
        tokens, mask = self._tokens(history, max_items)  # (B, T) each
        output = self._run(tokens, use_cache=True)
        last = mask.sum(dim=1) - 1  # (B,)
        state = output.last_hidden_state[torch.arange(len(last), device=last.device), last]  # (B, D)
        return Context([(layer.keys, layer.values) for layer in output.past_key_values.layers], mask, state)

    def _likelihoods(self, context: Context, codes: Tensor) -> Tensor:
        """Log-likelihood `(B, C)` of the candidates' codes `(B, C, t)` or `(1, C, t)`."""
        return code_likelihoods(self.gpt2, context, codes, self.vocabulary)

    # --- Next-K ---------------------------------------------------------------------------------------------------

    def _generate(self, history: Tensor) -> tuple[Context, Tensor]:
        """Generate items one after another.

        Returns:
            The encoded histories, and `(B, N)` int64: ranks 1..K of the generated items, 0 for all others.
        """
        context, codes = self._context(history, self.max_history + 1 - self.n_generated), self.codes[1:]  # (N, t)
        rank = torch.zeros(len(history), len(codes), dtype=torch.long, device=history.device)  # (B, N)
        seen = rank.new_zeros(len(history), len(codes) + 1).scatter(1, history, 1)[:, 1:].bool()  # (B, N)
        branches, state = context.root(), context.state  # (B, D)
        token: Tensor | None = None
        for number in range(1, self.n_generated + 1):
            chosen = ~seen & (rank == 0)  # (B, N), narrowed token by token to the items with one code
            for values in codes.unbind(dim=1):  # (N,)
                if token is not None:  # the very last token predicts nothing, and has no position
                    grown, branches = grow(self.gpt2, context, branches, token)  # (B, 1, D)
                    state = grown.squeeze(1)
                logits = token_logits(self.gpt2, state, self.vocabulary)[:, values]  # (B, N)
                token = values[logits.masked_fill(~chosen, float("-inf")).argmax(dim=1, keepdim=True)]  # (B, 1)
                chosen = chosen & (values == token)
            rank = torch.where(chosen, number, rank)
        return context, rank

    def _next_k(self, rank: Tensor, likelihood: Tensor) -> Tensor:
        """Score items `(B, C)` by their rank in the generated list, and all others below it by likelihood."""
        return torch.where(rank > 0, -rank.float(), likelihood - (self.n_generated + 1))
