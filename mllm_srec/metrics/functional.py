"""Hit rate, recall, NDCG and MRR of candidate lists, exact under ties (article, evaluation metrics).

All functions take `scores (B, C)`, `relevance (B, C)` and an optional `mask (B, C)`, compute in float64 and return one
value per list, `(B,)`. Conventions:

- Ties: by default the mean over all orders of the tied candidates, in closed form; `worst` is a lower bound beside it.
- A list without a relevant candidate has no value. It gets NaN, which the caller skips *and counts*.
- A relevant candidate with a score of minus infinity was missed by the retriever. It counts in |R| and is never a hit,
  even if nothing else is ranked.
- NDCG is normalised by the ideal list, which has min(|R|, K) hits. A list may be shorter than K.

Identities: Recall <= HR always; with one relevant candidate, no ties and rank <= K, HR = Recall = 1 and
NDCG = 1 / log2(rank + 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mllm_srec.metrics.auc import auc, user_auc
from mllm_srec.metrics.ties import TieBlocks, Ties, tie_blocks

__all__ = ["auc", "hit_rate", "mrr", "ndcg", "ranking_metrics", "recall", "user_auc"]

SUFFIX: dict[Ties, str] = {"expected": "", "worst": "_worst", "best": "_best"}
"""Treatment of ties -> suffix of a metric's name in the keys of `ranking_metrics`."""


def hit_rate(
    scores: Tensor, relevance: Tensor, mask: Tensor | None = None, top_k: int = 10, ties: Ties = "expected"
) -> Tensor:
    """Compute the probability that at least one relevant candidate ranks within the first `top_k`.

    Args:
        scores: Float `(B, C)`, higher is better; minus infinity for items that the retriever missed.
        relevance: `(B, C)`, 1 for relevant candidates and 0 for others.
        mask: Bool `(B, C)`, False at padding; None if there is no padding.
        top_k: Cut-off K, at least 1.
        ties: How equal scores are ordered.

    Returns:
        Float64 `(B,)` in [0, 1]; NaN for a list without a relevant candidate.

    Raises:
        ValueError: If `top_k` is not a positive integer, `ties` is unknown, shapes differ, `relevance` is not binary,
            or an unmasked score is NaN.

    Example:
        >>> from torch import tensor
        >>> hit_rate(tensor([[0.9, 0.8, 0.1]]), tensor([[0, 1, 1]]), top_k=2)
        tensor([1.], dtype=torch.float64)
        >>> hit_rate(torch.zeros(1, 21), torch.eye(21)[:1], top_k=5)  # all 21 candidates tie: 5 / 21
        tensor([0.2381], dtype=torch.float64)
    """
    return _hit_rate(tie_blocks(scores, relevance, mask).ordered(ties), top_k)


def recall(
    scores: Tensor, relevance: Tensor, mask: Tensor | None = None, top_k: int = 10, ties: Ties = "expected"
) -> Tensor:
    """Compute the share of a list's relevant candidates that rank within the first `top_k`.

    Args:
        scores: Float `(B, C)`, higher is better; minus infinity for items that the retriever missed.
        relevance: `(B, C)`, 1 for relevant candidates and 0 for others.
        mask: Bool `(B, C)`, False at padding; None if there is no padding.
        top_k: Cut-off K, at least 1.
        ties: How equal scores are ordered.

    Returns:
        Float64 `(B,)` in [0, 1]; NaN for a list without a relevant candidate. With more than K relevant candidates a
        list cannot reach 1.

    Raises:
        ValueError: If `top_k` is not a positive integer, `ties` is unknown, shapes differ, `relevance` is not binary,
            or an unmasked score is NaN.

    Example:
        >>> from torch import tensor
        >>> recall(tensor([[0.9, 0.8, 0.1]]), tensor([[0, 1, 1]]), top_k=2)
        tensor([0.5000], dtype=torch.float64)
    """
    return _recall(tie_blocks(scores, relevance, mask).ordered(ties), top_k)


