"""Training losses of the recommender, in float32 whatever the model runs in.

The article trains on the answer by the cross-entropy of its tokens (Eq. 3). Packed rows carry labels on the response;
`model.loss_on: all` labels every token but the pictures', which is the literal reading of the equation. A loss projects
hidden states to the vocabulary only where there is a label.

The losses that rank compare the scores of a group's targets, which one packed row holds already. Each returns one value
per group `(B,)`: 0 where there is nothing to compare, since no target, or every target, is liked.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from mllm_srec.prompts.packing import predicting_positions
from mllm_srec.types import IGNORE_INDEX, PackedBatch

LossOn = Literal["response", "all"]
"""Tokens that are trained on: those of the response, or all but those of pictures."""


def label_everything(batch: PackedBatch, image_token_id: int) -> PackedBatch:
    """Label every token of a batch but padding and pictures; the prefix counts once per row.

    Args:
        batch: A packed batch with labels on its responses; not changed.
        image_token_id: Placeholder of one picture token.

    Returns:
        The same batch with labels `(R, T)` on the prompts, too.
    """
    input_ids = batch["input_ids"]  # (R, T)
    ignored = (batch["segment_ids"] < 0) | (input_ids == image_token_id)  # (R, T)
    return {**batch, "labels": input_ids.masked_fill(ignored, IGNORE_INDEX)}


def response_loss(
    hidden: torch.Tensor, lm_head: torch.Tensor, batch: PackedBatch
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Compute the mean cross-entropy over labelled tokens (article, Eq. 3).

    Args:
        hidden: `(R, T, D)`.
        lm_head: `(V, D)`.
        batch: Its `labels`, `segment_ids`, `answer_index` and `candidate_mask` are read.

    Returns:
        The loss and, apart from it, loss and accuracy of the first response token, since the rest is trivial.
    """
    rows, tokens, predicting = labelled_tokens(batch)
    logits = functional.linear(hidden[rows, predicting], lm_head.to(hidden.dtype)).float()  # (N, V)
    target = batch["labels"][rows, tokens]  # (N,)
    losses = functional.cross_entropy(logits, target, reduction="none")  # (N,)
    first = opens_response(batch, rows, tokens)  # (N,)
    correct = logits.argmax(dim=-1) == target  # (N,)
    apart = {"first_token_loss": losses[first].mean().detach(), "first_token_accuracy": correct[first].float().mean()}
    return losses.mean(), apart


