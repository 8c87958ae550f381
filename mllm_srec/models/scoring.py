"""Hidden states -> logits of Yes and No -> scores: pure functions, in float32 whatever the model runs in."""

from __future__ import annotations

from typing import Literal

import torch

from mllm_srec.types import PackedBatch

ScoreKind = Literal["logit", "literal"]
ScoringLayout = Literal["cached", "packed"]

ROWS_AT_ONCE = 256
"""Targets whose full-vocabulary logits are held at a time: 156 MB for a vocabulary of 152,064 tokens."""


def gather_answers(hidden: torch.Tensor, answer_index: torch.Tensor) -> torch.Tensor:
    """Select the hidden states that predict the first response token.

    Args:
        hidden: `(R, T, D)`.
        answer_index: `(B, C, 2)` row and token.

    Returns:
        `(B, C, D)`; entries of masked candidates are arbitrary.
    """
    return hidden[answer_index[..., 0], answer_index[..., 1]]


def yes_no_logits(hidden: torch.Tensor, lm_head: torch.Tensor, yes_id: int, no_id: int) -> torch.Tensor:
    """Compute the logits of Yes and No from two rows of the head (article, Eq. 4 on the restricted vocabulary).

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
    """Compute the ranking score `z_yes - z_no` `(B, C)`; its sigmoid is the probability of a like, in [0, 1]."""
    return logits[..., 0] - logits[..., 1]


def log_normalizer(hidden: torch.Tensor, lm_head: torch.Tensor) -> torch.Tensor:
    """Compute the logsumexp of full-vocabulary logits, from the same float32 product as those of Yes and No.

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
    """Compute Eq. 4 literally: the difference of full-vocabulary probabilities, in [-1, 1].

    The article applies exp to probabilities; its value is the sigmoid of this score, in (0.27, 0.73).

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


def list_scores(hidden: torch.Tensor, lm_head: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """Average `log(n p)` over the shuffles, where p is a candidate's probability among the n letters of its prompt.

    A chance answer scores 0 whatever the number of letters, so that candidates shown in different prompts can be ranked
    together: exactly so on average over all ways of splitting the list, of which each shuffle draws one.

    Args:
        hidden: `(B, P, D)` at the answer's position in each listwise prompt.
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
