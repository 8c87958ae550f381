"""Scores of candidates that were shown as lists, from the letters' logits at the place of the answer."""

from __future__ import annotations

import torch

from mllm_srec.types import PackedBatch


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
