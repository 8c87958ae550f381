"""Blocks of equal scores: the ranks a relevant candidate can take when the order within a tie is arbitrary.

Ties are common here (coarse half-precision logits, integer popularity counts), and the order in which a sort leaves
them is an artefact, often of the positive's position in the array. So no metric here reads an order within a tie.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

Ties = Literal["expected", "worst", "best"]
"""Order of equal scores. `expected`: mean over all orders; `worst`: relevant ones last; `best`: relevant ones first."""


@dataclass(frozen=True)
class TieBlocks:
    """The block of equal scores around every relevant candidate of B lists, each with at most R of them.

    A relevant candidate takes each of the ranks `start + 1 .. start + size` (1-based) with the same probability.

    Attributes:
        is_ranked: Bool `(B, R)`, False at padding and for candidates that were missed; the next three are 0 there.
        start: Int64 `(B, R)`, number of candidates ranked before the block.
        size: Int64 `(B, R)`, number of candidates in the block.
        n_tied: Int64 `(B, R)`, number of relevant candidates in the block, itself included.
        n_relevant: Int64 `(B,)`, number of relevant candidates, missed ones included.
        n_candidates: Length C of the lists, padding included: no rank is larger.
    """

    is_ranked: Tensor  # (B, R)
    start: Tensor  # (B, R)
    size: Tensor  # (B, R)
    n_tied: Tensor  # (B, R)
    n_relevant: Tensor  # (B,)
    n_candidates: int

    def ordered(self, ties: Ties) -> TieBlocks:
        """Order equal scores; after `worst` and `best` a block holds its relevant candidates only.

        Args:
            ties: How equal scores are ordered.

        Returns:
            The blocks in that order.

        Raises:
            ValueError: If `ties` is unknown.
        """
        if ties not in get_args(Ties):
            raise ValueError(f"ties={ties!r}: unknown; give one of {', '.join(get_args(Ties))}")
        if ties == "expected":
            return self
        start = self.start + (self.size - self.n_tied) if ties == "worst" else self.start
        return replace(self, start=start, size=self.n_tied)


def tie_blocks(scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> TieBlocks:
    """Find the tie block of every relevant candidate, by two sorts and without a loop over lists.

    Args:
        scores: Float `(B, C)`, higher is better. Minus infinity means *not ranked* (missed by the retriever; null in
            `predictions`): such a candidate takes no rank and is never a hit, but counts as relevant if it is.
        relevance: `(B, C)`, 1 for relevant candidates and 0 for others.
        mask: Bool `(B, C)`, False at padding, which counts nowhere; None if there is no padding.

    Returns:
        The blocks, which do not depend on the order of tied candidates.

    Raises:
        ValueError: If shapes differ, `mask` is not bool, `relevance` is not binary, or an unmasked score is NaN.

    Example:
        >>> from torch import tensor
        >>> blocks = tie_blocks(tensor([[3.0, 2.0, 2.0, 1.0]]), tensor([[0, 1, 0, 0]]))
        >>> blocks.start, blocks.size  # one candidate is above the tie, two share it: ranks 2 and 3
        (tensor([[1]]), tensor([[2]]))
    """
    scores, relevant, mask = checked_lists(scores, relevance, mask)
    hits, is_hit = relevant_scores(scores, relevant)  # (B, R)
    is_ranked = is_hit & (hits > -torch.inf)
    key = torch.where(mask, -scores, torch.inf)  # (B, C) ascending: the best first, those without a rank last
    hit_key = torch.where(is_ranked, -hits, torch.inf)  # (B, R)
    start, end = count_below(key, hit_key)
    hits_above, hits_up_to = count_below(hit_key, hit_key)
    return TieBlocks(
        is_ranked=is_ranked,
        start=torch.where(is_ranked, start, 0),
        size=torch.where(is_ranked, end - start, 0),
        n_tied=torch.where(is_ranked, hits_up_to - hits_above, 0),
        n_relevant=relevant.sum(dim=-1),
        n_candidates=scores.shape[-1],
    )


def relevant_scores(scores: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the scores of the relevant candidates, so that work grows with them and not with the catalogue.

    Args:
        scores: `(B, C)`.
        relevant: Bool `(B, C)`.

    Returns:
        Scores `(B, R)` and bool `(B, R)`, False at padding. R >= 1 is the largest number of relevant ones in a list.

    Example:
        >>> from torch import tensor
        >>> relevant_scores(tensor([[0.5, 0.25], [0.75, 1.0]]), tensor([[False, True], [True, True]]))[0]
        tensor([[0.2500, 0.0000],
                [0.7500, 1.0000]])
    """
    n = relevant.sum(dim=-1)  # (B,)
    width = max(1, int(n.max())) if len(n) else 1
    is_hit = torch.arange(width, device=scores.device) < n[:, None]  # (B, R)
    hits = scores.new_zeros(is_hit.shape)
    hits[is_hit] = scores[relevant]  # both run through the lists in the same order
    return hits, is_hit


