"""GPTRec: a GPT-2 over sequences of items, each written as one or several tokens.

Petrov and Macdonald, "Generative Sequential Recommendation with GPTRec" (Gen-IR at SIGIR 2023, arXiv 2306.11114).

What differs from the paper and its code, and why:
- Scores are exact likelihoods of all candidates (`code_trie`). The authors' scorer of several tokens samples 50
  continuations and leaves all other items at zero: enough for a short list, nothing for AUC or given candidates.
- A token that begins every sequence, so that the first item has a likelihood and an empty history a ranking: that of
  what users begin with. The first item is learnt like all others.
- Padding carries no loss (it does in their code, as token 0), and no token sees it.
- `max_history` is 50 as for all our models (paper: 100), an epoch is a pass over the users (theirs: 256 batches of 16),
  and Next-K reads fewer items, see below.
- The configuration takes 128 users a step where their code takes 16, and stops after 30 validations without a better
  one (theirs: 300 epochs of 4,096 sequences); with two tokens of 512 values, a size between the paper's two.

For fidelity: `n_tokens=1` is GPTRec-TopK of the paper's first experiment, `n_tokens=2, n_values=2048` and
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
"""Groups of a training batch by length, each run at its own width: most users have few items, some have many."""


class GPTRec(ItemRecommender):
    """A causal decoder of item codes; a candidate's score is the likelihood of its codes, or where it is generated.

    Items with equal codes tie. With `ranking=next_k` the model generates `n_generated` items one after another: each
    time the likeliest token of the catalogue's codes (greedy, token by token) among items neither generated before nor
    in the history, appended to what is read next. The item generated k-th scores -k; all others stand below, at
    -(n_generated + 1) plus their log-likelihood. So that no position is used that training never saw, only the
    latest `max_history + 1 - n_generated` items are read then. Without an objective of its own (the authors later
    tune it by reinforcement) Next-K is expected to rank worse than Top-K.

    Args:
        hidden: D.
        n_layers: Blocks of the decoder.
        n_heads: Attention heads.
        n_tokens: t, tokens of an item. With 1, the token is the item's number, and the vocabulary has N.
        n_values: v, values of a token; not used with `n_tokens=1`. Items share tokens only where v is well below N.
        ranking: What the score is: a likelihood (`top_k`), or the place in a generated list (`next_k`).
        n_generated: Items that `next_k` generates.
        dropout: On embeddings, attention and blocks (GPT-2's value).
        kwargs: `lr`, `weight_decay`, `max_history`, `patience` of `ItemRecommender`.

    Attributes:
        codes: `(N + 1, t)` int64 tokens of each item number; row 0 is padding's, the token that begins a sequence.
        collision_rate: Share of the items that have their codes with another; logged as `train/collision_rate`.

    Raises:
        ConfigError: A setting is out of range.
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
            raise ConfigError(f"n_generated={n_generated}; give at most max_history={self.max_history}")
        self.hidden, self.n_layers, self.n_heads, self.dropout = hidden, n_layers, n_heads, dropout
        self.n_tokens, self.n_values, self.ranking, self.n_generated = n_tokens, n_values, ranking, n_generated
        self.vocabulary = 0
        self.collision_rate = 0.0

    def build(self, train: TrainData) -> None:
        """Write the items as codes, and make a decoder with random weights for them."""
        codes = item_codes(train, self.n_tokens, self.n_values)  # (N, t)
        self.collision_rate = collision_rate(codes)
        n_values = train.n_items if self.n_tokens == 1 else self.n_values
        self.vocabulary = n_values * self.n_tokens
        tokens = codes + n_values * torch.arange(self.n_tokens)  # (N, t): each dimension has values of its own
        beginning = torch.full((1, self.n_tokens), self.vocabulary)  # (1, t)
        self.register_buffer("codes", torch.cat([beginning, tokens]))
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
        """Log the share of items that the codes cannot tell apart."""
        self.log("train/collision_rate", self.collision_rate)

    def loss(self, batch: TrainBatch) -> Tensor:
        """Mean cross-entropy over the tokens of all items of the sequences, the first one included."""
        history = batch["history"]
        by_length = (history > 0).sum(dim=1).argsort()  # (B,)
        parts = [self._losses(history[rows]) for rows in by_length.chunk(LENGTH_GROUPS)]
        return torch.cat(parts).mean()

    def _losses(self, history: Tensor) -> Tensor:
        """Cross-entropy of every token of the sequences `(B, S)` that is no padding, in one dimension.

        Projecting only these equals `ignore_index` on padding, with fewer logits.
        """
        tokens, mask = self._tokens(history, self.max_history + 1)  # (B, T) each
        hidden = self._run(tokens[:, :-1]).last_hidden_state  # (B, T - 1, D)
        logits = token_logits(self.gpt2, hidden[mask[:, 1:]], self.vocabulary).float()  # (n, V)
        return cross_entropy(logits, tokens[:, 1:][mask[:, 1:]], reduction="none")

    def score_candidates(self, batch: CandidateBatch) -> Tensor:
        """Float32 score of every candidate `(B, C)` of an `ItemBatch`; see the class."""
        items = cast(ItemBatch, batch)
        if items.get("catalogue"):
            return self.score_all(items)
        numbers = items["item_index"].clamp(min=0) + 1  # (B, C); masked ones score as item number 1
        if self.ranking == "top_k":
            return self._likelihoods(self._context(items["history"], self.max_history), self.codes[numbers])
        context, place = self._generate(items["history"])
        return self._next_k(place.gather(1, numbers - 1), self._likelihoods(context, self.codes[numbers]))

    def score_all(self, batch: ItemBatch) -> Tensor:
        """Float32 score of the whole catalogue `(B, N)`, column j being item row j."""
        codes = self.codes[1:].unsqueeze(0)  # (1, N, t)
        if self.ranking == "top_k":
            return self._likelihoods(self._context(batch["history"], self.max_history), codes)
        context, place = self._generate(batch["history"])
        return self._next_k(place, self._likelihoods(context, codes))

    # --- the decoder ----------------------------------------------------------------------------------------------

    def _tokens(self, history: Tensor, max_items: int) -> tuple[Tensor, Tensor]:
        """The latest items as tokens behind the one that begins a sequence, aligned on the left.

        So positions count from the beginning however wide the batch is padded, and a causal model cannot see the
        padding, which stands behind.

        Returns:
            Tokens `(B, T)`, and a mask of those that are no padding.
        """
        history = history[:, -max_items:]  # (B, S)
        n_items = (history > 0).sum(dim=1, keepdim=True)  # (B, 1)
        step = torch.arange(int(n_items.max()), device=history.device)  # (S',)
        place = (step + history.shape[1] - n_items).clamp(max=history.shape[1] - 1)  # (B, S')
        items = history.gather(1, place) * (step < n_items)  # (B, S')
        tokens = torch.cat([self.codes[0, :1].expand(len(items), 1), self.codes[items].flatten(1)], dim=1)  # (B, T)
        return tokens, torch.arange(tokens.shape[1], device=tokens.device) <= n_items * self.n_tokens

    def _run(self, tokens: Tensor, use_cache: bool = False) -> Any:
        """The model's output on tokens `(B, T)` that begin a sequence."""
        positions = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)  # (1, T)
        return self.gpt2(input_ids=tokens, position_ids=positions, use_cache=use_cache)

    def _context(self, history: Tensor, max_items: int) -> Context:
        """Run histories `(B, S)`, once."""
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
            What was read, and `(B, N)` int64: 1..K where an item was generated at that place, else 0.
        """
        context, codes = self._context(history, self.max_history + 1 - self.n_generated), self.codes[1:]  # (N, t)
        place = torch.zeros(len(history), len(codes), dtype=torch.long, device=history.device)  # (B, N)
        seen = place.new_zeros(len(history), len(codes) + 1).scatter(1, history, 1)[:, 1:].bool()  # (B, N)
        branches, state = context.root(), context.state  # (B, D)
        token: Tensor | None = None
        for number in range(1, self.n_generated + 1):
            chosen = ~seen & (place == 0)  # (B, N), narrowed token by token to the items with one code
            for values in codes.unbind(dim=1):  # (N,)
                if token is not None:  # the last token of all has nothing to say, and no position
                    grown, branches = grow(self.gpt2, context, branches, token)  # (B, 1, D)
                    state = grown.squeeze(1)
                outlook = token_logits(self.gpt2, state, self.vocabulary)[:, values]  # (B, N)
                token = values[outlook.masked_fill(~chosen, float("-inf")).argmax(dim=1, keepdim=True)]  # (B, 1)
                chosen = chosen & (values == token)
            place = torch.where(chosen, number, place)
        return context, place

    def _next_k(self, place: Tensor, likelihood: Tensor) -> Tensor:
        """Scores `(B, C)` of items by their place in the generated list, or else below it by likelihood."""
        return torch.where(place > 0, -place.float(), likelihood - (self.n_generated + 1))
