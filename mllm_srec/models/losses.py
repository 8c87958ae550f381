"""Training losses of the recommender, in float32 whatever the model runs in.

The article trains on the answer by the cross-entropy of its tokens (Eq. 3). Packed rows carry labels on the response;
`model.loss_on: all` labels every token but the pictures', which is the literal reading of the equation. A loss projects
hidden states to the vocabulary only where there is a label.
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