def ndcg(
    scores: Tensor, relevance: Tensor, mask: Tensor | None = None, top_k: int = 10, ties: Ties = "expected"
) -> Tensor:
    """Normalised discounted cumulative gain: sum of 1 / log2(rank + 1) over hits, over that of an ideal list.

    Args:
        scores: Float `(B, C)`, higher is better; minus infinity for items that the retriever missed.
        relevance: `(B, C)`, 1 for relevant candidates and 0 for others.
        mask: Bool `(B, C)`, False at padding; None if there is no padding.
        top_k: Cut-off K, at least 1; the ideal list has min(|R|, K) hits.
        ties: How equal scores are ordered.

    Returns:
        Float64 `(B,)` in [0, 1]; NaN for a list without a relevant candidate.

    Raises:
        ValueError: If `top_k` is not a positive integer, `ties` is unknown, shapes differ, `relevance` is not binary,
            or an unmasked score is NaN.

    Example:
        >>> from torch import tensor
        >>> ndcg(tensor([[0.9, 0.8, 0.1]]), tensor([[0, 1, 0]]), top_k=2)  # 1 / log2(3)
        tensor([0.6309], dtype=torch.float64)
    """
    return _ndcg(tie_blocks(scores, relevance, mask).ordered(ties), top_k)


def mrr(
    scores: Tensor, relevance: Tensor, mask: Tensor | None = None, top_k: int = 10, ties: Ties = "expected"
) -> Tensor:
    """Reciprocal rank of the first relevant candidate, 0 beyond `top_k`; its mean over lists is the MRR.

    Args:
        scores: Float `(B, C)`, higher is better; minus infinity for items that the retriever missed.
        relevance: `(B, C)`, 1 for relevant candidates and 0 for others.
        mask: Bool `(B, C)`, False at padding; None if there is no padding.
        top_k: Cut-off K, at least 1.
        ties: How equal scores are ordered.

    Returns:
        Float64 `(B,)` in [0, 1]; NaN for a list without a relevant candidate.

    Raises:
        ValueError: If `top_k` is not a positive integer, `ties` is unknown, shapes differ, `relevance` is not binary,
            or an unmasked score is NaN.

    Example:
        >>> from torch import tensor
        >>> mrr(tensor([[0.9, 0.8, 0.1]]), tensor([[0, 1, 1]]), top_k=2)
        tensor([0.5000], dtype=torch.float64)
    """
    return _mrr(tie_blocks(scores, relevance, mask).ordered(ties), top_k)


def ranking_metrics(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor | None = None,
    top_k: Sequence[int] = (5, 10, 20),
    policies: Sequence[Ties] = ("expected",),
) -> dict[str, Tensor]:
    """Compute all four metrics at every cut-off in one pass over the lists.

    The values of single lists are kept, for paired significance tests.

    Args:
        scores: Float `(B, C)`, higher is better; minus infinity for items that the retriever missed.
        relevance: `(B, C)`, 1 for relevant candidates and 0 for others.
        mask: Bool `(B, C)`, False at padding; None if there is no padding.
        top_k: Cut-offs, each at least 1.
        policies: Ways to order equal scores, each of which gives a set of values.

    Returns:
        `hr@5`, `recall@5`, `ndcg@5`, `mrr@5`, `hr@10`, ..., then `hr_worst@5`, ... for the policy `worst`; each float64
        `(B,)`, NaN for a list without a relevant candidate.

    Raises:
        ValueError: If a cut-off is not a positive integer, a policy is unknown, shapes differ, `relevance` is not
            binary, or an unmasked score is NaN.

    Example:
        >>> from torch import tensor
        >>> values = ranking_metrics(tensor([[0.9, 0.8, 0.1]]), tensor([[0, 1, 0]]), top_k=(1, 2))
        >>> {name: round(value.item(), 2) for name, value in values.items() if name.endswith("@2")}
        {'hr@2': 1.0, 'recall@2': 1.0, 'ndcg@2': 0.63, 'mrr@2': 0.5}
    """
    blocks = tie_blocks(scores, relevance, mask)
    return {
        f"{name}{SUFFIX[ties]}@{k}": metric(ordered, k)
        for ties, ordered in ((ties, blocks.ordered(ties)) for ties in policies)
        for k in top_k
        for name, metric in _METRICS.items()
    }


def _hit_rate(blocks: TieBlocks, top_k: int) -> Tensor:
    """1 - P(no relevant candidate within `top_k`); only the best block with a relevant candidate matters."""
    top_k = _cut_off(blocks, top_k)
    start, no_hit = _no_hit_yet(blocks, top_k)
    reached = (top_k - start).clamp(min=0)  # (B, 1) ranks of that block, and below it, within the cut-off
    return _where_defined(blocks, (1 - no_hit.gather(-1, reached)).squeeze(-1))


