"""Scored candidates as rows: made from batches, and turned back into lists for the metrics.

Sampled and reranked lists keep all their rows. A catalogue list keeps its first 100 items and every positive,
each with the numbers of candidates above it and tied with it: enough for every metric, without users x items rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import torch

from mllm_srec.data.loading.catalogue_lists import CatalogueLists
from mllm_srec.data.loading.examples import GroupExamples
from mllm_srec.models.ranking_module import Scored
from mllm_srec.pipeline.evaluation.schema import PLACE, SCORES
from mllm_srec.types import CandidateBatch, MllmSrecError

KEPT_TOP = 100
"""Number of top items that are kept of a catalogue list."""

CHUNK = 1024
"""Number of lists that are rebuilt at a time."""

ListBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Scores, relevance and mask `(B, C)`, and number of missed positives `(B,)`."""


def batch_rows(scored: Scored, batch: CandidateBatch) -> pl.DataFrame:
    """Return the unmasked candidates of a batch, one row each, with their `relevance`."""
    mask = batch["candidate_mask"].cpu()  # (B, C)
    group = batch["group_id"].cpu()[:, None].expand_as(mask)  # (B, C)

    def column(values: torch.Tensor | None) -> np.ndarray | None:
        return None if values is None else values.float().cpu()[mask].numpy()

    pair = scored.get("logits")  # (B, C, 2)
    yes, no = (None, None) if pair is None else (pair[..., 0], pair[..., 1])  # (B, C) each
    columns = {
        "group_id": group[mask].numpy(),
        "item_index": batch["item_index"].cpu()[mask].numpy(),
        "score": column(scored["scores"]),
        "yes_logit": column(yes),
        "no_logit": column(no),
        "yes_no_mass": column(scored.get("mass")),
    }
    length = int(mask.sum())
    filled = {name: [None] * length if values is None else values for name, values in columns.items()}
    relevance = pl.Series("relevance", batch["relevance"].cpu()[mask].numpy())
    return pl.DataFrame(filled, schema=SCORES).with_columns(relevance)


def top_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep the first `KEPT_TOP` rows and the positives of every list, with the columns of `PLACE`.

    Args:
        rows: Complete lists, from `batch_rows`.
    """
    kept = [_top_of(part) for part in rows.partition_by("group_id", maintain_order=True)]
    return pl.concat(kept) if kept else rows.with_columns(pl.lit(None, PLACE[name]).alias(name) for name in PLACE)


def top_of_batch(scored: Scored, batch: CandidateBatch) -> pl.DataFrame:
    """Return `top_rows(batch_rows(scored, batch))` without making a row of every candidate.

    Args:
        scored: Scores of complete lists, from a model that states no probabilities.
        batch: Batch of these lists.
    """
    scores, mask = scored["scores"].float().cpu().numpy(), batch["candidate_mask"].cpu().numpy()  # (B, C) each
    relevance, items = batch["relevance"].cpu().numpy(), batch["item_index"].cpu().numpy()  # (B, C) each
    parts: list[dict[str, np.ndarray]] = []
    for row, group_id in enumerate(batch["group_id"].tolist()):
        candidates = np.flatnonzero(mask[row])  # (C',)
        columns = rank_candidates(scores[row, candidates], group_id)
        kept = np.flatnonzero((columns["rank"] <= KEPT_TOP) | (relevance[row, candidates] == 1))
        kept = kept[np.argsort(columns["rank"][kept])]
        chosen = candidates[kept]
        parts.append(
            {
                "group_id": np.full(len(kept), group_id),
                "item_index": items[row, chosen],
                "score": scores[row, chosen],
                "relevance": relevance[row, chosen],
                **{name: column[kept] for name, column in columns.items()},
                "n_candidates": np.full(len(kept), len(candidates)),
            }
        )
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    schema = SCORES | {"relevance": pl.Int64} | PLACE
    length = len(joined.get("group_id", ()))
    return pl.DataFrame({name: joined.get(name, [None] * length) for name in schema}, schema=schema)


def rank_candidates(scores: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Rank the candidates of one list.

    Args:
        scores: Scores `(C,)`, higher is better.
        seed: Seed of the order of ties.

    Returns:
        `rank` from 1 (ties in random order), `n_above` (candidates with a higher score) and `n_tied` (candidates with
        the same score, including this one); `(C,)` each.
    """
    ascending = np.sort(scores)
    below = np.searchsorted(ascending, scores, side="left")  # (C,)
    up_to = np.searchsorted(ascending, scores, side="right")  # (C,)
    shuffled = np.random.default_rng(seed).permutation(len(scores))
    order = shuffled[np.argsort(-scores[shuffled], kind="stable")]
    rank = np.empty(len(scores), dtype=np.int64)
    rank[order] = np.arange(1, len(scores) + 1)
    return {"rank": rank, "n_above": len(scores) - up_to, "n_tied": up_to - below}


