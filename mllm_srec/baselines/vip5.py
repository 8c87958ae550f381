"""VIP5: a T5 that reads item numbers and visual tokens, and generates the next item's number, or yes or no.

Geng, Tan, Liu, Fu and Zhang, "VIP5: Towards Multimodal Foundation Models for Recommendation", Findings of EMNLP 2023.

Deviations from the paper or its code, with reasons:

- Items and users are numbered by a random permutation. The original numbers items in order of first appearance, test
  items included, so that the next item's digits can be guessed; TIGER's authors measured the effect.
- It starts from T5-small, like the published script; the paper's P5 checkpoint was trained on the same data sets.
- Both embedding tables (words, categories) are trained. The published code leaves them at their initial values when the
  backbone is frozen: `strict: true`.
- Only the sequential tasks are trained: next item, and yes or no (one of the two per user and step, with one template
  each, which is ours). Direct choice among listed candidates and explanations are left out, as is beam search, which
  cannot score a given candidate.
- A candidate's score is the sum of log p over the tokens of its number and the end-of-text token, or with
  `scoring: yes_no` the difference of the two logits at the first step of the answer.
- The learning rate is constant after `warmup_steps`; the original warms up over 10 % and decays linearly to 0.
- One epoch draws one window per user; the original draws five per task, so its 20 epochs are about 200 of ours.
- Targets are among the last three items, as in the official code; `target_window: 0` draws from the whole sequence.

`backbone: random`, a small untrained T5, runs the code and not the method. Its results carry `random_weights`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional

from mllm_srec.baselines.base import ItemRecommender, Unit
from mllm_srec.baselines.parts.negatives import NegativeSampler
from mllm_srec.baselines.parts.setting_checks import check_at_least, check_choice, check_heads, check_share
from mllm_srec.baselines.parts.train_data import TrainData
from mllm_srec.baselines.parts.vip5_model import N_WORDS, RANDOM, VIP5Network, insert_adapters, load_t5, small_t5
from mllm_srec.baselines.parts.vip5_prompts import IGNORED, Lexicon, Prompts, draw_windows
from mllm_srec.baselines.parts.vip5_trie import NumberTrie, log_likelihoods
from mllm_srec.models.backbone_files import RANDOM_MARK
from mllm_srec.types import CandidateBatch, ConfigError, ItemBatch, TrainBatch

MAX_LOGITS = 2**26
"""Logits held at once when candidates are scored: 256 MiB."""
MAX_CANDIDATES = 8192
"""Candidates decoded at once."""
MAX_PROMPTS = 256
"""Yes-no prompts encoded at once."""


class VIP5(ItemRecommender):
    """Language model of item numbers and visual tokens.

    Args:
        backbone: Folder or hub name of a T5 with its tokenizer, or `random` for a small untrained one.
        finetune: `adapters` trains adapters, layer norms, visual tokens and tables; `full` all of T5, without adapters.
        scoring: `likelihood` of the candidate's number, or `yes_no` with the candidate and its picture in the prompt.
        n_visual_tokens: Visual tokens after every item of a prompt.
        adapter_reduction: Ratio of the backbone's width to that of an adapter.
        strict: Keep the tables of words and categories at their random initial values, like the official code; only
            with `adapters`.
        target_window: Number of latest items of a sequence that may be a training target; 0 for all.
        max_tokens: Length limit of a prompt; longer histories lose their oldest items, which are counted in `n_cut`.
        warmup_steps: Steps over which the learning rate rises to `lr`; then it is constant.
        dropout: Dropout of all layers of T5.
        hidden: Width of the `random` backbone.
        n_layers: Number of layers of its encoder, and of its decoder.
        n_heads: Number of its attention heads.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        **kwargs: `max_history` and `patience` of `ItemRecommender`.

    Attributes:
        random_weights: True if the backbone was never trained; results are then marked.

    Raises:
        ConfigError: If a setting is out of range, or adapters are put into an untrained backbone.
    """

    unit: ClassVar[Unit] = "sequences"
    needs_features: ClassVar[bool] = True
    learns_users: ClassVar[bool] = True

    def __init__(
        self,
        backbone: str = "t5-small",
        finetune: Literal["adapters", "full"] = "adapters",
        scoring: Literal["likelihood", "yes_no"] = "likelihood",
        n_visual_tokens: int = 2,
        adapter_reduction: int = 8,
        strict: bool = False,
        target_window: int = 3,
        max_tokens: int = N_WORDS,
        warmup_steps: int = 0,
        dropout: float = 0.1,
        hidden: int = 64,
        n_layers: int = 2,
        n_heads: int = 4,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay, **kwargs)
        self.backbone, self.finetune, self.scoring, self.strict = backbone, finetune, scoring, strict
        self.n_visual_tokens, self.adapter_reduction = n_visual_tokens, adapter_reduction
        self.target_window, self.max_tokens, self.warmup_steps = target_window, max_tokens, warmup_steps
        self.dropout, self.hidden, self.n_layers, self.n_heads = dropout, hidden, n_layers, n_heads
        self.random_weights = backbone == RANDOM
        self._check_settings()

    def _check_settings(self) -> None:
        """Refuse settings that are out of range or contradict each other."""
        check_choice(("adapters", "full"), finetune=self.finetune)
        check_choice(("likelihood", "yes_no"), scoring=self.scoring)
        check_at_least(0, target_window=self.target_window, warmup_steps=self.warmup_steps)
        check_at_least(1, n_visual_tokens=self.n_visual_tokens, adapter_reduction=self.adapter_reduction)
        check_at_least(1, n_layers=self.n_layers, max_tokens=self.max_tokens)
        check_share(below_one=True, dropout=self.dropout)
        check_heads(self.hidden, self.n_heads)
        if self.max_tokens > N_WORDS:
            raise ConfigError(f"max_tokens={self.max_tokens}: exceeds the table of words; give at most {N_WORDS}")
        if self.strict and self.finetune == "full":
            raise ConfigError("strict=True: freezes tables of a frozen T5; give finetune: adapters, or strict: false")
        if self.random_weights:
            self._check_random()

    def _check_random(self) -> None:
        """Refuse to freeze untrained weights: adapters would only decode noise."""
        if self.finetune == "adapters":
            raise ConfigError(
                f"backbone={self.backbone!r}: has random weights, which finetune='adapters' would freeze; give "
                "finetune: full, or a pretrained T5"
            )

    def build(self, train: TrainData) -> None:
        """Load or make T5, number items and users, and add adapters and visual tokens."""
        if self.backbone == RANDOM:
            t5, tokenizer = small_t5(self.hidden, self.n_layers, self.n_heads, self.dropout)
        else:
            t5, tokenizer = load_t5(self.backbone, self.dropout)
        self.random_weights = bool(getattr(t5.config, RANDOM_MARK, False))
        if self.random_weights:
            self._check_random()
        if self.finetune == "adapters":
            insert_adapters(t5, self.adapter_reduction)
        self.lexicon = Lexicon(tokenizer, train.n_items, train.n_users, self.n_visual_tokens, self.max_tokens)
        self.trie = NumberTrie(self.lexicon.number_tokens, t5.config.decoder_start_token_id, self.lexicon.eos)
        self.network = VIP5Network(t5, self.features, self.n_visual_tokens)
        self.network.freeze(self.finetune, self.strict)
        self.negatives = NegativeSampler(train)

    @property
    def n_cut(self) -> int:
        """Number of history items that were cut for `max_tokens` since `attach`."""
        return self.lexicon.cut_items

    # --- training -------------------------------------------------------------------------------------------------

    def loss(self, batch: TrainBatch) -> Tensor:
        """Compute the cross-entropy, averaged over the tokens of an answer and then over answers.

        Each sequence gives one window and, with equal probability, the task of the next item or the yes-no question;
        the latter, again with equal probability, is about that item or about a sampled negative.
        """
        history, target = draw_windows(batch["history"], self.target_window)  # (B, S), (B,)
        unseen = self.negatives(batch["user"], 1)[:, 0]  # (B,)
        yes_no, liked = torch.rand(2, len(target), device=target.device) < 0.5  # (B,) each
        candidate = torch.where(yes_no, torch.where(liked, target, unseen), 0)
        labels = self._labels(target, yes_no, liked)
        prompts = self.lexicon.prompts(batch["user"], history, candidate)
        logits = self.network.decode(self.network.encode(prompts), prompts, labels)  # (B, L, V)
        losses = functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )  # (B, L)
        return (losses.sum(dim=1) / (labels != IGNORED).sum(dim=1)).mean()

    def _labels(self, target: Tensor, yes_no: Tensor, liked: Tensor) -> Tensor:
        """Tokens of the answers `(B, L)`: "yes" or "no" for a yes-no question, else the target's number."""
        numbers, answers = self.trie.labels[self.lexicon.item_number[target]], self.lexicon.answers[liked.long()]
        width = max(numbers.shape[1], answers.shape[1])
        numbers, answers = (
            functional.pad(rows, (0, width - rows.shape[1]), value=IGNORED) for rows in (numbers, answers)
        )
        return torch.where(yes_no[:, None], answers, numbers)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW over the trainable weights, with a constant rate after a linear warm-up."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        warmup = max(1, self.warmup_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # --- scoring --------------------------------------------------------------------------------------------------

    def score_candidates(self, batch: CandidateBatch) -> Tensor:
        """Score every candidate of an `ItemBatch`: float32 `(B, C)`."""
        return self._scores(cast(ItemBatch, batch), (batch["item_index"] + 1).clamp(min=1))

    def score_all(self, batch: ItemBatch) -> Tensor:
        """Score the whole catalogue: float32 `(B, N)`, column j being item row j."""
        items = torch.arange(1, self.train_data.n_items + 1, device=batch["history"].device)
        return self._scores(batch, items.expand(len(batch["history"]), -1))

    @torch.no_grad()
    def _scores(self, batch: ItemBatch, candidates: Tensor) -> Tensor:
        """Score item numbers `(B, C)`: float32 `(B, C)`."""
        score = self._likelihoods if self.scoring == "likelihood" else self._yes_no
        return score(batch["user"], batch["history"][:, -self.max_history :], candidates)

    def _likelihoods(self, user: Tensor, history: Tensor, candidates: Tensor) -> Tensor:
        """Log-likelihoods of the candidates' numbers; a prompt is encoded once, candidates are decoded in chunks."""
        numbers = self.lexicon.item_number[candidates]  # (B, C)
        order = self.trie.rank[numbers].argsort(dim=1)  # neighbours share most of their path from the root
        at_once = max(1, min(MAX_CANDIDATES, MAX_LOGITS // self.network.t5.config.vocab_size))
        n_rows = max(1, at_once // candidates.shape[1])
        scores = torch.empty(candidates.shape, device=candidates.device)  # (B, C)
        for rows in torch.split(torch.arange(len(user), device=user.device), n_rows):
            prompts = self.lexicon.prompts(user[rows], history[rows], torch.zeros_like(user[rows]))
            memory = self.network.encode(prompts)  # (b, T, D)
            for columns in torch.split(order[rows], at_once, dim=1):
                chunk = numbers[rows].gather(1, columns)  # (b, c)
                likelihoods = log_likelihoods(self.network.t5, self.trie, memory, prompts.mask, chunk)
                scores[rows[:, None], columns] = likelihoods
        return scores

    def _yes_no(self, user: Tensor, history: Tensor, candidates: Tensor) -> Tensor:
        """Logit of "yes" minus that of "no"; one prompt per candidate, since the encoder is bidirectional."""
        pairs = torch.cartesian_prod(
            torch.arange(len(user), device=user.device), torch.arange(candidates.shape[1], device=user.device)
        )  # (B C, 2)
        scores = [
            self._answer(self.lexicon.prompts(user[row], history[row], candidates[row, column]))
            for row, column in (part.unbind(1) for part in torch.split(pairs, MAX_PROMPTS))
        ]
        return torch.cat(scores).view(candidates.shape)

    def _answer(self, prompts: Prompts) -> Tensor:
        """Difference of the two logits after the decoder's start token, `(b,)`."""
        no, yes = self.lexicon.answers[:, 0]
        first = self.lexicon.answers[1:, :1].expand(len(prompts.tokens), 1)  # one label, predicted from the start token
        logits = self.network.decode(self.network.encode(prompts), prompts, first)[:, 0].float()  # (b, V)
        return logits[:, yes] - logits[:, no]