def labelled_tokens(batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Locate the labelled tokens of packed rows, but for the first token of a row, which nothing predicts.

    Args:
        batch: Its `labels` and `segment_ids` are read.

    Returns:
        Row of each token, its place in the row, and the place whose output predicts it: `(N,)` each.
    """
    rows, tokens = torch.nonzero(batch["labels"] != IGNORE_INDEX, as_tuple=True)  # (N,) each
    predicting = predicting_positions(batch["segment_ids"])[rows, tokens]  # (N,)
    kept = (tokens > 0) & (batch["segment_ids"][rows, predicting] >= 0)  # (N,)
    return rows[kept], tokens[kept], predicting[kept]


def opens_response(batch: PackedBatch, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mark the tokens that are the first of a response, Yes or No.

    Args:
        batch: Its `answer_index` and `candidate_mask` are read.
        rows: Row of each token `(N,)`.
        tokens: Place of each token in its row `(N,)`.

    Returns:
        Bool `(N,)`.
    """
    answers = batch["answer_index"][batch["candidate_mask"]]  # (N targets, 2)
    stride = batch["labels"].shape[1]
    return torch.isin(rows * stride + tokens - 1, answers[:, 0] * stride + answers[:, 1])


def comparable(relevance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Find the groups that a ranking loss learns from: those with a liked target and another one.

    Args:
        relevance: `(B, C)`, 1 liked, 0 not.
        mask: Bool `(B, C)`, False at padding.

    Returns:
        Bool `(B,)`.
    """
    liked, others = _sides(relevance, mask)
    return liked.any(dim=-1) & others.any(dim=-1)


def mean_of_comparable(losses: torch.Tensor, relevance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average a ranking loss over the groups that it learns from; 0 if there are none.

    Args:
        losses: `(B,)`, one value per group.
        relevance: As for `comparable`.
        mask: As for `comparable`.
    """
    return losses.sum() / comparable(relevance, mask).sum().clamp(min=1)


def pairwise(scores: torch.Tensor, relevance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compute the mean of `-log sigmoid(s_i - s_j)` over liked i and other j of a group (RankNet, BPR).

    Args:
        scores: Float `(B, C)`; arbitrary where masked.
        relevance: `(B, C)`, 1 liked, 0 not.
        mask: Bool `(B, C)`, False at padding.

    Returns:
        `(B,)`; 0 for groups that are not comparable.
    """
    liked, others = _sides(relevance, mask)
    known = scores.masked_fill(~mask, 0)  # padding may hold anything, NaN included
    pairs = liked[:, :, None] & others[:, None, :]  # (B, C, C)
    losses = -functional.logsigmoid(known[:, :, None] - known[:, None, :])  # (B, C, C)
    return losses.masked_fill(~pairs, 0).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)


def listwise(scores: torch.Tensor, relevance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compute the mean of `-log softmax(s)_i` over the liked i, with the softmax over the whole group (ListNet).

    Args:
        scores: Float `(B, C)`; arbitrary where masked.
        relevance: `(B, C)`, 1 liked, 0 not.
        mask: Bool `(B, C)`, False at padding.

    Returns:
        `(B,)`; 0 for groups that are not comparable. An item that is not liked is never a positive.
    """
    liked, _ = _sides(relevance, mask)
    logs = scores.masked_fill(~mask, _least(scores)).log_softmax(dim=-1)  # (B, C)
    losses = -logs.masked_fill(~liked, 0).sum(dim=-1) / liked.sum(dim=-1).clamp(min=1)
    return losses.masked_fill(~comparable(relevance, mask), 0)


def dpo(
    scores: torch.Tensor, reference: torch.Tensor, relevance: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """Compute direct preference optimisation between liked and other targets (Rafailov et al., NeurIPS 2023, Eq. 7).

    The policy chooses among a group's targets with probabilities `softmax(s)`. Its normaliser is that of all targets,
    so that it cancels where the log-ratios to the reference, `s - reference`, of two targets are subtracted.

    Args:
        scores: Float `(B, C)`; arbitrary where masked.
        reference: Scores `(B, C)` of the model without its adapters, which get no gradient.
        relevance: `(B, C)`, 1 liked, 0 not.
        mask: Bool `(B, C)`, False at padding.
        beta: Strength of the tie to the reference: the larger, the less the scores move from it.

    Returns:
        `(B,)`: the mean over pairs of a liked target and another one; 0 for groups that are not comparable.
    """
    return pairwise(beta * (scores - reference.detach()), relevance, mask)


def softmax_dpo(
    scores: torch.Tensor, reference: torch.Tensor, relevance: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """Compute DPO of a liked target against all others at once (S-DPO: Chen et al., NeurIPS 2024).

    With r the log-ratios to the reference times beta, it is `-log sigmoid(-log sum_j exp(r_j - r_i))` for liked i, with
    the sum over the others j. With a single one it is `dpo`.

    Args:
        scores: Float `(B, C)`; arbitrary where masked.
        reference: As for `dpo`.
        relevance: `(B, C)`, 1 liked, 0 not.
        mask: Bool `(B, C)`, False at padding.
        beta: As for `dpo`.

    Returns:
        `(B,)`: the mean over liked targets; 0 for groups that are not comparable.
    """
    liked, others = _sides(relevance, mask)
    rewards = (beta * (scores - reference.detach())).masked_fill(~mask, 0)  # (B, C)
    rivals = rewards.masked_fill(~others, _least(rewards)).logsumexp(dim=-1, keepdim=True)  # (B, 1)
    losses = -functional.logsigmoid(rewards - rivals)  # (B, C)
    losses = losses.masked_fill(~liked, 0).sum(dim=-1) / liked.sum(dim=-1).clamp(min=1)
    return losses.masked_fill(~comparable(relevance, mask), 0)


def _sides(relevance: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the targets of groups into liked ones and others: bool `(B, C)` each."""
    return mask & (relevance == 1), mask & (relevance != 1)


def _least(scores: torch.Tensor) -> float:
    """Return a number that counts for nothing in a softmax; not -inf, which gives NaN where there is nothing else."""
    return float(torch.finfo(scores.dtype).min)