def count_below(values: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Count, row by row, the values below each query and those not above it.

    Args:
        values: `(B, N)`, in any order.
        queries: `(B, M)`.

    Returns:
        Int64 `(B, M)` numbers of values `< query`, and `<= query`.

    Example:
        >>> from torch import tensor
        >>> count_below(tensor([[3, 1, 2, 2]]), tensor([[2]]))
        (tensor([[1]]), tensor([[3]]))
    """
    ordered = values.sort(dim=-1).values.contiguous()  # (B, N) a sort keeps the layout of a transposed view
    below = torch.searchsorted(ordered, queries, right=False)
    up_to = torch.searchsorted(ordered, queries, right=True)
    return below, up_to


def checked_lists(scores: Tensor, relevance: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Check candidate lists and convert them to the dtypes that the metrics compute with.

    Args:
        scores: Float `(B, C)`.
        relevance: `(B, C)` of 0 and 1, any dtype.
        mask: Bool `(B, C)`, False at padding; None if there is no padding.

    Returns:
        Scores as float64, relevance as bool, False where masked, and the mask.

    Raises:
        ValueError: If shapes differ, `mask` is not bool, `relevance` is not binary, or an unmasked score is NaN.

    Example:
        >>> from torch import tensor
        >>> checked_lists(tensor([[0.5, 0.25]]), tensor([[1, 0]]), None)[1:]
        (tensor([[ True, False]]), tensor([[True, True]]))
    """
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    if scores.ndim != 2 or scores.shape != relevance.shape or scores.shape != mask.shape:
        raise ValueError(
            f"scores, relevance, mask: shapes {tuple(scores.shape)}, {tuple(relevance.shape)}, {tuple(mask.shape)} must"
            " be the same (lists, candidates); pad shorter lists and mark the padding False in mask"
        )
    check_bool_mask(mask)
    odd = mask & (relevance != 0) & (relevance != 1)
    if odd.any():
        raise ValueError(f"relevance={relevance[odd][0].item()}: not binary; turn ratings into labels 0 and 1 first")
    check_no_nan(scores, mask)
    return scores.double(), (relevance == 1) & mask, mask


def check_bool_mask(mask: Tensor) -> None:
    """Refuse a mask of numbers: as an index, 0 and 1 would select the first two candidates over and over.

    Args:
        mask: Tensor of any shape.

    Raises:
        ValueError: If `mask` is not bool.

    Example:
        >>> check_bool_mask(torch.ones(2, 3))
        Traceback (most recent call last):
        ValueError: mask: dtype torch.float32 is not torch.bool; give True for candidates and False for padding
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask: dtype {mask.dtype} is not torch.bool; give True for candidates and False for padding")


def check_no_nan(scores: Tensor, mask: Tensor) -> None:
    """Refuse unmasked NaN scores: they have no rank, and sorting would put them on top.

    Args:
        scores: Float, any shape.
        mask: Bool, same shape, False at padding.

    Raises:
        ValueError: If an unmasked score is NaN; the message gives their number and the index of the first.

    Example:
        >>> check_no_nan(torch.tensor([[0.5, torch.nan]]), torch.tensor([[True, True]]))
        Traceback (most recent call last):
        ValueError: scores=nan: 1 of 2 candidates have no score, the first at (0, 1); give numbers, ...
    """
    bad = scores.isnan() & mask
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"scores=nan: {int(bad.sum())} of {int(mask.sum())} candidates have no score, the first at {index}; give"
            " numbers, or minus infinity for items that a retriever missed, and look for an overflow in the model"
        )