def _recall(blocks: TieBlocks, top_k: int) -> Tensor:
    """Each relevant candidate is a hit with probability (ranks of its block within the cut-off) / (block size)."""
    top_k = _cut_off(blocks, top_k)
    is_hit = _reached(blocks, top_k).double() / blocks.size.clamp(min=1)  # (B, R)
    return _where_defined(blocks, is_hit.sum(dim=-1) / blocks.n_relevant)


def _ndcg(blocks: TieBlocks, top_k: int) -> Tensor:
    """Each relevant candidate gains the mean discount of its block, where ranks beyond the cut-off gain nothing."""
    top_k = _cut_off(blocks, top_k)
    end = blocks.start + _reached(blocks, top_k)  # (B, R)
    ranks = torch.arange(1, top_k + 1, device=end.device, dtype=torch.float64)
    dcg_of_first = torch.cat([ranks.new_zeros(1), (1 / torch.log2(ranks + 1)).cumsum(0)])  # (K + 1,) DCG of n hits
    gain = dcg_of_first[end.clamp(max=top_k)] - dcg_of_first[blocks.start.clamp(max=top_k)]  # (B, R)
    dcg = (gain / blocks.size.clamp(min=1)).sum(dim=-1)  # (B,)
    return _where_defined(blocks, dcg / dcg_of_first[blocks.n_relevant.clamp(max=top_k)])


def _mrr(blocks: TieBlocks, top_k: int) -> Tensor:
    """Mean of 1 / rank over the ranks that the first relevant candidate may take, weighted by their probability."""
    top_k = _cut_off(blocks, top_k)
    start, no_hit = _no_hit_yet(blocks, top_k)
    first_here = no_hit[:, :-1] - no_hit[:, 1:]  # (B, K) P(the first relevant candidate has rank start + j)
    rank = start + torch.arange(1, top_k + 1, device=start.device)  # (B, K)
    return _where_defined(blocks, torch.where(rank <= top_k, first_here / rank, 0.0).sum(dim=-1))


_METRICS: dict[str, Callable[[TieBlocks, int], Tensor]] = {
    "hr": _hit_rate,
    "recall": _recall,
    "ndcg": _ndcg,
    "mrr": _mrr,
}


def _reached(blocks: TieBlocks, top_k: int) -> Tensor:
    """Count the ranks of each block that are at most `top_k`: int64 `(B, R)`."""
    return (top_k - blocks.start).clamp(min=0).minimum(blocks.size)


def _no_hit_yet(blocks: TieBlocks, top_k: int) -> tuple[Tensor, Tensor]:
    """Start of the best block with a relevant candidate, `(B, 1)`, and P(none within its first j ranks), `(B, K + 1)`.

    With p of t tied candidates relevant, that probability is C(t - p, j) / C(t, j), here as a running product of
    (t - p - i) / (t - i) so that nothing overflows. It stays 1 in a list where nothing relevant is ranked.
    """
    start = torch.where(blocks.is_ranked, blocks.start, torch.iinfo(torch.int64).max)  # (B, R)
    best = start.argmin(dim=-1, keepdim=True)  # (B, 1)
    fields = (blocks.start, blocks.size, blocks.n_tied, blocks.is_ranked)
    start, size, n_tied, is_ranked = (field.gather(-1, best) for field in fields)  # (B, 1) each
    i = torch.arange(top_k, device=start.device)  # (K,)
    miss = (size - n_tied - i).clamp(min=0) / (size - i).clamp(min=1).double()  # (B, K)
    miss = torch.where(is_ranked, miss, 1.0)
    return start, torch.cat([miss.new_ones(len(miss), 1), miss.cumprod(dim=-1)], dim=-1)


def _cut_off(blocks: TieBlocks, top_k: int) -> int:
    """Limit `top_k` to the length of the lists: ranks beyond it would cost memory and change nothing.

    Raises:
        ValueError: If `top_k` is not a positive integer.
    """
    if not top_k >= 1 or top_k % 1 != 0:
        raise ValueError(f"top_k={top_k}: not a positive integer; give 1 or more")
    return int(min(top_k, max(1, blocks.n_candidates)))


def _where_defined(blocks: TieBlocks, values: Tensor) -> Tensor:
    """Replace the values of lists without a relevant candidate by NaN."""
    return torch.where(blocks.n_relevant > 0, values, torch.nan)
