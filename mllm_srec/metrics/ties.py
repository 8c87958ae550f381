"""Blocks of equal scores: which ranks a relevant candidate can take when the order within a tie is arbitrary.

Ties are common here (coarse half-precision logits, integer popularity counts), and the order in which a sort leaves
them is an artefact, often of the positive's place in the array. So no metric here looks at an order within a tie.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

Ties = Literal["expected", "worst", "best"]
"""`expected`: mean over all orders of each tie; `worst`: relevant ones last; `best`: first, only to show the spread."""


@dataclass(frozen=True)
class TieBlocks:
    """The block of equal scores around every relevant candidate of B lists, each with at most R of them.

    A relevant candidate holds each of the ranks `start + 1 .. start + size` (1-based) with the same probability.

    Attributes:
        found: bool `(B, R)`, a relevant candidate that is ranked at all; the next three are 0 where it is False.
        start: int64 `(B, R)`, number of candidates ranked before the block.
        size: int64 `(B, R)`, ranks in the block.
        n_tied: int64 `(B, R)`, relevant candidates that share the block, itself included.
        n_relevant: int64 `(B,)`, all relevant candidates, also those that are not ranked.
        n_candidates: Length C of the lists, padding included: no rank is larger.
    """

    found: Tensor  # (B, R)
    start: Tensor  # (B, R)
    size: Tensor  # (B, R)
    n_tied: Tensor  # (B, R)
    n_relevant: Tensor  # (B,)
    n_candidates: int

    def ordered(self, ties: Ties) -> TieBlocks:
        """These blocks with equal scores ordered as `ties` says; `worst` and `best` keep only relevant ones in a block.

        Raises:
            ValueError: If `ties` is unknown.
        """
        if ties not in get_args(Ties):
            raise ValueError(f"ties: got {ties!r}; accepted are {', '.join(get_args(Ties))}.")
        if ties == "expected":
            return self
        start = self.start + (self.size - self.n_tied) if ties == "worst" else self.start
        return replace(self, start=start, size=self.n_tied)


def tie_blocks(scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> TieBlocks:
    """The tie block of every relevant candidate, for all orders of a tie alike; two sorts, no loop over lists.

    Args:
        scores: float `(B, C)`, higher is better. Minus infinity means *not ranked* (the retriever missed it; null in
            `predictions`): such a candidate takes no rank and is never reached, but counts as relevant if it is.
        relevance: `(B, C)` of 0 and 1.
        mask: bool `(B, C)`, False at padding, which counts nowhere; None: no padding.

    Raises:
        ValueError: If shapes differ, `relevance` is not binary, or a score is NaN.
    """
    scores, relevant, mask = checked_lists(scores, relevance, mask)
    hits, is_hit = relevant_scores(scores, relevant)  # (B, R)
    found = is_hit & (hits > -torch.inf)
    key = torch.where(mask, -scores, torch.inf)  # (B, C) ascending: the best first, the unranked last
    hit_key = torch.where(found, -hits, torch.inf)  # (B, R)
    start, end = count_below(key, hit_key)
    hits_above, hits_up_to = count_below(hit_key, hit_key)
    return TieBlocks(
        found=found,
        start=torch.where(found, start, 0),
        size=torch.where(found, end - start, 0),
        n_tied=torch.where(found, hits_up_to - hits_above, 0),
        n_relevant=relevant.sum(dim=-1),
        n_candidates=scores.shape[-1],
    )


def relevant_scores(scores: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the relevant candidates alone, so that a catalogue of thousands costs no more than it must.

    Args:
        scores: `(B, C)`.
        relevant: bool `(B, C)`.

    Returns:
        Scores `(B, R)` and bool `(B, R)`, False at padding. R >= 1 is the largest number of relevant ones in a list.
    """
    n = relevant.sum(dim=-1)  # (B,)
    width = max(1, int(n.max())) if len(n) else 1
    is_hit = torch.arange(width, device=scores.device) < n[:, None]  # (B, R)
    hits = scores.new_zeros(is_hit.shape)
    hits[is_hit] = scores[relevant]  # both run through the lists in the same order
    return hits, is_hit


def count_below(values: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of `values` `(B, N)` that are below, and that are below or equal to, each of `queries` `(B, M)`.

    Returns:
        Two int64 tensors `(B, M)`.
    """
    ordered = values.sort(dim=-1).values.contiguous()  # (B, N) a sort keeps the layout of a transposed view
    below = torch.searchsorted(ordered, queries, right=False)
    up_to = torch.searchsorted(ordered, queries, right=True)
    return below, up_to


def checked_lists(scores: Tensor, relevance: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The three tensors as float64, bool and bool, `relevance` False where masked.

    Raises:
        ValueError: If shapes differ, `mask` is not bool, `relevance` is not 0 or 1, or an unmasked score is NaN.
    """
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    if scores.ndim != 2 or scores.shape != relevance.shape or scores.shape != mask.shape:
        raise ValueError(
            f"scores, relevance, mask: got shapes {tuple(scores.shape)}, {tuple(relevance.shape)}, {tuple(mask.shape)};"
            " all three must be the same (lists, candidates). Pad shorter lists and mark the padding False in mask."
        )
    check_bool_mask(mask)
    odd = mask & (relevance != 0) & (relevance != 1)
    if odd.any():
        raise ValueError(
            f"relevance: got {relevance[odd][0].item()}; accepted are 0 and 1. Turn ratings into labels first."
        )
    check_no_nan(scores, mask)
    return scores.double(), (relevance == 1) & mask, mask


def check_bool_mask(mask: Tensor) -> None:
    """Refuse a mask of numbers: as an index, 0 and 1 would be the first two places and not padding and candidate.

    Raises:
        ValueError: If `mask` is not bool.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask: got dtype {mask.dtype}; it must be torch.bool, True where there is a candidate.")


def check_no_nan(scores: Tensor, mask: Tensor) -> None:
    """Refuse NaN among the unmasked scores: it has no rank, and sorting would put it on top.

    Raises:
        ValueError: With the number and the first place of the NaN scores.
    """
    bad = scores.isnan() & mask
    if bad.any():
        place = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"scores: got NaN for {int(bad.sum())} of {int(mask.sum())} candidates, the first at {place}; a score must"
            " be a number, or minus infinity for what a retriever missed. Look for an overflow in the model."
        )
