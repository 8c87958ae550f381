"""From hidden states to yes/no logits, scores and losses: pure functions, in float32 whatever the model runs in."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from mllm_srec.prompts.geometry import predicting_positions
from mllm_srec.types import IGNORE_INDEX, PackedBatch

ScoreKind = Literal["logit", "literal"]
ScoringLayout = Literal["cached", "packed"]

ROWS_AT_ONCE = 256
"""Targets whose logits of the whole vocabulary are held at a time: 156 MB for Qwen2-VL's 152,064 tokens."""


def gather_answers(hidden: torch.Tensor, answer_index: torch.Tensor) -> torch.Tensor:
    """Hidden states that predict the first response token.

    Args:
        hidden: `(R, T, D)`.
        answer_index: `(B, C, 2)` row and token.

    Returns:
        `(B, C, D)`; entries of masked candidates are arbitrary.
    """
    return hidden[answer_index[..., 0], answer_index[..., 1]]


def yes_no_logits(hidden: torch.Tensor, lm_head: torch.Tensor, yes_id: int, no_id: int) -> torch.Tensor:
    """Logits of Yes and No from two rows of the head (article, Eq. 4 on the restricted vocabulary).

    A product in bfloat16 would round logits near 20 to steps of 0.125 and tie a quarter of all lists.

    Args:
        hidden: `(B, C, D)`.
        lm_head: `(V, D)`.
        yes_id: Row of Yes.
        no_id: Row of No.

    Returns:
        Float32 `(B, C, 2)`: yes, no.
    """
    rows = lm_head[[yes_id, no_id]].float()  # (2, D)
    with torch.autocast(hidden.device.type, enabled=False):
        return hidden.float() @ rows.T  # (B, C, 2)


def score(logits: torch.Tensor) -> torch.Tensor:
    """Ranking score `z_yes - z_no` `(B, C)`; its sigmoid is the probability of a like, in [0, 1]."""
    return logits[..., 0] - logits[..., 1]


def log_normalizer(hidden: torch.Tensor, lm_head: torch.Tensor) -> torch.Tensor:
    """Logsumexp of the logits of the whole vocabulary, from the same float32 product as those of Yes and No.

    Args:
        hidden: `(B, C, D)`.
        lm_head: `(V, D)`.

    Returns:
        Float32 `(B, C)`.
    """
    head = lm_head.float()  # (V, D)
    with torch.autocast(hidden.device.type, enabled=False):
        parts = torch.split(hidden.flatten(0, -2), ROWS_AT_ONCE)
        rows = [(states.float() @ head.T).logsumexp(dim=-1) for states in parts]
    return torch.cat(rows).view(hidden.shape[:-1])  # (B, C)


def literal_score(hidden: torch.Tensor, lm_head: torch.Tensor, yes_id: int, no_id: int) -> torch.Tensor:
    """Eq. 4 letter by letter: the difference of full-vocabulary probabilities, in [-1, 1].

    The article applies exp to probabilities; the sigmoid of this score is its value, in (0.27, 0.73).

    Args:
        hidden: `(B, C, D)`.
        lm_head: `(V, D)`.
        yes_id: Row of Yes.
        no_id: Row of No.

    Returns:
        Float32 `(B, C)`.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        probabilities = (hidden.float() @ lm_head.float().T).softmax(dim=-1)  # (B, C, V)
    return probabilities[..., yes_id] - probabilities[..., no_id]


def response_loss(
    hidden: torch.Tensor, lm_head: torch.Tensor, batch: PackedBatch
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean cross-entropy over labelled tokens (article, Eq. 3); the vocabulary is projected only there.

    Args:
        hidden: `(R, T, D)`.
        lm_head: `(V, D)`.
        batch: Its `labels`, `segment_ids` and `answer_index` are read.

    Returns:
        The loss, and apart from it loss and accuracy of the first response token, since the rest is trivial.
    """
    labels = batch["labels"]  # (R, T)
    rows, tokens = torch.nonzero(labels != IGNORE_INDEX, as_tuple=True)  # (N,)
    predicting = predicting_positions(batch["segment_ids"])[rows, tokens]  # (N,)
    kept = (tokens > 0) & (batch["segment_ids"][rows, predicting] >= 0)  # nothing predicts the first token of a row
    rows, tokens, predicting = rows[kept], tokens[kept], predicting[kept]
    logits = functional.linear(hidden[rows, predicting], lm_head.to(hidden.dtype)).float()  # (N, V)
    target = labels[rows, tokens]  # (N,)
    losses = functional.cross_entropy(logits, target, reduction="none")  # (N,)
    answers = batch["answer_index"][batch["candidate_mask"]]  # (N targets, 2)
    stride = hidden.shape[1]
    first = torch.isin(rows * stride + tokens - 1, answers[:, 0] * stride + answers[:, 1])  # (N,)
    correct = logits.argmax(dim=-1) == target  # (N,)
    apart = {"first_token_loss": losses[first].mean().detach(), "first_token_accuracy": correct[first].float().mean()}
    return losses.mean(), apart


def list_scores(hidden: torch.Tensor, lm_head: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """Mean over the shuffles of `log(n p)`, p a candidate's probability among the n letters of its list.

    A chance answer scores 0 whatever the size of the list, so that candidates of different parts of a long list can be
    ranked together: exactly on average over all ways of cutting it, and by so many draws as there are shuffles.

    Args:
        hidden: `(B, P, D)` at the place of the answer of each list prompt.
        lm_head: `(V, D)`.
        batch: Its `label_ids`, `label_mask` and `places` are read.

    Returns:
        Float32 `(B, C)`; arbitrary where masked.
    """
    rows, mask, places = lm_head[batch["label_ids"]].float(), batch["label_mask"], batch["places"]
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden.float() @ rows.T  # (B, P, K)
    least = torch.finfo(logits.dtype).min  # not -inf: a prompt that is padding has no letter at all
    relative = logits.masked_fill(~mask, least).log_softmax(dim=-1)  # (B, P, K)
    relative = relative + mask.sum(dim=-1, keepdim=True).clamp(min=1).log()
    found = relative.flatten(1).gather(1, places.flatten(1)).view(places.shape)  # (B, shuffles, C)
    return found.mean(dim=1)  # (B, C)