def _top_of(part: pl.DataFrame) -> pl.DataFrame:
    """Keep the top rows and the positives of one complete list."""
    columns = rank_candidates(part["score"].to_numpy(), int(part["group_id"][0]))
    kept = part.with_columns(**columns, n_candidates=pl.lit(part.height, pl.Int64))
    return kept.filter((pl.col("rank") <= KEPT_TOP) | (pl.col("relevance") == 1)).sort("rank")


def padded(examples: GroupExamples, values: np.ndarray, fill: float = 0.0) -> torch.Tensor:
    """Lay out one value per target `(N,)` as a tensor `(B, C)`; see `GroupExamples.padded`."""
    return torch.from_numpy(examples.padded(values, fill))


def padding_mask(examples: GroupExamples) -> torch.Tensor:
    """Return bool `(B, C)`: True for a target, False for padding."""
    return torch.from_numpy(examples.mask())


def kept_lists(examples: GroupExamples | CatalogueLists, rows: pl.DataFrame) -> ListBatch:
    """Rebuild lists from stored rows; they have the same metrics as the lists that were scored.

    Args:
        examples: Lists in the order of the result.
        rows: Stored rows of these lists; if parts of lists were kept, with the columns of `PLACE`.
    """
    n_missed = torch.from_numpy(examples.n_missed)
    if isinstance(examples, GroupExamples) and "rank" not in rows.columns:
        stored = padded(examples, scores_of(examples, rows, "score"))
        return stored, padded(examples, examples.relevance), padding_mask(examples), n_missed
    shape = (len(examples), int(examples.sizes.max(initial=1)))
    columns = np.arange(shape[1])
    scores, relevance = np.tile(-columns.astype(np.float32), (shape[0], 1)), np.zeros(shape, dtype=np.int64)
    relevant = (pl.col("relevance") == 1) & pl.col("group_id").is_in(examples.group_id.tolist())
    positives = rows.filter(relevant).group_by("group_id", "n_above", "n_tied").len("n_positives")
    row_of = {int(group): row for row, group in enumerate(examples.group_id)}
    for group_id, n_above, n_tied, n_positives in positives.iter_rows():
        row = row_of[group_id]
        scores[row, n_above : n_above + n_tied] = -n_above  # one block of ties, its positives first
        relevance[row, n_above : n_above + n_positives] = 1
    mask = torch.from_numpy(columns < examples.sizes[:, None])
    return torch.from_numpy(scores), torch.from_numpy(relevance), mask, n_missed


def kept_chunks(examples: GroupExamples | CatalogueLists, rows: pl.DataFrame) -> Iterator[ListBatch]:
    """Yield `kept_lists` of `CHUNK` lists at a time, which bounds the memory."""
    for begin in range(0, len(examples), CHUNK):
        yield kept_lists(examples.take(np.arange(begin, min(begin + CHUNK, len(examples)))), rows)


def kept_pairs(examples: GroupExamples, rows: pl.DataFrame) -> dict[str, torch.Tensor]:
    """Turn stored rows of pair groups into the arguments of `EvaluationMetrics.add_pairs`.

    Args:
        examples: Pair groups.
        rows: Stored rows of these groups.
    """
    arguments = {
        "scores": padded(examples, scores_of(examples, rows, "score")),
        "relevance": padded(examples, examples.relevance),
        "kind": padded(examples, examples.kind, -1),
        "mask": padding_mask(examples),
    }
    if rows["yes_logit"].null_count() == 0:
        yes, no = (padded(examples, scores_of(examples, rows, name)) for name in ("yes_logit", "no_logit"))
        arguments["logits"] = yes - no
    if rows["yes_no_mass"].null_count() == 0:
        arguments["mass"] = padded(examples, scores_of(examples, rows, "yes_no_mass"))
    return arguments


def scores_of(examples: GroupExamples, rows: pl.DataFrame, column: str) -> np.ndarray:
    """Return a column of stored rows `(N,)` in the order of the targets of `examples`.

    Raises:
        MllmSrecError: A target has no row.
    """
    wanted = pl.DataFrame({"group_id": np.repeat(examples.group_id, examples.sizes), "item_index": examples.item_index})
    joined = wanted.join(rows, on=["group_id", "item_index"], how="left", maintain_order="left")[column]
    if joined.null_count():
        raise MllmSrecError(f"{joined.null_count()} of {len(joined)} targets have no {column} in the stored rows")
    return joined.to_numpy().copy()
